//! What is known of a service port as a whole, kept while its endpoints and its policy come and go.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use dashmap::DashMap;

use super::{adaptive::Adaptive, nanos_of, small_table, tiers::Shares};
use crate::{
    decide::{Breaker, Outliers},
    model::{Labels, Lane},
};

/// Subsets remembered per service port; one more is computed anew for each request, and does not ramp.
pub(super) const MAX_SUBSETS: usize = 256;

/// State of one service port.
#[derive(Debug)]
pub(super) struct State {
    in_flight: AtomicU32,
    pending: AtomicU32,
    adaptive: Adaptive,
    /// Counts what makes shares of tiers wrong: endpoints that come, go, are ejected or are back.
    version: AtomicU64,
    /// When endpoints were last compared.
    compared: AtomicU64,
    /// When it was last picked from; 0: never.
    used: AtomicU64,
    shares: DashMap<(Labels, Option<Lane>), Arc<Shares>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::default(),
            pending: AtomicU32::default(),
            adaptive: Adaptive::default(),
            version: AtomicU64::default(),
            compared: AtomicU64::default(),
            used: AtomicU64::default(),
            shares: small_table(),
        }
    }
}

impl State {
    /// Takes a place for a request; false where a bound is reached.
    pub(super) fn begin(&self, breaker: &Breaker) -> bool {
        let pending = self.pending.fetch_add(1, Relaxed);
        let in_flight = self.in_flight.fetch_add(1, Relaxed);
        let within = |bound: Option<u32>, count: u32| bound.is_none_or(|bound| count < bound);
        let admitted = within(breaker.requests, in_flight)
            && within(breaker.pending, pending)
            && (!breaker.adaptive || self.adaptive.admits(in_flight));
        if !admitted {
            self.end(true);
        }
        admitted
    }

    /// It is picked from.
    pub(super) fn used(&self, now: u64) {
        self.used.store(now.max(1), Relaxed);
    }

    /// True if it was picked from within this time.
    pub(super) fn is_used(&self, within: u64, now: u64) -> bool {
        let used = self.used.load(Relaxed);
        used > 0 && now.saturating_sub(used) <= within
    }

    /// The request has a connection.
    pub(super) fn connected(&self) {
        self.pending.fetch_sub(1, Relaxed);
    }

    /// The request is over. `pending`: it never had a connection.
    pub(super) fn end(&self, pending: bool) {
        self.in_flight.fetch_sub(1, Relaxed);
        if pending {
            self.pending.fetch_sub(1, Relaxed);
        }
    }

    /// An answer came after so many nanoseconds.
    pub(super) fn answered(&self, breaker: &Breaker, latency: u64, now: u64) {
        if breaker.adaptive {
            self.adaptive.answered(latency, now);
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    pub(super) fn changed(&self) {
        self.version.fetch_add(1, Relaxed);
    }

    /// True, to one of those that ask, if endpoints are to be compared.
    pub(super) fn is_to_compare(&self, outliers: &Outliers, now: u64) -> bool {
        let last = self.compared.load(Relaxed);
        now.saturating_sub(last) >= nanos_of(outliers.interval)
            && self.compared.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// The shares of the tiers of one subset.
    pub(super) fn shares(&self, labels: &Labels, lane: Option<&Lane>) -> Arc<Shares> {
        let key = (labels.clone(), lane.cloned());
        match self.shares.get(&key) {
            Some(known) => known.clone(),
            None if self.shares.len() >= MAX_SUBSETS => Arc::default(),
            None => self.shares.entry(key).or_default().clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.in_flight.load(Relaxed), self.pending.load(Relaxed))
    }
}
