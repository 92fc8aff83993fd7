//! What TrafficPolicies say of a service: how requests are spread over its endpoints, and what keeps both from harm.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName};
use xxhash_rust::xxh3::xxh3_64;

use super::{Fault, HealthCheck, told_by_field};
use crate::{
    decide::{Caller, InboundPolicy, ProxyVersion, Timeouts, cookie},
    model::{Scope, ServiceKey},
    resources::kinds::CapacitySpec,
};

/// All of it for one service. What no policy says is as by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServicePolicy {
    /// Which endpoint a request goes to.
    pub balancing: Balancing,
    /// How load moves between near and far endpoints.
    pub localities: Localities,
    /// Which endpoints are left alone for what is seen of them.
    pub outliers: Outliers,
    /// How endpoints are asked for their health; none: they are not.
    pub check: Option<Arc<HealthCheck>>,
    /// How much is sent at a time.
    pub breaker: Breaker,
    /// How many tries there may be beyond the first.
    pub retries: RetryBudget,
    /// Bounds of time where the route says nothing.
    pub timeouts: Timeouts,
    /// What is done to some requests on purpose.
    pub fault: Option<Arc<Fault>>,
    /// The PROXY protocol that its endpoints outside of the mesh are spoken to by.
    pub announce: Option<ProxyVersion>,
}

/// The same as TrafficPolicies say it, field by field. What is absent, none of them says.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceFields {
    pub(crate) balancing: Option<Balancing>,
    pub(crate) localities: Option<Localities>,
    pub(crate) outliers: Option<Outliers>,
    pub(crate) check: Option<Arc<HealthCheck>>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) retries: Option<RetryBudget>,
    pub(crate) timeouts: Option<Timeouts>,
    pub(crate) fault: Option<Arc<Fault>>,
    pub(crate) announce: Option<ProxyVersion>,
    /// Not for those who call it, but for its workloads.
    pub(crate) inbound: Option<Arc<InboundPolicy>>,
    /// For callers in other clusters: the controller tells them.
    pub(crate) capacity: Option<CapacitySpec>,
}

told_by_field!(ServiceFields {
    balancing "loadBalancer",
    localities "locality",
    outliers "outlierDetection",
    check "healthCheck",
    breaker "circuitBreaker",
    retries "retryBudget",
    timeouts "timeouts",
    fault "fault",
    announce "proxyProtocol",
    inbound "inbound",
    capacity "capacity",
});

impl ServiceFields {
    /// All of it for the service; none: nothing is said.
    pub(crate) fn policy(&self) -> Option<ServicePolicy> {
        let policy = ServicePolicy {
            balancing: self.balancing.clone().unwrap_or_default(),
            localities: self.localities.unwrap_or_default(),
            outliers: self.outliers.unwrap_or_default(),
            check: self.check.clone(),
            breaker: self.breaker.unwrap_or_default(),
            retries: self.retries.unwrap_or_default(),
            timeouts: self.timeouts.unwrap_or_default(),
            fault: self.fault.clone(),
            announce: self.announce,
        };
        (policy != ServicePolicy::default()).then_some(policy)
    }
}

/// Which endpoint a request goes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancing {
    /// The rule.
    pub algorithm: Algorithm,
    /// An endpoint that is new, or back, gets its whole share only after this time; zero: at once.
    pub slow_start: Duration,
    /// Of more endpoints than this (in one tier), one proxy uses so many: those that are its own by rendezvous hashing.
    pub subset: Option<u16>,
}

impl Balancing {
    /// What spreads a request over endpoints, where that is by hash.
    pub(crate) fn hash(&self, headers: &HeaderMap, caller: &Caller<'_>) -> Option<u64> {
        match &self.algorithm {
            Algorithm::Hash(key) => Some(key.of(headers, caller)),
            _ => None,
        }
    }
}

/// The rule by which an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Of two at random, the one with the lower latency (peak-EWMA) times load.
    #[default]
    PeakEwma,
    /// Of two at random, the one with fewer requests in flight for its weight.
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// The same endpoint for the same key (Maglev hashing): of 100 endpoints that one leaves, about one key in 100 moves.
    Hash(HashKey),
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// The client's address.
    Source,
}

