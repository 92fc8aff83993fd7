//! One of the endpoints of a tier, by the service's rule.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{health::Standing, maglev::Maglev, members::Member, nanos_of, rng::Rng, tiers::Capacity};
use crate::{
    decide::{Algorithm, ServicePolicy},
    model::{EndpointHealth, Reach},
};

/// How far down to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Healthy ones, or one that may be probed.
    Healthy,
    /// Also those that discovery calls draining.
    Draining,
    /// Also those that discovery dropped although they answered.
    Dropped,
    /// Also those that were ejected, and those whose gateways are down.
    Ejected,
}

/// What a choice depends on besides the endpoints.
pub(super) struct Choosing<'a> {
    pub(super) policy: &'a ServicePolicy,
    pub(super) avoid: &'a [Arc<str>],
    pub(super) around: &'a [Arc<str>],
    pub(super) rng: &'a Rng,
    pub(super) hash: Option<u64>,
    /// From 0 to 1, drawn once a request: whose turn it is among tiers.
    pub(super) point: f64,
    /// Clusters that take no more for now.
    pub(super) closed: &'a [Arc<str>],
    pub(super) now: u64,
}

impl Choosing<'_> {
    /// True for an endpoint that may be used at this depth, but for its ejection.
    fn is_usable(&self, member: &Member, depth: Depth) -> bool {
        let listed = member.dropped == 0 || (depth >= Depth::Dropped && self.now < member.dropped);
        let by_discovery = match member.endpoint.health {
            EndpointHealth::Healthy => true,
            EndpointHealth::Draining => depth >= Depth::Draining,
            EndpointHealth::Unhealthy => false,
        };
        let full = self.policy.breaker.per_endpoint.is_some_and(|most| member.health.in_flight() >= most);
        let elsewhere = depth > Depth::Healthy || !self.is_behind(member);
        listed
            && by_discovery
            && elsewhere
            && !full
            && !self.avoid.contains(&member.endpoint.id)
            && !self.closed.contains(&member.endpoint.cluster)
    }

    /// True if it is behind what gave this request no answer.
    fn is_behind(&self, member: &Member) -> bool {
        self.around.contains(&member.endpoint.cluster) && matches!(member.endpoint.reach, Reach::Via(_))
    }

    fn fits(&self, member: &Member, depth: Depth) -> bool {
        self.is_usable(member, depth)
            && (depth == Depth::Ejected
                || (member.health.standing(self.now) == Standing::Healthy && member.is_reachable()))
    }
}

impl PartialOrd for Depth {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some((*self as u8).cmp(&(*other as u8)))
    }
}

/// The endpoints of one tier, and what the rules remember.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) number: usize,
    pub(super) members: Vec<Arc<Member>>,
    /// What stands behind them, where not all are named.
    pub(super) behind: Option<Capacity>,
    /// Weights summed up to each member; none where all are equal.
    sums: Option<Box<[u64]>>,
    turn: AtomicUsize,
    maglev: OnceLock<Maglev>,
}

impl Tier {
    pub(super) fn new(number: u8, members: Vec<Arc<Member>>, behind: Option<Capacity>) -> Self {
        let weights = || members.iter().map(|m| u64::from(m.endpoint.weight.max(1)));
        let equal = weights().min() == weights().max();
        let sums = weights().scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        let sums = (!equal).then(|| sums.collect());
        Self {
            number: number.into(),
            members,
            behind,
            sums,
            turn: AtomicUsize::new(0),
            maglev: OnceLock::new(),
        }
    }

    /// One that may be tried again after its ejection: its place as the probe is taken.
    pub(super) fn probe(&self, choosing: &Choosing<'_>) -> Option<&Arc<Member>> {
        self.members
            .iter()
            .filter(|m| m.health.standing(choosing.now) == Standing::Probe && m.is_reachable())
            .find(|m| choosing.is_usable(m, Depth::Healthy) && m.health.begin_probe())
    }

