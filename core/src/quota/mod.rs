//! Limits on requests that the proxies of a cluster hold together.
//!
//! Each proxy works with a share of a limit, alone and at once: nobody is asked while a request waits. By and by it
//! tells the controller what it would use ([`Use`]), and the controller moves shares to where requests come; those that
//! it deals out never add up to more than the limit.
//!
//! Who hears nothing of the controller keeps the last share that it was told. A share that a proxy has not renewed in time
//! is dealt out again: one that is cut off from the controller while others are not adds its last share to what all
//! let through. One that has not been told any share begins with [`INITIAL`].

mod bucket;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use tokio::sync::Notify;

use crate::decide::SharedLimit;
use bucket::Bucket;

/// All of a limit, as shares and demands are counted.
pub const WHOLE: u32 = 1_000_000_000;
/// The share of a proxy that has not been told one: a tenth.
pub const INITIAL: u32 = WHOLE / 10;
/// Limits that one proxy works with. For one more those that were not asked of late are given back; if there are none,
/// requests under it are let through.
pub const MOST_LIMITS: usize = 1024;
/// A limit that no request has asked for so long is given back.
const IDLE: Duration = Duration::from_secs(60);

/// What became of a request under a limit on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// It may go on.
    pub allowed: bool,
    /// So many more may.
    pub remaining: u64,
    /// Until as many may as ever at once.
    pub full_in: Duration,
    /// Until one may; zero where this one may.
    pub retry_in: Duration,
}

/// What a proxy does with its share of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// `NAMESPACE/NAME` of the policy.
    pub policy: Arc<str>,
    /// The rate at which it is asked, also for what it refuses, in parts of the limit ([`WHOLE`]).
    pub demand: u64,
    /// The share that it works with.
    pub share: u32,
    /// The lease that this share is from; 0: it is from none on this stream.
    pub lease: u64,
}

/// One limit's share, and what became of requests under it here since it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// `NAMESPACE/NAME` of the policy.
    pub policy: Arc<str>,
    /// In parts of the limit ([`WHOLE`]).
    pub share: u32,
    /// Requests that went on.
    pub allowed: u64,
    /// Requests that did not.
    pub refused: u64,
}

/// The shares of one proxy.
#[derive(Debug)]
pub struct Quotas {
    /// There is a controller to deal out shares.
    together: bool,
    origin: Instant,
    held: DashMap<Arc<str>, Mutex<Bucket>>,
    /// A limit is asked for the first time.
    first: Notify,
}

impl Quotas {
    /// Of a proxy without a controller: all of each limit is its own.
    pub fn alone() -> Arc<Self> {
        Self::new(false, Instant::now())
    }

    /// Of one of several proxies, which a controller deals out shares to.
    pub fn together() -> Arc<Self> {
        Self::new(true, Instant::now())
    }

    fn new(together: bool, origin: Instant) -> Arc<Self> {
        Arc::new(Self { together, origin, held: DashMap::new(), first: Notify::new() })
    }

    /// Takes a place for one request; none: there are too many limits, and this one is not kept.
    pub fn take(&self, limit: &SharedLimit, now: Instant) -> Option<Taken> {
        let nanos = self.nanos(now);
        if let Some(bucket) = self.held.get(&*limit.policy) {
            return Some(lock(&bucket).take(limit, nanos));
        }
        if self.held.len() >= MOST_LIMITS {
            self.give_back(nanos);
            if self.held.len() >= MOST_LIMITS {
                return None;
            }
        }
        let bucket =
            self.held.entry(limit.policy.clone()).or_insert_with(|| Mutex::new(self.begin(limit, nanos)));
        let taken = lock(&bucket).take(limit, nanos);
        drop(bucket);
        self.first.notify_one();
        Some(taken)
    }

    /// Has a share of a limit that may be needed at any moment, without taking anything. To be called again within a minute.
    pub fn hold(&self, limit: &SharedLimit, now: Instant) {
        let nanos = self.nanos(now);
        if let Some(bucket) = self.held.get(&*limit.policy) {
            return lock(&bucket).hold(limit, nanos);
        }
        if self.held.len() < MOST_LIMITS {
            let begin = || Mutex::new(self.begin(limit, nanos));
            lock(&self.held.entry(limit.policy.clone()).or_insert_with(begin)).hold(limit, nanos);
            self.first.notify_one();
        }
    }

    fn begin(&self, limit: &SharedLimit, now: u64) -> Bucket {
        match self.together {
            // Who joins brings no more along than what a second lets through.
            true => Bucket::new(INITIAL, limit.rate(), now),
            false => Bucket::new(WHOLE, limit.burst.into(), now),
        }
    }

    /// Resolves when a limit is asked for the first time.
    pub async fn first_use(&self) {
        self.first.notified().await;
    }

    /// What is to be told to the controller, in the order of names; what was not asked for a minute is given back.
    pub fn uses(&self, now: Instant) -> Vec<Use> {
        let now = self.nanos(now);
        self.give_back(now);
        let used = |policy: &Arc<str>, bucket: &mut Bucket| {
            let (demand, (share, lease)) = (bucket.demand(now), bucket.lease());
            Use { policy: policy.clone(), demand, share, lease }
        };
        let mut uses: Vec<_> =
            self.held.iter().map(|held| used(held.key(), &mut lock(held.value()))).collect();
        uses.sort_by(|a, b| a.policy.cmp(&b.policy));
        uses
    }

    /// What is in use, in no order.
    pub fn held(&self) -> Vec<Held> {
        let shown = |policy: &Arc<str>, bucket: &Bucket| {
            let (allowed, refused) = bucket.taken();
            Held { policy: Arc::clone(policy), share: bucket.lease().0, allowed, refused }
        };
        self.held.iter().map(|held| shown(held.key(), &lock(held.value()))).collect()
    }

    fn give_back(&self, now: u64) {
        self.held.retain(|_, bucket| !lock(bucket).is_idle(now, crate::quota::bucket::nanos(IDLE)));
    }

    /// Puts a share in force. One of a limit that is not in use any more says nothing.
    pub fn lease(&self, policy: &str, share: u32, lease: u64, now: Instant) {
        if let Some(bucket) = self.held.get(policy) {
            lock(&bucket).lease_is(share.min(WHOLE), lease, self.nanos(now));
        }
    }

    /// The stream that leases came over has ended: their numbers mean nothing to the next.
    pub fn forget_numbers(&self) {
        self.held.iter().for_each(|bucket| lock(&bucket).forget_number());
    }

    fn nanos(&self, now: Instant) -> u64 {
        bucket::nanos(now.saturating_duration_since(self.origin))
    }
}

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
