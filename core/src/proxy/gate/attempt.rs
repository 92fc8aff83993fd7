//! One try after another: picking an endpoint, and judging whether a failure may be tried again.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use h2::Reason;
use http::Method;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType};

use pingora_http::ResponseHeader;

use super::{
    context::Context,
    failure::{self, Failure},
    trace::random,
};
use crate::{
    decide::{Backend, Decision, Timeouts, endpoint_key},
    model::{AppProtocol, Endpoint, Reach, Transport},
    proxy::{
        DialError, MeshProtocol, MeshUpstream, Picker, TryResult, Wanted,
        upstream::{CONNECT_TIMEOUT, ConnectFailure, plaintext_peer},
    },
};

/// Prepares the next try: whom to connect to, and for how long.
pub(super) fn next(
    context: &mut Context,
    picker: &dyn Picker,
    upstream: &MeshUpstream,
    upgrade: bool,
) -> Result<HttpPeer, Failure> {
    let now = Instant::now();
    let before = context.failure.take();
    if context.is_late(now) {
        return Err(Failure::new(504, "request_timeout"));
    }
    let Some(decision) = context.decision.take() else {
        return Err(Failure::new(500, "internal"));
    };
    let peer = peer(context, &decision, picker, upstream, upgrade);
    context.tries.made = context.tries.made.saturating_add(1);
    context.tries.begun = Some(now);
    context.tries.discarded = false;
    context.tries.latency = None;
    let peer = peer.map(|peer| timed(peer, context, &decision, now, upgrade));
    context.decision = Some(decision);
    // What made the tries before fail says more than that no endpoint is left.
    peer.map_err(|failure| before.unwrap_or(failure))
}

/// A wait before a try that is not the first may grow to this many times the first wait.
const MOST_BACKOFF: u32 = 10;

/// How long the next try has to wait: the route's backoff, doubled with each try, and up to a quarter more by chance, so
/// that not all come back at once. No longer than the request's time, which then is over.
pub(super) fn pause(context: &Context) -> Option<Duration> {
    let again = context.tries.made.checked_sub(1)?;
    let base = context.decision.as_ref()?.retry.backoff?;
    let times = 1_u32.checked_shl(again.into()).map_or(MOST_BACKOFF, |times| times.min(MOST_BACKOFF));
    let wait = base.saturating_mul(times);
    let chance = u32::try_from(random() % 256).unwrap_or_default();
    let wait = wait.saturating_add(wait.saturating_mul(chance) / 1024);
    let left = context.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    Some(left.map_or(wait, |left| left.min(wait)))
}

fn peer(
    context: &mut Context,
    decision: &Decision,
    picker: &dyn Picker,
    upstream: &MeshUpstream,
    upgrade: bool,
) -> Result<HttpPeer, Failure> {
    match &decision.backend {
        Backend::Address { address, protocol } => {
            context.tries.address = Some(*address);
            Ok(plaintext_peer(*address, spoken(*protocol, upgrade), None))
        }
        Backend::Service { service, port, labels, protocol } => {
            let lane = decision.lane.as_ref();
            let endpoint = match &context.tries.pick {
                // Another gateway to the endpoint that was picked before.
                Some(pick) => pick.endpoint().clone(),
                None => {
                    let (avoid, around) = (&context.tries.avoid, &context.tries.around);
                    let prefer = decision.sticky.as_ref().and_then(|sticky| sticky.endpoint(unix_time()));
                    let hash = decision.hash;
                    let wanted = Wanted { service, port: *port, labels, lane, prefer, hash, avoid, around };
                    let pick = picker.pick(&wanted, Instant::now());
                    let pick = pick.map_err(|reason| Failure::new(503, reason))?;
                    context.tries.addresses.clear();
                    context.tries.pick.insert(pick).endpoint().clone()
                }
            };
            let address = upstream.address(&endpoint, &context.tries.addresses, random());
            let address = address.ok_or(Failure::new(503, "no_address"))?;
            let (spoken, client) = (spoken(*protocol, upgrade), context.arrival.as_deref());
            let peer = upstream.peer(&endpoint, address, spoken, &decision.tls, client);
            context.tries.endpoint = Some(endpoint);
            context.tries.address = Some(address);
            peer.map_err(|error| {
                tracing::warn!(%error, "no way to an endpoint");
                match error {
                    DialError::NoIdentity => Failure::new(503, "no_identity"),
                    _ => Failure::new(503, "upstream_config"),
                }
            })
        }
    }
}

