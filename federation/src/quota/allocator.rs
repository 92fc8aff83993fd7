//! Who may use how much of a limit that many proxies hold together: a pure state machine, the clock passed in.
//!
//! Of each holder it knows the most that it may be using: the share that it has confirmed, or a larger one that is on its
//! way. A share is first taken from who has too much, and dealt out again when that holder has confirmed it, or has not
//! been heard of for the length of a lease. So what is dealt out never adds up to more than the whole.

use std::{collections::BTreeMap, time::Duration};

use tombolo_core::quota::WHOLE;

/// Limits that are shared at a time; one more is not, and its holders keep what they have.
const MOST_LIMITS: usize = 4096;
/// Holders of one limit; one more gets no share.
const MOST_HOLDERS: usize = 10_000;
/// How often it is looked for holders that are gone, and for leases that have not arrived.
const LOOK: Duration = Duration::from_secs(1);
/// A lease that was not confirmed for so long is sent anew.
const UNCONFIRMED: Duration = Duration::from_secs(3);
/// Each gets so much more than it asks for, in percent, as far as there is.
const HEADROOM: u64 = 5;
/// One in so many parts of the whole is shared equally, whoever asks for what: who asks for nothing can begin.
const EQUAL: u64 = 50;

/// Deals shares of limits out to holders of type `H`.
#[derive(Debug)]
pub(super) struct Allocator<H> {
    lease: Duration,
    /// Until then a former allocator's leases may be in force of which this one has not heard: nobody gets more.
    quiet_until: Duration,
    limits: BTreeMap<String, Limit<H>>,
    looked: Duration,
    number: u64,
}

/// One limit.
#[derive(Debug)]
struct Limit<H> {
    holders: BTreeMap<H, Holder>,
    /// Something has changed since shares were dealt out.
    changed: bool,
}

impl<H> Default for Limit<H> {
    fn default() -> Self {
        Self { holders: BTreeMap::new(), changed: false }
    }
}

/// One proxy's part in a limit.
#[derive(Debug)]
struct Holder {
    demand: u64,
    /// The most that it may be using.
    using: u32,
    pending: Option<Pending>,
    /// Not heard of until then, it is gone.
    until: Duration,
}

/// A lease that is not confirmed yet.
#[derive(Debug)]
struct Pending {
    number: u64,
    share: u32,
    sent: Duration,
}

/// What a holder says, see [`tombolo_core::quota::Use`].
#[derive(Debug, Clone)]
pub(super) struct Used {
    pub policy: String,
    pub demand: u64,
    pub share: u32,
    pub lease: u64,
}

/// A share of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub policy: String,
    pub share: u32,
    pub number: u64,
}

impl<H: Ord + Clone> Allocator<H> {
    /// Begins at this time.
    pub fn new(lease: Duration, now: Duration) -> Self {
        let quiet_until = now.saturating_add(lease);
        Self { lease, quiet_until, limits: BTreeMap::new(), looked: now, number: 0 }
    }

    /// How long a holder counts that says nothing.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// A holder says all that it uses.
    pub fn report(&mut self, holder: &H, uses: Vec<Used>, now: Duration) {
        for (policy, limit) in &mut self.limits {
            if !uses.iter().any(|used| used.policy == *policy) {
                limit.changed |= limit.holders.remove(holder).is_some();
            }
        }
        let until = now.saturating_add(self.lease);
        for used in uses {
            if self.limits.len() >= MOST_LIMITS && !self.limits.contains_key(&used.policy) {
                continue;
            }
            let limit = self.limits.entry(used.policy.clone()).or_default();
            limit.changed = true;
            let is_full = limit.holders.len() >= MOST_HOLDERS;
            match limit.holders.get_mut(holder) {
                Some(known) => known.heard(&used, until),
                None if is_full => {}
                None => {
                    let (demand, using) = (used.demand, used.share.min(WHOLE));
                    limit.holders.insert(holder.clone(), Holder { demand, using, pending: None, until });
                }
            }
        }
        self.limits.retain(|_, limit| !limit.holders.is_empty());
    }

