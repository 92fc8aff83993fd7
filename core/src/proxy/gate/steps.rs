//! The steps of a request that are not one of pingora's callbacks: admission, local answers, the record at the end.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::{HeaderValue, StatusCode, header};
use pingora_error::Result;
use pingora_proxy::Session;

use super::{
    Gate,
    context::{Asked, Context},
    deadline,
    failure::{self, Failure},
    forwarded::Believed,
    grpc, head, hop,
    mirror::Means,
    present::Present,
    trace,
};
use crate::{
    decide::{Caller, LocalAnswer, Outcome, RequestHead, lane_from_baggage},
    model::Lane,
    proxy::{Arrival, Entry, RequestEnd},
};

impl Gate {
    /// Checks, cleans and decides. `Ok(None)`: the request goes on.
    pub(super) fn admit(&self, session: &mut Session, context: &mut Context) -> Result<Option<LocalAnswer>> {
        let Some(mut arrival) = context.arrival.clone() else {
            return Err(Failure::new(500, "internal").error());
        };
        let asked = context.asked.insert(asked(session));
        let checked = head::check(session.req_header(), &asked.host, &self.limits);
        let present = Present::of(&session.req_header().headers);
        context.present = present;
        let checked = checked.and_then(|()| match present.of_one_connection {
            true => hop::clean_request(session.req_header_mut()),
            false => Ok(()),
        });
        if let Err(failure) = checked {
            session.set_keepalive(None);
            head::identify(session.req_header_mut(), trace::request_id)?;
            return Ok(Some(refusal(failure)));
        }
        let hops = self.limits.trusted_hops;
        let believed = (present.forwarded && hops > 0 && matches!(&*arrival.entry, Entry::Edge(_)))
            .then(|| Believed::of(&session.req_header().headers, hops, self.limits.trusted_field));
        // It goes no further than to the decision: what enters is stripped of it.
        let claimed = present.baggage.then(|| lane_from_baggage(&session.req_header().headers)).flatten();
        self.enter(session, context, &arrival)?;
        if let Some(page) = self.director.challenge(session.req_header().uri.path()) {
            return Ok(Some(context.prove(&page)));
        }
        if let Some(believed) = believed {
            let client = believed.client;
            believed.write(session.req_header_mut(), arrival.peer)?;
            if let Some(client) = client {
                // Its port is not known. From here on, the client is who the trusted proxies say it is.
                let peer = SocketAddr::new(client, 0);
                arrival = Arc::new(Arrival { peer, ..(*arrival).clone() });
                context.arrival = Some(arrival.clone());
            }
        }
        let host = context.asked.as_ref().map_or("", |asked| &asked.host);
        let outcome = self.decide(session, host, &arrival, claimed.as_ref());
        match outcome {
            Outcome::Local(answer) => Ok(Some(answer)),
            Outcome::Forward(decision) => {
                let asked = present.timeout.then(|| deadline::asked(&session.req_header().headers)).flatten();
                context.deadline = deadline::bound(asked, decision.timeouts.request, context.begun);
                context.decision = Some(decision);
                Ok(None)
            }
        }
    }

    /// Changes the head as decided.
    pub(super) fn depart(&self, session: &mut Session, context: &Context) -> Result<()> {
        match &context.decision {
            Some(decision) => head::apply(session.req_header_mut(), decision, context.present),
            None => Ok(()),
        }
    }

    /// Takes away what must not be believed, and adds what those behind us rely on.
    fn enter(&self, session: &mut Session, context: &mut Context, arrival: &Arrival) -> Result<()> {
        let request = session.req_header_mut();
        let present = context.present;
        if present.crumbs {
            head::join_cookies(request)?;
        }
        match &*arrival.entry {
            Entry::Edge(_) => {
                let client = arrival.peer.ip().to_canonical();
                head::enter_edge(request, client, arrival.tls, present, trace::request_id)?;
            }
            Entry::Outbound { .. } | Entry::Passed => {
                request.remove_header(&head::CLIENT_CERT);
            }
            Entry::Inbound | Entry::Captured { .. } => {
                let own = self.upstream.own_id();
                head::enter_inbound(request, own.as_ref(), arrival.identity.as_ref())?;
            }
        }
        // The application behind a sidecar has its sidecar's span for a parent; whoever is behind the edge is called by it.
        let calls = matches!(&*arrival.entry, Entry::Edge(_));
        context.trace = Some(trace::enter(request, calls, |parent| self.observer.records(parent))?);
        Ok(())
    }

