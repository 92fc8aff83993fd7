//! Metrics of this process's own mesh certificate.

use std::fmt;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::secrets::Results;
use crate::model::SpiffeId;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Id {
    id: String,
}

/// `tombolo_identity_...`.
pub struct IdentityMetrics {
    /// Not shown by a process that has no such certificate.
    remaining: Family<Id, Gauge>,
    renewals: Results,
}

impl IdentityMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let remaining = Family::default();
        let help = "Seconds until the mesh certificate of this process expires; below 0 it has";
        registry.register("identity_remaining_seconds", help, remaining.clone());
        let help = "Attempts to renew the mesh certificate, by how they ended";
        Self { remaining, renewals: Results::register(registry, "identity_renewals", help) }
    }

    /// Seconds until the certificate of this identity, which stays the same, expires; below 0: since.
    pub fn remaining(&self, id: &SpiffeId, seconds: i64) {
        self.remaining.get_or_create(&Id { id: id.to_string() }).set(seconds);
    }

    /// Counts an attempt that ended: `renewed` or `failed`.
    pub fn renewal(&self, result: &'static str) {
        self.renewals.count(result);
    }
}

impl fmt::Debug for IdentityMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityMetrics").finish_non_exhaustive()
    }
}
