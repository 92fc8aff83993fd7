//! What is seen of an endpoint on the wire: latency, load, failures, ejection. Kept by its id across snapshots.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{checks::Checks, nanos_of};
use crate::decide::Outliers;

/// Ejections are forgotten when so much time has passed since the last one ended.
const FORGET: u64 = 60_000_000_000;
/// Time constant of the latency average: what is older counts little.
const DECAY: f64 = 10e9;
/// What an endpoint counts as before its first answer, in nanoseconds: little, so that new ones are tried, yet not nothing.
const UNKNOWN_LATENCY: f64 = 1e6;

/// State of one endpoint. All times are nanoseconds since the pools were made.
#[derive(Debug, Default)]
pub(super) struct Health {
    in_flight: AtomicU32,
    /// `f64` bits: peak-EWMA of the latency.
    latency: AtomicU64,
    latency_at: AtomicU64,
    failures: AtomicU32,
    /// 0: not ejected.
    ejected_until: AtomicU64,
    ejected_at: AtomicU64,
    ejections: AtomicU32,
    /// An ejection has ended, and one request tries whether it answers again.
    probing: AtomicBool,
    /// When it came, or came back; 0: it was there from the beginning.
    since: AtomicU64,
    /// When it last answered; 0: never.
    answered: AtomicU64,
    /// What was counted since endpoints were last compared.
    window: Window,
    /// What active checks have found out. An endpoint that fails them is out whatever it answers to requests, and one that
    /// passes them is out all the same while it is ejected for those.
    pub(super) checks: Checks,
}

/// What came of requests since endpoints were last compared.
#[derive(Debug, Default)]
struct Window {
    requests: AtomicU32,
    failures: AtomicU32,
    /// Microseconds, all together.
    latency: AtomicU64,
}

/// What was counted of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) requests: u32,
    pub(super) failures: u32,
    /// Microseconds, all together.
    pub(super) latency: u64,
}

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may.
    Healthy,
    /// Its ejection has ended: one request at a time may try.
    Probe,
    /// Not now.
    Ejected,
}

impl Health {
    /// Of an endpoint that came at this time; 0: it was there from the beginning.
    pub(super) fn new(since: u64) -> Self {
        Self { since: since.into(), ..Self::default() }
    }

    pub(super) fn standing(&self, now: u64) -> Standing {
        match self.ejected_until.load(Relaxed) {
            _ if self.checks.is_failing() => Standing::Ejected,
            0 => Standing::Healthy,
            until if now < until || self.probing.load(Relaxed) => Standing::Ejected,
            _ => Standing::Probe,
        }
    }

    /// Takes the place of the one probe. False: another request has it.
    pub(super) fn begin_probe(&self) -> bool {
        !self.probing.swap(true, Relaxed)
    }

