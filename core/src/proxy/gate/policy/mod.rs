//! What TrafficPolicies ask of a request, carried out. What its head alone decides has been decided before.

mod auth;
mod compress;
mod jwks;
mod jwt;
mod places;
mod rate;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora_error::{ErrorType::InternalError, OrErr, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

pub(in crate::proxy) use places::{Crowds, Places};

use super::{
    Gate,
    context::Context,
    failure::{self, Failure},
};
use crate::{
    decide::{Compression, LocalAnswer, Policies, TokenSource},
    jwt::Claims,
    proxy::connection::Link,
    quota::{Quotas, Taken},
};
use compress::{Encoder, Wish};
use rate::{Asker, Buckets};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What an engine remembers for its policies, over all requests.
pub(in crate::proxy) struct PolicyState {
    buckets: Buckets,
    quotas: Arc<Quotas>,
    crowds: Arc<Crowds>,
    client: auth::Client,
    key_sets: jwks::KeySets,
}

impl PolicyState {
    /// Nothing yet, but the process's shares of limits. Raw TCP counts in the same crowds.
    pub fn new(quotas: Arc<Quotas>, crowds: Arc<Crowds>) -> Self {
        Self {
            quotas,
            buckets: Buckets::default(),
            crowds,
            client: Default::default(),
            key_sets: Default::default(),
        }
    }
}

/// What is remembered for one request.
#[derive(Default)]
pub(in crate::proxy) struct Progress {
    /// Bytes that the body may have, where it is bounded.
    body_most: Option<u64>,
    /// Bytes of it that this try has sent.
    body_seen: u64,
    /// For the response.
    rate: Vec<(HeaderName, HeaderValue)>,
    /// How the response may be compressed.
    compression: Option<(Arc<Compression>, Wish)>,
    encoder: Option<Encoder>,
    /// Set where the answer has ended with its head, and so has nothing that could be compressed.
    head_only: bool,
    /// What an authorization server adds to the response.
    response: Vec<auth::Change>,
    /// Of the verified token.
    claims: Option<Claims>,
    /// A token that the backend is not to see.
    used_token: Option<TokenSource>,
    /// Held until the request ends, where requests in flight are bounded.
    in_flight: Places,
}

/// An answer to a request that does not go on.
pub(super) struct Refusal {
    status: StatusCode,
    reason: &'static str,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The status in words where absent.
    body: Option<Bytes>,
}

impl Refusal {
    fn plain(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason, headers: Vec::new(), body: None }
    }

    /// With what somebody else wants the client to see.
    fn of(
        status: StatusCode,
        reason: &'static str,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Self {
        Self { status, reason, headers, body: Some(body) }
    }
}

/// True if there is something that [`Gate::is_refused`] has to ask.
pub(super) fn governs(context: &Context) -> bool {
    let decision = context.decision.as_deref();
    decision.is_some_and(|d| d.filters.external_auth.is_some() || !d.policies.is_empty())
}

impl Gate {
    /// Asks what the decision's policies and filters ask, and answers where the request does not go on: then true.
    pub(super) async fn is_refused(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let Some(decision) = context.decision.as_deref() else { return Ok(false) };
        let filter = decision.filters.external_auth.clone();
        let (policies, route) = (decision.policies.clone(), decision.route.clone());
        let mut refusal = self.bound(session, context, &policies);
        if let (Some(jwt), None) = (policies.jwt(), &refusal) {
            refusal = self.check_token(session, context, jwt).await?;
        }
        refusal = refusal.or_else(|| self.count(session, context, &policies));
        for auth in [policies.external_auth(), filter.as_ref()].into_iter().flatten() {
            if refusal.is_none() {
                refusal = self.authorize(session, context, auth).await?;
            }
        }
        let Some(refusal) = refusal else {
            if let Some(from) = context.policy.used_token.take() {
                jwt::strip(session.req_header_mut(), &from)?;
            }
            return Ok(false);
        };
        let Refusal { status, reason, headers, body } = refusal;
        let Some(body) = body else {
            let answer = LocalAnswer {
                status,
                headers,
                reason,
                route: Some(route),
                policies: Default::default(),
                verdict: None,
                missed: None,
            };
            return self.answer(session, context, answer).await.map(|()| true);
        };
        context.failure = Some(Failure::new(status.as_u16(), reason));
        let mut head = ResponseHeader::build(status, Some(headers.len() + 1))?;
        for (name, value) in headers {
            head.append_header(name, value)?;
        }
        head.set_content_length(body.len())?;
        failure::send(session, head, body).await.map(|()| true)
    }

    /// An answer made here, or the one of a policy whose bound the request is past.
    pub(super) fn bounded(
        &self,
        session: &mut Session,
        context: &mut Context,
        mut answer: LocalAnswer,
    ) -> LocalAnswer {
        let policies = std::mem::take(&mut answer.policies);
        if policies.is_empty() {
            return answer;
        }
        let refusal = self.crowd(session, &policies).or_else(|| self.count(session, context, &policies));
        match refusal {
            Some(Refusal { status, reason, headers, .. }) => {
                LocalAnswer { status, reason, headers, ..answer }
            }
            None => {
                answer.headers.append(&mut context.policy.rate);
                answer
            }
        }
    }

