//! All metrics of a process, as Prometheus text.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tombolo_proto::v1::ArmTraffic;

use super::{
    access::AccessLog,
    acme::AcmeMetrics,
    arms::Arms,
    authorization::Decisions,
    checks::CheckMetrics,
    identity::IdentityMetrics,
    listeners::{ListenerMetrics, store},
    ocsp::OcspMetrics,
    paths::PathMetrics,
    peers::PeerMetrics,
    quotas::QuotaMetrics,
    requests::RequestMetrics,
    spans::Spans,
    tcp::TcpMetrics,
};
use crate::{
    proxy::{ListenStats, Observer, RequestEnd, TcpEnd, TraceParent},
    quota::Quotas,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DnsLabels {
    source: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// All metrics of a process, its access log, and the spans that it records.
pub struct Telemetry {
    registry: Registry,
    access: AccessLog,
    spans: Option<Spans>,
    requests: RequestMetrics,
    tcp: TcpMetrics,
    authorization: Decisions,
    listeners: ListenerMetrics,
    acme: AcmeMetrics,
    ocsp: OcspMetrics,
    identity: IdentityMetrics,
    arms: Arms,
    received: Counter,
    sent: Counter,
    bad_input: Family<Kind, Counter>,
    dns: Family<DnsLabels, Counter>,
    values: Family<Kind, Gauge>,
    dropped_lines: Counter,
    exported_spans: Counter,
    dropped_spans: Counter,
    checks: CheckMetrics,
    peers: PeerMetrics,
    paths: PathMetrics,
    quotas: QuotaMetrics,
}

impl Telemetry {
    /// No listeners yet, and no spans.
    pub fn new(access: AccessLog) -> Self {
        let mut all = Registry::default();
        let requests = RequestMetrics::register(&mut all);
        let registry = all.sub_registry_with_prefix("tombolo");
        macro_rules! metric {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                registry.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let bytes: Family<Kind, Counter> = metric!("bytes", "Bytes of bodies and raw connections");
        Self {
            requests,
            received: bytes.get_or_create_owned(&Kind { kind: "received" }),
            sent: bytes.get_or_create_owned(&Kind { kind: "sent" }),
            bad_input: metric!("bad_input", "What was refused because it was malformed"),
            dns: metric!("dns_answers", "DNS answers by where they are from"),
            values: metric!("state", "State of this process by kind"),
            dropped_lines: metric!("access_log_dropped", "Access log lines not written"),
            exported_spans: metric!("spans_exported", "Spans taken by the collector"),
            dropped_spans: metric!(
                "spans_dropped",
                "Spans lost: the queue was full, or the collector did not take them"
            ),
            listeners: ListenerMetrics::register(registry),
            acme: AcmeMetrics::register(registry),
            ocsp: OcspMetrics::register(registry),
            identity: IdentityMetrics::register(registry),
            tcp: TcpMetrics::register(registry),
            authorization: Decisions::register(registry),
            checks: CheckMetrics::register(registry),
            peers: PeerMetrics::register(registry),
            paths: PathMetrics::register(registry),
            quotas: QuotaMetrics::register(registry),
            arms: Arms::default(),
            spans: None,
            registry: all,
            access,
        }
    }

    /// Records spans as well.
    pub fn with_spans(self, spans: Option<Spans>) -> Self {
        Self { spans, ..self }
    }

    /// Waits until the access log is written and the spans recorded so far are exported, no longer than this for each.
    pub async fn flush(&self, most: Duration) {
        let access = self.access.clone();
        // It fails only where the runtime ends: then nobody waits.
        let _written = tokio::task::spawn_blocking(move || access.flush(most)).await;
        if let Some(spans) = &self.spans {
            spans.flush(most).await;
        }
    }

    /// Counts something malformed that was refused: `dns`, `token`, `document`, `head`, `tls`, `control`, `certificate`.
    pub fn bad_input(&self, kind: &'static str) {
        self.bad_input.get_or_create(&Kind { kind }).inc();
    }

    /// Counts a DNS answer: from `own` names or `forwarded`, with this response code, or `overload` for what is past a
    /// bound.
    pub fn dns_answer(&self, source: &'static str, code: &'static str) {
        self.dns.get_or_create(&DnsLabels { source, code }).inc();
    }

    /// Sets the state of this kind, e.g. `snapshot_version`, `identity_expires_unix`. Kinds are few and fixed.
    pub fn set(&self, kind: &'static str, value: i64) {
        self.values.get_or_create(&Kind { kind }).set(value);
    }

    /// Metrics of certificates that are ordered.
    pub fn acme(&self) -> &AcmeMetrics {
        &self.acme
    }

    /// Of health checks.
    pub fn checks(&self) -> &CheckMetrics {
        &self.checks
    }

    /// Of the links with other clusters.
    pub fn peers(&self) -> &PeerMetrics {
        &self.peers
    }

    /// Of the ways to other clusters.
    pub fn paths(&self) -> &PathMetrics {
        &self.paths
    }

    /// Of this process's own certificate.
    pub fn identity(&self) -> &IdentityMetrics {
        &self.identity
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
        self.listeners.watch(listener.into(), passthrough, stats);
    }

    /// Shows this process's shares of limits that the cluster holds together.
    pub fn watch_quotas(&self, quotas: &Arc<Quotas>) {
        self.quotas.watch(quotas);
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
        self.listeners.collect();
        self.quotas.collect();
        store(&self.dropped_lines, self.access.dropped());
        if let Some(spans) = &self.spans {
            store(&self.exported_spans, spans.exported());
            store(&self.dropped_spans, spans.dropped());
        }
    }

    fn count_bytes(&self, received: u64, sent: u64) {
        self.received.inc_by(received);
        self.sent.inc_by(sent);
    }
}

impl Observer for Telemetry {
    fn records(&self, parent: &TraceParent) -> bool {
        self.spans.as_ref().is_some_and(|spans| spans.records(parent))
    }

    fn request(&self, end: &RequestEnd<'_>) {
        self.requests.count(end);
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
        f.debug_struct("Telemetry").field("label_sets", &self.requests.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
