//! One try: the request goes out, and its answer comes back part by part, each through the callbacks.

use futures::FutureExt;
use http::{Method, StatusCode, Version, header};
use pingora_core::{protocols::http::HttpTask, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{ProxyHttp, Session};

use super::Backend;
use crate::proxy::gate::{Context, Gate};

/// Sends the request and passes on the answer. Where it succeeds, both connections are as good as before.
pub(super) async fn pass_on(
    gate: &Gate,
    session: &mut Session,
    backend: &mut Backend,
    peer: &HttpPeer,
    reused: bool,
    context: &mut Box<Context>,
) -> Result<()> {
    gate.connected_to_upstream(session, reused, peer, backend.id(), backend.digest(), context).await?;
    let mut request = session.req_header().clone();
    request.set_version(Version::HTTP_11);
    backend.fit(&mut request)?;
    gate.upstream_request_filter(session, &mut request, context).await?;
    gate.request_body_filter(session, &mut None, true, context).await?;
    backend.send(request, peer).await.map_err(|error| error.into_up())?;
    loop {
        let part = next(session, backend).await?;
        let mut ended = part.is_end();
        let mut parts = Vec::with_capacity(2);
        let is_head = matches!(&part, HttpTask::Header(head, _) if !head.status.is_informational());
        parts.push(filtered(gate, session, part, context).await?);
        // What has come with the head goes out with it.
        if is_head
            && !ended
            && let Some(part) = tokio::task::unconstrained(backend.next()).now_or_never()
        {
            let part = part.unwrap_or_else(|error| HttpTask::Failed(error.into_up()));
            ended = part.is_end();
            parts.push(filtered(gate, session, part, context).await?);
        }
        if session.downstream_session.response_duplex_vec(parts).await? || ended {
            break;
        }
    }
    session.downstream_session.finish_body().await.map_err(|error| error.into_down())
}

/// The next part of the answer, unless the client goes away.
async fn next(session: &mut Session, backend: &mut Backend) -> Result<HttpTask> {
    tokio::select! {
        biased;
        part = backend.next() => part.map_err(|error| error.into_up()),
        gone = session.downstream_session.read_body_or_idle(true) => {
            let unasked = || Error::explain(ErrorType::ReadError, "more came than the request");
            Err(gone.err().unwrap_or_else(unasked).into_down())
        }
    }
}

async fn filtered(
    gate: &Gate,
    session: &mut Session,
    mut part: HttpTask,
    context: &mut Box<Context>,
) -> Result<HttpTask> {
    match &mut part {
        HttpTask::Header(head, _) => {
            gate.upstream_response_filter(session, head, context).await?;
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                let error = Error::explain(ErrorType::InvalidHTTPHeader, "protocols switched unasked");
                return Err(error.into_up());
            }
            frame(session, head)?;
            gate.response_filter(session, head, context).await?;
        }
        HttpTask::Body(data, ended) => {
            gate.upstream_response_body_filter(session, data, *ended, context)?;
            gate.response_body_filter(session, data, *ended, context)?;
        }
        HttpTask::Trailer(Some(trailers)) => {
            gate.upstream_response_trailer_filter(session, trailers, context)?;
        }
        _ => {}
    }
    Ok(part)
}

/// An answer that does not say its length goes out in chunks (RFC 9112 section 6.3), also where it has ended with its head, so
/// that the client's connection can be kept.
fn frame(session: &Session, head: &mut ResponseHeader) -> Result<()> {
    head.set_version(Version::HTTP_11);
    let bodyless = head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || session.req_header().method == Method::HEAD;
    let headers = &head.headers;
    if bodyless
        || headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING)
    {
        return Ok(());
    }
    head.insert_header(header::TRANSFER_ENCODING, "chunked")
}
