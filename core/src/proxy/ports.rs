//! What the engine needs of its neighbours: someone who picks endpoints, and someone who is told what happened.

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;

use super::{Arrival, Copied};
use crate::{
    decide::{Backend, Decision, MissedArm, Verdict},
    model::{Endpoint, Labels, Lane, ServiceKey},
};

/// Which endpoint is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The service.
    pub service: &'a ServiceKey,
    /// Its port.
    pub port: u16,
    /// Labels that the endpoint must have; empty: any.
    pub labels: &'a Labels,
    /// The request's lane; none: the baseline.
    pub lane: Option<&'a Lane>,
    /// The key of the endpoint that the client's session is with: taken where it can serve.
    pub prefer: Option<u64>,
    /// What spreads requests of a service whose TrafficPolicy asks for consistent hashing.
    pub hash: Option<u64>,
    /// Ids of endpoints that have failed this request already: taken only where no other is left.
    pub avoid: &'a [Arc<str>],
    /// Clusters through whose gateways a try of this request got no answer: what is behind gateways of them comes last.
    pub around: &'a [Arc<str>],
}

/// Picks endpoints: `balance`, as the engine sees it.
pub trait Picker: Send + Sync + 'static {
    /// Picks one, and holds a place on it until the pick is finished or dropped. The error is a short reason for the
    /// access log, e.g. `no_endpoint` or `unknown_service`.
    fn pick(&self, wanted: &Wanted<'_>, now: Instant) -> Result<Box<dyn Picked>, &'static str>;
}

/// A place held on an endpoint. Dropped without [`Picked::finish`]: cancelled, which says nothing of the endpoint.
pub trait Picked: Send + Sync {
    /// The endpoint.
    fn endpoint(&self) -> &Arc<Endpoint>;
    /// It was ejected, and this request is to find out whether it answers again.
    fn is_probe(&self) -> bool {
        false
    }

    /// There is a connection: the request does not wait for one any more.
    fn connected(&mut self) {}
    /// Says how it went; `latency` is the time to the response's head, or to the failure.
    fn finish(self: Box<Self>, result: TryResult, latency: Duration, now: Instant);
}

/// How a try on an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryResult {
    /// It answered, and not with a server error.
    Success,
    /// It answered with a server error, broke off, or was too slow.
    Failure,
    /// No connection to it: nothing was sent.
    ConnectFailure,
    /// None of the gateways in front of it took a connection: that says nothing of the endpoint.
    Unreached,
    /// The client went away, or was refused, before the end: that says nothing of the endpoint.
    Abandoned,
}

/// The trace that a request belongs to, before it is decided whether a span of it is recorded.
#[derive(Debug, Clone, Copy)]
pub struct TraceParent {
    /// Its id.
    pub trace: u128,
    /// Whether the span that caused the request is recorded; none: that was left open, or the trace begins here.
    pub sampled: Option<bool>,
}

/// A span that is recorded of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanIds {
    /// Its trace.
    pub trace: u128,
    /// Its own id, which goes on as the parent of what comes next, unless `onward` does.
    pub id: u64,
    /// The id of the span of the call that is made for the request, where that has one of its own.
    pub onward: Option<u64>,
    /// The span that caused the request; none: the trace begins here.
    pub parent: Option<NonZeroU64>,
    /// `tracestate`.
    pub state: Option<Box<str>>,
}

/// Told of every request and every raw connection at its end: access log, metrics and spans. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// Whether a span of a request is recorded; asked when its head has come in.
    fn records(&self, parent: &TraceParent) -> bool {
        let _ = parent;
        false
    }
    /// A request has ended.
    fn request(&self, request: &RequestEnd<'_>);
    /// A raw TCP connection has ended.
    fn tcp(&self, tcp: &TcpEnd<'_>);
}

/// A request that has ended.
#[derive(Debug)]
pub struct RequestEnd<'a> {
    /// Where it came in.
    pub arrival: Option<&'a Arrival>,
    /// Its method.
    pub method: &'a Method,
    /// Host without port, in lower case, as the client sent it.
    pub host: &'a str,
    /// Path without query, as the client sent it.
    pub path: &'a str,
    /// `HTTP/1.1` and so on, downstream.
    pub version: http::Version,
    /// Status that the client got; 499 if it went away before.
    pub status: u16,
    /// Why it did not end well, e.g. `no_route`, `connect_failed`; none if it was forwarded and answered.
    pub reason: Option<&'static str>,
    /// What was decided; none if it was answered here.
    pub decision: Option<&'a Decision>,
    /// The route of an answer made here, if one matched.
    pub route: Option<&'a str>,
    /// The endpoint that answered, or the last one tried.
    pub endpoint: Option<&'a Endpoint>,
    /// The address that was connected to.
    pub upstream: Option<SocketAddr>,
    /// Tries made; 0 if none was needed.
    pub tries: u8,
    /// From the request's head to its end.
    pub duration: Duration,
    /// From the request's head to the last try's start.
    pub last_try: Option<Duration>,
    /// From the last try's start to the response's head.
    pub upstream_latency: Option<Duration>,
    /// Body bytes received from the client.
    pub received: u64,
    /// Body bytes sent to the client.
    pub sent: u64,
    /// `x-request-id`.
    pub request_id: Option<&'a str>,
    /// The id of its trace.
    pub trace_id: Option<&'a str>,
    /// The span that is recorded of it, if one is.
    pub span: Option<&'a SpanIds>,
    /// Where it is a gRPC call: the `grpc-status` that it ended with, if it came that far.
    pub grpc: Option<Option<u16>>,
    /// `user-agent`, where it is visible ASCII.
    pub user_agent: Option<&'a str>,
    /// How AuthorizationPolicies judged it, at the inbound of a workload.
    pub verdict: Option<&'a Verdict>,
    /// The arm that it was for, where that has no healthy endpoint and nobody else takes its requests.
    pub missed: Option<&'a MissedArm>,
}

/// A raw TCP connection that has ended.
#[derive(Debug)]
pub struct TcpEnd<'a> {
    /// Where it came in.
    pub arrival: &'a Arrival,
    /// The listener that took it, `NAMESPACE/GATEWAY/LISTENER`, where a route was found.
    pub listener: Option<&'a str>,
    /// The TLSRoute or TCPRoute that it took.
    pub route: Option<&'a str>,
    /// Its rule, by name or position.
    pub rule: Option<&'a str>,
    /// Where it was to go.
    pub backend: Option<&'a Backend>,
    /// The endpoint it was copied to, if it is one of a service.
    pub endpoint: Option<&'a Endpoint>,
    /// The address that was connected to.
    pub upstream: Option<SocketAddr>,
    /// What went through; none if it was not connected.
    pub copied: Option<&'a Copied>,
    /// Why it did not end well.
    pub reason: Option<&'static str>,
    /// From the accept to the end.
    pub duration: Duration,
    /// How AuthorizationPolicies judged it, at the inbound of a workload.
    pub verdict: Option<&'a Verdict>,
}
