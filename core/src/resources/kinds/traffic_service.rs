//! The part of a TrafficPolicy that is for Services: how requests are spread, and what keeps endpoints from harm.

use serde::{Deserialize, Serialize};

/// Which endpoint a request goes to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancerSpec {
    /// The rule; `PeakEWMA` where absent.
    #[serde(default)]
    pub r#type: LoadBalancerType,
    /// What `ConsistentHash` hashes; the client's address where absent.
    #[serde(default)]
    pub hash_key: Option<HashKeySpec>,
    /// An endpoint that is new, or back after an ejection, gets its whole share only after this time. Duration, at most
    /// 15m; none where absent.
    #[serde(default)]
    pub slow_start: Option<String>,
    /// One proxy uses at most so many endpoints of each tier, 2 to 1000, each proxy its own; all where absent.
    #[serde(default)]
    pub subset_size: Option<u16>,
}

/// The rule by which endpoints are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancerType {
    /// Of two at random, the one with the lower latency times load.
    #[default]
    #[serde(rename = "PeakEWMA")]
    PeakEwma,
    /// Of two at random, the one with fewer requests in flight.
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// The same endpoint for the same key (Maglev).
    ConsistentHash,
}

/// What is hashed: exactly one. A request without that header or cookie goes by its client's address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashKeySpec {
    /// The value of this header.
    #[serde(default)]
    pub header: Option<String>,
    /// The value of this cookie.
    #[serde(default)]
    pub cookie: Option<String>,
    /// `true`: the client's address.
    #[serde(default, rename = "sourceIP")]
    pub source_ip: Option<bool>,
}

/// How load moves between zone, region, cluster and other clusters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalitySpec {
    /// A tier keeps all of its load while its healthy share times this is at least 100 percent; what is over goes to the
    /// next tier. 100 to 1000; 140 where absent.
    #[serde(default)]
    pub overprovisioning_percent: Option<u32>,
    /// A tier that is well again takes back so much of all load a second, 0 (at once) to 100; 10 where absent.
    #[serde(default)]
    pub fail_back_percent_per_second: Option<u32>,
}

/// Which endpoints are left alone for what is seen of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierSpec {
    /// Failures in a row, 0 (never) to 1000; 3 where absent. An endpoint that takes no connections is ejected at once.
    #[serde(default)]
    pub consecutive_failures: Option<u32>,
    /// The first ejection, 100ms to 1h; 1s where absent. Each further one lasts twice as long.
    #[serde(default)]
    pub base_ejection: Option<String>,
    /// The longest ejection, up to 24h; 10s where absent.
    #[serde(default)]
    pub max_ejection: Option<String>,
    /// The share of endpoints that are ejected at a time for what they answer, 0 to 100; 50 where absent. Always one.
    #[serde(default)]
    pub max_ejected_percent: Option<u8>,
    /// Requests are counted so long before endpoints are compared, 1s to 10m; 10s where absent.
    #[serde(default)]
    pub interval: Option<String>,
    /// An endpoint of which significantly more requests fail than of the others, and by so many percent at least, is
    /// ejected; 0 (never) to 100; 15 where absent.
    #[serde(default)]
    pub success_rate_percent: Option<u8>,
    /// An endpoint that takes more than so many times as long as the others is ejected; 0 (never) to 100; 0 where absent.
    #[serde(default)]
    pub latency_factor: Option<u8>,
    /// Endpoints with fewer requests in an interval are not compared, 1 to 1,000,000; 20 where absent.
    #[serde(default)]
    pub minimum_requests: Option<u32>,
}

/// How endpoints are asked for their health. Each proxy asks those of a service that it has used within ten minutes, and of
/// these only the ones that it would send to. In the mesh it asks over mutual TLS, as itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheckSpec {
    /// By what; `HTTP` where absent.
    #[serde(default)]
    pub r#type: HealthCheckType,
    /// Of `HTTP`: what GET asks for; `/` where absent.
    #[serde(default)]
    pub path: Option<String>,
    /// Of `HTTP` and `GRPC`: the host that is asked for; the service's name in the mesh where absent.
    #[serde(default)]
    pub host: Option<String>,
    /// Of `HTTP`: statuses of a healthy endpoint, each a number or a range such as `200-299`, at most 16; `200-299` where
    /// empty.
    #[serde(default)]
    pub expected_statuses: Vec<StatusesSpec>,
    /// Of `GRPC`: the service in `HealthCheckRequest`; the whole server where absent.
    #[serde(default)]
    pub service: Option<String>,
    /// Another port of endpoints outside of the mesh; those in the mesh are asked on the port that is called.
    #[serde(default)]
    pub port: Option<u16>,
    /// From one check of an endpoint to the next, 100ms to 1h; 10s where absent.
    #[serde(default)]
    pub interval: Option<String>,
    /// A check that takes longer has failed, 10ms to 1m; 1s where absent.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Checks in a row that bring an endpoint back, 1 to 100; 2 where absent.
    #[serde(default)]
    pub healthy_threshold: Option<u32>,
    /// Failed checks in a row that take an endpoint out, 1 to 100; 3 where absent.
    #[serde(default)]
    pub unhealthy_threshold: Option<u32>,
    /// Each interval is by chance so many percent shorter or longer, 0 to 100; 20 where absent.
    #[serde(default)]
    pub jitter_percent: Option<u8>,
}

