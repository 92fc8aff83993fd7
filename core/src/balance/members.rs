//! The endpoints of one service port, and the subsets that requests are picked from.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    backing::Backings,
    choose::{Choosing, Depth, Tier},
    health::{Health, Standing},
    nanos_of, outliers,
    ranks::Placing,
    small_table,
    state::{MAX_SUBSETS, State},
    tiers::{Capacity, Shares, TIERS},
};
use crate::{
    decide::{ServicePolicy, endpoint_key},
    model::{Endpoint, EndpointHealth, Labels, Lane, Reach, Summary, Transport},
    paths::{self, Ways},
};

/// An endpoint that discovery drops is kept for this long if it answered [`LATELY`]: it may be the controller, or its link
/// to it, that is in trouble.
const KEPT: Duration = Duration::from_secs(30);
/// See [`KEPT`].
const LATELY: Duration = Duration::from_secs(10);

/// An endpoint with what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) health: Arc<Health>,
    pub(super) tier: u8,
    /// The gateways that it is reached through; none: it is reached directly.
    pub(super) ways: Option<Ways>,
    /// What names it in session tokens, and to hashes.
    pub(super) key: u64,
    /// Discovery does not list it any more: until when it is kept. 0: it is listed.
    pub(super) dropped: u64,
}

/// What discovery lists of a service port.
#[derive(Clone, Copy)]
pub(super) struct Listed<'a> {
    /// `SERVICE:PORT`.
    pub(super) name: &'a dyn std::fmt::Display,
    pub(super) endpoints: &'a [Arc<Endpoint>],
    pub(super) summaries: &'a [Summary],
    pub(super) policy: &'a Arc<ServicePolicy>,
}

/// Endpoints of a service port. Immutable, but for what is remembered.
#[derive(Debug)]
pub(super) struct Members {
    all: Vec<Arc<Member>>,
    pub(super) policy: Arc<ServicePolicy>,
    pub(super) state: Arc<State>,
    /// What other clusters say of what stands behind the members of theirs.
    pub(super) backings: Arc<Backings>,
    /// The gateways that members are behind, each group once, with their cluster.
    pub(super) ways: Vec<(Arc<str>, Ways)>,
    seat: u64,
    subsets: DashMap<(Labels, Option<Lane>), Arc<Subset>>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            policy: Arc::default(),
            state: Arc::default(),
            backings: Arc::default(),
            ways: Vec::new(),
            seat: 0,
            subsets: small_table(),
        }
    }
}

/// Members with the same labels and lane, by tier.
#[derive(Debug)]
pub(super) struct Subset {
    tiers: Vec<Tier>,
    shares: Arc<Shares>,
    /// Some ejection has ended.
    probes: AtomicBool,
}

