//! Which tier an endpoint is in: near ones by their place, those of other clusters by the order of these.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{
    Pools, nanos_of,
    pools::Placement,
    tiers::{NEAR, PEERS, TIERS},
    witnesses::Gathering,
};
use crate::{
    model::{Endpoint, Reach, Snapshot},
    paths::{self, Gateway, Order, Paths, Probe, Seen, Showing, Ways},
};

/// Gateways of a service are probed while it was used within this time.
const USED: Duration = Duration::from_secs(600);

/// What orders other clusters. Changes seldom.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    order: Order,
    /// What Peer documents say.
    documents: BTreeMap<Arc<str>, u32>,
    clusters: BTreeSet<Arc<str>>,
    /// Of clusters on this network: endpoints by which they are judged.
    witnesses: BTreeMap<Arc<str>, Ways>,
}

impl Ranking {
    pub(super) fn has_witnesses(&self) -> bool {
        !self.witnesses.is_empty()
    }
}

/// Another cluster, as it is seen from here.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerSeen {
    /// Its name.
    pub cluster: Arc<str>,
    /// The place that its Peer document gives it.
    pub order: Option<u32>,
    /// To the nearest of its gateways that is up; on a network that it shares, of the endpoints that stand for it.
    pub round_trip: Option<Duration>,
    /// Those that some endpoint is behind, by address.
    pub gateways: BTreeMap<SocketAddr, Showing>,
}

/// The order in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranks {
    /// Positions of other clusters, from 0.
    of: HashMap<Arc<str>, usize>,
    /// Clusters all of whose gateways fail; on a network that they share, all endpoints that stand for them.
    failing: BTreeSet<Arc<str>>,
}

/// What the tiers of endpoints depend on.
pub(super) struct Placing<'a> {
    pub(super) placement: &'a Placement,
    pub(super) ranks: &'a Ranks,
    pub(super) paths: &'a Paths,
}

impl Placing<'_> {
    /// 0: same zone, 1: same region, 2: same cluster; then other clusters in their order. Last is what is known only by
    /// hearsay and cannot be reached well either: that alone its cluster was not heard of moves nothing.
    pub(super) fn tier(&self, endpoint: &Endpoint) -> u8 {
        let here = self.placement;
        let near = endpoint.cluster == here.cluster && matches!(endpoint.reach, Reach::Direct(_));
        let same_region = endpoint.locality.region == here.locality.region;
        let tier = match (near, same_region, endpoint.locality.zone == here.locality.zone) {
            (true, true, true) => 0,
            (true, true, false) => 1,
            (true, false, _) => 2,
            (false, ..) if self.is_hearsay(endpoint) => TIERS - 1,
            (false, ..) => {
                NEAR + self.ranks.of.get(&endpoint.cluster).map_or(0, |rank| (*rank).min(PEERS - 1))
            }
        };
        u8::try_from(tier).unwrap_or(u8::MAX)
    }

    fn is_hearsay(&self, endpoint: &Endpoint) -> bool {
        endpoint.stale && self.ranks.failing.contains(&endpoint.cluster)
    }
}

impl Pools {
    /// Takes note of the clusters of a snapshot. True if they are in another order now.
    pub(super) fn rank_snapshot(&self, ranking: &mut Ranking, snapshot: &Snapshot, now: Instant) -> bool {
        let mut clusters: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut last: Option<&Arc<str>> = None;
        let mut witnesses = Gathering::new(self.placement.seat);
        let ports = snapshot.services.values().flat_map(|entry| entry.endpoints.values());
        let others = |endpoint: &&Arc<Endpoint>| endpoint.cluster != self.placement.cluster;
        for endpoint in ports.flat_map(|endpoints| endpoints.iter()).filter(others) {
            // Most endpoints are of the same cluster as the one before.
            if last != Some(&endpoint.cluster) {
                clusters.insert(endpoint.cluster.clone());
            }
            last = Some(&endpoint.cluster);
            witnesses.consider(endpoint);
        }
        ranking.clusters = clusters;
        ranking.witnesses = witnesses.ways(&self.paths);
        ranking.documents.clone_from(&snapshot.config.failover_order);
        self.rank(ranking, now)
    }

    /// Has shares of what other clusters take, where services are used, before they are needed.
    fn hold_shares(&self, now: Instant) {
        for pool in &self.pools {
            let members = pool.load();
            if members.state.is_used(nanos_of(USED), self.nanos(now)) {
                members.backings.limits().for_each(|limit| self.quotas.hold(limit, now));
            }
        }
    }

