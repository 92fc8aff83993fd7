//! Metrics of health checks.

use std::fmt;

use dashmap::DashMap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::model::ServiceKey;

/// Services that have metrics of their own; those of more are not counted.
const MAX_SERVICES: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    service: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: String,
}

/// `tombolo_health_check...`.
#[derive(Default)]
pub struct CheckMetrics {
    ended: Family<Ended, Counter>,
    failing: Family<Service, Gauge>,
    services: DashMap<ServiceKey, ()>,
}

impl CheckMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("health_checks", "Health checks by how they ended", metrics.ended.clone());
        registry.register(
            "health_check_endpoints_failing",
            "Endpoints that get no requests since they fail their health checks",
            metrics.failing.clone(),
        );
        metrics
    }

    /// Counts a check.
    pub fn ended(&self, service: &ServiceKey, well: bool) {
        if self.is_shown(service) {
            let result = if well { "passed" } else { "failed" };
            self.ended.get_or_create(&Ended { service: service.to_string(), result }).inc();
        }
    }

    /// So many endpoints fail.
    pub fn failing(&self, service: &ServiceKey, count: usize) {
        if self.is_shown(service) {
            let gauge = self.failing.get_or_create_owned(&Service { service: service.to_string() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn is_shown(&self, service: &ServiceKey) -> bool {
        if self.services.contains_key(service) {
            return true;
        }
        let fits = self.services.len() < MAX_SERVICES;
        if fits {
            self.services.insert(service.clone(), ());
        }
        fits
    }
}

impl fmt::Debug for CheckMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckMetrics").field("services", &self.services.len()).finish_non_exhaustive()
    }
}