impl HashKey {
    /// The key of a request. Where it has not got the header or cookie, its client's address.
    pub fn of(&self, headers: &HeaderMap, caller: &Caller<'_>) -> u64 {
        let value = match self {
            Self::Header(name) => headers.get(name).map(|value| value.as_bytes()),
            Self::Cookie(name) => cookie(headers, name),
            Self::Source => None,
        };
        value.map_or_else(|| hash_of_address(caller.address), xxh3_64)
    }
}

/// The key of a connection that has nothing but its client's address.
pub fn hash_of_address(address: std::net::IpAddr) -> u64 {
    match address.to_canonical() {
        std::net::IpAddr::V4(v4) => xxh3_64(&v4.octets()),
        std::net::IpAddr::V6(v6) => xxh3_64(&v6.octets()),
    }
}

/// How load moves between tiers: zone, region, cluster, other clusters, stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Localities {
    /// A tier keeps all of its load while its healthy share times this (in percent) is at least 100; below, what it cannot
    /// carry goes to the next tier.
    pub overprovisioning: u32,
    /// A tier that is well again gets back so many percent of all load a second; 0: all at once.
    pub fail_back: u32,
}

impl Default for Localities {
    /// Spills over when more than two in seven endpoints are gone; comes back within ten seconds.
    fn default() -> Self {
        Self { overprovisioning: 140, fail_back: 10 }
    }
}

/// Which endpoints are ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outliers {
    /// Failures in a row that eject; 0: never for that.
    pub failures: u32,
    /// The first ejection. Each further one doubles it.
    pub ejection: Duration,
    /// The longest ejection.
    pub longest: Duration,
    /// At most this share of endpoints, in percent, is ejected at a time for what they answer, but always one. An
    /// endpoint that takes no connections is ejected in any case.
    pub most: u8,
    /// How long requests are counted before endpoints are compared.
    pub interval: Duration,
    /// An endpoint whose share of failures is above that of the others by chance no more (z > 4), and by at least so many
    /// percent of its requests, is ejected; 0: never for that.
    pub success_rate: u8,
    /// An endpoint whose mean latency is more than so many times that of the others is ejected; 0: never for that.
    pub latency: u8,
    /// Endpoints with fewer requests in an interval are not compared.
    pub requests: u32,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            failures: 3,
            ejection: Duration::from_secs(1),
            longest: Duration::from_secs(10),
            most: 50,
            interval: Duration::from_secs(10),
            success_rate: 15,
            latency: 0,
            requests: 20,
        }
    }
}

/// How much one proxy sends to a service at a time; none: as much as comes. What is over is answered 503 at once, never
/// queued.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Requests in flight.
    pub requests: Option<u32>,
    /// Requests in flight to one endpoint.
    pub per_endpoint: Option<u32>,
    /// Requests in flight that have no connection yet.
    pub pending: Option<u32>,
    /// A bound on requests in flight that is found by itself: it grows while latency stays near its lowest, and shrinks
    /// with the queue that a rising latency tells of.
    pub adaptive: bool,
}

/// Tries beyond the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// In percent of the requests of the last 10 seconds.
    pub percent: u32,
    /// So many a second are allowed in any case.
    pub per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, per_second: 30 }
    }
}

impl fmt::Display for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.algorithm {
            Algorithm::PeakEwma => f.write_str("peak-EWMA")?,
            Algorithm::LeastRequest => f.write_str("least requests")?,
            Algorithm::RoundRobin => f.write_str("round robin")?,
            Algorithm::Hash(HashKey::Header(name)) => write!(f, "hash of header {name}")?,
            Algorithm::Hash(HashKey::Cookie(name)) => write!(f, "hash of cookie {name}")?,
            Algorithm::Hash(HashKey::Source) => f.write_str("hash of the client's address")?,
        }
        if !self.slow_start.is_zero() {
            write!(f, ", slow start over {:?}", self.slow_start)?;
        }
        self.subset.map_or(Ok(()), |subset| write!(f, ", {subset} endpoints of each tier"))
    }
}

/// The policies of all services that have one.
#[derive(Debug, Default)]
pub(crate) struct ServicePolicies(pub(crate) HashMap<ServiceKey, Arc<ServicePolicy>>);

impl ServicePolicies {
    /// Of a service in either scope.
    pub(crate) fn of(&self, service: &ServiceKey) -> Option<&Arc<ServicePolicy>> {
        match service.scope {
            _ if self.0.is_empty() => None,
            Scope::Cluster => self.0.get(service),
            Scope::Clusterset => self.0.get(&ServiceKey { scope: Scope::Cluster, ..service.clone() }),
        }
    }
}
