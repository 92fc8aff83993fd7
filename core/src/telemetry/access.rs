//! The access log: one JSON object a line for each request and raw connection.

mod line;

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use line::Line;

use crate::proxy::{Entry, RequestEnd, TcpEnd};

/// Lines that wait to be written; one more is dropped and counted.
const QUEUE: usize = 8192;
/// Texts that a client chooses are cut to so many bytes.
const MAX_TEXT: usize = 512;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file, appended to, made with mode 0600.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// Writes lines from a thread of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: Option<SyncSender<String>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the sink.
    pub fn open(sink: &Sink) -> io::Result<Self> {
        let writer: Box<dyn Write + Send> = match sink {
            Sink::Off => return Ok(Self::off()),
            Sink::Stdout => Box::new(io::stdout()),
            Sink::File(path) => {
                use std::os::unix::fs::OpenOptionsExt;
                Box::new(OpenOptions::new().create(true).append(true).mode(0o600).open(path)?)
            }
        };
        Ok(Self::to(writer))
    }

    /// No access log.
    pub fn off() -> Self {
        Self { queue: None, dropped: Arc::default() }
    }

    fn to(writer: Box<dyn Write + Send>) -> Self {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        let started = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(writer, &lines, &counter));
        if let Err(error) = started {
            tracing::error!(%error, "the access log cannot be written: no thread");
            return Self::off();
        }
        Self { queue: Some(queue), dropped }
    }

    /// Lines that were not written: the queue was full, or the disk.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn send(&self, line: &Line<'_>) {
        let Some(queue) = &self.queue else { return };
        let Ok(mut text) = serde_json::to_string(line) else { return };
        text.push('\n');
        if queue.try_send(text).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Writes the line of a request.
    pub(super) fn request(&self, end: &RequestEnd<'_>) {
        if self.queue.is_none() {
            return;
        }
        self.send(&Line::of_request(end));
    }

    /// Writes the line of a raw connection.
    pub(super) fn tcp(&self, end: &TcpEnd<'_>) {
        if self.queue.is_none() {
            return;
        }
        self.send(&Line::of_tcp(end));
    }
}

fn write(writer: Box<dyn Write + Send>, lines: &Receiver<String>, dropped: &AtomicU64) {
    let mut writer = BufWriter::with_capacity(64 * 1024, writer);
    while let Ok(line) = lines.recv() {
        let mut outcome = writer.write_all(line.as_bytes());
        // What has come meanwhile goes out with the same flush.
        while let (Ok(()), Ok(line)) = (&outcome, lines.try_recv()) {
            outcome = writer.write_all(line.as_bytes());
        }
        if outcome.and_then(|()| writer.flush()).is_err() {
            dropped.fetch_add(1, Relaxed);
        }
    }
}

/// What a listener is for, in one word.
pub(super) fn direction(entry: Option<&Entry>) -> &'static str {
    match entry {
        Some(Entry::Edge(_)) => "edge",
        Some(Entry::Outbound { .. }) => "outbound",
        Some(Entry::Inbound | Entry::Captured { .. }) => "inbound",
        Some(Entry::Passed) => "passed",
        None => "unknown",
    }
}

/// At most so many bytes of a text, cut at a letter.
pub(super) fn clip(text: &str) -> &str {
    match text.char_indices().find(|(at, _)| *at >= MAX_TEXT) {
        Some((at, _)) => text.get(..at).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn end<'a>(path: &'a str, method: &'a http::Method) -> RequestEnd<'a> {
        RequestEnd {
            arrival: None,
            method,
            host: "shop.example",
            path,
            version: http::Version::HTTP_11,
            status: 404,
            reason: Some("no_route"),
            decision: None,
            route: None,
            endpoint: None,
            upstream: None,
            tries: 0,
            duration: Duration::from_micros(1500),
            upstream_latency: None,
            received: 1,
            sent: 2,
            request_id: None,
            trace_id: None,
            span: None,
            grpc: None,
            user_agent: None,
            verdict: None,
        }
    }

    /// A writer that hands on what it gets.
    struct Pipe(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _sent = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_json_and_cannot_be_forged() {
        let (sender, received) = std::sync::mpsc::channel();
        let log = AccessLog::to(Box::new(Pipe(sender)));
        log.request(&end("/a\n{\"forged\":1}", &http::Method::GET));
        let bytes = received.recv_timeout(Duration::from_secs(5)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["path"], "/a\n{\"forged\":1}");
        assert_eq!((&line["status"], &line["reason"]), (&404.into(), &"no_route".into()));
        assert_eq!(line["duration_ms"], 1.5);
        assert!(line.get("arm").is_none());
    }

    #[test]
    fn long_texts_are_cut_at_a_letter() {
        let long = "ä".repeat(1000);
        assert!(clip(&long).len() <= MAX_TEXT + 1);
        assert_eq!(clip("short"), "short");
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                std::thread::park();
                Ok(0)
            }
            fn flush(&mut self) -> io::Result<()> {
                std::thread::park();
                Ok(())
            }
        }
        let log = AccessLog::to(Box::new(Stuck));
        for _ in 0..3 * QUEUE {
            log.request(&end("/", &http::Method::GET));
        }
        assert!(log.dropped() > 0);
    }
}