    /// Copies of the request, as many as the decision asks for and there is room.
    pub(super) fn begin_mirrors(&self, session: &mut Session, context: &mut Context) {
        // One whose time is over is not sent at all.
        let mirrored = context.decision.as_deref().filter(|decision| !decision.mirrors.is_empty());
        let Some(decision) = mirrored.filter(|_| !context.is_late(Instant::now())) else { return };
        let empty = session.is_body_empty();
        let snapshot = self.snapshot.load();
        let means = Means { picker: &self.picker, upstream: &self.upstream, config: &snapshot.config };
        let (head, client) = (session.req_header(), context.arrival.as_ref());
        let copies = self.mirrors.begin(head, empty, decision, client, &means);
        context.mirrors = copies;
    }

    fn decide(&self, session: &Session, host: &str, arrival: &Arrival, claimed: Option<&Lane>) -> Outcome {
        let request = session.req_header();
        // Said by ourselves at the edge, or by those whom we trust.
        let scheme = head::forwarded_scheme(&request.headers);
        let head = RequestHead {
            scheme,
            host,
            method: &request.method,
            path: request.uri.path(),
            query: request.uri.query(),
            headers: &request.headers,
        };
        let caller = Caller { claimed_lane: claimed, ..arrival.caller(trace::random()) };
        self.director.direct(&self.snapshot.load(), arrival, &head, &caller)
    }

    pub(super) async fn answer(
        &self,
        session: &mut Session,
        context: &mut Context,
        answer: LocalAnswer,
    ) -> Result<()> {
        context.failure = Some(Failure::new(answer.status.as_u16(), answer.reason));
        context.local_route = answer.route;
        context.local_verdict = answer.verdict;
        context.missed = answer.missed;
        let (mut head, body) = failure::plain_answer(answer.status)?;
        let body = match context.page.take() {
            Some(page) => {
                head.set_content_length(page.len())?;
                page
            }
            None => body,
        };
        for (name, value) in answer.headers {
            head.append_header(name, value)?;
        }
        failure::send(session, head, body).await
    }

    pub(super) fn observe(&self, session: &Session, context: &Context, status: u16) {
        let request = session.req_header();
        let text = |name| request.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        let Some(asked) = &context.asked else { return };
        let tries = &context.tries;
        self.observer.request(&RequestEnd {
            arrival: context.arrival.as_deref(),
            method: &asked.method,
            host: &asked.host,
            path: &asked.path,
            version: asked.version,
            status,
            reason: context.failure.map(|failure| failure.reason),
            decision: context.decision.as_deref(),
            route: context.local_route.as_deref(),
            endpoint: tries.endpoint.as_deref(),
            upstream: tries.address,
            tries: tries.made,
            duration: context.begun.elapsed(),
            last_try: tries.begun.map(|begun| begun.saturating_duration_since(context.begun)),
            upstream_latency: tries.latency,
            received: session.body_bytes_read() as u64,
            sent: session.body_bytes_sent() as u64 + context.sent,
            request_id: text(head::REQUEST_ID),
            trace_id: context.trace.as_ref().map(trace::Spot::trace_id),
            span: context.trace.as_ref().and_then(|trace| trace.span.as_ref()),
            grpc: grpc::is_call(&request.headers).then(|| grpc::ended(session, context.grpc_status)),
            user_agent: text(header::USER_AGENT),
            verdict: context.verdict(),
            missed: context.missed.as_deref(),
        });
    }
}

fn asked(session: &Session) -> Asked {
    let request = session.req_header();
    Asked {
        method: request.method.clone(),
        host: head::host(request).unwrap_or_default().into(),
        path: request.uri.path().into(),
        version: request.version,
    }
}

fn refusal(failure: Failure) -> LocalAnswer {
    LocalAnswer {
        status: StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_REQUEST),
        headers: Vec::new(),
        reason: failure.reason,
        route: None,
        policies: Default::default(),
        verdict: None,
        missed: None,
    }
}
