//! Answers to what is no request: made on the connection itself, as the engine never hears of it.

use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};
use tokio::io::AsyncWriteExt;

use super::{
    Arrival, Connection, ListenStats, Observer, RequestEnd, log_id,
    strict::{HeadScan, Refused},
};
use pingora_core::protocols::Shutdown;

/// The answer may take this long to be written; then the connection is closed without it.
const WRITE: Duration = Duration::from_secs(5);
/// What stands in the access log for a method that is none.
const NO_METHOD: &[u8] = b"-";

/// Counts a refusal on its listener.
pub(super) fn count(stats: &ListenStats, refused: Refused) {
    ListenStats::count(if refused.status == 408 { &stats.head_timeouts } else { &stats.bad_heads });
}

/// A message that is refused.
pub(super) struct Refusal<'a> {
    pub arrival: &'a Arrival,
    pub refused: Refused,
    /// When its first byte was there.
    pub begun: Instant,
}

/// What can be told of it.
struct Seen<'a> {
    method: &'a [u8],
    version: Version,
    path: &'a str,
    host: &'a str,
}

impl Refusal<'_> {
    /// Answers, logs and closes. `scan` says how far the head was read.
    pub async fn answer(self, mut connection: Connection, scan: &HeadScan, observer: &dyn Observer) {
        let (method, target, host) = scan.seen(connection.ahead());
        let path = target.split(|b| *b == b'?').next().unwrap_or_default();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (method, path, host) = (method.to_owned(), text(path), text(host));
        let id = log_id();
        let answer = self.words(&id);
        connection.end_head();
        let written = tokio::time::timeout(WRITE, async {
            connection.write_all(answer.as_bytes()).await?;
            connection.flush().await
        });
        let sent = if matches!(written.await, Ok(Ok(()))) { answer.len() } else { 0 };
        let seen = Seen { method: &method, version: Version::HTTP_11, path: &path, host: &host };
        self.observe(observer, seen, sent, &id);
        Shutdown::shutdown(&mut connection).await;
    }

    /// Logs what the engine itself has answered.
    pub fn log(self, observer: &dyn Observer) {
        self.log_of(Version::HTTP_11, observer);
    }

    /// The same of a message of this version. What the engine refuses of HTTP/2, it shows nobody: neither method nor path is
    /// known, and a flood is of no one request.
    pub fn log_of(self, version: Version, observer: &dyn Observer) {
        let nothing = Seen { method: NO_METHOD, version, path: "", host: "" };
        self.observe(observer, nothing, 0, &log_id());
    }

    /// The status in words, and nothing of the inside but the log id.
    fn words(&self, id: &str) -> String {
        let status = StatusCode::from_u16(self.refused.status).unwrap_or(StatusCode::BAD_REQUEST);
        let words = status.canonical_reason().unwrap_or("Error");
        let body = format!("{} {words}\n", status.as_u16());
        format!(
            "HTTP/1.1 {} {words}\r\nserver: tombolo\r\ncontent-type: text/plain; charset=utf-8\r\n\
             x-request-id: {id}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            status.as_u16(),
            body.len()
        )
    }

    fn observe(&self, observer: &dyn Observer, seen: Seen<'_>, sent: usize, id: &str) {
        let Seen { method, version, path, host } = seen;
        let method = Method::from_bytes(if method.is_empty() { NO_METHOD } else { method });
        observer.request(&RequestEnd {
            arrival: Some(self.arrival),
            method: &method.unwrap_or_default(),
            host,
            path,
            version,
            status: self.refused.status,
            reason: Some(self.refused.reason),
            decision: None,
            route: None,
            endpoint: None,
            upstream: None,
            tries: 0,
            duration: self.begun.elapsed(),
            last_try: None,
            upstream_latency: None,
            received: 0,
            sent: sent as u64,
            request_id: Some(id),
            trace_id: None,
            span: None,
            grpc: None,
            user_agent: None,
            verdict: None,
            missed: None,
        });
    }
}
