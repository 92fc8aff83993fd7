//! TrafficPolicies at the edge: what applies to a request, and what of it can be judged by its head alone.

mod access;
mod auth;
mod fault;
mod jwt;
mod service;
mod table;

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderName;

use super::{ProxyVersion, Timeouts};

pub use access::{Blocks, Cidr, CidrError, IpAccess};
pub use auth::{AuthProtocol, ExternalAuth};
pub use fault::{Fault, Harm, Share};
pub use jwt::{Jwt, JwtProvider, KeySource, TokenSource};
pub(crate) use service::ServicePolicies;
pub use service::{
    Algorithm, Balancing, Breaker, HashKey, Localities, Outliers, RetryBudget, ServicePolicy, hash_of_address,
};
pub(crate) use table::{Layers, PolicyTable};

/// What the TrafficPolicies of one target say, each field as a whole. What is absent is said by a less specific target,
/// or by nobody.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EdgePolicy {
    /// Which clients may come in. Judged by the decision itself.
    pub access: Option<Arc<IpAccess>>,
    /// How large requests may be. The head is judged by the decision itself.
    pub limits: Option<RequestLimits>,
    /// Client connections at a time.
    pub connections: Option<Arc<ConnectionLimit>>,
    /// How many requests a client may send.
    pub rate: Option<Arc<RateLimit>>,
    /// Tokens that requests have to carry.
    pub jwt: Option<Arc<Jwt>>,
    /// A server that is asked about each request.
    pub external_auth: Option<Arc<ExternalAuth>>,
    /// How responses are compressed.
    pub compression: Option<Arc<Compression>>,
    /// Of services: which endpoint a request goes to.
    pub balancing: Option<Arc<Balancing>>,
    /// Of services: how load moves between tiers.
    pub localities: Option<Localities>,
    /// Of services: who is ejected.
    pub outliers: Option<Outliers>,
    /// Of services: how much is sent at a time.
    pub breaker: Option<Breaker>,
    /// Of services: tries beyond the first.
    pub retries: Option<RetryBudget>,
    /// Of services: bounds of time where the route says nothing.
    pub timeouts: Option<Timeouts>,
    /// Of services: what is done to some requests on purpose.
    pub fault: Option<Arc<Fault>>,
    /// The PROXY protocol that the Service is spoken to by.
    pub announce: Option<ProxyVersion>,
}

impl EdgePolicy {
    /// This one, and where it says nothing, the other.
    pub(crate) fn or(&self, other: &Self) -> Self {
        Self {
            access: self.access.clone().or_else(|| other.access.clone()),
            limits: self.limits.or(other.limits),
            connections: self.connections.clone().or_else(|| other.connections.clone()),
            rate: self.rate.clone().or_else(|| other.rate.clone()),
            jwt: self.jwt.clone().or_else(|| other.jwt.clone()),
            external_auth: self.external_auth.clone().or_else(|| other.external_auth.clone()),
            compression: self.compression.clone().or_else(|| other.compression.clone()),
            balancing: self.balancing.clone().or_else(|| other.balancing.clone()),
            localities: self.localities.or(other.localities),
            outliers: self.outliers.or(other.outliers),
            breaker: self.breaker.or(other.breaker),
            retries: self.retries.or(other.retries),
            timeouts: self.timeouts.or(other.timeouts),
            fault: self.fault.clone().or_else(|| other.fault.clone()),
            announce: self.announce.or(other.announce),
        }
    }

    /// What it says of a service as such; none: nothing.
    pub(crate) fn service_policy(&self) -> Option<ServicePolicy> {
        let policy = ServicePolicy {
            balancing: self.balancing.as_deref().cloned().unwrap_or_default(),
            localities: self.localities.unwrap_or_default(),
            outliers: self.outliers.unwrap_or_default(),
            breaker: self.breaker.unwrap_or_default(),
            retries: self.retries.unwrap_or_default(),
            timeouts: self.timeouts.unwrap_or_default(),
            fault: self.fault.clone(),
        };
        (policy != ServicePolicy::default()).then_some(policy)
    }

    /// Takes what is not yet said from a policy with the same target; the names of the fields that both say.
    pub(crate) fn take(&mut self, younger: &Self) -> Vec<&'static str> {
        let both = [
            ("ipAccess", self.access.is_some() && younger.access.is_some()),
            ("requestLimits", self.limits.is_some() && younger.limits.is_some()),
            ("maxConnections", self.connections.is_some() && younger.connections.is_some()),
            ("rateLimit", self.rate.is_some() && younger.rate.is_some()),
            ("jwt", self.jwt.is_some() && younger.jwt.is_some()),
            ("externalAuth", self.external_auth.is_some() && younger.external_auth.is_some()),
            ("compression", self.compression.is_some() && younger.compression.is_some()),
            ("loadBalancer", self.balancing.is_some() && younger.balancing.is_some()),
            ("locality", self.localities.is_some() && younger.localities.is_some()),
            ("outlierDetection", self.outliers.is_some() && younger.outliers.is_some()),
            ("circuitBreaker", self.breaker.is_some() && younger.breaker.is_some()),
            ("retryBudget", self.retries.is_some() && younger.retries.is_some()),
            ("timeouts", self.timeouts.is_some() && younger.timeouts.is_some()),
            ("fault", self.fault.is_some() && younger.fault.is_some()),
            ("proxyProtocol", self.announce.is_some() && younger.announce.is_some()),
        ];
        *self = self.or(younger);
        both.into_iter().filter(|(_, both)| *both).map(|(name, _)| name).collect()
    }
}

