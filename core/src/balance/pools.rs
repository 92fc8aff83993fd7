//! All service ports of a proxy, and picks from them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use super::{
    choose::{Choosing, Depth},
    members::{Listed, Member, Members, Subset},
    nanos_of,
    ranks::{Placing, Ranking, Ranks},
    rng::Rng,
};
use crate::{
    decide::{Availability, Backend, NameHash},
    model::{Endpoint, Labels, Lane, Locality, ServiceKey, Snapshot},
    paths::Paths,
    proxy::{Picked, Picker, TryResult, Wanted},
    quota::Quotas,
};

/// Where this proxy stands: what is near is used first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Its region and zone.
    pub locality: Locality,
    /// What tells this proxy from others, where each uses a part of a large service's endpoints: random, or a hash of its
    /// name.
    pub seat: u64,
}

/// The pools of all service ports. As many as the snapshot has.
#[derive(Debug)]
pub struct Pools {
    pub(super) placement: Placement,
    /// What keeps other clusters from getting more than they can take.
    pub(super) quotas: Arc<Quotas>,
    /// The gateways of other clusters.
    pub(super) paths: Arc<Paths>,
    /// Held while pools are made anew, never while one is picked from.
    pub(super) ranking: Mutex<Ranking>,
    pub(super) ranks: ArcSwap<Ranks>,
    pub(super) pools: DashMap<(ServiceKey, u16), Arc<ArcSwap<Members>>, NameHash>,
    /// Some service has health checks.
    pub(super) checks: AtomicBool,
    /// Some endpoint is behind a gateway, or stands for a cluster on this network.
    pub(super) far: AtomicBool,
    pub(super) rng: Rng,
    origin: Instant,
    /// The latest time that was passed in; so that availability is judged without a clock.
    latest: AtomicU64,
}

/// An endpoint, and whether it is a probe of one that was ejected.
type Found = Option<(Arc<Member>, bool)>;

/// A place held on an endpoint; dropping it gives the place back and says nothing of the endpoint.
#[derive(Debug)]
pub struct Pick {
    members: Arc<Members>,
    pub(super) member: Arc<Member>,
    probe: bool,
    connected: bool,
    origin: Instant,
    begun: u64,
}

impl Pools {
    /// No pools yet. `origin` is now; `seed` is random, or fixed in tests.
    pub fn new(placement: Placement, origin: Instant, seed: u64) -> Self {
        Self {
            placement,
            quotas: Quotas::alone(),
            paths: Arc::new(Paths::new(origin)),
            ranking: Mutex::default(),
            ranks: ArcSwap::default(),
            pools: DashMap::default(),
            checks: AtomicBool::new(false),
            far: AtomicBool::new(false),
            rng: Rng::new(seed),
            origin,
            latest: AtomicU64::new(0),
        }
    }

    /// The same, with limits on requests to other clusters that it holds together with the other proxies of its own.
    #[must_use]
    pub fn holding(self, quotas: Arc<Quotas>) -> Self {
        Self { quotas, ..self }
    }

    /// Takes over the endpoints of a snapshot. State is kept by endpoint id; pools that are gone are dropped.
    pub fn apply(&self, snapshot: &Snapshot, now: Instant) {
        let mut ranking = self.ranking.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = self.rank_snapshot(&mut ranking, snapshot, now);
        let ranks = self.ranks.load();
        let placing = Placing { placement: &self.placement, ranks: &ranks, paths: &self.paths };
        let (now, usual) = (self.nanos(now), Arc::default());
        for (key, entry) in &snapshot.services {
            let policy = snapshot.config.service_policy(key).unwrap_or(&usual);
            for (port, endpoints) in &entry.endpoints {
                let pool = self.pools.entry((key.clone(), *port)).or_default().clone();
                let members = pool.load();
                let summaries = entry.summaries.get(port).map_or(&[][..], |summaries| summaries);
                let name = &format_args!("{key}:{port}");
                let listed = Listed { name, endpoints, summaries, policy };
                if moved || !members.are(&listed) {
                    pool.store(Arc::new(members.next(&listed, &placing, now)));
                }
            }
        }
        self.pools.retain(|(key, port), _| {
            snapshot.services.get(key).is_some_and(|entry| entry.endpoints.contains_key(port))
        });
        self.paths.forget_unused();
        let behind = self.pools.iter().any(|pool| !pool.load().ways.is_empty());
        self.far.store(behind || ranking.has_witnesses(), Relaxed);
        self.checks.store(self.pools.iter().any(|pool| pool.load().policy.check.is_some()), Relaxed);
    }

