//! TrafficPolicies at the edge: what applies to a request, and what of it can be judged by its head alone.

mod access;
mod auth;
mod fault;
mod health;
mod jwt;
mod rate;
mod service;
mod table;

use std::{fmt, sync::Arc};

pub use access::{Blocks, Cidr, CidrError, IpAccess};
pub use auth::{AuthProtocol, ExternalAuth};
pub use fault::{Fault, Harm, Share};
pub use health::{HealthCheck, HealthQuestion};
pub use jwt::{Jwt, JwtProvider, KeySource, TokenSource};
pub use rate::{RateKey, RateLimit, SharedLimit};
pub use service::{
    Algorithm, Balancing, Breaker, HashKey, Localities, Outliers, RetryBudget, ServicePolicy, hash_of_address,
};
pub(crate) use service::{ServiceFields, ServicePolicies};
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
    pub connections: Option<Arc<CountLimit>>,
    /// Requests in flight.
    pub requests: Option<Arc<CountLimit>>,
    /// How many requests a client may send.
    pub rate: Option<Arc<RateLimit>>,
    /// How many requests all proxies of the cluster let through together.
    pub shared: Option<Arc<SharedLimit>>,
    /// Tokens that requests have to carry.
    pub jwt: Option<Arc<Jwt>>,
    /// A server that is asked about each request.
    pub external_auth: Option<Arc<ExternalAuth>>,
    /// How responses are compressed.
    pub compression: Option<Arc<Compression>>,
}

/// Policies whose fields count each as a whole, with the names that documents have for them.
macro_rules! told_by_field {
    ($type:ident { $($field:ident $name:literal),* $(,)? }) => {
        impl $type {
            /// Takes what is not yet said from a policy with the same target; the names of the fields that both say.
            pub(crate) fn take(&mut self, younger: &Self) -> Vec<&'static str> {
                let mut both = Vec::new();
                $(match (&self.$field, &younger.$field) {
                    (Some(_), Some(_)) => both.push($name),
                    (None, said) => self.$field.clone_from(said),
                    (Some(_), None) => {}
                })*
                both
            }
        }
    };
}
pub(crate) use told_by_field;

told_by_field!(EdgePolicy {
    access "ipAccess",
    limits "requestLimits",
    connections "maxConnections",
    requests "maxRequests",
    rate "rateLimit",
    shared "sharedRateLimit",
    jwt "jwt",
    external_auth "externalAuth",
    compression "compression",
});

impl EdgePolicy {
    /// This one, and where it says nothing, the other.
    pub(crate) fn or(mut self, other: &Self) -> Self {
        self.take(other);
        self
    }

    /// What of it holds for calls inside the mesh as well; none: nothing.
    pub(crate) fn in_mesh(&self) -> Option<Self> {
        let within = Self { rate: self.rate.clone(), shared: self.shared.clone(), ..Self::default() };
        (within != Self::default()).then_some(within)
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
    /// Those of a service alone: of a call inside the mesh.
    pub(crate) fn of_service(service: Arc<EdgePolicy>) -> Self {
        Self { service: Some(service), ..Self::default() }
    }

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
    pub fn connections(&self) -> Option<&Arc<CountLimit>> {
        self.first(|policy| policy.connections.as_ref())
    }

    /// Requests in flight.
    pub fn requests(&self) -> Option<&Arc<CountLimit>> {
        self.first(|policy| policy.requests.as_ref())
    }

    /// How many requests a client may send.
    pub fn rate(&self) -> Option<&Arc<RateLimit>> {
        self.first(|policy| policy.rate.as_ref())
    }

    /// How many requests all proxies of the cluster let through together.
    pub fn shared(&self) -> Option<&Arc<SharedLimit>> {
        self.first(|policy| policy.shared.as_ref())
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
            self.shared().map(|limit| format!("shared rate limit: {limit}")),
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

/// How many there may be at a time: client connections, or requests in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountLimit {
    /// `NAMESPACE/NAME` of the policy: what it targets is counted together.
    pub policy: Arc<str>,
    /// So many.
    pub most: u32,
}

impl fmt::Display for CountLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (TrafficPolicy {})", self.most, self.policy)
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