impl Members {
    /// Keeps the state of endpoints that were there before.
    pub(super) fn next(&self, listed: &Listed<'_>, placing: &Placing<'_>, now: u64) -> Self {
        let Listed { endpoints, policy, .. } = *listed;
        let known: BTreeMap<&str, &Arc<Member>> = self.all.iter().map(|m| (&*m.endpoint.id, m)).collect();
        let since = if self.all.is_empty() { 0 } else { now.max(1) };
        let mut gateways = BTreeMap::new();
        let mut all = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let health = known.get(&*endpoint.id).map(|m| m.health.clone());
            let health = health.unwrap_or_else(|| Arc::new(Health::new(since)));
            let key = endpoint_key(&endpoint.id);
            let ways = ways(endpoint, placing, &mut gateways);
            let tier = placing.tier(endpoint);
            all.push(Arc::new(Member { endpoint: endpoint.clone(), health, tier, ways, key, dropped: 0 }));
        }
        let ids: HashSet<&str> = endpoints.iter().map(|endpoint| &*endpoint.id).collect();
        let gone = self.all.iter().filter(|m| !ids.contains(&*m.endpoint.id));
        all.extend(gone.filter_map(|m| keep(m, placing, now)));
        if self.policy.check != policy.check {
            all.iter().for_each(|member| member.health.checks.forget());
        }
        self.state.changed();
        let (policy, state) = (policy.clone(), self.state.clone());
        let ways = gateways.into_iter().map(|((cluster, _), ways)| (cluster, ways)).collect();
        let backings = match self.backings.are(listed.summaries) {
            true => self.backings.clone(),
            false => Arc::new(Backings::new(listed.name, listed.summaries)),
        };
        Self { all, policy, state, backings, ways, seat: placing.placement.seat, subsets: small_table() }
    }

    /// The same members where clusters are fallen back on in another order; none where that changes nothing.
    pub(super) fn moved(&self, placing: &Placing<'_>) -> Option<Self> {
        if self.all.iter().all(|member| placing.tier(&member.endpoint) == member.tier) {
            return None;
        }
        let moved = |member: &Arc<Member>| match placing.tier(&member.endpoint) {
            tier if tier == member.tier => Arc::clone(member),
            tier => Arc::new(Member { tier, ..(**member).clone() }),
        };
        self.state.changed();
        Some(Self {
            all: self.all.iter().map(moved).collect(),
            policy: self.policy.clone(),
            state: self.state.clone(),
            backings: self.backings.clone(),
            ways: self.ways.clone(),
            seat: self.seat,
            subsets: small_table(),
        })
    }

    /// True if these are the very same endpoints, under the same policy.
    pub(super) fn are(&self, Listed { endpoints, summaries, policy, .. }: &Listed<'_>) -> bool {
        let listed = || self.all.iter().filter(|m| m.dropped == 0);
        (Arc::ptr_eq(&self.policy, policy) || self.policy == **policy)
            && self.backings.are(summaries)
            && listed().count() == endpoints.len()
            && listed().zip(*endpoints).all(|(m, e)| Arc::ptr_eq(&m.endpoint, e) || m.endpoint == *e)
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
        // Only of all endpoints together it is known what stands behind them.
        let whole = labels.is_empty() && lane.is_none();
        let tiers = tiers.into_iter().map(|(number, members)| {
            let behind = if whole { self.backings.behind(&members) } else { None };
            Tier::new(number, self.own_part(members), behind)
        });
        let shares = self.state.shares(labels, lane);
        let subset = Arc::new(Subset { tiers: tiers.collect(), shares, probes: AtomicBool::new(false) });
        if self.subsets.len() < MAX_SUBSETS {
            self.subsets.insert(key, subset.clone());
        }
        subset
    }

    /// Of many endpoints those that are this proxy's own, so that not every caller has a connection to each. Rendezvous
    /// hashing: an endpoint more or less changes one of them. Those that serve come first.
    fn own_part(&self, mut members: Vec<Arc<Member>>) -> Vec<Arc<Member>> {
        let Some(most) = self.policy.balancing.subset.map(usize::from).filter(|most| *most < members.len())
        else {
            return members;
        };
        members.sort_by_cached_key(|m| {
            let serves = m.endpoint.health == EndpointHealth::Healthy && m.dropped == 0;
            (!serves, xxh3_64_with_seed(&m.key.to_le_bytes(), self.seat))
        });
        members.truncate(most.max(1));
        members
    }

    /// Ejects those that stand out, if it is time to compare them.
    pub(super) fn compare(&self, now: u64) {
        let outliers = &self.policy.outliers;
        if !self.state.is_to_compare(outliers, now) {
            return;
        }
        let counted: Vec<_> = self.all.iter().map(|m| m.health.take_counted()).collect();
        for at in outliers::stand_out(&counted, outliers) {
            if let Some(member) = self.all.get(at) {
                self.eject(member, now);
            }
        }
    }

    /// Ejects an endpoint for what it answers, unless too many are ejected already.
    pub(super) fn eject(&self, member: &Member, now: u64) {
        let others = || self.all.iter().filter(|m| m.dropped == 0 && m.key != member.key);
        let ejected = others().filter(|m| m.health.standing(now) == Standing::Ejected).count();
        let share = (others().count() + 1) * usize::from(self.policy.outliers.most) / 100;
        if ejected < share.max(1) {
            self.eject_surely(member, now);
        }
    }

    /// Ejects an endpoint that takes no connections.
    pub(super) fn eject_surely(&self, member: &Member, now: u64) {
        member.health.eject(now, &self.policy.outliers);
        self.state.changed();
    }

    /// True if some endpoint has as much in flight as it may.
    pub(super) fn is_any_full(&self) -> bool {
        let most = self.policy.breaker.per_endpoint;
        most.is_some_and(|most| self.all.iter().any(|m| m.health.in_flight() >= most))
    }

    /// The members that are to be asked for their health: of a large service, those of the subsets that were picked from.
    pub(super) fn checked(&self) -> Vec<Arc<Member>> {
        if self.policy.balancing.subset.is_none() {
            return self.all.iter().filter(|m| m.is_listed_healthy()).cloned().collect();
        }
        let subsets: Vec<Arc<Subset>> = self.subsets.iter().map(|subset| subset.value().clone()).collect();
        let members = subsets.iter().flat_map(|subset| subset.members()).filter(|m| m.is_listed_healthy());
        let by_key: BTreeMap<u64, &Arc<Member>> = members.map(|member| (member.key, member)).collect();
        by_key.into_values().cloned().collect()
    }

    pub(super) fn all(&self) -> &[Arc<Member>] {
        &self.all
    }
}

