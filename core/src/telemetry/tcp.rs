//! Metrics of raw connections.

use std::{fmt, sync::Arc};

use dashmap::{DashMap, DashSet};
use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::Registry,
};
use xxhash_rust::xxh3::Xxh3;

use super::{
    access::{clip, direction},
    labels::{OVERFLOW, encode_set},
};
use crate::{
    decide::Backend,
    model::is_opaque_sni,
    proxy::{Entry, TcpEnd},
};

/// Label sets; what comes after them is counted together, with [`OVERFLOW`].
const MAX_LABEL_SETS: usize = 1024;
/// Names of servers outside of the mesh; those after them are counted as [`OTHER`].
const MAX_NAMES: usize = 128;
const OTHER: &str = "_OTHER";
/// Upper bounds of the histogram, in seconds: connections live longer than requests.
const BUCKETS: [f64; 8] = [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0];

/// Of a duration only the direction and the service are told. Empty: nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Labels {
    direction: &'static str,
    service: String,
    route: String,
    reason: &'static str,
    /// Of a server outside of the mesh, as a TLS client called it.
    name: String,
    overflow: bool,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let labels = [
            ("direction", self.direction),
            ("service", &*self.service),
            ("route", &*self.route),
            ("reason", self.reason),
            ("server_address", &*self.name),
            (OVERFLOW, if self.overflow { "true" } else { "" }),
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

/// The metrics of one label set.
struct Handles {
    connections: Counter,
    duration: Histogram,
}

/// Counts raw connections at their end.
pub(super) struct TcpMetrics {
    connections: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, Seconds>,
    handles: DashMap<u64, Arc<Handles>>,
    names: DashSet<String>,
}

impl TcpMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let connections = Family::<Labels, Counter>::default();
        let durations = Family::<Labels, Histogram, Seconds>::new_with_constructor(Seconds);
        registry.register("tcp_connections", "Raw connections that have ended", connections.clone());
        let help = "From a raw connection's accept to its end";
        registry.register("tcp_connection_duration_seconds", help, durations.clone());
        Self { connections, durations, handles: DashMap::new(), names: DashSet::new() }
    }

    pub fn count(&self, end: &TcpEnd<'_>) {
        let handles = self.handles(end);
        handles.connections.inc();
        handles.duration.observe(end.duration.as_secs_f64());
    }

    fn handles(&self, end: &TcpEnd<'_>) -> Arc<Handles> {
        let labels = Labels { name: self.name(end), ..labels(end) };
        let key = hash(&labels);
        if let Some(handles) = self.handles.get(&key) {
            return handles.clone();
        }
        let known = self.handles.len() < MAX_LABEL_SETS;
        let labels = if known { labels } else { Labels { overflow: true, ..Labels::default() } };
        let duration = Labels { route: String::new(), reason: "", name: String::new(), ..labels.clone() };
        let handles = Arc::new(Handles {
            connections: self.connections.get_or_create(&labels).clone(),
            duration: self.durations.get_or_create(&duration).clone(),
        });
        if known {
            self.handles.insert(key, handles.clone());
        }
        handles
    }

    /// What to call the server of a connection that is passed on to outside of the mesh.
    fn name(&self, end: &TcpEnd<'_>) -> String {
        // What nobody was connected to was asked for by anybody.
        let is_passed = *end.arrival.entry == Entry::Passed && end.upstream.is_some();
        let asked = end.arrival.sni.as_deref().filter(|_| is_passed);
        let Some(name) = asked.filter(|name| !is_opaque_sni(name)) else { return String::new() };
        let name = clip(name);
        if self.names.contains(name) || self.names.len() < MAX_NAMES && self.names.insert(name.into()) {
            return name.into();
        }
        OTHER.into()
    }
}

fn labels(end: &TcpEnd<'_>) -> Labels {
    let service = match end.backend {
        Some(Backend::Service { service, .. }) => service.to_string(),
        Some(Backend::Address { .. }) | None => String::new(),
    };
    Labels {
        direction: direction(Some(&*end.arrival.entry)),
        service,
        route: end.route.unwrap_or_default().to_owned(),
        reason: end.reason.unwrap_or_default(),
        name: String::new(),
        overflow: false,
    }
}

fn hash(labels: &Labels) -> u64 {
    let mut hash = Xxh3::new();
    for text in [labels.direction, &labels.service, &labels.route, labels.reason, &labels.name] {
        hash.update(text.as_bytes());
        hash.update(&[0]);
    }
    hash.digest()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::proxy::Arrival;

    #[test]
    fn servers_outside_of_the_mesh_are_told_apart_by_name_within_a_bound() {
        let mut registry = Registry::default();
        let metrics = TcpMetrics::register(&mut registry);
        let count = |entry: Entry, is_reached: bool, name: &str| {
            let [peer, local] = ["127.0.0.1:1000", "127.0.0.1:15001"].map(|address| address.parse().unwrap());
            let arrival = Arrival { sni: Some(name.into()), ..Arrival::plain(Arc::new(entry), peer, local) };
            metrics.count(&TcpEnd {
                arrival: &arrival,
                listener: None,
                route: None,
                rule: None,
                backend: None,
                endpoint: None,
                upstream: is_reached.then_some(local),
                copied: None,
                reason: None,
                duration: Duration::ZERO,
                verdict: None,
            });
        };
        count(Entry::Passed, true, "0123456789abcdef0123456789abcdef.t");
        count(Entry::Passed, false, "anything.example");
        count(Entry::Inbound, true, "inbound.example");
        for _ in 0..2 {
            (0..MAX_NAMES + 10).for_each(|n| count(Entry::Passed, true, &format!("{n}.example")));
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let is = |line: &str| text.lines().any(|found| found == line);
        assert!(is("tcp_connections_total{direction=\"passed\"} 2"), "{text}");
        assert!(is("tcp_connections_total{direction=\"inbound\"} 1"), "{text}");
        assert!(is("tcp_connections_total{direction=\"passed\",server_address=\"127.example\"} 2"), "{text}");
        assert!(is("tcp_connections_total{direction=\"passed\",server_address=\"_OTHER\"} 20"), "{text}");
        assert!(!text.contains("129.example"));
    }
}