    /// One that fits, by the rule.
    pub(super) fn choose(&self, choosing: &Choosing<'_>, depth: Depth) -> Option<&Arc<Member>> {
        match (&choosing.policy.balancing.algorithm, choosing.hash) {
            (Algorithm::Hash(_), Some(hash)) => self.by_hash(hash, choosing, depth),
            (Algorithm::RoundRobin, _) => self.in_turn(choosing, depth),
            _ => self.of_two(choosing, depth),
        }
    }

    fn by_hash(&self, hash: u64, choosing: &Choosing<'_>, depth: Depth) -> Option<&Arc<Member>> {
        let table = self.maglev.get_or_init(|| {
            let members: Vec<_> = self.members.iter().map(|m| (m.key, m.endpoint.weight)).collect();
            Maglev::new(&members)
        });
        table.walk(hash).filter_map(|at| self.members.get(at)).find(|m| choosing.fits(m, depth))
    }

    /// Each in turn, a heavier one as often as it weighs more. Who is new is passed over now and then.
    fn in_turn(&self, choosing: &Choosing<'_>, depth: Depth) -> Option<&Arc<Member>> {
        let slow_start = nanos_of(choosing.policy.balancing.slow_start);
        let next = || self.at(self.turn.fetch_add(1, Relaxed));
        let tries = self.members.len().saturating_mul(2).min(64);
        let warm = |m: &Arc<Member>| {
            let warmth = m.health.warmth(slow_start, choosing.now);
            warmth >= 1.0 || choosing.rng.fraction() < warmth
        };
        let found =
            (0..tries).filter_map(|_| self.members.get(next())).find(|m| choosing.fits(m, depth) && warm(m));
        found.or_else(|| self.scan(next(), choosing, depth))
    }

    /// The position for a turn: golden-ratio steps through the weights spread the turns of a heavy one evenly.
    fn at(&self, turn: usize) -> usize {
        let Some(sums) = &self.sums else { return turn % self.members.len().max(1) };
        let point = (turn as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let sum = sums.last().copied().unwrap_or_default();
        let within = (u128::from(point) * u128::from(sum)) >> 64;
        sums.partition_point(|upto| u128::from(*upto) <= within)
    }

    /// The better of two that are different where possible, so that of two endpoints the better is always found.
    fn of_two(&self, choosing: &Choosing<'_>, depth: Depth) -> Option<&Arc<Member>> {
        let count = self.members.len();
        let (one, other) = match &self.sums {
            None => {
                let one = choosing.rng.below(count);
                (one, (one + 1 + choosing.rng.below(count.saturating_sub(1))) % count.max(1))
            }
            Some(_) => (self.at_random(choosing.rng), self.at_random(choosing.rng)),
        };
        let first = self.scan(one, choosing, depth)?;
        let second = self.scan(other, choosing, depth)?;
        let better = if cost(second, choosing) < cost(first, choosing) { second } else { first };
        Some(better)
    }

    fn at_random(&self, rng: &Rng) -> usize {
        let Some(sums) = &self.sums else { return rng.below(self.members.len()) };
        let sum = sums.last().and_then(|sum| usize::try_from(*sum).ok()).unwrap_or(usize::MAX);
        let within = rng.below(sum) as u64;
        sums.partition_point(|upto| *upto <= within)
    }

    /// The first that fits, from this position around.
    fn scan(&self, from: usize, choosing: &Choosing<'_>, depth: Depth) -> Option<&Arc<Member>> {
        let (head, tail) = self.members.split_at_checked(from)?;
        tail.iter().chain(head).find(|m| choosing.fits(m, depth))
    }
}

/// Less is better.
fn cost(member: &Member, choosing: &Choosing<'_>) -> f64 {
    let balancing = &choosing.policy.balancing;
    let warmth = member.health.warmth(nanos_of(balancing.slow_start), choosing.now);
    // Who weighs more is drawn more often already; here it is what it has to do for its weight.
    let load = (member.health.load() - 1.0) / f64::from(member.endpoint.weight.max(1)) + 1.0;
    let load = load / warmth;
    match balancing.algorithm {
        Algorithm::LeastRequest => load,
        _ => member.health.latency_now(choosing.now) * load,
    }
}
