//! What is seen of an endpoint on the wire: latency, load, failures, ejection. Kept by its id across snapshots.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Failures in a row that eject an endpoint. A refused connection ejects at once.
const FAILURES: u32 = 3;
/// The first ejection's length; each further one doubles it.
const EJECTION: u64 = 1_000_000_000;
/// The longest ejection: what a recovered endpoint waits at most for its first request.
const LONGEST_EJECTION: u64 = 10_000_000_000;
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
    ejections: AtomicU32,
    /// An ejection has ended, and one request tries whether it answers again.
    probing: AtomicBool,
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
    pub(super) fn standing(&self, now: u64) -> Standing {
        match self.ejected_until.load(Relaxed) {
            0 => Standing::Healthy,
            until if now < until || self.probing.load(Relaxed) => Standing::Ejected,
            _ => Standing::Probe,
        }
    }

    /// Takes the place of the one probe. False: another request has it.
    pub(super) fn begin_probe(&self) -> bool {
        !self.probing.swap(true, Relaxed)
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

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Less is better: latency times load, for its weight.
    pub(super) fn cost(&self, weight: u32, now: u64) -> f64 {
        let load = f64::from(self.in_flight.load(Relaxed)) + 1.0;
        self.latency_now(now) * load / f64::from(weight.max(1))
    }

    /// The average, decayed since its last observation towards the unknown.
    fn latency_now(&self, now: u64) -> f64 {
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

    pub(super) fn succeed(&self, latency: u64, now: u64) {
        self.observe(latency, now);
        self.failures.store(0, Relaxed);
        self.ejected_until.store(0, Relaxed);
    }

    pub(super) fn fail(&self, latency: u64, now: u64) {
        self.observe(latency, now);
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        // A failed probe needs no further proof.
        if failures >= FAILURES || self.ejected_until.load(Relaxed) > 0 {
            self.eject(now);
        }
    }

    /// Nothing listens there: no further request finds out the hard way.
    pub(super) fn fail_to_connect(&self, now: u64) {
        self.failures.fetch_add(1, Relaxed);
        self.eject(now);
    }

    fn eject(&self, now: u64) {
        let until = self.ejected_until.load(Relaxed);
        if until > now {
            // Requests that were under way when it was ejected say nothing new.
            return;
        }
        if now.saturating_sub(until) > FORGET {
            self.ejections.store(0, Relaxed);
        }
        let before = self.ejections.fetch_add(1, Relaxed).min(16);
        let length = (EJECTION << before).min(LONGEST_EJECTION);
        self.ejected_until.store(now.saturating_add(length).max(1), Relaxed);
        self.failures.store(0, Relaxed);
    }
}
