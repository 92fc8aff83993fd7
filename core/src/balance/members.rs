//! The endpoints of one service port, and the subsets that requests are picked from.

use std::{collections::BTreeMap, sync::Arc};

use dashmap::DashMap;

use super::{
    health::{Health, Standing},
    pools::Placement,
    rng::Rng,
};
use crate::{
    decide::endpoint_key,
    model::{Endpoint, EndpointHealth, Labels, Lane},
};

/// Subsets remembered per service port; one more is computed anew for each request.
const MAX_SUBSETS: usize = 256;

/// An endpoint with what is known of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) health: Arc<Health>,
    pub(super) tier: u8,
    /// What names it in session tokens.
    pub(super) key: u64,
}

/// Endpoints of a service port. Immutable, but for what is remembered.
#[derive(Debug, Default)]
pub(super) struct Members {
    all: Vec<Arc<Member>>,
    subsets: DashMap<(Labels, Option<Lane>), Arc<Subset>>,
}

/// Members with the same labels and lane, by tier.
#[derive(Debug, Default)]
pub(super) struct Subset {
    tiers: Vec<Vec<Arc<Member>>>,
}

/// How far down to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Healthy ones, or one that may be probed.
    Healthy,
    /// Also those that discovery calls draining.
    Draining,
    /// Also those that were ejected.
    Ejected,
}

impl Members {
    /// Keeps the state of endpoints that were there before.
    pub(super) fn next(&self, endpoints: &[Arc<Endpoint>], placement: &Placement) -> Self {
        let known: BTreeMap<&str, &Arc<Health>> =
            self.all.iter().map(|m| (&*m.endpoint.id, &m.health)).collect();
        let member = |endpoint: &Arc<Endpoint>| {
            let health = known.get(&*endpoint.id).map(|health| (*health).clone()).unwrap_or_default();
            let key = endpoint_key(&endpoint.id);
            Arc::new(Member { endpoint: endpoint.clone(), health, tier: placement.tier(endpoint), key })
        };
        Self { all: endpoints.iter().map(member).collect(), subsets: DashMap::new() }
    }

    /// True if these are the very same endpoints.
    pub(super) fn are(&self, endpoints: &[Arc<Endpoint>]) -> bool {
        self.all.len() == endpoints.len()
            && self.all.iter().zip(endpoints).all(|(m, e)| Arc::ptr_eq(&m.endpoint, e) || m.endpoint == *e)
    }

    /// The members with all of `labels` that are in `lane` (none: in no lane).
    pub(super) fn subset(&self, labels: &Labels, lane: Option<&Lane>) -> Arc<Subset> {
        let key = (labels.clone(), lane.cloned());
        if let Some(subset) = self.subsets.get(&key) {
            return subset.clone();
        }
        let fits = |m: &&Arc<Member>| {
            let e = &m.endpoint;
            e.lane.as_ref() == lane && labels.iter().all(|(name, value)| e.labels.get(name) == Some(value))
        };
        let mut tiers: BTreeMap<u8, Vec<Arc<Member>>> = BTreeMap::new();
        for member in self.all.iter().filter(fits) {
            tiers.entry(member.tier).or_default().push(member.clone());
        }
        let subset = Arc::new(Subset { tiers: tiers.into_values().collect() });
        if self.subsets.len() < MAX_SUBSETS {
            self.subsets.insert(key, subset.clone());
        }
        subset
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> &[Arc<Member>] {
        &self.all
    }
}

impl Subset {
    /// True if some member is healthy, or may be tried again.
    pub(super) fn has_healthy(&self, now: u64) -> bool {
        let mut members = self.tiers.iter().flatten();
        members.any(|m| {
            m.endpoint.health == EndpointHealth::Healthy && m.health.standing(now) != Standing::Ejected
        })
    }

    /// The member that a session is with, if it can serve. One that drains still serves the sessions that it has.
    pub(super) fn named(&self, key: u64, avoid: &[Arc<str>], now: u64) -> Option<&Arc<Member>> {
        self.tiers.iter().flatten().find(|m| m.key == key).filter(|m| {
            m.endpoint.health != EndpointHealth::Unhealthy
                && m.health.standing(now) == Standing::Healthy
                && !avoid.contains(&m.endpoint.id)
        })
    }

    /// One member of the lowest tier that has one to this depth, and whether it is a probe.
    pub(super) fn pick(
        &self,
        depth: Depth,
        avoid: &[Arc<str>],
        rng: &Rng,
        now: u64,
    ) -> Option<(Arc<Member>, bool)> {
        self.tiers.iter().find_map(|tier| pick_in(tier, depth, avoid, rng, now))
    }
}

fn pick_in(
    tier: &[Arc<Member>],
    depth: Depth,
    avoid: &[Arc<str>],
    rng: &Rng,
    now: u64,
) -> Option<(Arc<Member>, bool)> {
    let usable = |m: &Arc<Member>| {
        let by_discovery = match m.endpoint.health {
            EndpointHealth::Healthy => true,
            EndpointHealth::Draining => depth != Depth::Healthy,
            EndpointHealth::Unhealthy => false,
        };
        by_discovery && !avoid.contains(&m.endpoint.id)
    };
    // One request finds out whether an ejected endpoint answers again; if not, it is tried again elsewhere.
    let probe = tier.iter().find(|m| usable(m) && m.health.standing(now) == Standing::Probe);
    if let Some(member) = probe
        && member.health.begin_probe()
    {
        return Some((member.clone(), true));
    }
    let fits = |m: &Arc<Member>| {
        usable(m) && (depth == Depth::Ejected || m.health.standing(now) == Standing::Healthy)
    };
    let at = rng.below(tier.len());
    // Two different ones, so that of two endpoints the better is always found.
    let apart = 1 + rng.below(tier.len().saturating_sub(1));
    let first = scan(tier, at, &fits)?;
    let second = scan(tier, (at + apart) % tier.len().max(1), &fits)?;
    let cost = |m: &Member| m.health.cost(m.endpoint.weight, now);
    let better = if cost(second) < cost(first) { second } else { first };
    Some((better.clone(), false))
}

/// The first that fits, from this position around.
fn scan<'m>(
    tier: &'m [Arc<Member>],
    from: usize,
    fits: &impl Fn(&Arc<Member>) -> bool,
) -> Option<&'m Arc<Member>> {
    let (head, tail) = tier.split_at_checked(from)?;
    tail.iter().chain(head).find(|m| fits(m))
}
