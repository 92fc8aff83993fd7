//! Metrics, as Prometheus text.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};
use tombolo_proto::v1::ArmTraffic;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    access::{AccessLog, direction},
    acme::AcmeMetrics,
    arms::Arms,
    authorization::Decisions,
    ocsp::OcspMetrics,
    spans::Spans,
    tcp::TcpMetrics,
};
use crate::{
    decide::{Backend, Decision},
    proxy::{ListenStats, Observer, RequestEnd, TcpEnd, TraceParent},
};

/// Label sets of requests; what comes after them is counted under `other`.
const MAX_LABEL_SETS: usize = 4096;
/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: &'static str,
    service: String,
    route: String,
    arm: String,
    lane: String,
    code: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    direction: &'static str,
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DnsLabels {
    source: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: String,
}

#[derive(Clone)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// The metrics of one label set, found by its hash: nothing is formatted for a request like an earlier one.
struct Handles {
    requests: Counter,
    duration: Histogram,
}

struct Watched {
    listener: String,
    passthrough: bool,
    stats: Arc<ListenStats>,
}

/// All metrics of a process, and its access log.
pub struct Telemetry {
    registry: Registry,
    access: AccessLog,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, Seconds>,
    tcp: TcpMetrics,
    authorization: Decisions,
    received: Counter,
    sent: Counter,
    bad_input: Family<Kind, Counter>,
    dns: Family<DnsLabels, Counter>,
    values: Family<Kind, Gauge>,
    accepted: Family<ListenerLabels, Counter>,
    refused: Family<ListenerLabels, Counter>,
    handshakes: Family<ListenerLabels, Counter>,
    slow_heads: Family<ListenerLabels, Counter>,
    bad_heads: Family<ListenerLabels, Counter>,
    passthrough: Counter,
    unknown_names: Counter,
    dropped_lines: Counter,
    spans: Option<Spans>,
    exported_spans: Counter,
    dropped_spans: Counter,
    acme: AcmeMetrics,
    ocsp: OcspMetrics,
    arms: Arms,
    handles: DashMap<u64, Arc<Handles>>,
    /// How many label sets there are, without asking every shard of the map.
    known: AtomicUsize,
    /// What comes after the bound; a few, as it tells only directions and classes of status apart.
    others: DashMap<(&'static str, u16), Arc<Handles>>,
    listeners: Mutex<Vec<Watched>>,
}

impl Telemetry {
    /// No listeners yet.
    pub fn new(access: AccessLog) -> Self {
        let mut registry = Registry::with_prefix("tombolo");
        macro_rules! metric {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let durations = Family::<DurationLabels, Histogram, Seconds>::new_with_constructor(Seconds);
        let bytes =
            metric!("bytes", "Bytes of bodies and raw connections", Family::<Kind, Counter>::default());
        let bytes_of = |kind: &str| bytes.get_or_create_owned(&Kind { kind: kind.into() });
        Self {
            requests: metric!(
                "requests",
                "Requests by what was decided and how they ended",
                Family::default()
            ),
            durations: metric!("request_duration_seconds", "From a request's head to its end", durations),
            received: bytes_of("received"),
            sent: bytes_of("sent"),
            bad_input: metric!("bad_input", "What was refused because it was malformed", Family::default()),
            dns: metric!("dns_answers", "DNS answers by where they are from", Family::default()),
            values: metric!("state", "State of this process by kind", Family::default()),
            accepted: metric!("listener_accepted", "Connections accepted", Family::default()),
            refused: metric!("listener_refused", "Connections closed at the bound", Family::default()),
            handshakes: metric!(
                "listener_handshakes_failed",
                "TLS handshakes that failed",
                Family::default()
            ),
            slow_heads: metric!(
                "listener_slow_heads",
                "Connections closed since a request's head took too long",
                Family::default()
            ),
            bad_heads: metric!(
                "listener_bad_heads",
                "Connections that ended in a head that is not valid",
                Family::default()
            ),
            passthrough: metric!(
                "passthrough_connections",
                "TLS connections passed on by name",
                Counter::default()
            ),
            unknown_names: metric!(
                "passthrough_unknown_names",
                "Connections closed since their name is not known",
                Counter::default()
            ),
            dropped_lines: metric!("access_log_dropped", "Access log lines not written", Counter::default()),
            spans: None,
            exported_spans: metric!("spans_exported", "Spans taken by the collector", Counter::default()),
            dropped_spans: metric!(
                "spans_dropped",
                "Spans lost: the queue was full, or the collector did not take them",
                Counter::default()
            ),
            acme: AcmeMetrics::register(&mut registry),
            ocsp: OcspMetrics::register(&mut registry),
            arms: Arms::default(),
            tcp: TcpMetrics::register(&mut registry),
            authorization: Decisions::register(&mut registry),
            handles: DashMap::new(),
            known: AtomicUsize::new(0),
            others: DashMap::new(),
            listeners: Mutex::new(Vec::new()),
            registry,
            access,
        }
    }

    /// Records spans as well.
    pub fn with_spans(self, spans: Option<Spans>) -> Self {
        Self { spans, ..self }
    }

    /// Waits until what was recorded so far is exported, no longer than this.
    pub async fn flush(&self, most: Duration) {
        if let Some(spans) = &self.spans {
            spans.flush(most).await;
        }
    }

    /// Counts something malformed that was refused: `dns`, `token`, `document`, `head`, `tls`, `control`, `certificate`.
    pub fn bad_input(&self, kind: &'static str) {
        self.bad_input.get_or_create(&Kind { kind: kind.into() }).inc();
    }

    /// Counts a DNS answer: from `own` names or `forwarded`, with this response code, or `overload` for what is past a
    /// bound.
    pub fn dns_answer(&self, source: &'static str, code: &'static str) {
        self.dns.get_or_create(&DnsLabels { source, code }).inc();
    }

    /// Sets the state of this kind, e.g. `snapshot_version`, `identity_expires_seconds`. Kinds are few and fixed.
    pub fn set(&self, kind: &'static str, value: i64) {
        self.values.get_or_create(&Kind { kind: kind.into() }).set(value);
    }

    /// Metrics of certificates that are ordered.
    pub fn acme(&self) -> &AcmeMetrics {
        &self.acme
    }

    /// Of OCSP responses.
    pub fn ocsp(&self) -> &OcspMetrics {
        &self.ocsp
    }

    /// How the arms of gray releases fare.
    pub fn arms(&self) -> Vec<ArmTraffic> {
        self.arms.report()
    }

    /// Shows a listener's counters. `passthrough`: it passes TLS on by name.
    pub fn watch_listener(&self, listener: impl Into<String>, passthrough: bool, stats: Arc<ListenStats>) {
        let watched = Watched { listener: listener.into(), passthrough, stats };
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    }

    /// Everything as Prometheus (OpenMetrics) text.
    pub fn encode(&self) -> String {
        self.collect();
        let mut text = String::new();
        // Writing to a String does not fail.
        let _written = encode(&mut text, &self.registry);
        text
    }

    /// Takes over what others count.
    fn collect(&self) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // A listener that is gone is held here alone; it has nothing new to say.
        listeners.retain(|l| Arc::strong_count(&l.stats) > 1 || l.passthrough);
        let (mut passed, mut unknown) = (0, 0);
        for watched in listeners.iter() {
            let labels = ListenerLabels { listener: watched.listener.clone() };
            let stats = &watched.stats;
            store(&self.accepted.get_or_create(&labels), stats.accepted.load(Relaxed));
            store(&self.refused.get_or_create(&labels), stats.refused.load(Relaxed));
            store(&self.handshakes.get_or_create(&labels), stats.handshake_failed.load(Relaxed));
            store(&self.slow_heads.get_or_create(&labels), stats.head_timeouts.load(Relaxed));
            store(&self.bad_heads.get_or_create(&labels), stats.bad_heads.load(Relaxed));
            if watched.passthrough {
                let names = stats.unknown_name.load(Relaxed);
                unknown += names;
                passed += stats.accepted.load(Relaxed).saturating_sub(names);
            }
        }
        store(&self.passthrough, passed);
        store(&self.unknown_names, unknown);
        store(&self.dropped_lines, self.access.dropped());
        if let Some(spans) = &self.spans {
            store(&self.exported_spans, spans.exported());
            store(&self.dropped_spans, spans.dropped());
        }
    }

