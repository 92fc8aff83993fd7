//! Metrics of certificates that are ordered.

use std::fmt;

use dashmap::DashSet;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::decide::AcmeUrgency;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Secret {
    secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// `tombolo_acme_...`.
pub struct AcmeMetrics {
    orders: Family<Result, Counter>,
    expires: Family<Secret, Gauge>,
    failures: Family<Secret, Gauge>,
    urgency: Family<Secret, Gauge>,
    shown: DashSet<String>,
}

impl AcmeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            orders: Family::default(),
            expires: Family::default(),
            failures: Family::default(),
            urgency: Family::default(),
            shown: DashSet::new(),
        };
        registry.register("acme_orders", "Certificates ordered, by how it ended", metrics.orders.clone());
        registry.register(
            "acme_certificate_expires_seconds",
            "When a certificate expires, in seconds since 1970",
            metrics.expires.clone(),
        );
        registry.register(
            "acme_certificate_failures",
            "Orders for a certificate that failed since it was last issued",
            metrics.failures.clone(),
        );
        registry.register(
            "acme_certificate_urgency",
            "1: less than a fifth of its life is left and orders fail, 2: less than a twentieth, 3: expired; else 0",
            metrics.urgency.clone(),
        );
        metrics
    }

    /// Counts an order that ended: `issued` or `failed`.
    pub fn ordered(&self, result: &'static str) {
        self.orders.get_or_create(&Result { result }).inc();
    }

    /// A certificate's end (none: there is none yet), the orders for it that failed in a row, and how urgent that is.
    pub fn certificate(&self, secret: &str, expires: Option<i64>, failures: u32, urgency: AcmeUrgency) {
        let labels = Secret { secret: secret.to_owned() };
        if let Some(expires) = expires {
            self.expires.get_or_create(&labels).set(expires);
        }
        self.failures.get_or_create(&labels).set(failures.into());
        self.urgency.get_or_create(&labels).set(match urgency {
            AcmeUrgency::None => 0,
            AcmeUrgency::NearExpiry => 1,
            AcmeUrgency::Critical => 2,
            AcmeUrgency::Expired => 3,
        });
        self.shown.insert(labels.secret);
    }

    /// Certificates that are wanted no more are not shown.
    pub fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.shown.retain(|secret| {
            let stays = is_wanted(secret);
            if !stays {
                let labels = Secret { secret: secret.clone() };
                self.expires.remove(&labels);
                self.failures.remove(&labels);
                self.urgency.remove(&labels);
            }
            stays
        });
    }
}

impl fmt::Debug for AcmeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeMetrics").field("certificates", &self.shown.len()).finish_non_exhaustive()
    }
}
