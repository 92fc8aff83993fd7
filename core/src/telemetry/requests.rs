//! Metrics of requests, by OpenTelemetry's semantic conventions.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use dashmap::DashMap;
use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::Registry,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    labels::{OVERFLOW, encode_set},
    spans::known_method,
};
use crate::{
    decide::Backend,
    model::{Scope, ServiceKey},
    proxy::{Entry, RequestEnd},
};

/// Label sets of requests; what comes after them is counted together, with [`OVERFLOW`]. One is 20 lines of text, so that
/// `/metrics` is at most some 16 MB.
pub(super) const MAX_LABEL_SETS: usize = 2048;
/// Upper bounds in seconds: those that OpenTelemetry advises, and some for answers that are faster or slower.
const BUCKETS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0];

/// Whose duration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Of a request that came in: at the edge, or for the workload.
    Server,
    /// Of an application's own call.
    Client,
}

/// What is told of a request. Empty: nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Labels {
    method: &'static str,
    scheme: &'static str,
    status: String,
    grpc_status: String,
    error: String,
    server: String,
    port: String,
    route: String,
    source: String,
    destination: String,
    arm: String,
    lane: String,
    cluster: String,
    reason: &'static str,
    overflow: &'static str,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let labels = [
            ("http_request_method", self.method),
            ("http_response_status_code", &*self.status),
            ("rpc_grpc_status_code", &*self.grpc_status),
            ("error_type", &*self.error),
            ("url_scheme", self.scheme),
            ("server_address", &*self.server),
            ("server_port", &*self.port),
            ("tombolo_route", &*self.route),
            ("tombolo_source", &*self.source),
            ("tombolo_destination", &*self.destination),
            ("tombolo_arm", &*self.arm),
            ("tombolo_lane", &*self.lane),
            ("tombolo_cluster", &*self.cluster),
            ("tombolo_reason", self.reason),
            (OVERFLOW, self.overflow),
        ];
        encode_set(&labels, encoder)
    }
}

#[derive(Clone)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

type Durations = Family<Labels, Histogram, Seconds>;

/// `http_server_request_duration_seconds` and `http_client_request_duration_seconds`.
pub(super) struct RequestMetrics {
    server: Durations,
    client: Durations,
    /// Of each label set its histogram, found by the hash of what it is made of: nothing is formatted for a request like an
    /// earlier one.
    known: DashMap<u64, Histogram>,
    /// How many there are, without asking every shard of the map.
    count: AtomicUsize,
}

impl RequestMetrics {
    /// Names without a prefix, as the conventions have them.
    pub fn register(registry: &mut Registry) -> Self {
        let family = || Durations::new_with_constructor(Seconds);
        let metrics =
            Self { server: family(), client: family(), known: DashMap::new(), count: AtomicUsize::new(0) };
        let help = "From the head of a request that came in to its end";
        registry.register("http_server_request_duration_seconds", help, metrics.server.clone());
        let help = "From the head of an application's own request to its end";
        registry.register("http_client_request_duration_seconds", help, metrics.client.clone());
        metrics
    }

    pub fn count(&self, end: &RequestEnd<'_>) {
        let key = hash(end);
        // Observed in place: a handle that is shared would be counted up and down by every thread.
        if let Some(known) = self.known.get(&key) {
            return observe(&known, end.duration);
        }
        observe(&self.new_handle(key, end), end.duration);
    }

    fn new_handle(&self, key: u64, end: &RequestEnd<'_>) -> Histogram {
        let family = match role(end) {
            Role::Server => &self.server,
            Role::Client => &self.client,
        };
        if self.count.load(Relaxed) >= MAX_LABEL_SETS {
            return family.get_or_create_owned(&Labels { overflow: "true", ..Labels::default() });
        }
        let handle = family.get_or_create_owned(&labels(end));
        if self.known.insert(key, handle.clone()).is_none() {
            self.count.fetch_add(1, Relaxed);
        }
        handle
    }

    /// How many label sets there are.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }
}

fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}

fn role(end: &RequestEnd<'_>) -> Role {
    match end.arrival.map(|arrival| &*arrival.entry) {
        Some(Entry::Outbound { .. } | Entry::Passed) => Role::Client,
        Some(Entry::Edge(_) | Entry::Inbound | Entry::Captured { .. }) | None => Role::Server,
    }
}

