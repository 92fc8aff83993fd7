//! Metrics of certificates that are ordered.

use std::fmt;

use prometheus_client::registry::Registry;

use super::secrets::{Results, SecretGauges};
use crate::decide::AcmeUrgency;

/// `tombolo_acme_...`.
pub struct AcmeMetrics {
    orders: Results,
    /// When it expires, orders that failed, urgency.
    certificates: SecretGauges<3>,
}

impl AcmeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let orders = Results::register(registry, "acme_orders", "Certificates ordered, by how it ended");
        let gauges = [
            ("acme_certificate_expires_seconds", "When a certificate expires, in seconds since 1970"),
            ("acme_certificate_failures", "Orders for a certificate that failed since it was last issued"),
            (
                "acme_certificate_urgency",
                "1: less than a fifth of its life is left and orders fail, 2: less than a twentieth, 3: expired; else 0",
            ),
        ];
        Self { orders, certificates: SecretGauges::register(registry, gauges) }
    }

    /// Counts an order that ended: `issued` or `failed`.
    pub fn ordered(&self, result: &'static str) {
        self.orders.count(result);
    }

    /// A certificate's end (none: there is none yet), the orders for it that failed in a row, and how urgent that is.
    pub fn certificate(&self, secret: &str, expires: Option<i64>, failures: u32, urgency: AcmeUrgency) {
        let urgency = match urgency {
            AcmeUrgency::None => 0,
            AcmeUrgency::NearExpiry => 1,
            AcmeUrgency::Critical => 2,
            AcmeUrgency::Expired => 3,
        };
        self.certificates.set(secret, [expires, Some(failures.into()), Some(urgency)]);
    }

    /// Certificates that are wanted no more are not shown.
    pub fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.certificates.retain(is_wanted);
    }
}

impl fmt::Debug for AcmeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = self.certificates.len();
        f.debug_struct("AcmeMetrics").field("certificates", &certificates).finish_non_exhaustive()
    }
}