    fn handles(&self, end: &RequestEnd<'_>) -> Arc<Handles> {
        let key = hash(end);
        if let Some(handles) = self.handles.get(&key) {
            return handles.clone();
        }
        if self.known.load(Relaxed) >= MAX_LABEL_SETS {
            let class = (direction(end.arrival.map(|a| &*a.entry)), end.status / 100);
            if let Some(handles) = self.others.get(&class) {
                return handles.clone();
            }
            let handles = self.handles_of(&other(end));
            self.others.insert(class, handles.clone());
            return handles;
        }
        let handles = self.handles_of(&labels(end));
        if self.handles.insert(key, handles.clone()).is_none() {
            self.known.fetch_add(1, Relaxed);
        }
        handles
    }

    fn handles_of(&self, labels: &RequestLabels) -> Arc<Handles> {
        let duration = DurationLabels { direction: labels.direction, service: labels.service.clone() };
        Arc::new(Handles {
            requests: self.requests.get_or_create_owned(labels),
            duration: self.durations.get_or_create_owned(&duration),
        })
    }

    fn count_bytes(&self, received: u64, sent: u64) {
        self.received.inc_by(received);
        self.sent.inc_by(sent);
    }
}

fn store(counter: &Counter, value: u64) {
    counter.inner().store(value, Relaxed);
}

fn hash(end: &RequestEnd<'_>) -> u64 {
    // The chain of seeds tells ("a", "b") from ("ab", "").
    let mut hash = u64::from(end.status);
    let mut add = |text: &str| hash = xxh3_64_with_seed(text.as_bytes(), hash);
    add(direction(end.arrival.map(|a| &*a.entry)));
    add(end.reason.unwrap_or_default());
    add(route(end));
    if let Some(decision) = end.decision {
        add(decision.arm.as_deref().unwrap_or_default());
        add(decision.lane.as_ref().map(|lane| lane.as_str()).unwrap_or_default());
        if let Backend::Service { service, .. } = &decision.backend {
            add(&service.namespace);
            add(&service.name);
            add(if service.scope == crate::model::Scope::Cluster { "c" } else { "s" });
        }
    }
    hash
}

fn route<'e>(end: &RequestEnd<'e>) -> &'e str {
    end.decision.map(|d| &*d.route).or(end.route).unwrap_or_default()
}

