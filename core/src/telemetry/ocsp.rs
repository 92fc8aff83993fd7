//! Metrics of OCSP responses that are stapled.

use std::fmt;

use dashmap::DashSet;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Secret {
    secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// `tombolo_ocsp_...`.
pub struct OcspMetrics {
    fetches: Family<Result, Counter>,
    expires: Family<Secret, Gauge>,
    missing: Family<Secret, Gauge>,
    shown: DashSet<String>,
}

impl OcspMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            fetches: Family::default(),
            expires: Family::default(),
            missing: Family::default(),
            shown: DashSet::new(),
        };
        registry.register(
            "ocsp_fetches",
            "OCSP responses asked for, by how it ended",
            metrics.fetches.clone(),
        );
        registry.register(
            "ocsp_staple_expires_seconds",
            "When the stapled OCSP response expires, in seconds since 1970",
            metrics.expires.clone(),
        );
        registry.register(
            "ocsp_staple_missing",
            "1 where a certificate demands an OCSP response and there is none",
            metrics.missing.clone(),
        );
        metrics
    }

    /// Counts a fetch that ended: `good` or `failed`.
    pub fn fetched(&self, result: &'static str) {
        self.fetches.get_or_create(&Result { result }).inc();
    }

    /// The end of a certificate's staple (none: there is none), and whether it is missed.
    pub fn staple(&self, secret: &str, expires: Option<i64>, missing: bool) {
        let labels = Secret { secret: secret.to_owned() };
        match expires {
            Some(expires) => drop(self.expires.get_or_create(&labels).set(expires)),
            None => drop(self.expires.remove(&labels)),
        }
        self.missing.get_or_create(&labels).set(missing.into());
        self.shown.insert(labels.secret);
    }

    /// Certificates that are served no more are not shown.
    pub fn retain(&self, is_served: impl Fn(&str) -> bool) {
        self.shown.retain(|secret| {
            let stays = is_served(secret);
            if !stays {
                let labels = Secret { secret: secret.clone() };
                self.expires.remove(&labels);
                self.missing.remove(&labels);
            }
            stays
        });
    }
}

impl fmt::Debug for OcspMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OcspMetrics").field("certificates", &self.shown.len()).finish_non_exhaustive()
    }
}
