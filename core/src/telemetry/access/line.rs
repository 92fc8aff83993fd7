//! One line of the access log.

use std::{borrow::Cow, cell::RefCell, fmt::Display, net::SocketAddr, time::Duration};

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{clip, direction};
use crate::{
    decide::{Backend, Judgement, Verdict},
    model::{ServiceKey, SpiffeId},
    proxy::{Entry, RequestEnd, TcpEnd, log_id},
};

thread_local! {
    /// The last second that was asked for, since 1970 and as text up to its seconds.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((0, String::new())) };
}

/// What is written as it is shown, without a text of its own.
#[derive(Debug)]
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// One line. The names are stable: TELEMETRY.md tells them, and a test compares both.
#[derive(Debug, Serialize, Default)]
pub(super) struct Line<'a> {
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
    grpc_status: Option<u16>,
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
    service: Option<Shown<&'a ServiceKey>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Shown<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tries: Option<u8>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Shown<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<Shown<&'a SpiffeId>>,
    #[serde(flatten)]
    judged: Judged<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Cow<'a, str>>,
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

impl<'a> Line<'a> {
    /// Of a request.
    pub fn of_request(end: &RequestEnd<'a>) -> Self {
        let decision = end.decision;
        let release = decision.and_then(|d| d.release.as_deref());
        Self {
            time: now(),
            direction: direction(end.arrival.map(|a| &*a.entry)),
            listener: None,
            sni: None,
            method: Some(end.method.as_str()),
            host: Some(clip(end.host)),
            path: Some(clip(end.path)),
            protocol: protocol(end.version),
            status: Some(end.status),
            grpc_status: end.grpc.flatten(),
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
            upstream: end.upstream.map(Shown),
            tries: Some(end.tries),
            duration_ms: millis(end.duration),
            upstream_ms: end.upstream_latency.map(millis),
            bytes_in: end.received,
            bytes_out: end.sent,
            client: end.arrival.map(|a| Shown(a.peer)),
            caller: end.arrival.and_then(|a| a.identity.as_ref()).map(Shown),
            judged: Judged::of(end.verdict),
            trace_id: end.trace_id.map(clip),
            span_id: end.span.map(|span| format!("{:016x}", span.id)),
            request_id: end.request_id.map(clip).map(Cow::Borrowed),
            user_agent: end.user_agent.map(clip),
        }
    }

    /// Of a raw connection.
    pub fn of_tcp(end: &TcpEnd<'a>) -> Self {
        let copied = end.copied;
        Self {
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
            upstream: end.upstream.map(Shown),
            duration_ms: millis(end.duration),
            bytes_in: copied.map_or(0, |c| c.sent),
            bytes_out: copied.map_or(0, |c| c.received),
            client: Some(Shown(end.arrival.peer)),
            caller: end.arrival.identity.as_ref().map(Shown),
            judged: Judged::of(end.verdict),
            // Raw bytes carry none: this one is the line's own.
            request_id: Some(Cow::Owned(log_id())),
            ..Default::default()
        }
    }
}

/// A public socket as its Gateways name it.
fn socket(entry: &Entry) -> Option<String> {
    let Entry::Edge(key) = entry else { return None };
    Some(
        key.address.map_or_else(|| format!("*:{}", key.port), |ip| SocketAddr::new(ip, key.port).to_string()),
    )
}

fn service(backend: &Backend) -> Option<Shown<&ServiceKey>> {
    match backend {
        Backend::Service { service, .. } => Some(Shown(service)),
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

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// RFC 3339 with milliseconds.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let second = now.unix_timestamp();
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second || text.is_empty() {
            let whole = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
            *text = whole.trim_end_matches('Z').to_owned();
            *known = second;
        }
        let mut all = String::with_capacity(text.len() + 5);
        all.push_str(text);
        all.push('.');
        let millis = now.millisecond();
        for divisor in [100, 10, 1] {
            let digit = u32::from(millis / divisor % 10);
            all.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
        all.push('Z');
        all
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Scope;

    #[test]
    fn times_have_milliseconds() {
        let before = OffsetDateTime::now_utc() - Duration::from_millis(1);
        for _ in 0..3 {
            let text = now();
            let read = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
            assert!(before <= read && read <= OffsetDateTime::now_utc(), "{text}");
            assert_eq!(text.len(), "2026-01-01T00:00:00.000Z".len());
        }
    }

    /// With a value in every field.
    fn full<'a>(service: &'a ServiceKey, caller: &'a SpiffeId) -> Line<'a> {
        let text = Some("x");
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Line {
            time: now(),
            direction: "edge",
            listener: Some("x".into()),
            sni: text,
            method: text,
            host: text,
            path: text,
            protocol: "TCP",
            status: Some(1),
            grpc_status: Some(1),
            reason: text,
            route: text,
            rule: text,
            release: text,
            arm: text,
            arm_reason: Some("x".into()),
            lane: text,
            service: Some(Shown(service)),
            endpoint: text,
            cluster: text,
            upstream: Some(Shown(address)),
            tries: Some(1),
            duration_ms: 1.0,
            upstream_ms: Some(1.0),
            bytes_in: 1,
            bytes_out: 1,
            client: Some(Shown(address)),
            caller: Some(Shown(caller)),
            judged: Judged {
                authz: text,
                authz_policy: text,
                authz_dry_run: text,
                authz_dry_run_policy: text,
            },
            trace_id: text,
            span_id: Some("x".into()),
            request_id: Some("x".into()),
            user_agent: text,
        }
    }

    #[test]
    fn the_fields_are_those_that_are_documented() {
        let service = ServiceKey::new(Scope::Cluster, "shop", "checkout").unwrap();
        let caller = SpiffeId::parse("spiffe://east/ns/shop/sa/front").unwrap();
        let line = serde_json::to_value(full(&service, &caller)).unwrap();
        let written: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        let text = include_str!("../../../../TELEMETRY.md");
        let (_, section) = text.split_once("\n## Access log\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let documented: Vec<&str> = rows.map(|(name, _)| name).collect();
        assert_eq!(written, documented, "in this order");
    }
}