/// Tells the client which endpoint its session is with, where it does not know.
pub(super) fn keep_session(
    decision: &Decision,
    endpoint: Option<&Endpoint>,
    response: &mut ResponseHeader,
) -> Result<(), Box<Error>> {
    let (Some(sticky), Some(endpoint)) = (&decision.sticky, endpoint) else { return Ok(()) };
    if let Some((name, value)) = sticky.field(endpoint_key(&endpoint.id), unix_time()) {
        response.append_header(name, value)?;
    }
    Ok(())
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A WebSocket handshake needs HTTP/1.1 all the way.
pub(super) fn spoken(protocol: AppProtocol, upgrade: bool) -> MeshProtocol {
    match protocol {
        AppProtocol::Http2 if !upgrade => MeshProtocol::Http2,
        AppProtocol::Http2 | AppProtocol::Http1 | AppProtocol::Tcp => MeshProtocol::Http1,
    }
}

/// Bounds a try by what is left of the request's time and by the try's own. Both end where a request becomes a tunnel:
/// of an upgrade, only connecting is bounded by them, as pingora cannot lift them afterwards.
fn timed(
    mut peer: HttpPeer,
    context: &Context,
    decision: &Decision,
    now: Instant,
    upgrade: bool,
) -> HttpPeer {
    let remaining = context.deadline.map(|deadline| deadline.saturating_duration_since(now));
    let bound = remaining.into_iter().chain(decision.timeouts.attempt).min();
    let connect = bound.map_or(CONNECT_TIMEOUT, |bound| bound.min(CONNECT_TIMEOUT));
    peer.options.connection_timeout = Some(connect);
    peer.options.total_connection_timeout = Some(connect);
    let quiet = bound.filter(|_| !upgrade).unwrap_or(Timeouts::QUIET);
    peer.options.read_timeout = Some(quiet);
    peer.options.write_timeout = Some(quiet);
    peer
}

/// No connection: nothing was sent, so that any request may be tried again.
pub(super) fn connect_failed(context: &mut Context, upstream: &MeshUpstream, error: &Error) -> bool {
    let mut result = TryResult::ConnectFailure;
    if let (Some(pick), Some(address)) = (&context.tries.pick, context.tries.address) {
        context.tries.addresses.push(address);
        let failed = ConnectFailure::of(error.etype());
        result = upstream.judge(pick.endpoint(), address, failed);
        let other = upstream.address(pick.endpoint(), &context.tries.addresses, 0).is_some();
        // Where time was lost already, what is behind other gateways comes first.
        let at_once = !matches!(error.etype(), ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout);
        if failed != ConnectFailure::Endpoint && at_once && other && context.may_try_again() {
            return true;
        }
    }
    end_try(context, result);
    // The application beside this sidecar has but one address: its caller tries another sidecar.
    may_move(context)
}

/// True if another try is allowed and could go elsewhere.
fn may_move(context: &Context) -> bool {
    let service = context.decision.as_ref().is_some_and(|d| matches!(d.backend, Backend::Service { .. }));
    service && context.may_try_again()
}

/// The exchange broke. Tried again if nothing has reached the client, the body can be sent again, and either the other
/// side has certainly not begun with it, or doing it twice is the same as once (RFC 9110 section 9.2.2).
pub(super) fn broke(
    context: &mut Context,
    upstream: &MeshUpstream,
    error: &Error,
    request: &Sent<'_>,
) -> bool {
    let result = result(context, upstream, Some(error));
    let repeatable = result != TryResult::Abandoned && !request.answered && !request.truncated;
    let untouched = context.tries.is_untouched();
    if untouched && request.reused {
        // It closed a connection that was idle, which it may at any time: nothing is wrong with it.
        end_try(context, TryResult::Abandoned);
        return repeatable && context.may_try_again();
    }
    end_try(context, result);
    repeatable && may_move(context) && (untouched || is_unprocessed(error) || request.method.is_idempotent())
}

/// What a request's end says of the endpoint. A client that goes away, or whose body is refused, says nothing: else anyone
/// could have endpoints ejected.
pub(super) fn result(context: &Context, upstream: &MeshUpstream, error: Option<&Error>) -> TryResult {
    let result = match error {
        Some(error) if *error.esource() == ErrorSource::Downstream => TryResult::Abandoned,
        // Whatever else broke on account of it.
        Some(_) if context.failure.is_some_and(|failure| failure.status == 413) => TryResult::Abandoned,
        None if context.tries.status.is_none_or(|status| status < 500) => TryResult::Success,
        _ => TryResult::Failure,
    };
    match &context.tries.endpoint {
        Some(endpoint) => upstream.blame(endpoint, context.tries.address, result),
        None => result,
    }
}

/// What is known of a request when its exchange broke.
pub(super) struct Sent<'a> {
    pub method: &'a Method,
    /// The client has the head of an answer.
    pub answered: bool,
    /// More of the body was read than is kept for another try.
    pub truncated: bool,
    /// The connection had carried others before.
    pub reused: bool,
}

/// True if this response is to be thrown away for another try: for its status, or because the sidecar over there says that
/// the application broke off.
pub(super) fn wants_other(context: &Context, response: &ResponseHeader, request: &Sent<'_>) -> bool {
    let status = response.status.as_u16();
    let listed = context.decision.as_ref().is_some_and(|decision| decision.retry.codes.contains(&status));
    let in_mesh =
        context.tries.endpoint.as_ref().is_some_and(|e| matches!(e.transport, Transport::Mesh { .. }));
    let broken = status == 502 && in_mesh && failure::is_plain_answer(&response.headers);
    (listed || broken)
        && !request.answered
        && !request.truncated
        && request.method.is_idempotent()
        && may_move(context)
}

/// The other side said that it has not begun: GOAWAY without an error for streams it did not take, or REFUSED_STREAM
/// (RFC 9113 sections 6.8 and 8.7).
pub(super) fn is_unprocessed(error: &Error) -> bool {
    let Some(h2) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let reason = h2.reason();
    h2.is_remote()
        && ((h2.is_go_away() && reason == Some(Reason::NO_ERROR))
            || (h2.is_reset() && reason == Some(Reason::REFUSED_STREAM)))
}

/// Gives back the place on the endpoint.
pub(super) fn end_try(context: &mut Context, result: TryResult) {
    let Some(pick) = context.tries.pick.take() else { return };
    if result != TryResult::Success {
        context.tries.avoid.push(pick.endpoint().id.clone());
        if context.tries.latency.is_none() && matches!(pick.endpoint().reach, Reach::Via(_)) {
            context.tries.around.push(pick.endpoint().cluster.clone());
        }
        // One at most, so that a service of ejected endpoints is not asked on and on.
        context.tries.probed |= pick.is_probe();
    }
    let now = Instant::now();
    let so_far = context.tries.begun.map(|begun| now.saturating_duration_since(begun)).unwrap_or_default();
    pick.finish(result, context.tries.latency.unwrap_or(so_far), now);
}
