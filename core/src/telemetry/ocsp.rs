//! Metrics of OCSP responses that are stapled.

use std::fmt;

use prometheus_client::registry::Registry;

use super::secrets::{Results, SecretGauges};

/// `tombolo_ocsp_...`.
pub struct OcspMetrics {
    fetches: Results,
    /// When it expires, whether it is missed.
    staples: SecretGauges<2>,
}

impl OcspMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let fetches =
            Results::register(registry, "ocsp_fetches", "OCSP responses asked for, by how it ended");
        let gauges = [
            ("ocsp_staple_expires_seconds", "When the stapled OCSP response expires, in seconds since 1970"),
            ("ocsp_staple_missing", "1 where a certificate demands an OCSP response and there is none"),
        ];
        Self { fetches, staples: SecretGauges::register(registry, gauges) }
    }

    /// Counts a fetch that ended: `good` or `failed`.
    pub fn fetched(&self, result: &'static str) {
        self.fetches.count(result);
    }

    /// The end of a certificate's staple (none: there is none), and whether it is missed.
    pub fn staple(&self, secret: &str, expires: Option<i64>, missing: bool) {
        self.staples.set(secret, [expires, Some(missing.into())]);
    }

    /// Certificates that are served no more are not shown.
    pub fn retain(&self, is_served: impl Fn(&str) -> bool) {
        self.staples.retain(is_served);
    }
}

impl fmt::Debug for OcspMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OcspMetrics").field("certificates", &self.staples.len()).finish_non_exhaustive()
    }
}
