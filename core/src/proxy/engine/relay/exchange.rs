//! One try: the request goes out part by part, and its answer comes back, each part through the callbacks. Neither direction
//! waits for the other: where one side does not take what it is sent, no more of that direction is read.

use bytes::Bytes;
use futures::FutureExt;
use http::{Method, StatusCode, Version, header};
use pingora_core::{protocols::http::HttpTask, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};

use super::{Backend, client::Client, stall::Event};
use crate::proxy::gate::{Context, Gate};

/// A try between the two sides.
struct Exchange<'a> {
    gate: &'a Gate,
    client: Client<'a>,
    backend: &'a mut Backend,
    context: &'a mut Box<Context>,
    request: Request,
}

/// How far the request is.
#[derive(Clone, Copy)]
enum Request {
    Coming,
    Sent,
    /// The backend takes no more of it, for a reason that its answer tells, or that there is none.
    Refused,
}

/// Sends the request and passes on the answer. Where it succeeds, the client's connection is as good as before, and the
/// backend's if this is true.
pub(super) async fn pass_on(
    gate: &Gate,
    session: &mut Session,
    backend: &mut Backend,
    peer: &HttpPeer,
    reused: bool,
    context: &mut Box<Context>,
) -> Result<bool> {
    gate.connected_to_upstream(session, reused, peer, backend.id(), backend.digest(), context).await?;
    let has_body = !session.downstream_session.is_body_empty();
    let mut request = session.req_header().clone();
    request.set_version(Version::HTTP_11);
    backend.fit(&mut request, has_body)?;
    gate.upstream_request_filter(session, &mut request, context).await?;
    let client = Client::new(session);
    let mut exchange = Exchange { gate, client, backend, context, request: Request::Coming };
    let ended = exchange.exchange(request, has_body).await;
    // Also for another try, and for whoever tells the client that there is none.
    exchange.client.release();
    exchange.backend.hold(false);
    exchange.context.sent += exchange.client.sent;
    ended.map(|()| matches!(exchange.request, Request::Sent))
}

impl Exchange<'_> {
    async fn exchange(&mut self, head: RequestHeader, has_body: bool) -> Result<()> {
        self.begin(head, has_body).await?;
        self.run().await?;
        let session = &mut self.client.session.downstream_session;
        session.finish_body().await.map_err(|error| error.into_down())
    }

    /// Sends the head, and of the body what an earlier try has read already.
    async fn begin(&mut self, head: RequestHeader, has_body: bool) -> Result<()> {
        if !has_body {
            self.gate.request_part(None, true, self.context)?;
            self.backend.send_head(head, true).await.map_err(|error| error.into_up())?;
            self.sent();
            return Ok(());
        }
        self.backend.send_head(head, false).await.map_err(|error| error.into_up())?;
        let session = &mut self.client.session.downstream_session;
        session.enable_retry_buffering();
        match session.get_retry_buffer() {
            None if !session.is_body_done() => Ok(()),
            read => self.pass_request(read).await,
        }
    }

    /// Until the answer is whole, and the client has taken it. What it still sends then is of no use to anybody.
    async fn run(&mut self) -> Result<()> {
        let mut answered = false;
        loop {
            let (client_full, backend_full) = (self.client.is_full(), self.backend.is_full());
            if answered && !client_full {
                break;
            }
            // What is no longer wanted is not read either.
            let untaken = backend_full || matches!(self.request, Request::Refused);
            self.client.hold(answered || untaken);
            self.backend.hold(client_full);
            if let Some(stream) = &self.context.stream {
                stream.hold(untaken);
            }
            tokio::select! {
                event = self.client.event() => match event? {
                    Event::Came(body) => self.pass_request(body).await?,
                    Event::Room => {}
                    Event::Closed(error) => return Err(error),
                },
                event = self.backend.event(), if !answered => match event {
                    Ok(Event::Came(part)) => answered = self.pass_answer(part).await?,
                    Ok(Event::Room) => {}
                    Ok(Event::Closed(error)) => self.refused(&error),
                    Err(error) => return Err(error.into_up()),
                },
            }
        }
        Ok(())
    }

    fn sent(&mut self) {
        self.request = Request::Sent;
        self.client.is_read = true;
    }

    fn refused(&mut self, error: &Error) {
        tracing::debug!(%error, "a backend takes no more of a request");
        self.request = Request::Refused;
    }

    /// Passes on a part of the request's body; none is its end.
    async fn pass_request(&mut self, body: Option<Bytes>) -> Result<()> {
        let end = body.is_none() || self.client.session.downstream_session.is_body_done();
        self.gate.request_part(body.as_ref(), end, self.context)?;
        match self.backend.send(body.unwrap_or_default(), end).await {
            Ok(()) if end => self.sent(),
            Ok(()) => {}
            Err(error) => self.refused(&error),
        }
        Ok(())
    }

    /// Passes on a part of the answer. True: it was the last.
    async fn pass_answer(&mut self, part: HttpTask) -> Result<bool> {
        let mut ended = part.is_end();
        let mut parts = Vec::with_capacity(2);
        let is_head = matches!(&part, HttpTask::Header(head, _) if !head.status.is_informational());
        parts.push(filtered(self.gate, self.client.session, part, self.context).await?);
        // What has come with the head goes out with it.
        if is_head
            && !ended
            && let Some(event) = tokio::task::unconstrained(self.backend.event()).now_or_never()
        {
            let part = match event {
                Ok(Event::Came(part)) => Some(part),
                Ok(Event::Room) => None,
                Ok(Event::Closed(error)) => {
                    self.refused(&error);
                    None
                }
                Err(error) => Some(HttpTask::Failed(error.into_up())),
            };
            if let Some(part) = part {
                ended = part.is_end();
                parts.push(filtered(self.gate, self.client.session, part, self.context).await?);
            }
        }
        Ok(self.client.send(parts).await? || ended)
    }
}

async fn filtered(
    gate: &Gate,
    session: &mut Session,
    mut part: HttpTask,
    context: &mut Box<Context>,
) -> Result<HttpTask> {
    match &mut part {
        HttpTask::Header(head, ended) => {
            if *ended {
                context.policy.ends_with_head();
            }
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