/// By what an endpoint is asked for its health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthCheckType {
    /// A GET.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// `grpc.health.v1.Health/Check`.
    #[serde(rename = "GRPC")]
    Grpc,
    /// A connection.
    #[serde(rename = "TCP")]
    Tcp,
}

/// Statuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatusesSpec {
    /// One.
    One(u16),
    /// One, or a range such as `200-299`.
    Range(String),
}

impl StatusesSpec {
    /// The first and the last; none: it says no statuses.
    pub fn bounds(&self) -> Option<(u16, u16)> {
        let (first, last) = match self {
            Self::One(status) => (*status, *status),
            Self::Range(text) => {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                (first.trim().parse().ok()?, last.trim().parse().ok()?)
            }
        };
        (100 <= first && first <= last && last <= 599).then_some((first, last))
    }
}

/// How much each proxy sends to a service at a time. What is over is answered 503 at once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreakerSpec {
    /// Requests (of raw TCP: connections) in flight.
    #[serde(default)]
    pub max_requests: Option<u32>,
    /// Those to one endpoint.
    #[serde(default)]
    pub max_requests_per_endpoint: Option<u32>,
    /// Those that have no connection yet.
    #[serde(default)]
    pub max_pending_requests: Option<u32>,
    /// `true`: a bound on requests in flight that follows from latency.
    #[serde(default)]
    pub adaptive_concurrency: Option<bool>,
}

/// How many tries there may be beyond the first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudgetSpec {
    /// Of the requests of the last ten seconds, 0 to 100; 20 where absent.
    #[serde(default)]
    pub percent: Option<u32>,
    /// So many a second in any case, 0 to 10,000; 30 where absent.
    #[serde(default)]
    pub min_per_second: Option<u32>,
}

/// How many requests a second callers in other clusters may send to this cluster's endpoints of a Service, all of them
/// together: each linked cluster that the Service is exported to is told an equal share. At least one field; of both the
/// lesser holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapacitySpec {
    /// In all, 1 to 10,000,000; each locality has its part by the weight of its healthy endpoints.
    #[serde(default)]
    pub requests_per_second: Option<u32>,
    /// For each endpoint that is healthy, 1 to 10,000,000.
    #[serde(default)]
    pub requests_per_second_per_endpoint: Option<u32>,
}

/// What is done to some requests. At least one of `delay` and `abort`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultSpec {
    /// They wait before they are sent.
    #[serde(default)]
    pub delay: Option<FaultDelaySpec>,
    /// They are answered instead of being sent; those that would wait as well, at once.
    #[serde(default)]
    pub abort: Option<FaultAbortSpec>,
    /// Only requests that have all of these headers, with these very values. At most 16.
    #[serde(default)]
    pub headers: Vec<FaultHeaderSpec>,
}

/// A wait.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelaySpec {
    /// Of so many percent of requests, two decimals.
    pub percent: f64,
    /// So long, 1ms to 1h.
    pub duration: String,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbortSpec {
    /// To so many percent of requests, two decimals.
    pub percent: f64,
    /// With this status, 200 to 599; gRPC calls get the code that stands for it.
    pub status: u16,
}

/// A header and its value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultHeaderSpec {
    /// Name, in any case.
    pub name: String,
    /// Value.
    pub value: String,
}

/// What comes in to the workloads behind a Service, on the ports that the Service leads to. At least one field.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundSpec {
    /// What becomes of plaintext that is redirected to the sidecar; as the sidecar was told at its start where absent.
    #[serde(default)]
    pub mode: Option<InboundModeSpec>,
    /// The same for single ports. At most 64.
    #[serde(default)]
    pub ports: Vec<InboundPortSpec>,
    /// Health checks that are admitted in plaintext, whatever the mode: `GET` and `HEAD` of exactly these paths, `POST` of
    /// `/grpc.health.v1.Health/Check`. At most 16, besides those that the sidecar was told at its start.
    #[serde(default)]
    pub probe_paths: Vec<String>,
    /// Connections to one workload at a time, at least 1. A request on one more is answered 503, and its connection
    /// closed.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Requests (of raw TCP: connections) that one workload has in flight, at least 1. One more is answered 503 at once.
    #[serde(default)]
    pub max_requests: Option<u32>,
}

/// What becomes of plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InboundModeSpec {
    /// It is refused, but for health checks.
    #[serde(alias = "STRICT")]
    Strict,
    /// It is let through, within the AuthorizationPolicies.
    #[serde(alias = "PERMISSIVE")]
    Permissive,
}

/// The mode of one port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundPortSpec {
    /// The Service's port, as callers use it.
    pub port: u16,
    /// What becomes of plaintext on the workload's port that it leads to.
    pub mode: InboundModeSpec,
}