/// The gateways in front of an endpoint; those that lead to several endpoints are found once.
fn ways<'e>(
    endpoint: &'e Endpoint,
    placing: &Placing<'_>,
    known: &mut BTreeMap<(Arc<str>, &'e [SocketAddr]), Ways>,
) -> Option<Ways> {
    let Reach::Via(gateways) = &endpoint.reach else { return None };
    let find = || gateways.iter().filter_map(|address| placing.paths.gateway(*address)).collect();
    let ways = known.entry((endpoint.cluster.clone(), gateways)).or_insert_with(find);
    // What cannot be told apart is taken to be up.
    (ways.len() == gateways.len()).then(|| ways.clone())
}

/// An endpoint that discovery dropped without a word although it answers: kept for a while. Only sidecars of this cluster:
/// who answers at a bare address may be somebody else by now, and what another cluster withdraws is withdrawn.
fn keep(member: &Arc<Member>, placing: &Placing<'_>, now: u64) -> Option<Arc<Member>> {
    if member.dropped > 0 {
        return (now < member.dropped).then(|| member.clone());
    }
    let endpoint = &member.endpoint;
    let worth = endpoint.health == EndpointHealth::Healthy
        && endpoint.cluster == placing.placement.cluster
        && matches!(endpoint.transport, Transport::Mesh { .. })
        && member.health.answered_within(LATELY, now);
    worth.then(|| {
        Arc::new(Member {
            endpoint: endpoint.clone(),
            health: member.health.clone(),
            tier: member.tier,
            ways: member.ways.clone(),
            key: member.key,
            dropped: now.saturating_add(nanos_of(KEPT)),
        })
    })
}

impl Subset {
    /// True if some member is healthy, or may be tried again.
    pub(super) fn has_healthy(&self, now: u64) -> bool {
        self.members()
            .any(|m| m.is_listed_healthy() && m.is_reachable() && m.health.standing(now) != Standing::Ejected)
    }

    /// The member that a session is with, if it can serve. One that drains still serves the sessions that it has.
    pub(super) fn named(&self, key: u64, avoid: &[Arc<str>], now: u64) -> Option<&Arc<Member>> {
        self.members().find(|m| m.key == key).filter(|m| {
            m.endpoint.health != EndpointHealth::Unhealthy
                && m.dropped == 0
                && m.is_reachable()
                && m.health.standing(now) == Standing::Healthy
                && !avoid.contains(&m.endpoint.id)
        })
    }