    /// No place is left for the client's connection.
    fn crowd(&self, session: &mut Session, policies: &Policies) -> Option<Refusal> {
        let limit = policies.connections()?;
        if link(session).is_none_or(|link| self.policies.crowds.connections.admit(limit, &link.places)) {
            return None;
        }
        session.set_keepalive(None);
        Some(Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, places::CONNECTIONS))
    }

    /// What is bounded.
    fn bound(&self, session: &mut Session, context: &mut Context, policies: &Policies) -> Option<Refusal> {
        let most = policies.limits().body_bytes;
        if most.is_some_and(|most| content_length(session).is_some_and(|length| length > most)) {
            session.set_keepalive(None);
            return Some(Refusal::plain(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
        }
        context.policy.body_most = most;
        if let Some(refusal) = self.crowd(session, policies) {
            return Some(refusal);
        }
        let requests = &self.policies.crowds.requests;
        if policies.requests().is_some_and(|limit| !requests.admit(limit, &context.policy.in_flight)) {
            return Some(Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, places::REQUESTS));
        }
        context.policy.compression =
            policies.compression().map(|policy| (policy.clone(), Wish::of(session.req_header(), policy)));
        None
    }

    /// What is counted: by this proxy, then by all proxies together.
    fn count(&self, session: &Session, context: &mut Context, policies: &Policies) -> Option<Refusal> {
        let now = Instant::now();
        let client = context.arrival.as_ref().map(|arrival| arrival.caller(0).address);
        if let (Some(limit), Some(client)) = (policies.rate(), client) {
            let headers = &session.req_header().headers;
            let asker = Asker { headers, claims: context.policy.claims.as_ref(), client };
            let taken = self.policies.buckets.take(limit, &asker, now);
            let named = Named { name: "default", requests: limit.requests, per: limit.per };
            if let Some(refusal) = named.count(&taken, &mut context.policy.rate, "rate_limited") {
                return Some(refusal);
            }
        }
        let limit = policies.shared()?;
        let taken = self.policies.quotas.take(limit, now)?;
        let named = Named { name: "shared", requests: limit.requests, per: limit.per };
        named.count(&taken, &mut context.policy.rate, "shared_rate_limited")
    }
}

impl Progress {
    /// Another try sends the body from its begin.
    pub fn begin_try(&mut self) {
        self.body_seen = 0;
        self.head_only = false;
    }

    /// The answer ends with its head.
    pub fn ends_with_head(&mut self) {
        self.head_only = true;
    }

    /// Counts a part of the body.
    pub fn body(&mut self, body: Option<&Bytes>) -> Result<(), Failure> {
        self.body_seen = self.body_seen.saturating_add(body.map_or(0, |body| body.len() as u64));
        match self.body_most {
            Some(most) if self.body_seen > most => Err(Failure::new(413, "body_too_large")),
            _ => Ok(()),
        }
    }

    /// Adds to a response what policies say of it.
    pub fn respond(&mut self, response: &mut ResponseHeader) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        if !self.rate.is_empty() {
            // What the backend says of limits of its own is not what its client meets.
            response.remove_header(&RATE_LIMIT);
            response.remove_header(&RATE_LIMIT_POLICY);
        }
        for (name, value) in self.rate.drain(..) {
            // Lists: one member for each limit.
            response.append_header(name, value)?;
        }
        for change in self.response.drain(..) {
            change.respond(response)?;
        }
        if let Some((compression, wish)) = &self.compression {
            // What has no body is only said to depend on what the client accepts.
            let coding = wish.coding.filter(|_| !self.head_only);
            self.encoder = compress::begin(response, compression, Wish { coding })?;
        }
        Ok(())
    }

    /// Changes a part of a response's body.
    pub fn respond_part(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<()> {
        match &mut self.encoder {
            Some(encoder) => encoder.part(body, end).or_err(InternalError, "a response cannot be compressed"),
            None => Ok(()),
        }
    }
}

fn link(session: &Session) -> Option<&Link> {
    session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

fn content_length(session: &Session) -> Option<u64> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A limit as clients are told of it. It has one name for everybody: its real one is nothing for the outside.
struct Named {
    name: &'static str,
    requests: u32,
    per: Duration,
}

impl Named {
    /// Adds to the fields of the answer, which are those of a refusal where the request is one too many.
    fn count(
        &self,
        taken: &Taken,
        fields: &mut Vec<(HeaderName, HeaderValue)>,
        reason: &'static str,
    ) -> Option<Refusal> {
        fields.extend(self.fields(taken));
        if taken.allowed {
            return None;
        }
        let mut headers = std::mem::take(fields);
        headers.push((header::RETRY_AFTER, seconds_up(taken.retry_in).max(1).into()));
        Some(Refusal { headers, ..Refusal::plain(StatusCode::TOO_MANY_REQUESTS, reason) })
    }

    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
    fn fields(&self, taken: &Taken) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let Self { name, requests, per } = self;
        let policy = format!("\"{name}\";q={requests};w={}", seconds_up(*per));
        let rate = format!("\"{name}\";r={};t={}", taken.remaining, seconds_up(taken.full_in));
        // Digits and quotes always make a valid value.
        let field = |name, text: String| HeaderValue::try_from(text).ok().map(|value| (name, value));
        [field(RATE_LIMIT_POLICY, policy), field(RATE_LIMIT, rate)].into_iter().flatten()
    }
}

fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
