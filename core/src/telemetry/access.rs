//! The access log: one JSON object a line for each request and raw connection.

mod line;

use std::{
    cell::RefCell,
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use line::Line;

use super::lines::Lines;
use crate::proxy::{Entry, RequestEnd, TcpEnd};

thread_local! {
    /// The line that is being made.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

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
    lines: Option<Lines>,
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
        Self { lines: None }
    }

    fn to(writer: Box<dyn Write + Send>) -> Self {
        let lines = Lines::to(writer);
        let lines =
            lines.inspect_err(|error| tracing::error!(%error, "the access log cannot be written: no thread"));
        Self { lines: lines.ok() }
    }

    /// Lines that were not written: there were too many, or the disk was full.
    pub fn dropped(&self) -> u64 {
        self.lines.as_ref().map_or(0, Lines::dropped)
    }

    /// Waits until all lines are written, so long at most. Blocks.
    pub fn flush(&self, limit: Duration) {
        if let Some(lines) = &self.lines {
            lines.flush(limit);
        }
    }

    fn send(&self, line: &Line<'_>) {
        let Some(lines) = &self.lines else { return };
        TEXT.with_borrow_mut(|text| {
            text.clear();
            if serde_json::to_writer(&mut *text, line).is_ok() {
                text.push(b'\n');
                lines.push(text);
            }
        });
    }

    /// Writes the line of a request.
    pub(super) fn request(&self, end: &RequestEnd<'_>) {
        if self.lines.is_none() {
            return;
        }
        self.send(&Line::of_request(end));
    }

    /// Writes the line of a raw connection.
    pub(super) fn tcp(&self, end: &TcpEnd<'_>) {
        if self.lines.is_none() {
            return;
        }
        self.send(&Line::of_tcp(end));
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
            last_try: None,
            upstream_latency: None,
            received: 1,
            sent: 2,
            request_id: None,
            trace_id: None,
            span: None,
            grpc: None,
            user_agent: None,
            verdict: None,
            missed: None,
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
}
