//! Metrics of raw connections.

use std::{fmt, sync::Arc};

use dashmap::DashMap;
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
    access::direction,
    labels::{OVERFLOW, encode_set},
};
use crate::{decide::Backend, proxy::TcpEnd};

/// Label sets; what comes after them is counted together, with [`OVERFLOW`].
const MAX_LABEL_SETS: usize = 1024;
/// Upper bounds of the histogram, in seconds: connections live longer than requests.
const BUCKETS: [f64; 8] = [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0];

/// Of a duration only the direction and the service are told. Empty: nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Labels {
    direction: &'static str,
    service: String,
    route: String,
    reason: &'static str,
    overflow: bool,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let labels = [
            ("direction", self.direction),
            ("service", &*self.service),
            ("route", &*self.route),
            ("reason", self.reason),
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
}

impl TcpMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let connections = Family::<Labels, Counter>::default();
        let durations = Family::<Labels, Histogram, Seconds>::new_with_constructor(Seconds);
        registry.register("tcp_connections", "Raw connections that have ended", connections.clone());
        let help = "From a raw connection's accept to its end";
        registry.register("tcp_connection_duration_seconds", help, durations.clone());
        Self { connections, durations, handles: DashMap::new() }
    }

    pub fn count(&self, end: &TcpEnd<'_>) {
        let handles = self.handles(end);
        handles.connections.inc();
        handles.duration.observe(end.duration.as_secs_f64());
    }

    fn handles(&self, end: &TcpEnd<'_>) -> Arc<Handles> {
        let labels = labels(end);
        let key = hash(&labels);
        if let Some(handles) = self.handles.get(&key) {
            return handles.clone();
        }
        let known = self.handles.len() < MAX_LABEL_SETS;
        let labels = if known { labels } else { Labels { overflow: true, ..Labels::default() } };
        let duration = Labels { route: String::new(), reason: "", ..labels.clone() };
        let handles = Arc::new(Handles {
            connections: self.connections.get_or_create(&labels).clone(),
            duration: self.durations.get_or_create(&duration).clone(),
        });
        if known {
            self.handles.insert(key, handles.clone());
        }
        handles
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
        overflow: false,
    }
}

fn hash(labels: &Labels) -> u64 {
    let mut hash = Xxh3::new();
    for text in [labels.direction, &labels.service, &labels.route, labels.reason] {
        hash.update(text.as_bytes());
        hash.update(&[0]);
    }
    hash.digest()
}