    /// What is seen of the gateways of other clusters.
    pub fn paths(&self) -> &Arc<Paths> {
        &self.paths
    }

    pub(super) fn nanos(&self, now: Instant) -> u64 {
        nanos(self.origin, now)
    }

    pub(super) fn members(&self, service: &ServiceKey, port: u16) -> Option<Arc<Members>> {
        // One clone of a key a request; entries of a DashMap are found by owned keys only.
        let pool = self.pools.get(&(service.clone(), port))?;
        Some(pool.load_full())
    }

    /// Picks an endpoint. The error is a reason for the access log: `unknown_service` (not in the snapshot, or not
    /// synced yet), `no_endpoint`, `overloaded` (what its TrafficPolicy lets through at a time is under way), or
    /// `peer_capacity` (only other clusters could serve, and they get as much as they say that they can take).
    pub fn pick(&self, wanted: &Wanted<'_>, at: Instant) -> Result<Pick, &'static str> {
        let now = self.nanos(at);
        self.latest.fetch_max(now, Relaxed);
        let members = self.members(wanted.service, wanted.port).ok_or("unknown_service")?;
        members.compare(now);
        members.state.used(now);
        if !members.state.begin(&members.policy.breaker) {
            return Err("overloaded");
        }
        match self.find(&members, wanted, at) {
            Ok(Some((member, probe))) => {
                member.health.begin();
                Ok(Pick { members, member, probe, connected: false, origin: self.origin, begun: now })
            }
            Err(reason) => {
                members.state.end(true);
                Err(reason)
            }
            Ok(None) => {
                members.state.end(true);
                // Where endpoints are bounded one by one, all of them may be full.
                let bounded = members.policy.breaker.per_endpoint.is_some();
                Err(if bounded && members.is_any_full() { "overloaded" } else { "no_endpoint" })
            }
        }
    }

    /// Finds one whose cluster takes one more request; the error: only such as take none could serve.
    fn find(&self, members: &Members, wanted: &Wanted<'_>, at: Instant) -> Result<Found, &'static str> {
        let lanes = wanted.lane.map(Some).into_iter().chain([None]);
        let subsets: Vec<_> = lanes.map(|lane| members.subset(wanted.labels, lane)).collect();
        let mut closed = Vec::new();
        // The same for the same key.
        let bits = wanted.hash.map_or_else(|| self.rng.next(), |hash| hash.rotate_left(32));
        let point = (bits >> 11) as f64 / (1_u64 << 53) as f64;
        // Each time another cluster turns out to be full; most services have none that can be.
        loop {
            let found = self.find_open(members, &subsets, wanted, (&closed, point), self.nanos(at));
            let Some((member, probe)) = found else {
                return if closed.is_empty() { Ok(None) } else { Err("peer_capacity") };
            };
            let limit = members.backings.limit(&member.endpoint.cluster);
            let taken = limit.and_then(|limit| self.quotas.take(limit, at));
            if taken.is_none_or(|taken| taken.allowed) {
                return Ok(Some((member, probe)));
            }
            if probe {
                member.health.end_probe();
            }
            closed.push(member.endpoint.cluster.clone());
        }
    }

    fn find_open(
        &self,
        members: &Members,
        subsets: &[Arc<Subset>],
        wanted: &Wanted<'_>,
        (closed, point): (&[Arc<str>], f64),
        now: u64,
    ) -> Found {
        if let Some(key) = wanted.prefer.filter(|_| closed.is_empty()) {
            // Who is in a lane that can serve does not leave it for a session.
            let named = subsets.iter().find_map(|subset| {
                let named = subset.named(key, wanted.avoid, now);
                (named.is_some() || subset.has_healthy(now)).then_some(named)
            });
            if let Some(member) = named.flatten() {
                return Some((member.clone(), false));
            }
        }
        let none: &[Arc<str>] = &[];
        let depths = [Depth::Healthy, Depth::Draining, Depth::Dropped, Depth::Ejected];
        // Somebody is healthy, but full: that is no reason to ask one that is not.
        let depths = if closed.is_empty() { &depths[..] } else { &depths[..1] };
        [wanted.avoid, none].into_iter().find_map(|avoid| {
            let (policy, around, rng, hash) = (&members.policy, wanted.around, &self.rng, wanted.hash);
            let choosing = Choosing { policy, avoid, around, rng, hash, point, closed, now };
            let at = |depth| subsets.iter().find_map(|subset| subset.pick(depth, &choosing, &members.state));
            depths.iter().copied().find_map(at)
        })
    }

    fn has_healthy(&self, service: &ServiceKey, port: u16, labels: &Labels, lane: Option<&Lane>) -> bool {
        let Some(members) = self.members(service, port) else { return false };
        let now = self.latest.load(Relaxed);
        members.subset(labels, lane).has_healthy(now)
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self, service: &ServiceKey, port: u16) -> u32 {
        let Some(members) = self.members(service, port) else { return 0 };
        let of_endpoints = members.all().iter().map(|m| m.health.in_flight()).sum::<u32>();
        assert!(members.state.counts().0 >= of_endpoints, "the service counts what its endpoints count");
        members.state.counts().0.max(members.state.counts().1)
    }
}

fn nanos(origin: Instant, now: Instant) -> u64 {
    nanos_of(now.saturating_duration_since(origin))
}

impl Availability for Pools {
    fn is_available(&self, backend: &Backend, lane: Option<&Lane>) -> bool {
        match backend {
            Backend::Address { .. } => true,
            Backend::Service { service, port, labels, .. } => self.has_healthy(service, *port, labels, lane),
        }
    }
}

impl Picker for Pools {
    fn pick(&self, wanted: &Wanted<'_>, now: Instant) -> Result<Box<dyn Picked>, &'static str> {
        Pools::pick(self, wanted, now).map(|pick| Box::new(pick) as Box<dyn Picked>)
    }
}

impl Pick {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.member.endpoint
    }

    /// It has a connection to the endpoint.
    pub fn connected(&mut self) {
        if !self.connected {
            self.connected = true;
            self.members.state.connected();
        }
    }

    /// Says how it went.
    pub fn finish(self, result: TryResult, latency: Duration, now: Instant) {
        let (now, latency) = (nanos(self.origin, now), nanos_of(latency));
        let Self { members, member, begun, .. } = &self;
        match result {
            TryResult::Success => {
                members.state.answered(&members.policy.breaker, latency, now);
                if member.health.succeed(*begun, latency, now) {
                    members.state.changed();
                }
            }
            TryResult::Failure => {
                if member.health.fail(*begun, latency, now, &members.policy.outliers) {
                    members.eject(member, now);
                }
            }
            TryResult::ConnectFailure => members.eject_surely(member, now),
            TryResult::Abandoned | TryResult::Unreached => {}
        }
    }
}

impl Picked for Pick {
    fn endpoint(&self) -> &Arc<Endpoint> {
        Pick::endpoint(self)
    }

    fn is_probe(&self) -> bool {
        self.probe
    }

    fn connected(&mut self) {
        Pick::connected(self);
    }

    fn finish(self: Box<Self>, result: TryResult, latency: Duration, now: Instant) {
        Pick::finish(*self, result, latency, now);
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.member.health.end(self.probe);
        self.members.state.end(!self.connected);
    }
}