/// The service and port that an application has called.
fn called<'e>(end: &RequestEnd<'e>) -> Option<(&'e ServiceKey, u16)> {
    match &*end.arrival?.entry {
        Entry::Outbound { service, port, .. } => Some((service, *port)),
        _ => None,
    }
}

/// The service that the request was sent to.
fn destination<'e>(end: &RequestEnd<'e>) -> Option<&'e ServiceKey> {
    match &end.decision?.backend {
        Backend::Service { service, .. } => Some(service),
        Backend::Address { .. } => None,
    }
}

fn route<'e>(end: &RequestEnd<'e>) -> &'e str {
    end.decision.map(|decision| &*decision.route).or(end.route).unwrap_or_default()
}

/// TLS of clients; between proxies it is ours.
fn is_https(end: &RequestEnd<'_>) -> bool {
    end.arrival.is_some_and(|arrival| arrival.tls && matches!(*arrival.entry, Entry::Edge(_)))
}

/// Everything that [`labels`] is made of.
fn hash(end: &RequestEnd<'_>) -> u64 {
    let grpc = match end.grpc {
        None => 0,
        Some(None) => 1,
        Some(Some(code)) => u64::from(code) + 2,
    };
    let role = u64::from(role(end) == Role::Client) | u64::from(is_https(end)) << 1;
    // The chain of seeds tells ("a", "b") from ("ab", "").
    let mut hash = u64::from(end.status) | role << 16 | grpc << 32;
    let mut add = |text: &str| hash = xxh3_64_with_seed(text.as_bytes(), hash);
    add(known_method(end.method));
    add(end.reason.unwrap_or_default());
    add(route(end));
    if let Some(decision) = end.decision {
        add(decision.arm.as_deref().unwrap_or_default());
        add(decision.lane.as_ref().map(|lane| lane.as_str()).unwrap_or_default());
    }
    add(end.endpoint.map(|endpoint| &*endpoint.cluster).unwrap_or_default());
    for service in [destination(end), called(end).map(|(service, _)| service)] {
        add(match service.map(|service| service.scope) {
            None => "",
            Some(Scope::Cluster) => "c",
            Some(Scope::Clusterset) => "s",
        });
        if let Some(service) = service {
            add(&service.namespace);
            add(&service.name);
        }
    }
    if let Some(caller) = end.arrival.and_then(|arrival| arrival.identity.as_ref()) {
        add(caller.trust_domain().as_str());
        add(caller.namespace());
        add(caller.account());
    }
    hash ^ called(end).map_or(0, |(_, port)| u64::from(port).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn labels(end: &RequestEnd<'_>) -> Labels {
    let (role, called) = (role(end), called(end));
    let failed = end.status >= if role == Role::Server { 500 } else { 400 };
    let error = match end.reason {
        Some(reason) if failed => reason.into(),
        None if failed => end.status.to_string(),
        _ => String::new(),
    };
    let text = |shown: Option<&dyn fmt::Display>| shown.map(ToString::to_string).unwrap_or_default();
    let decision = end.decision;
    Labels {
        method: known_method(end.method),
        scheme: if is_https(end) { "https" } else { "http" },
        status: end.status.to_string(),
        grpc_status: end.grpc.flatten().map(|code| code.to_string()).unwrap_or_default(),
        error,
        server: called.map(|(service, _)| service.dns_name()).unwrap_or_default(),
        port: called.map(|(_, port)| port.to_string()).unwrap_or_default(),
        route: route(end).into(),
        source: text(end.arrival.and_then(|a| a.identity.as_ref()).map(|id| id as _)),
        destination: text(destination(end).map(|service| service as _)),
        arm: decision.and_then(|d| d.arm.as_deref()).unwrap_or_default().into(),
        lane: text(decision.and_then(|d| d.lane.as_ref()).map(|lane| lane as _)),
        cluster: end.endpoint.map(|endpoint| endpoint.cluster.to_string()).unwrap_or_default(),
        reason: end.reason.unwrap_or_default(),
        overflow: "",
    }
}
