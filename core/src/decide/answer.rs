//! The decision and its parts. Shared parts are behind `Arc`, so that a decision costs no allocation to hand out.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{Cors, CorsAnswer, ExternalAuth, Policies, RetryBudget, Sticky, UpstreamTls, Verdict};
use crate::model::{AppProtocol, Labels, Lane, ServiceKey};

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Send it on.
    Forward(Box<Decision>),
    /// Answer it here.
    Local(LocalAnswer),
}

/// Where a request goes and everything that is done to it on the way.
#[derive(Debug, Clone)]
pub struct Decision {
    /// e.g. `httproute/shop/checkout`; `service/shop/checkout` where no route applies.
    pub route: Arc<str>,
    /// The rule's name, else its position from 0.
    pub rule: Arc<str>,
    /// The gray release that applied, `NAMESPACE/NAME`.
    pub release: Option<Arc<str>>,
    /// The arm, `stable` or another; none where no release applies.
    pub arm: Option<Arc<str>>,
    /// Why that arm.
    pub reason: ArmReason,
    /// The arm that was chosen, where another takes the request as that one has no healthy endpoint.
    pub unavailable: Option<Arc<str>>,
    /// The lane that the request has from here on: what goes into `baggage`. None: the baseline.
    pub lane: Option<Lane>,
    /// Where it goes.
    pub backend: Backend,
    /// What is changed in the request and response.
    pub filters: Arc<Filters>,
    /// Bounds of time.
    pub timeouts: Timeouts,
    /// What may be tried again.
    pub retry: Retry,
    /// A `Set-Cookie` to add to the response: the gray key that was issued.
    pub set_cookie: Option<HeaderValue>,
    /// What spreads it over endpoints, where the service's TrafficPolicy asks for consistent hashing.
    pub hash: Option<u64>,
    /// It waits so long before it is sent: a fault on purpose.
    pub delay: Option<Duration>,
    /// Copies to send elsewhere.
    pub mirrors: Arc<[Mirror]>,
    /// TLS towards the backend.
    pub tls: UpstreamTls,
    /// The client's session, where its rule keeps clients on their endpoint.
    pub sticky: Option<Box<Sticky>>,
    /// What the answer says to the page that asked, where a CORS filter applies.
    pub cors: Option<Box<CorsAnswer>>,
    /// What TrafficPolicies ask of the request, at the edge.
    pub policies: Policies,
    /// How AuthorizationPolicies judged it, at the inbound of a workload.
    pub verdict: Option<Verdict>,
}

/// Why an arm was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArmReason {
    /// No gray release applies.
    #[default]
    None,
    /// The gray rule of this position forced it.
    Rule(u16),
    /// The request already was in a lane: the arm of that lane, else `stable`.
    Lane,
    /// The client's session is with this arm.
    Session,
    /// The split put the key on its arm. The number is the weight, in hundredths of a percent (0 to 9,999), above
    /// which the key is on the gray arm (exact where the release has one besides `stable`).
    Split(u16),
    /// The arm that was chosen has no healthy endpoint: `whenUnavailable`.
    Unavailable,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Backend {
    /// An endpoint of a service, picked by `balance`.
    Service {
        /// The service.
        service: ServiceKey,
        /// Its port.
        port: u16,
        /// Labels that the endpoint must have (a gray arm's subset); empty: any.
        labels: Arc<Labels>,
        /// What is spoken there.
        protocol: AppProtocol,
    },
    /// One address: the application behind a sidecar.
    Address {
        /// Where.
        address: SocketAddr,
        /// What is spoken there.
        protocol: AppProtocol,
    },
}

/// An answer made here.
#[derive(Debug, Clone)]
pub struct LocalAnswer {
    /// Status.
    pub status: StatusCode,
    /// Headers, e.g. `location`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// A short reason for the access log and metrics, e.g. `no_route`, `rbac_denied`; never shown to the client.
    pub reason: &'static str,
    /// The route that answered, if one matched.
    pub route: Option<Arc<str>>,
    /// TrafficPolicies whose bounds of requests and connections hold for it as well, at the edge.
    pub policies: Policies,
    /// How AuthorizationPolicies judged it, at the inbound of a workload.
    pub verdict: Option<Verdict>,
    /// The arm that it was for, which has no healthy endpoint (`whenUnavailable: fail`).
    pub missed: Option<Box<MissedArm>>,
}