fn service(decision: Option<&Decision>) -> String {
    match decision.map(|d| &d.backend) {
        Some(Backend::Service { service, .. }) => service.to_string(),
        Some(Backend::Address { .. }) | None => String::new(),
    }
}

fn labels(end: &RequestEnd<'_>) -> RequestLabels {
    RequestLabels {
        direction: direction(end.arrival.map(|a| &*a.entry)),
        service: service(end.decision),
        route: route(end).to_owned(),
        arm: end.decision.and_then(|d| d.arm.as_deref()).unwrap_or_default().to_owned(),
        lane: end.decision.and_then(|d| d.lane.as_ref()).map(ToString::to_string).unwrap_or_default(),
        code: end.status.to_string(),
        reason: end.reason.unwrap_or_default(),
    }
}

fn other(end: &RequestEnd<'_>) -> RequestLabels {
    let other = || "other".to_owned();
    RequestLabels {
        direction: direction(end.arrival.map(|a| &*a.entry)),
        service: other(),
        route: other(),
        arm: other(),
        lane: other(),
        code: format!("{}xx", end.status / 100),
        reason: "other",
    }
}

impl Observer for Telemetry {
    fn records(&self, parent: &TraceParent) -> bool {
        self.spans.as_ref().is_some_and(|spans| spans.records(parent))
    }