    pub(super) fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    pub(super) fn shares(&self) -> &Shares {
        &self.shares
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.tiers.iter().flat_map(|tier| &tier.members)
    }

    /// One member, and whether it is a probe.
    pub(super) fn pick(
        &self,
        depth: Depth,
        choosing: &Choosing<'_>,
        state: &State,
    ) -> Option<(Arc<Member>, bool)> {
        let chosen = match depth {
            Depth::Healthy => self.share(choosing, state),
            _ => None,
        };
        if self.probes.load(Relaxed) && depth == Depth::Healthy {
            // One request finds out whether an ejected endpoint answers again; if not, it is tried again elsewhere.
            let up_to = chosen.unwrap_or(TIERS);
            let near = || self.tiers.iter().filter(|tier| tier.number <= up_to);
            if let Some(member) = near().find_map(|tier| tier.probe(choosing)) {
                return Some((member.clone(), true));
            }
        }
        let of_share = chosen.and_then(|number| self.tiers.iter().find(|tier| tier.number == number));
        let member = of_share.and_then(|tier| tier.choose(choosing, depth));
        // Where a cluster takes no more, not more than they can carry goes to those that are nearer.
        let closed = chosen.filter(|_| !choosing.closed.is_empty());
        let open =
            |tier: &&Tier| closed.is_none_or(|at| tier.number > at || self.shares.has_spare(tier.number));
        let others = || self.tiers.iter().filter(open);
        let member = member.or_else(|| others().find_map(|tier| tier.choose(choosing, depth)));
        member.map(|member| (member.clone(), false))
    }

    /// The tier whose turn it is; none: nobody is healthy.
    fn share(&self, choosing: &Choosing<'_>, state: &State) -> Option<usize> {
        let (version, now) = (state.version(), choosing.now);
        if self.shares.is_due(version, now) {
            let mut capacities = [Capacity::default(); TIERS];
            let mut probes = false;
            for tier in &self.tiers {
                let (capacity, probe) = capacity(tier, now);
                probes |= probe;
                if let Some(place) = capacities.get_mut(tier.number) {
                    *place = capacity;
                }
            }
            self.probes.store(probes, Relaxed);
            self.shares.update(&capacities, &choosing.policy.localities, version, now);
        }
        match self.tiers.as_slice() {
            [only] => Some(only.number),
            _ => Some(self.shares.tier(choosing.point)),
        }
    }
}

/// What a tier can carry, and whether some of it may be probed.
pub(super) fn capacity(tier: &Tier, now: u64) -> (Capacity, bool) {
    let (mut capacity, mut listed) = (Capacity::default(), 0.0);
    let mut probes = false;
    for member in
        tier.members.iter().filter(|m| m.dropped == 0 && m.endpoint.health != EndpointHealth::Draining)
    {
        let weight = f64::from(member.endpoint.weight.max(1));
        capacity.total += weight;
        listed += if member.is_listed_healthy() { weight } else { 0.0 };
        match member.health.standing(now) {
            _ if !member.is_listed_healthy() || !member.is_reachable() => {}
            Standing::Healthy => capacity.healthy += weight,
            Standing::Probe => probes = true,
            Standing::Ejected => {}
        }
    }
    if let Some(behind) = &tier.behind {
        // Of those that are not named, as many are taken to answer as of those that are.
        let answer = if listed > 0.0 { capacity.healthy / listed } else { 0.0 };
        capacity = Capacity { healthy: behind.healthy * answer, total: behind.total };
    }
    (capacity, probes)
}

impl Member {
    /// True if some gateway in front of it is not known to be down, or there is none.
    pub(super) fn is_reachable(&self) -> bool {
        self.ways.as_ref().is_none_or(|ways| paths::is_reachable(ways))
    }

    pub(super) fn is_listed_healthy(&self) -> bool {
        self.endpoint.health == EndpointHealth::Healthy && self.dropped == 0
    }
}
