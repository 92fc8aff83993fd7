//! Metrics of limits that a cluster holds together, taken over from this process's shares of them.

use std::sync::{Arc, OnceLock, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::listeners::store;
use crate::quota::{Quotas, WHOLE};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    policy: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Policy {
    policy: String,
}

/// `tombolo_shared_limit_...`: as many label sets as there are limits in use ([`crate::quota::MOST_LIMITS`]).
#[derive(Default)]
pub(super) struct QuotaMetrics {
    requests: Family<Asked, Counter>,
    share: Family<Policy, Gauge<f64, AtomicU64>>,
    watched: OnceLock<Arc<Quotas>>,
}

impl QuotaMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Requests under a limit that the cluster holds together";
        registry.register("shared_limit_requests", help, metrics.requests.clone());
        let help = "The part of such a limit that this process works with, 0 to 1";
        registry.register("shared_limit_share", help, metrics.share.clone());
        metrics
    }

    /// From now on they are shown. A process has one set of shares: of another nothing is shown.
    pub fn watch(&self, quotas: &Arc<Quotas>) {
        let _first = self.watched.set(Arc::clone(quotas));
    }

    /// Takes over what was counted; a limit that was given back is not shown any more.
    pub fn collect(&self) {
        let Some(quotas) = self.watched.get() else { return };
        self.requests.clear();
        self.share.clear();
        for held in quotas.held() {
            let policy = held.policy.to_string();
            for (result, count) in [("allowed", held.allowed), ("refused", held.refused)] {
                store(&self.requests.get_or_create(&Asked { policy: policy.clone(), result }), count);
            }
            self.share.get_or_create(&Policy { policy }).set(f64::from(held.share) / f64::from(WHOLE));
        }
    }
}