/// What applies to one request: the policies of its service, its rule and its listener. Of each field the first that
/// says something counts. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policies {
    service: Option<Arc<EdgePolicy>>,
    rule: Option<Arc<EdgePolicy>>,
    /// Of the listener with what holds for its whole Gateway, or for its whole ListenerSet.
    listener: Option<Arc<EdgePolicy>>,
    /// Of the Gateway that a ListenerSet is attached to.
    gateway: Option<Arc<EdgePolicy>>,
}

impl Policies {
    /// The same for everything, for those who test what is done with it.
    pub fn all(policy: EdgePolicy) -> Self {
        Self { listener: Some(Arc::new(policy)), ..Self::default() }
    }

    fn first<'a, T>(&'a self, field: impl Fn(&'a EdgePolicy) -> Option<T>) -> Option<T> {
        [&self.service, &self.rule, &self.listener, &self.gateway]
            .into_iter()
            .flatten()
            .find_map(|policy| field(policy))
    }

    /// Which clients may come in.
    pub fn access(&self) -> Option<&Arc<IpAccess>> {
        self.first(|policy| policy.access.as_ref())
    }

    /// How large requests may be; nothing is bounded where no policy says so.
    pub fn limits(&self) -> RequestLimits {
        self.first(|policy| policy.limits).unwrap_or_default()
    }

    /// Client connections at a time.
    pub fn connections(&self) -> Option<&Arc<ConnectionLimit>> {
        self.first(|policy| policy.connections.as_ref())
    }

    /// How many requests a client may send.
    pub fn rate(&self) -> Option<&Arc<RateLimit>> {
        self.first(|policy| policy.rate.as_ref())
    }

    /// Tokens that requests have to carry.
    pub fn jwt(&self) -> Option<&Arc<Jwt>> {
        self.first(|policy| policy.jwt.as_ref())
    }

    /// A server that is asked about each request.
    pub fn external_auth(&self) -> Option<&Arc<ExternalAuth>> {
        self.first(|policy| policy.external_auth.as_ref())
    }

    /// How responses are compressed.
    pub fn compression(&self) -> Option<&Arc<Compression>> {
        self.first(|policy| policy.compression.as_ref())
    }

    /// True if nothing is asked of the request.
    pub fn is_empty(&self) -> bool {
        [&self.service, &self.rule, &self.listener, &self.gateway].into_iter().all(Option::is_none)
    }

    /// A line for each of what is asked of the request, in the order in which it is, for people.
    pub(crate) fn request_lines(&self) -> impl Iterator<Item = String> {
        let RequestLimits { body_bytes, header_bytes, header_count } = self.limits();
        let most = |what: &str, most: Option<String>| most.map(|most| format!("{what}: at most {most}"));
        [
            self.access().map(|_| "client address: permitted by a list".into()),
            most("header bytes", header_bytes.map(|n| n.to_string())),
            most("header fields", header_count.map(|n| n.to_string())),
            most("request body bytes", body_bytes.map(|n| n.to_string())),
            self.connections().map(|limit| format!("client connections: at most {limit}")),
            self.jwt().map(|jwt| format!("token of {jwt}")),
            self.rate().map(|limit| format!("rate limit: {limit}")),
            self.external_auth().map(|auth| format!("ask {auth}")),
        ]
        .into_iter()
        .flatten()
    }

    /// The same of what is done to the answer.
    pub(crate) fn response_lines(&self) -> impl Iterator<Item = String> {
        self.compression().map(|compression| format!("compress: {compression}")).into_iter()
    }
}

/// Bounds of a request; none where absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of the body; 413 above.
    pub body_bytes: Option<u64>,
    /// Bytes of all header names and values together; 431 above.
    pub header_bytes: Option<u32>,
    /// Header fields; 431 above.
    pub header_count: Option<u32>,
}

/// Client connections at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// `NAMESPACE/NAME` of the policy: what it targets is counted together.
    pub policy: Arc<str>,
    /// So many.
    pub most: u32,
}

impl fmt::Display for ConnectionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (TrafficPolicy {})", self.most, self.policy)
    }
}

/// A token bucket for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// `NAMESPACE/NAME` of the policy: what it targets shares its buckets.
    pub policy: Arc<str>,
    /// Tokens that come in each `per`.
    pub requests: u32,
    /// In this time.
    pub per: Duration,
    /// Tokens that a bucket holds.
    pub burst: u32,
    /// What has a bucket of its own.
    pub key: RateKey,
}

/// What has a bucket of its own. Where a request has not got it, its client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address; of IPv6, its /64.
    Client,
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// A claim of the verified token.
    Claim(Box<str>),
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, requests, per, burst, key } = self;
        write!(f, "{requests} in {per:?}, {burst} at once, for each ")?;
        match key {
            RateKey::Client => f.write_str("client address")?,
            RateKey::Header(name) => write!(f, "value of header {name}")?,
            RateKey::Cookie(name) => write!(f, "value of cookie {name}")?,
            RateKey::Claim(name) => write!(f, "value of claim {name}")?,
        }
        write!(f, " (TrafficPolicy {policy})")
    }
}

/// How responses are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// In order of preference.
    pub algorithms: Box<[Coding]>,
    /// Content types in lower case; one that ends in `/` stands for all of its type.
    pub content_types: Box<[Box<str>]>,
    /// Responses whose length is known to be less stay as they are.
    pub min_bytes: u64,
}

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// As it stands in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.algorithms.iter().map(|coding| coding.name()).collect();
        write!(f, "{}, from {} bytes", names.join(", "), self.min_bytes)
    }
}
