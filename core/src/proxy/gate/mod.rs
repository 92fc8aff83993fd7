//! HTTP through pingora: its callbacks, each of which calls one leaf module. Read [`Gate`] from top to bottom to follow
//! a request.

mod attempt;
mod budget;
mod context;
mod deadline;
mod exchange;
mod failure;
mod forwarded;
mod grpc;
mod head;
mod hop;
mod mirror;
mod policy;
mod present;
mod steps;
mod trace;

use std::{
    ops::Deref,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use pingora_core::{modules::http::HttpModules, protocols::Digest, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

pub use deadline::asked as time_asked;
pub(crate) use trace::log_id;
pub(super) use trace::random;

pub(super) use policy::{Crowds, Places};

use attempt::Sent;
use budget::Budgets;
pub(super) use context::Context;
use exchange::{answered, fate, is_cancelled, keep_alive, sent};
use failure::{CLIENT_CLOSED, Failure};
use mirror::Mirrors;
use policy::PolicyState;

use super::upstream::for_upgrade;
use super::{Director, EngineParts, HttpLimits, MeshUpstream, Observer, Picker, TryResult, connection::Link};
use crate::model::Snapshot;

/// What is done with every request, by whichever loop it is driven.
#[derive(Clone)]
pub(super) struct Gate(Arc<Shared>);

/// What every request needs.
pub(super) struct Shared {
    snapshot: Arc<ArcSwap<Snapshot>>,
    director: Arc<dyn Director>,
    picker: Arc<dyn Picker>,
    upstream: Arc<MeshUpstream>,
    observer: Arc<dyn Observer>,
    mirrors: Mirrors,
    budgets: Budgets,
    policies: PolicyState,
    limits: HttpLimits,
}

impl Deref for Gate {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Gate {
    /// One for each engine.
    pub fn new(parts: EngineParts, limits: HttpLimits, crowds: Arc<Crowds>) -> Self {
        Self(Arc::new(Shared {
            snapshot: parts.snapshot,
            director: parts.director,
            picker: parts.picker,
            upstream: parts.upstream,
            observer: parts.observer,
            mirrors: Mirrors::default(),
            budgets: Budgets::default(),
            policies: PolicyState::new(parts.quotas, crowds),
            limits,
        }))
    }

    /// A part of the request's body has come, in the order in which it is sent.
    pub fn request_part(&self, body: Option<&Bytes>, end: bool, context: &mut Context) -> Result<()> {
        if let Err(failure) = context.policy.body(body) {
            context.failure = Some(failure);
            return Err(failure.error().into_down());
        }
        if let Some(stream) = &context.stream {
            stream.body_moved(body.map_or(0, Bytes::len), end);
        }
        context.mirrors.body(body, end);
        Ok(())
    }

    /// True if one more try is within the service's budget. After a probe of an ejected endpoint it costs nothing.
    fn may_spend(&self, context: &Context, probing: bool) -> bool {
        let decision = context.decision.as_deref();
        probing
            || decision.is_none_or(|decision| {
                self.budgets.retry(&decision.backend, decision.retry.budget, Instant::now())
            })
    }

    /// Where to try next, after the pause that belongs there.
    async fn next_try(&self, session: &Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let upgrade = session.is_upgrade_req();
        context.policy.begin_try();
        match (&context.decision, attempt::pause(context)) {
            (_, Some(pause)) => tokio::time::sleep(pause).await,
            (Some(decision), None) if context.tries.made == 0 => {
                self.budgets.request(&decision.backend, context.begun);
                if let Some(fault) = decision.delay {
                    tokio::time::sleep(context.left().map_or(fault, |left| left.min(fault))).await;
                }
            }
            _ => {}
        }
        let next = attempt::next(context, &*self.picker, &self.upstream, upgrade);
        let next = if upgrade { next.map(for_upgrade) } else { next };
        next.map(Box::new).map_err(|failure| {
            context.failure = Some(failure);
            failure.error()
        })
    }
}

#[async_trait]
impl ProxyHttp for Gate {
    /// Boxed: it would lie several times over in the engine's future of a request, which is moved twice.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        let mut context = Box::new(Context::new());
        context.unlogged = context.stream.is_some().then(|| self.observer.clone());
        context
    }

    /// No module is used: not even the compression that is there by default.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// The head is read: its deadline ends.
    async fn early_request_filter(&self, session: &mut Session, context: &mut Box<Context>) -> Result<()> {
        let digest = session.digest().and_then(|digest| digest.proxy_digest.as_ref());
        let link = digest.and_then(|proxy| proxy.user_data.as_ref()?.downcast_ref::<Link>());
        if let Some(link) = link {
            link.head.reading.store(false, Ordering::Relaxed);
            context.arrival = Some(link.arrival.clone());
            context.head = Some(link.head.clone());
        }
        session.set_read_timeout(Some(self.limits.body_idle));
        session.set_write_timeout(Some(self.limits.write_stall));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Box<Context>) -> Result<bool> {
        match self.admit(session, context)? {
            None => {
                // Boxed, as all here that only some requests need.
                if policy::governs(context) && Box::pin(self.is_refused(session, context)).await? {
                    return Ok(true);
                }
                self.depart(session, context)?;
                self.begin_mirrors(session, context);
                Ok(false)
            }
            Some(answer) => {
                let answer = self.bounded(session, context, answer);
                Box::pin(self.answer(session, context, answer)).await.map(|()| true)
            }
        }
    }

    /// The first try is chosen here: where there is nobody to try, the client's connection outlives the answer, which it does
    /// not once the engine has begun with tries.
    async fn proxy_upstream_filter(&self, session: &mut Session, context: &mut Box<Context>) -> Result<bool> {
        context.tries.first = Some(self.next_try(session, context).await?);
        Ok(true)
    }

    /// Called for every try.
    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Box<Context>,
    ) -> Result<Box<HttpPeer>> {
        context.tries.begun_with = true;
        match context.tries.first.take() {
            Some(first) => Ok(first),
            None => self.next_try(session, context).await,
        }
    }

    /// Called for every try, with a head of its own.
    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Box<Context>,
    ) -> Result<()> {
        deadline::pass_on(request, context)
    }

    /// pingora relays no 1xx from HTTP/2: a client that waits to be told to go on is told here.
    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        context: &mut Box<Context>,
    ) -> Result<()> {
        if let Some(pick) = &mut context.tries.pick {
            pick.connected();
        }
        context.tries.fate = digest.and_then(fate);
        if let Some(fate) = &context.tries.fate {
            fate.begin();
        }
        let expects = session.req_header().headers.contains_key(header::EXPECT);
        if expects && super::upstream::is_http2(peer) {
            context.keepalive = session.get_keepalive();
            Box::pin(session.write_continue_response()).await?;
            session.req_header_mut().remove_header(&header::EXPECT);
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<Context>,
    ) -> Result<()> {
        self.request_part(body.as_ref(), end, context)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Box<Context>,
        mut error: Box<Error>,
    ) -> Box<Error> {
        context.failure = Some(failure::classify(&error));
        let again = attempt::connect_failed(context, &self.upstream, &error);
        error.set_retry(again);
        error
    }

    /// The first look at a response: it may be thrown away for another try.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Box<Context>,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let status = response.status.as_u16();
        context.tries.latency = context.tries.begun.map(|begun| begun.elapsed());
        if attempt::wants_other(context, response, &sent(session))
            && self.may_spend(context, context.is_probing())
        {
            context.tries.discarded = true;
            let mut error = Error::explain(ErrorType::HTTPStatus(status), "tried again for its status");
            error.as_up();
            return Err(error);
        }
        context.tries.status = Some(status);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Box<Context>,
    ) -> Result<()> {
        keep_alive(session, response, context);
        hop::clean_response(response);
        if !response.status.is_informational() {
            context.body_settled();
            if context.is_at_edge() {
                head::tell_request_id(&session.req_header().headers, response)?;
            }
        }
        let Some(decision) = &context.decision else { return Ok(()) };
        head::edit_response(response, &decision.filters.response)?;
        head::allow_origin(response, decision.cors.as_deref())?;
        if let Some(cookie) = &decision.set_cookie {
            response.append_header(header::SET_COOKIE, cookie)?;
        }
        attempt::keep_session(decision, context.tries.endpoint.as_deref(), response)?;
        context.policy.respond(response)
    }

    /// A response that trickles beyond the request's total time is cut.
    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        _body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if !end && !session.was_upgraded() && context.is_late(Instant::now()) {
            let failure = Failure::new(504, "request_timeout");
            context.failure = Some(failure);
            return Err(failure.error());
        }
        Ok(None)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        context.policy.respond_part(body, end)?;
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        context: &mut Box<Context>,
    ) -> Result<()> {
        context.grpc_status = grpc::status(trailers);
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Box<Context>,
        reused: bool,
    ) -> Box<Error> {
        context.mirrors.stop();
        if context.failure.is_none() {
            context.failure = Some(match error.etype() {
                ErrorType::HTTPStatus(status) => Failure::new(*status, "upstream_status"),
                _ => failure::classify(&error),
            });
        }
        let again = if context.tries.discarded {
            attempt::end_try(context, TryResult::Failure);
            true
        } else {
            let probing = context.is_probing();
            let free = attempt::is_unprocessed(&error) || context.tries.is_untouched();
            attempt::broke(context, &self.upstream, &error, &Sent { reused, ..sent(session) })
                && (free || self.may_spend(context, probing))
        };
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Box<Context>,
    ) -> FailToProxy {
        let failure = *context.failure.get_or_insert_with(|| failure::classify(error));
        if let Some(status) = answered(session) {
            return FailToProxy { error_code: status, can_reuse_downstream: false };
        }
        let gone = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if failure.status == CLIENT_CLOSED {
            return gone;
        }
        // Where the request was read to its end, the connection is as good as before. The engine itself closes it after a try.
        let reusable = session.is_body_done() && !context.tries.begun_with;
        if !reusable {
            session.set_keepalive(None);
        }
        let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let sending = async {
            let (head, body) = failure::plain_answer(status)?;
            failure::send(session, head, body).await
        };
        match sending.await {
            Ok(()) => FailToProxy { error_code: failure.status, can_reuse_downstream: reusable },
            Err(_) => gone,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Box<Context>) {
        attempt::end_try(context, attempt::result(context, &self.upstream, error));
        let status = match (answered(session), context.failure) {
            (Some(status), _) => status,
            (None, Some(failure)) => failure.status,
            (None, None) => CLIENT_CLOSED,
        };
        if let Some(stream) = context.stream.as_ref().filter(|_| is_cancelled(error)) {
            stream.cancel();
        }
        context.unlogged = None;
        self.observe(session, context, status);
    }

    /// The access log says it, with the reason; a line per failure beside it would only cost.
    fn suppress_error_log(&self, _session: &Session, _context: &Box<Context>, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _context: &Box<Context>,
        _error: &Error,
        _at: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
