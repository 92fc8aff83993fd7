//! One certificate that is wanted, and how far it is.

use super::{Lifetime, Schedule, order::OrderError};
use crate::{
    decide::{AcmeCertificate, AcmeUrgency},
    telemetry::Telemetry,
};

/// One certificate that is wanted.
pub(super) struct Entry {
    pub(super) wanted: AcmeCertificate,
    pub(super) schedule: Schedule,
    pub(super) failure: Option<String>,
    pub(super) ordering: bool,
    /// When its window is asked for again.
    pub(super) ask_at: i64,
    /// What was told last of its end.
    pub(super) told: AcmeUrgency,
}

impl Entry {
    pub(super) fn is_to_ask(&self, now: i64) -> bool {
        !self.ordering && self.ask_at <= now && self.schedule.not_after().is_some()
    }

    /// There is a certificate as it is wanted.
    pub(super) fn holds(&mut self, lifetime: Lifetime) {
        self.failure = None;
        self.ask_at = 0;
        self.schedule.holds(lifetime);
    }

    /// Tells, once each, that the end comes nearer.
    pub(super) fn warn(&mut self, secret: &str, urgency: AcmeUrgency) {
        let before = std::mem::replace(&mut self.told, urgency);
        if urgency <= before {
            return;
        }
        let failure = self.failure.as_deref().unwrap_or("it is not renewed");
        let left = match urgency {
            AcmeUrgency::None => return,
            AcmeUrgency::NearExpiry => "less than a fifth of its life",
            AcmeUrgency::Critical => "less than a twentieth of its life",
            AcmeUrgency::Expired => "nothing",
        };
        tracing::error!(secret, failure, left, "a certificate is near its end and was not renewed");
    }

    pub(super) fn fail(&mut self, secret: &str, error: &OrderError, now: i64, telemetry: &Telemetry) {
        self.schedule.failed(now, error.kind, error.retry_after);
        telemetry.acme().ordered("failed");
        let next = rfc3339(self.schedule.due());
        match self.schedule.not_after() {
            Some(end) => {
                let until = rfc3339(end);
                tracing::error!(secret, %error, until, next, "a certificate cannot be renewed; the old one stays in use");
            }
            None => tracing::error!(secret, %error, next, "a certificate cannot be had"),
        }
        self.failure = Some(error.message.clone());
    }
}

/// Seconds are enough for people.
pub(super) fn rfc3339(millis: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(millis / 1000).ok();
    let text = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| format!("{millis} ms"))
}