    fn request(&self, end: &RequestEnd<'_>) {
        let handles = self.handles(end);
        handles.requests.inc();
        handles.duration.observe(end.duration.as_secs_f64());
        self.count_bytes(end.received, end.sent);
        self.arms.count(end);
        if let Some(verdict) = end.verdict {
            self.authorization.count(verdict);
        }
        self.access.request(end);
        if let (Some(spans), Some(span)) = (&self.spans, end.span) {
            spans.request(span, end);
        }
    }

    fn tcp(&self, end: &TcpEnd<'_>) {
        self.tcp.count(end);
        if let Some(verdict) = end.verdict {
            self.authorization.count(verdict);
        }
        if let Some(copied) = end.copied {
            self.count_bytes(copied.sent, copied.received);
        }
        self.access.tcp(end);
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("label_sets", &self.handles.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(telemetry: &Telemetry, status: u16, route: &str) {
        telemetry.request(&RequestEnd {
            arrival: None,
            method: &http::Method::GET,
            host: "a",
            path: "/",
            version: http::Version::HTTP_11,
            status,
            reason: None,
            decision: None,
            route: Some(route),
            endpoint: None,
            upstream: None,
            tries: 0,
            duration: Duration::from_millis(3),
            upstream_latency: None,
            received: 10,
            sent: 0,
            request_id: None,
            trace_id: None,
            span: None,
            grpc: None,
            user_agent: None,
            verdict: None,
        });
    }

    #[test]
    fn counts_requests_by_what_they_were() {
        let telemetry = Telemetry::new(AccessLog::off());
        request(&telemetry, 200, "httproute/a/b");
        request(&telemetry, 200, "httproute/a/b");
        request(&telemetry, 503, "httproute/a/b");
        let text = telemetry.encode();
        let line = |code: &str| {
            let mut lines = text.lines();
            lines
                .find(|l| l.starts_with("tombolo_requests_total{") && l.contains(&format!("code=\"{code}\"")))
                .unwrap_or("")
        };
        assert!(line("200").ends_with(" 2"), "{text}");
        assert!(line("503").ends_with(" 1"), "{text}");
        assert!(text.contains("tombolo_bytes_total{kind=\"received\"} 30"), "{text}");
        assert!(text.contains("tombolo_request_duration_seconds_bucket"), "{text}");
    }

    #[test]
    fn label_sets_are_bounded() {
        let telemetry = Telemetry::new(AccessLog::off());
        for n in 0..2 * MAX_LABEL_SETS {
            request(&telemetry, 200, &format!("httproute/a/{n}"));
        }
        let text = telemetry.encode();
        let lines = text.lines().filter(|l| l.starts_with("tombolo_requests_total{")).count();
        assert_eq!(lines, MAX_LABEL_SETS + 1);
        assert!(text.contains("route=\"other\""));
    }

    #[test]
    fn a_listeners_counters_are_shown() {
        let telemetry = Telemetry::new(AccessLog::off());
        let stats = Arc::new(ListenStats::default());
        stats.accepted.store(5, Relaxed);
        stats.unknown_name.store(2, Relaxed);
        stats.bad_heads.store(1, Relaxed);
        telemetry.watch_listener("mesh", true, stats.clone());
        let text = telemetry.encode();
        assert!(text.contains("tombolo_passthrough_connections_total 3"), "{text}");
        assert!(text.contains("tombolo_listener_accepted_total{listener=\"mesh\"} 5"), "{text}");
        assert!(text.contains("tombolo_listener_bad_heads_total{listener=\"mesh\"} 1"), "{text}");
    }
}