    /// The probe is not made after all.
    pub(super) fn end_probe(&self) {
        self.probing.store(false, Relaxed);
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// The request is over, whatever came of it.
    pub(super) fn end(&self, probe: bool) {
        self.in_flight.fetch_sub(1, Relaxed);
        if probe {
            self.probing.store(false, Relaxed);
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests in flight, with the one that is to come.
    pub(super) fn load(&self) -> f64 {
        f64::from(self.in_flight()) + 1.0
    }

    /// The part of its weight that counts by now: grows from a tenth to 1 while it is new.
    pub(super) fn warmth(&self, slow_start: u64, now: u64) -> f64 {
        match self.since.load(Relaxed) {
            0 => 1.0,
            _ if slow_start == 0 => 1.0,
            since => (now.saturating_sub(since) as f64 / slow_start as f64).clamp(0.1, 1.0),
        }
    }

    /// True if it answered within this time.
    pub(super) fn answered_within(&self, time: Duration, now: u64) -> bool {
        match self.answered.load(Relaxed) {
            0 => false,
            answered => now.saturating_sub(answered) <= nanos_of(time),
        }
    }

    /// What was counted since it was last asked.
    pub(super) fn take_counted(&self) -> Counted {
        Counted {
            requests: self.window.requests.swap(0, Relaxed),
            failures: self.window.failures.swap(0, Relaxed),
            latency: self.window.latency.swap(0, Relaxed),
        }
    }

    fn count(&self, latency: u64, failed: bool) {
        self.window.requests.fetch_add(1, Relaxed);
        self.window.failures.fetch_add(failed.into(), Relaxed);
        self.window.latency.fetch_add(latency / 1000, Relaxed);
    }

    /// The average, decayed since its last observation towards the unknown.
    pub(super) fn latency_now(&self, now: u64) -> f64 {
        let latency = f64::from_bits(self.latency.load(Relaxed));
        if latency <= 0.0 {
            return UNKNOWN_LATENCY;
        }
        let age = now.saturating_sub(self.latency_at.load(Relaxed)) as f64;
        UNKNOWN_LATENCY + (latency - UNKNOWN_LATENCY) * (-age / DECAY).exp()
    }

    /// Peak-EWMA: a slower answer counts at once and whole, a faster one by and by. Two answers at the same moment may
    /// overwrite each other: either is a good estimate.
    fn observe(&self, latency: u64, now: u64) {
        let known = f64::from_bits(self.latency.load(Relaxed));
        let seen = (latency as f64).max(1.0);
        let age = now.saturating_sub(self.latency_at.load(Relaxed)) as f64;
        let next = if seen > known {
            seen
        } else {
            // Answers that come fast one after the other still move it.
            let keep = (-(age.max(DECAY / 100.0)) / DECAY).exp();
            known * keep + seen * (1.0 - keep)
        };
        self.latency.store(next.to_bits(), Relaxed);
        self.latency_at.store(now, Relaxed);
    }

    /// It answered a request that began then. True if it is back by that.
    pub(super) fn succeed(&self, begun: u64, latency: u64, now: u64) -> bool {
        self.observe(latency, now);
        self.count(latency, false);
        self.answered.store(now.max(1), Relaxed);
        if self.was_before_ejection(begun) {
            return false;
        }
        self.failures.store(0, Relaxed);
        let back = self.ejected_until.load(Relaxed) > 0 && self.ejected_until.swap(0, Relaxed) > 0;
        if back {
            self.begin_slowly(now);
        }
        back
    }

    /// True of a request that was under way when it was ejected: how that ends says nothing new. A slow endpoint has many of
    /// those.
    fn was_before_ejection(&self, begun: u64) -> bool {
        self.ejected_until.load(Relaxed) > 0 && begun < self.ejected_at.load(Relaxed)
    }

    /// It is back, and gets its whole share by and by.
    pub(super) fn begin_slowly(&self, now: u64) {
        self.since.store(now.max(1), Relaxed);
    }

    /// It failed a request that began then. True if that is enough to eject it.
    pub(super) fn fail(&self, begun: u64, latency: u64, now: u64, outliers: &Outliers) -> bool {
        self.observe(latency, now);
        self.count(latency, true);
        if self.was_before_ejection(begun) {
            return false;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        // A failed probe needs no further proof.
        (outliers.failures > 0 && failures >= outliers.failures) || self.ejected_until.load(Relaxed) > 0
    }

    /// Leaves it alone for a while.
    pub(super) fn eject(&self, now: u64, outliers: &Outliers) {
        let until = self.ejected_until.load(Relaxed);
        if until > now {
            return;
        }
        if now.saturating_sub(until) > FORGET {
            self.ejections.store(0, Relaxed);
        }
        let before = self.ejections.fetch_add(1, Relaxed).min(16);
        let length = nanos_of(outliers.ejection).saturating_mul(1 << before).min(nanos_of(outliers.longest));
        self.ejected_at.store(now, Relaxed);
        self.ejected_until.store(now.saturating_add(length).max(1), Relaxed);
        self.failures.store(0, Relaxed);
    }
}
