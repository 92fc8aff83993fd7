//! TrafficPolicy (`tombolo.dev/v1alpha1`): what the edge asks of requests before they are sent on.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    CapacitySpec, CircuitBreakerSpec, ExternalAuthSpec, FaultSpec, HealthCheckSpec, InboundSpec, JwtSpec,
    LoadBalancerSpec, LocalitySpec, OutlierSpec, RetryBudgetSpec, RouteTimeouts,
};

/// TrafficPolicy: limits, access and encoding for what it targets.
///
/// Each field beside `targetRefs` counts as a whole. Of several policies that cover a request the one with the most
/// specific target wins, field by field: a Service, then a rule, a route, a listener, a ListenerSet, a Gateway. Answers
/// made here, such as redirects, are bounded by `rateLimit` and `maxConnections` as well.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicy {
    /// What it applies to, 1 to 16, in its own namespace.
    pub target_refs: Vec<TrafficTargetRef>,
    /// Which clients may come in.
    #[serde(default)]
    pub ip_access: Option<IpAccessSpec>,
    /// How large requests may be.
    #[serde(default)]
    pub request_limits: Option<RequestLimitsSpec>,
    /// Client connections at a time in one gateway whose requests are under this policy, at least 1. A request on one
    /// more is answered 503, and its connection closed.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// How many requests a client may send.
    #[serde(default)]
    pub rate_limit: Option<RateLimitSpec>,
    /// How many requests all proxies of the cluster let through together.
    #[serde(default)]
    pub shared_rate_limit: Option<SharedRateLimitSpec>,
    /// Tokens that requests have to carry.
    #[serde(default)]
    pub jwt: Option<JwtSpec>,
    /// A server that is asked about each request.
    #[serde(default)]
    pub external_auth: Option<ExternalAuthSpec>,
    /// How responses are compressed.
    #[serde(default)]
    pub compression: Option<CompressionSpec>,
    /// Of Services only: which endpoint a request goes to.
    #[serde(default)]
    pub load_balancer: Option<LoadBalancerSpec>,
    /// Of Services only: how load moves between near and far endpoints.
    #[serde(default)]
    pub locality: Option<LocalitySpec>,
    /// Of Services only: which endpoints are left alone for what is seen of them.
    #[serde(default)]
    pub outlier_detection: Option<OutlierSpec>,
    /// Of Services only: how endpoints are asked for their health.
    #[serde(default)]
    pub health_check: Option<HealthCheckSpec>,
    /// Of Services only: how much is sent at a time.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreakerSpec>,
    /// Of Services only: how many tries there may be beyond the first.
    #[serde(default)]
    pub retry_budget: Option<RetryBudgetSpec>,
    /// Of Services only: bounds of time where the route of a request says nothing.
    #[serde(default)]
    pub timeouts: Option<RouteTimeouts>,
    /// Of Services only: what is done to some requests on purpose, to try their callers.
    #[serde(default)]
    pub fault: Option<FaultSpec>,
    /// Of Services only: what their workloads take in. Their sidecars see to it.
    #[serde(default)]
    pub inbound: Option<InboundSpec>,
    /// Of Services only: how many requests other clusters may send to this cluster's endpoints. Their callers are told.
    #[serde(default)]
    pub capacity: Option<CapacitySpec>,
    /// Connections to the Service's endpoints begin with a PROXY header that names the client: over HTTP, TLSRoutes and
    /// TCPRoutes, before TLS. Only where every target is a Service; endpoints in the mesh get none.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// What a policy applies to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTargetRef {
    /// Empty for a Service, else `gateway.networking.k8s.io`.
    #[serde(default)]
    pub group: String,
    /// `Gateway`, `ListenerSet`, `HTTPRoute`, `GRPCRoute` or `Service`.
    pub kind: String,
    /// Its name, in the policy's namespace.
    pub name: String,
    /// A listener of the Gateway or ListenerSet, or a rule of the route by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Addresses or blocks in CIDR notation. The address is the client's, after PROXY protocol and trusted hops.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpAccessSpec {
    /// Only these come in; everybody where empty.
    #[serde(default)]
    pub allow: Vec<String>,
    /// These do not, also where they are allowed.
    #[serde(default)]
    pub deny: Vec<String>,
}

/// Bounds of a request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestLimitsSpec {
    /// Bytes of the body; 413 above.
    #[serde(default)]
    pub body_bytes: Option<u64>,
    /// Bytes of all header names and values together; 431 above.
    #[serde(default)]
    pub header_bytes: Option<u32>,
    /// Header fields; 431 above.
    #[serde(default)]
    pub header_count: Option<u32>,
}

/// A token bucket for each key, kept in each proxy by itself: in gateways, and of Services also in the sidecars of their
/// callers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitSpec {
    /// Requests in each `per`, 1 to 1,000,000.
    pub requests: u32,
    /// Duration, 1s to 24h; one second where absent.
    #[serde(default)]
    pub per: Option<String>,
    /// Requests that may come at once, 1 to 1,000,000; `requests` where absent.
    #[serde(default)]
    pub burst: Option<u32>,
    /// What has a bucket of its own; the client's address where absent.
    #[serde(default)]
    pub key: RateKeySpec,
}

/// One bound for the whole cluster: gateways, and of Services also the sidecars of their callers, work with shares of it
/// that the controller deals out by what each is asked for. A share that nobody renews is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharedRateLimitSpec {
    /// Requests in each `per`, of all clients through all proxies, 1 to 1,000,000,000.
    pub requests: u32,
    /// Duration, 1s to 24h; one second where absent.
    #[serde(default)]
    pub per: Option<String>,
    /// Requests that may be saved up, by all together, 1 to 1,000,000,000; `requests` where absent.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Refused, with the reason: shares are dealt out of one bound for all.
    #[serde(default)]
    pub key: Option<Value>,
}

/// The key of a bucket: exactly one, or none for the client's address. A request without the header, cookie or claim
/// is counted by its client's address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateKeySpec {
    /// The client's address; of IPv6, its /64.
    #[serde(default, rename = "clientIP")]
    pub client_ip: Option<bool>,
    /// The value of this header.
    #[serde(default)]
    pub header: Option<String>,
    /// The value of this cookie.
    #[serde(default)]
    pub cookie: Option<String>,
    /// This claim of the verified token; nested ones with dots.
    #[serde(default)]
    pub jwt_claim: Option<String>,
}

/// Compression of responses.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompressionSpec {
    /// In order of preference; `zstd`, `br`, `gzip` where empty.
    #[serde(default)]
    pub algorithms: Vec<CompressionAlgorithm>,
    /// Content types, `TYPE/*` for all of a type; texts, JSON, JavaScript, XML, SVG and WebAssembly where empty.
    #[serde(default)]
    pub content_types: Vec<String>,
    /// Shorter responses stay as they are; 1024 where absent.
    #[serde(default)]
    pub min_bytes: Option<u64>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocolVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionAlgorithm {
    /// RFC 1952.
    Gzip,
    /// Brotli, RFC 7932.
    Br,
    /// RFC 8878.
    Zstd,
}
