//! The one place that maps what went wrong to a status, a reason for the access log and metrics, and an answer.

use bytes::Bytes;
use http::StatusCode;
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::proxy::upstream::OVERFLOW;

/// The client went away before it had an answer; never sent, only logged.
pub(super) const CLIENT_CLOSED: u16 = 499;

/// A failure as the client and the operator see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Failure {
    /// What the client gets.
    pub status: u16,
    /// What the access log and metrics say; never shown to the client.
    pub reason: &'static str,
}

impl Failure {
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }

    /// The error by which a callback ends a request with this failure.
    pub fn error(self) -> Box<Error> {
        let mut error = Error::explain(ErrorType::HTTPStatus(self.status), self.reason);
        error.as_in();
        error
    }
}

/// What an error is, where no callback has said so before.
pub(super) fn classify(error: &Error) -> Failure {
    match error.esource() {
        ErrorSource::Upstream => of_upstream(error.etype()),
        ErrorSource::Downstream if has_cause(error, std::io::ErrorKind::TimedOut) => {
            Failure::new(408, "client_too_slow")
        }
        // The connection found that the body has no single reading.
        ErrorSource::Downstream if has_cause(error, std::io::ErrorKind::InvalidData) => {
            Failure::new(400, "bad_chunk")
        }
        ErrorSource::Downstream => of_downstream(error.etype()),
        ErrorSource::Internal | ErrorSource::Unset => match error.etype() {
            ErrorType::HTTPStatus(status) => Failure::new(*status, "internal"),
            _ => Failure::new(500, "internal"),
        },
    }
}

fn of_upstream(kind: &ErrorType) -> Failure {
    use ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, ConnectionClosed, HandshakeError,
        InternalError, ReadTimedout, TLSHandshakeFailure, TLSHandshakeTimedout, WriteTimedout,
    };
    match kind {
        ConnectTimedout | TLSHandshakeTimedout => Failure::new(503, "connect_timeout"),
        ConnectRefused | ConnectNoRoute | ConnectError => Failure::new(503, "connect_failed"),
        TLSHandshakeFailure => Failure::new(502, "upstream_not_trusted"),
        HandshakeError => Failure::new(502, "upstream_handshake"),
        ReadTimedout | WriteTimedout => Failure::new(504, "upstream_timeout"),
        ConnectionClosed => Failure::new(502, "upstream_closed"),
        InternalError => Failure::new(503, "upstream_config"),
        other if *other == OVERFLOW => Failure::new(503, "upstream_overflow"),
        _ => Failure::new(502, "upstream_broken"),
    }
}

fn of_downstream(kind: &ErrorType) -> Failure {
    use ErrorType::{ConnectionClosed, H2Error, ReadError, ReadTimedout, WriteError, WriteTimedout};
    match kind {
        ReadTimedout => Failure::new(408, "client_too_slow"),
        ReadError | WriteError | WriteTimedout | ConnectionClosed | H2Error => {
            Failure::new(CLIENT_CLOSED, "client_closed")
        }
        _ => Failure::new(400, "bad_request"),
    }
}

fn has_cause(error: &Error, kind: std::io::ErrorKind) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == kind)
}

/// By this name a proxy is known to have answered by itself.
const SERVER: &str = "tombolo";

/// True if these are the headers of an answer that a proxy made, and not the application behind it.
pub(super) fn is_plain_answer(headers: &http::HeaderMap) -> bool {
    headers.get(http::header::SERVER).is_some_and(|server| server == SERVER)
}

/// The answer's head and body to a failure: the status in words, and nothing of the inside.
pub(super) fn plain_answer(status: StatusCode) -> pingora_error::Result<(ResponseHeader, Bytes)> {
    let body = match status.canonical_reason() {
        Some(_) if status.is_redirection() || status == StatusCode::NO_CONTENT => Bytes::new(),
        Some(words) => Bytes::from(format!("{} {words}\n", status.as_u16())),
        None => Bytes::new(),
    };
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header(http::header::SERVER, SERVER)?;
    if !body.is_empty() {
        head.insert_header(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    }
    if status != StatusCode::NO_CONTENT {
        head.set_content_length(body.len())?;
    }
    Ok((head, body))
}

/// Sends an answer made here.
pub(super) async fn send(
    session: &mut Session,
    head: ResponseHeader,
    body: Bytes,
) -> pingora_error::Result<()> {
    let is_error = head.status.is_client_error() || head.status.is_server_error();
    let (head, body) = match is_error && super::grpc::is_call(&session.req_header().headers) {
        true => super::grpc::in_words_of_grpc(&head)?,
        false => (head, body),
    };
    let mut head = head;
    super::head::tell_request_id(&session.req_header().headers, &mut head)?;
    let bodyless = body.is_empty() || session.req_header().method == http::Method::HEAD;
    if !bodyless {
        session.write_response_header(Box::new(head), false).await?;
        return session.write_response_body(Some(body), true).await;
    }
    write_only_head(session, Box::new(head)).await
}

/// Ends an HTTP/2 stream with the head itself. The engine would send an empty DATA frame after it, and clients of gRPC
/// take a status for one only where the head, or trailers, end the stream.
async fn write_only_head(session: &mut Session, mut head: Box<ResponseHeader>) -> pingora_error::Result<()> {
    if !matches!(&*session.downstream_session, ServerSession::H2(_)) {
        session.write_response_header(head, true).await?;
        return session.downstream_session.finish_body().await;
    }
    session.downstream_modules_ctx.response_header_filter(&mut head, true).await?;
    match &mut *session.downstream_session {
        ServerSession::H2(stream) => stream.write_response_header(head, true),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn errors_become_statuses() {
        let up = |kind| classify(&Error::new_up(kind)).status;
        assert_eq!(up(ErrorType::ConnectRefused), 503);
        assert_eq!(up(ErrorType::TLSHandshakeFailure), 502);
        assert_eq!(up(ErrorType::ReadTimedout), 504);
        assert_eq!(up(OVERFLOW), 503);
        assert_eq!(up(ErrorType::ReadError), 502);
        let down = |kind| classify(&Error::new_down(kind)).status;
        assert_eq!(down(ErrorType::ReadTimedout), 408);
        assert_eq!(down(ErrorType::WriteError), CLIENT_CLOSED);
        assert_eq!(down(ErrorType::InvalidHTTPHeader), 400);
        assert_eq!(classify(&Error::new_in(ErrorType::InternalError)).status, 500);
    }

    #[test]
    fn an_answer_says_the_status_and_no_more() {
        let (head, body) = plain_answer(StatusCode::SERVICE_UNAVAILABLE).unwrap();
        assert_eq!(body, "503 Service Unavailable\n");
        assert_eq!(head.headers["server"], "tombolo");
        assert_eq!(head.headers["content-length"], "24");
        assert!(plain_answer(StatusCode::FOUND).unwrap().1.is_empty());
    }
}
