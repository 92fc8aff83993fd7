//! What the engine's session and connections tell of an exchange.

use std::sync::Arc;

use http::StatusCode;
use pingora_core::protocols::Digest;
use pingora_error::Error;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{
    attempt::Sent,
    context::Context,
    failure::{self, CLIENT_CLOSED},
};
use crate::proxy::connection::Fate;

/// The status of an answer that the client already has, if it is a final one.
pub(super) fn answered(session: &Session) -> Option<u16> {
    let status = session.response_written()?.status;
    (!status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS).then_some(status.as_u16())
}

/// The client did not wait for the end.
pub(super) fn is_cancelled(error: Option<&Error>) -> bool {
    error.is_some_and(|error| failure::classify(error).status == CLIENT_CLOSED)
}

pub(super) fn sent(session: &Session) -> Sent<'_> {
    Sent {
        method: &session.req_header().method,
        answered: answered(session).is_some(),
        truncated: session.retry_buffer_truncated(),
        reused: false,
    }
}

/// pingora gives up a client's connection when it answers before the whole body is there, and takes `100 Continue` for
/// such an answer. Where the body came in then, the connection is as good as before.
pub(super) fn keep_alive(session: &mut Session, response: &ResponseHeader, context: &mut Context) {
    if response.status.is_informational() {
        context.keepalive = context.keepalive.or_else(|| session.get_keepalive());
    } else if let Some(seconds) = context.keepalive.take()
        && session.is_body_done()
    {
        session.set_keepalive(Some(seconds));
    }
}

/// What the connection to a backend knows of its requests.
pub(super) fn fate(digest: &Digest) -> Option<Arc<Fate>> {
    digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref().cloned()
}