    /// Looks at what was measured; endpoints of clusters that have changed places are in other tiers from then on. To be
    /// called about once a second.
    pub fn measure(&self, now: Instant) {
        self.hold_shares(now);
        let mut ranking = self.ranking.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.rank(&mut ranking, now) {
            return;
        }
        let ranks = self.ranks.load();
        let placing = Placing { placement: &self.placement, ranks: &ranks, paths: &self.paths };
        for pool in &self.pools {
            if let Some(moved) = pool.load().moved(&placing) {
                pool.store(Arc::new(moved));
            }
        }
    }

    fn rank(&self, ranking: &mut Ranking, now: Instant) -> bool {
        let mut seen: BTreeMap<Arc<str>, Seen> = BTreeMap::new();
        for cluster in &ranking.clusters {
            let order = ranking.documents.get(cluster).copied();
            seen.insert(cluster.clone(), Seen { order, round_trip: None });
        }
        let (mut failing, mut well) = (BTreeSet::new(), BTreeSet::new());
        let mut judge = |cluster: &Arc<str>, ways: &Ways| {
            if let Some(seen) = seen.get_mut(cluster) {
                let measured = paths::round_trip(ways);
                seen.round_trip = seen.round_trip.into_iter().chain(measured).min();
            }
            let side = if paths::is_failing(ways) { &mut failing } else { &mut well };
            side.insert(cluster.clone());
        };
        for pool in &self.pools {
            pool.load().ways.iter().for_each(|(cluster, ways)| judge(cluster, ways));
        }
        ranking.witnesses.iter().for_each(|(cluster, ways)| judge(cluster, ways));
        failing.retain(|cluster| !well.contains(cluster));
        ranking.order.update(&seen, self.nanos(now));
        let of = ranking.order.clusters().enumerate().map(|(rank, cluster)| (cluster.clone(), rank));
        let ranks = Ranks { of: of.collect(), failing };
        let moved = ranks != **self.ranks.load();
        if moved {
            self.ranks.store(Arc::new(ranks));
        }
        moved
    }

    /// Other clusters in the order in which they are fallen back on.
    pub fn peers(&self, now: Instant) -> Vec<PeerSeen> {
        let ranking = self.ranking.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = |cluster: &Arc<str>| PeerSeen {
            cluster: cluster.clone(),
            order: ranking.documents.get(cluster).copied(),
            round_trip: ranking.witnesses.get(cluster).and_then(|ways| paths::round_trip(ways)),
            gateways: BTreeMap::new(),
        };
        let mut peers: Vec<PeerSeen> = ranking.order.clusters().map(peer).collect();
        let now = self.paths.nanos(now);
        for pool in &self.pools {
            for (cluster, ways) in &pool.load().ways {
                let Some(peer) = peers.iter_mut().find(|peer| peer.cluster == *cluster) else { continue };
                peer.round_trip = peer.round_trip.into_iter().chain(paths::round_trip(ways)).min();
                peer.gateways.extend(ways.iter().map(|gateway| (gateway.address(), gateway.show(now))));
            }
        }
        peers
    }

    /// The probes that are to be made by now, `most` of them, those that were not made for longest first: of gateways in
    /// front of endpoints of services that are used, and while any is used, of endpoints that stand for clusters on this
    /// network.
    pub fn due_probes(&self, now: Instant, most: usize) -> Vec<Probe> {
        if !self.far.load(Relaxed) {
            return Vec::new();
        }
        let mut gateways: BTreeMap<SocketAddr, Arc<Gateway>> = BTreeMap::new();
        let mut add = |ways: &Ways| {
            gateways.extend(ways.iter().map(|gateway| (gateway.address(), Arc::clone(gateway))));
        };
        let mut is_any_used = false;
        for pool in &self.pools {
            let members = pool.load();
            if members.state.is_used(nanos_of(USED), self.nanos(now)) {
                is_any_used = true;
                members.ways.iter().for_each(|(_, ways)| add(ways));
            }
        }
        if is_any_used {
            let ranking = self.ranking.lock().unwrap_or_else(PoisonError::into_inner);
            ranking.witnesses.values().for_each(add);
        }
        let now = self.paths.nanos(now);
        let mut gateways: Vec<Arc<Gateway>> = gateways.into_values().collect();
        gateways.sort_by_cached_key(|gateway| gateway.probed());
        gateways.iter().filter_map(|gateway| gateway.due(now, self.rng.fraction())).take(most).collect()
    }
}
