//! What is remembered of a request from its head to its end.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use pingora_core::upstreams::peer::HttpPeer;

use super::{
    failure::Failure,
    mirror::Copies,
    policy::Progress,
    present::Present,
    trace::{Spot, log_id},
};
use crate::{
    decide::{Decision, LocalAnswer, MissedArm, Verdict},
    model::Endpoint,
    proxy::{
        Arrival, Entry, Observer, Picked, RequestEnd,
        connection::{Fate, HeadState},
        stream::{STREAM, StreamState},
    },
};

/// One request's state.
pub(in crate::proxy) struct Context {
    pub begun: Instant,
    pub arrival: Option<Arc<Arrival>>,
    /// What its connection knows of it.
    pub head: Option<Arc<HeadState>>,
    /// The request as it came, kept as the head is changed later.
    pub asked: Option<Asked>,
    /// Fields that its head had as it came.
    pub present: Present,
    pub decision: Option<Box<Decision>>,
    /// The end of the request's total time.
    pub deadline: Option<Instant>,
    pub tries: Tries,
    /// What ended the request, where we know better than the error says; also the reason of an answer made here.
    pub failure: Option<Failure>,
    /// The route of an answer made here.
    pub local_route: Option<Arc<str>>,
    /// How AuthorizationPolicies judged a request that is answered here.
    pub local_verdict: Option<Verdict>,
    pub missed: Option<Box<MissedArm>>,
    pub trace: Option<Spot>,
    /// The `grpc-status` of a call's answer, as far as it has come.
    pub grpc_status: Option<u16>,
    /// The body of an answer made here, where it is not just its status in words.
    pub page: Option<Bytes>,
    /// Copies of the body on their way.
    pub mirrors: Copies,
    /// What policies remember.
    pub policy: Progress,
    /// The stream, if it came over HTTP/2.
    pub stream: Option<Arc<StreamState>>,
    /// Bytes of the answer's body that the engine does not count.
    pub sent: u64,
    /// How many seconds the client's connection was to be kept before it was told to send its body.
    pub keepalive: Option<u64>,
    /// Who is to be told if the request's future is dropped before its end.
    pub unlogged: Option<Arc<dyn Observer>>,
}

/// A request as it came, for the access log.
pub(in crate::proxy) struct Asked {
    pub method: Method,
    pub host: Box<str>,
    pub path: Box<str>,
    pub version: Version,
}

/// The tries of a request.
#[derive(Default)]
pub(in crate::proxy) struct Tries {
    /// How many were begun.
    pub made: u8,
    /// The first, chosen before the engine asks for it.
    pub first: Option<Box<HttpPeer>>,
    /// The engine has begun with them.
    pub begun_with: bool,
    /// Endpoints that have failed.
    pub avoid: Vec<Arc<str>>,
    /// Clusters through whose gateways no answer came.
    pub around: Vec<Arc<str>>,
    /// One of them was a probe of an ejected endpoint, which costs the request nothing.
    pub probed: bool,
    /// The place held for the current try.
    pub pick: Option<Box<dyn Picked>>,
    /// Addresses tried for the picked endpoint.
    pub addresses: Vec<SocketAddr>,
    /// The last endpoint, and the address connected to.
    pub endpoint: Option<Arc<Endpoint>>,
    pub address: Option<SocketAddr>,
    /// When the current try began.
    pub begun: Option<Instant>,
    /// From there to the response's head.
    pub latency: Option<Duration>,
    /// The status of the response that was passed on.
    pub status: Option<u16>,
    /// A response was thrown away in order to try again.
    pub discarded: bool,
    /// What becomes of the request on its connection, where that is HTTP/1.1.
    pub fate: Option<Arc<Fate>>,
}

impl Tries {
    /// True if the last endpoint has certainly not begun with the request.
    pub fn is_untouched(&self) -> bool {
        self.fate.as_ref().is_some_and(|fate| fate.is_untouched())
    }
}

/// A request whose future is dropped came over HTTP/2, and its body did not come in. The client sees a reset.
impl Drop for Context {
    fn drop(&mut self) {
        let (Some(observer), Some(asked)) = (self.unlogged.take(), &self.asked) else { return };
        observer.request(&RequestEnd {
            arrival: self.arrival.as_deref(),
            method: &asked.method,
            host: &asked.host,
            path: &asked.path,
            version: asked.version,
            status: 408,
            reason: Some("client_too_slow"),
            decision: self.decision.as_deref(),
            route: self.local_route.as_deref(),
            endpoint: self.tries.endpoint.as_deref(),
            upstream: self.tries.address,
            tries: self.tries.made,
            duration: self.begun.elapsed(),
            last_try: self.tries.begun.map(|begun| begun.saturating_duration_since(self.begun)),
            upstream_latency: self.tries.latency,
            received: 0,
            sent: 0,
            request_id: Some(&log_id()),
            trace_id: self.trace.as_ref().map(Spot::trace_id),
            span: self.trace.as_ref().and_then(|trace| trace.span.as_ref()),
            grpc: None,
            user_agent: None,
            verdict: self.verdict(),
            missed: None,
        });
    }
}

impl Context {
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            arrival: None,
            head: None,
            asked: None,
            present: Present::default(),
            decision: None,
            deadline: None,
            tries: Tries::default(),
            failure: None,
            local_route: None,
            local_verdict: None,
            missed: None,
            trace: None,
            grpc_status: None,
            page: None,
            mirrors: Copies::default(),
            policy: Progress::default(),
            stream: STREAM.try_with(Arc::clone).ok(),
            sent: 0,
            keepalive: None,
            unlogged: None,
        }
    }

    /// The answer to a certificate authority's challenge.
    pub fn prove(&mut self, page: &str) -> LocalAnswer {
        self.page = Some(Bytes::copy_from_slice(page.as_bytes()));
        LocalAnswer {
            status: StatusCode::OK,
            headers: Vec::new(),
            reason: "acme_challenge",
            route: None,
            policies: Default::default(),
            verdict: None,
            missed: None,
        }
    }

    /// The answer has begun: from now on the request's body may come in as slowly as it likes.
    pub fn body_settled(&self) {
        if let Some(head) = &self.head {
            head.answered.store(true, Ordering::Relaxed);
        }
        if let Some(stream) = &self.stream {
            stream.body_settled();
        }
    }

    /// True if it came in from outside.
    pub fn is_at_edge(&self) -> bool {
        self.arrival.as_ref().is_some_and(|arrival| matches!(&*arrival.entry, Entry::Edge(_)))
    }

    /// How AuthorizationPolicies judged it.
    pub fn verdict(&self) -> Option<&Verdict> {
        let decided = self.decision.as_ref().and_then(|decision| decision.verdict.as_ref());
        decided.or(self.local_verdict.as_ref())
    }

    /// What is left of the request's total time, where it has a bound.
    pub fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// True if the request's total time is over.
    pub fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// True if the present try is the one that finds out whether an ejected endpoint answers again.
    pub fn is_probing(&self) -> bool {
        !self.tries.probed && self.tries.pick.as_ref().is_some_and(|pick| pick.is_probe())
    }

    /// True if one more try is allowed by number and time.
    pub fn may_try_again(&self) -> bool {
        let allowed = self.decision.as_ref().map_or(0, |decision| decision.retry.attempts);
        let probed = self.tries.probed || self.is_probing();
        self.tries.made <= allowed.saturating_add(u8::from(probed)) && !self.is_late(Instant::now())
    }
}
