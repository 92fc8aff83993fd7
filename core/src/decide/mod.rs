//! THE decision: from a snapshot, a request's head and who is calling, to what is to be done with it.
//!
//! Everything here is a pure function: no I/O, no lock, no clock of its own. The proxies only carry out what comes
//! out, and `tombolo explain` calls the very same functions, so what it says is what happens.

mod acme;
mod answer;
mod authorize;
mod backend_tls;
mod compile;
mod compiled;
mod cors;
mod deciding;
mod explain;
mod filters;
mod forward;
mod gray;
mod hash;
mod head;
mod host;
mod inbound;
mod lane;
mod matcher;
mod policy;
mod preview;
mod proxied;
mod redirect;
mod route;
mod rule;
mod sample;
mod services;
mod session;
mod stream;
mod table;
mod trace;
mod trust;

pub use acme::{
    ACME_ISSUER, AcmeAuthority, AcmeCertificate, AcmeChallengeType, AcmeProgress, AcmeUrgency, DnsUpdate,
    Hidden, TsigAlgorithmName, TsigKey,
};
pub use answer::{
    ArmReason, Backend, Decision, Filters, HeaderEdits, LocalAnswer, Mirror, MissedArm, Outcome, PathRewrite,
    Retry, Rewrite, Timeouts,
};
pub use authorize::{Basis, InboundWorkload, Judgement, Verdict, authorize};
pub use backend_tls::{BackendName, BackendTls, BackendTrust, ProxyVersion, ShownCertificate, UpstreamTls};
pub use compile::{acme_certificates, acme_status, compile, compile_at};
pub use compiled::{
    Availability, Bind, BindKey, ClientValidation, Compiled, Listener, ListenerProtocol, Place,
    SnapshotAvailability,
};
pub(crate) use cors::OriginPattern;
pub use cors::{CORS_FIELDS, Cors, CorsAnswer};
pub use deciding::Deciding;
pub use explain::{ExplainedResult, Explanation, Lost, explain_authorize, explain_edge, explain_mesh};
pub use gray::CookieKey;
pub(crate) use gray::{cookie, cookies};
pub(crate) use hash::NameHash;
pub use head::{Caller, RequestHead};
pub use inbound::{InboundMode, InboundPolicy, PlaintextRule, inbound_limits, inbound_plaintext};
pub use lane::{BAGGAGE, LANE_MEMBER, TRUST_CLIENT_LANE, baggage_with_lane, carries_lane, lane_from_baggage};
pub use policy::{
    Algorithm, AuthProtocol, Balancing, Blocks, Breaker, Cidr, CidrError, Coding, Compression, CountLimit,
    EdgePolicy, ExternalAuth, Fault, Harm, HashKey, HealthCheck, HealthQuestion, IpAccess, Jwt, JwtProvider,
    KeySource, Localities, Outliers, Policies, RateKey, RateLimit, RequestLimits, RetryBudget, ServicePolicy,
    Share, SharedLimit, TokenSource, hash_of_address,
};
pub use preview::{ChangeKind, Example, Preview, preview};
pub use proxied::{PROXY_PROTOCOL, PROXY_PROTOCOL_FROM, Proxied};
pub use route::{decide_edge, decide_host, decide_mesh};
pub use sample::{Named, Part, Sample};
pub use session::{Session, Sticky, Token, endpoint_key};
pub use stream::{StreamDecision, decide_stream};
pub use trust::carries;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(crate) use matcher::percent_decode;