    /// The leases that are to be sent by now.
    pub fn tick(&mut self, now: Duration) -> Vec<(H, Lease)> {
        let quiet = now < self.quiet_until;
        let looks = now.saturating_sub(self.looked) >= LOOK;
        if looks {
            self.looked = now;
        }
        let mut out = Vec::new();
        for (policy, limit) in &mut self.limits {
            let mut again = Vec::new();
            if looks {
                let before = limit.holders.len();
                limit.holders.retain(|_, holder| now < holder.until);
                limit.changed |= limit.holders.len() < before;
                again = limit.unconfirmed(now);
            }
            if limit.changed {
                again.extend(moves(&limit.holders, quiet));
                // Who had to wait gets its share afterwards.
                limit.changed = quiet;
            }
            for (name, share) in again {
                let Some(holder) = limit.holders.get_mut(&name) else { continue };
                self.number += 1;
                holder.using = holder.using.max(share);
                holder.pending = Some(Pending { number: self.number, share, sent: now });
                out.push((name, Lease { policy: policy.clone(), share, number: self.number }));
            }
        }
        self.limits.retain(|_, limit| !limit.holders.is_empty());
        out
    }

    /// What all holders of a limit may be using together.
    #[cfg(test)]
    pub fn in_use(&self, policy: &str) -> u64 {
        let holders = self.limits.get(policy).into_iter().flat_map(|limit| limit.holders.values());
        holders.map(|holder| u64::from(holder.using)).sum()
    }
}

impl<H: Clone> Limit<H> {
    /// Leases that may not have arrived.
    fn unconfirmed(&self, now: Duration) -> Vec<(H, u32)> {
        let late = |(name, holder): (&H, &Holder)| {
            let pending = holder.pending.as_ref()?;
            (now.saturating_sub(pending.sent) >= UNCONFIRMED).then(|| (name.clone(), pending.share))
        };
        self.holders.iter().filter_map(late).collect()
    }
}

impl Holder {
    fn heard(&mut self, used: &Used, until: Duration) {
        (self.demand, self.until) = (used.demand, until);
        match &self.pending {
            Some(pending) if used.lease >= pending.number => {
                (self.using, self.pending) = (pending.share, None);
            }
            // On a new stream nothing is on its way any more.
            Some(_) if used.lease == 0 => (self.using, self.pending) = (used.share.min(WHOLE), None),
            Some(_) => {}
            None => self.using = used.share.min(WHOLE),
        }
    }
}

/// The shares that are to be changed: first those that shrink; those that grow get no more than is free.
fn moves<H: Ord + Clone>(holders: &BTreeMap<H, Holder>, quiet: bool) -> Vec<(H, u32)> {
    let demands: Vec<u64> = holders.values().map(|holder| holder.demand).collect();
    let wanted = targets(&demands);
    // What is smaller than this part of an equal share is left as it is.
    let notable = WHOLE / 50 / u32::try_from(holders.len().max(1)).unwrap_or(u32::MAX);
    let in_use: u64 = holders.values().map(|holder| u64::from(holder.using)).sum();
    let free = u64::from(WHOLE).saturating_sub(in_use);
    let all = || holders.iter().zip(&wanted).filter(|((_, holder), _)| holder.pending.is_none());
    let missing: u64 =
        all().map(|((_, holder), wanted)| u64::from(wanted.saturating_sub(holder.using))).sum();
    let mut out = Vec::new();
    for ((name, holder), wanted) in all() {
        if wanted.saturating_add(notable) < holder.using {
            out.push((name.clone(), *wanted));
        }
        let more = u64::from(wanted.saturating_sub(holder.using));
        let part = if missing <= free { more } else { more * free / missing };
        if !quiet && part > u64::from(notable) {
            out.push((name.clone(), holder.using.saturating_add(u32::try_from(part).unwrap_or(u32::MAX))));
        }
    }
    out
}

/// The share that each should have: what it asks for and a little more, the smallest first, and of what is left, or not
/// enough, an equal part each (max-min fairness). They add up to the whole, but for what is lost in rounding.
fn targets(demands: &[u64]) -> Vec<u32> {
    let count = demands.len().max(1) as u64;
    let whole = u64::from(WHOLE);
    let equal = whole / EQUAL / count;
    let rest = whole - equal * count;
    let wants: Vec<u64> = demands
        .iter()
        .map(|demand| demand.min(&whole).saturating_mul(100 + HEADROOM) / 100)
        .map(|want| want.saturating_sub(equal).min(rest))
        .collect();
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|at| wants.get(*at).copied());
    let mut out = vec![0_u64; wants.len()];
    let (mut left, mut waiting) = (rest, count);
    for at in order {
        let (Some(want), Some(got)) = (wants.get(at), out.get_mut(at)) else { continue };
        *got = (*want).min(left / waiting.max(1));
        left -= *got;
        waiting = waiting.saturating_sub(1);
    }
    let more = equal + left / count;
    out.into_iter().map(|got| u32::try_from(got + more).unwrap_or(WHOLE)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
