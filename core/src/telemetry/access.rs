//! The access log: one JSON object a line for each request and raw connection.

use std::{
    borrow::Cow,
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    decide::{Backend, Judgement, Verdict},
    proxy::{Entry, RequestEnd, TcpEnd},
};

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

/// One line. The names are stable.
#[derive(Debug, Serialize, Default)]
struct Line<'a> {
    time: String,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arm_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tries: Option<u8>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    #[serde(flatten)]
    judged: Judged<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

/// What AuthorizationPolicies say.
#[derive(Debug, Serialize, Default)]
struct Judged<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    authz: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authz_policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authz_dry_run: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authz_dry_run_policy: Option<&'a str>,
}

impl<'a> Judged<'a> {
    fn of(verdict: Option<&'a Verdict>) -> Self {
        let Some(Verdict { enforced, dry_run }) = verdict else { return Self::default() };
        Self {
            authz: Some(enforced.result()),
            authz_policy: Some(enforced.policy()),
            authz_dry_run: dry_run.as_ref().map(Judgement::result),
            authz_dry_run_policy: dry_run.as_ref().map(Judgement::policy),
        }
    }
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
        let decision = end.decision;
        let release = decision.and_then(|d| d.release.as_deref());
        self.send(&Line {
            time: now(),
            direction: direction(end.arrival.map(|a| &*a.entry)),
            listener: None,
            sni: None,
            method: Some(end.method.as_str()),
            host: Some(clip(end.host)),
            path: Some(clip(end.path)),
            protocol: protocol(end.version),
            status: Some(end.status),
            reason: end.reason,
            route: decision.map(|d| &*d.route).or(end.route),
            rule: decision.map(|d| &*d.rule),
            release,
            arm: decision.and_then(|d| d.arm.as_deref()),
            arm_reason: release.and(decision).map(|d| format!("{:?}", d.reason).to_lowercase()),
            lane: decision.and_then(|d| d.lane.as_ref()).map(|lane| lane.as_str()),
            service: decision.and_then(|d| service(&d.backend)),
            endpoint: end.endpoint.map(|e| &*e.id),
            cluster: end.endpoint.map(|e| &*e.cluster),
            upstream: end.upstream.map(|u| u.to_string()),
            tries: Some(end.tries),
            duration_ms: millis(end.duration),
            upstream_ms: end.upstream_latency.map(millis),
            bytes_in: end.received,
            bytes_out: end.sent,
            client: end.arrival.map(|a| a.peer.to_string()),
            caller: end.arrival.and_then(|a| a.identity.as_ref()).map(ToString::to_string),
            judged: Judged::of(end.verdict),
            trace_id: end.trace_id.map(clip),
            request_id: end.request_id.map(clip),
            user_agent: end.user_agent.map(clip),
        });
    }

    /// Writes the line of a raw connection.
    pub(super) fn tcp(&self, end: &TcpEnd<'_>) {
        if self.queue.is_none() {
            return;
        }
        let copied = end.copied;
        self.send(&Line {
            time: now(),
            direction: direction(Some(&*end.arrival.entry)),
            listener: end.listener.map(Cow::Borrowed).or_else(|| socket(&end.arrival.entry).map(Cow::Owned)),
            sni: end.arrival.sni.as_deref().map(clip),
            protocol: "TCP",
            route: end.route,
            rule: end.rule,
            service: end.backend.and_then(service),
            reason: end.reason,
            endpoint: end.endpoint.map(|e| &*e.id),
            cluster: end.endpoint.map(|e| &*e.cluster),
            upstream: end.upstream.map(|u| u.to_string()),
            duration_ms: millis(end.duration),
            bytes_in: copied.map_or(0, |c| c.sent),
            bytes_out: copied.map_or(0, |c| c.received),
            client: Some(end.arrival.peer.to_string()),
            caller: end.arrival.identity.as_ref().map(ToString::to_string),
            judged: Judged::of(end.verdict),
            ..Default::default()
        });
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

/// A public socket as its Gateways name it.
fn socket(entry: &Entry) -> Option<String> {
    let Entry::Edge(key) = entry else { return None };
    Some(
        key.address.map_or_else(|| format!("*:{}", key.port), |ip| SocketAddr::new(ip, key.port).to_string()),
    )
}

fn service(backend: &Backend) -> Option<String> {
    match backend {
        Backend::Service { service, .. } => Some(service.to_string()),
        Backend::Address { .. } => None,
    }
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    now.format(&Rfc3339).unwrap_or_default()
}

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