/// An arm that a request was for and did not get to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedArm {
    /// `NAMESPACE/NAME` of the gray release.
    pub release: Arc<str>,
    /// Its arm.
    pub arm: Arc<str>,
}

/// Changes to header fields, applied in the order set, add, remove (Gateway API HTTPHeaderFilter).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits {
    /// Replace or create.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Append.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Remove.
    pub remove: Vec<HeaderName>,
}

/// Gateway API URLRewrite.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    /// New authority.
    pub hostname: Option<Arc<str>>,
    /// New path.
    pub path: Option<PathRewrite>,
}

/// How a path is replaced.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// The whole path; the query stays.
    Full(Arc<str>),
    /// The matched prefix (by segments).
    Prefix {
        /// What matched.
        matched: Arc<str>,
        /// What stands there instead.
        replacement: Arc<str>,
    },
}

/// Everything that is changed on the way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filters {
    /// Request headers.
    pub request: HeaderEdits,
    /// Response headers.
    pub response: HeaderEdits,
    /// URL.
    pub rewrite: Rewrite,
    /// Who may read the answer from pages of other origins.
    pub cors: Option<Arc<Cors>>,
    /// A server that is asked before anything else is done.
    pub external_auth: Option<Arc<ExternalAuth>>,
}

/// Bounds of time that a rule sets. Beside them, the proxy's own apply to every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// From the request's head to the end of the response; none: not bounded.
    pub request: Option<Duration>,
    /// Of one try; none: not bounded, but see [`Timeouts::QUIET`].
    pub attempt: Option<Duration>,
}

impl Timeouts {
    /// These, and where they say nothing, others.
    pub(crate) fn or(self, others: Self) -> Self {
        Self { request: self.request.or(others.request), attempt: self.attempt.or(others.attempt) }
    }

    /// Connecting to an endpoint, with TLS and the HTTP/2 preface where there are such; less where the rule's own bounds
    /// are shorter.
    pub const CONNECT: Duration = Duration::from_secs(2);
    /// An answer that says nothing for so long is given up, also where no timeout is set: server-sent events, long polls
    /// and idle WebSockets live this long between two bytes.
    pub const QUIET: Duration = Duration::from_secs(3600);
    /// A request's body may pause so long.
    pub const BODY_IDLE: Duration = Duration::from_secs(60);
    /// A client that takes nothing of its answer for so long is given up.
    pub const WRITE_STALL: Duration = Duration::from_secs(60);

    /// Every bound that applies to a request, a line each, for people.
    pub(crate) fn lines(&self) -> [String; 6] {
        let set = |what: &str, bound: Option<Duration>| match bound {
            Some(bound) => format!("{what} {bound:?}"),
            None => format!("{what} none (default)"),
        };
        let shortest = self.request.into_iter().chain(self.attempt).min();
        let connect = match shortest.filter(|bound| *bound < Self::CONNECT) {
            Some(bound) => format!("connect {bound:?} (no longer than the attempt)"),
            None => format!("connect {:?} (default)", Self::CONNECT),
        };
        let quiet = match shortest {
            Some(bound) => format!("silence of the backend {bound:?} (no longer than the attempt)"),
            None => format!("silence of the backend {:?} (default)", Self::QUIET),
        };
        [
            set("request", self.request),
            set("attempt", self.attempt),
            connect,
            quiet,
            format!("pause of the request's body {:?} (default)", Self::BODY_IDLE),
            format!("client that takes nothing {:?} (default)", Self::WRITE_STALL),
        ]
    }
}

/// What may be tried again, always on another endpoint where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Tries besides the first, 0 to 15.
    pub attempts: u8,
    /// Status codes that are tried again when the method is idempotent (RFC 9110 section 9.2.2).
    pub codes: Arc<[u16]>,
    /// How long the first try besides the first one waits at least; none: it is made at once, on another endpoint.
    pub backoff: Option<Duration>,
    /// How much of the service's traffic may be such tries.
    pub budget: RetryBudget,
}

impl Default for Retry {
    /// Two more tries on connect failures and, for idempotent methods, on broken connections and 503.
    fn default() -> Self {
        Self {
            attempts: 2,
            codes: Arc::from([503].as_slice()),
            backoff: None,
            budget: RetryBudget::default(),
        }
    }
}

/// A copy of the request, whose answer is dropped.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Where the copy goes.
    pub backend: Backend,
    /// Share of requests, in parts of 10,000.
    pub per_ten_thousand: u16,
}
