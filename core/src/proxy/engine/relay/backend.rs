//! The other side of a request: over HTTP/1 or HTTP/2, the request goes out and one answer comes back in parts.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, header};
use pingora_core::{
    protocols::{
        Digest, Stream, UniqueID, UniqueIDType,
        http::{
            HttpTask, custom::client::Session as _, v1::client::HttpSession as Http1,
            v2::client::Http2Session,
        },
    },
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;

use super::{
    outlet::Outlet,
    stall::{Event, Stall},
};
use crate::proxy::{connection::Flow, upstream::MeshSession};

/// A connection, or a stream of one, for one request.
pub(super) struct Backend {
    side: Side,
    held: bool,
    /// How long it may take nothing, and give nothing.
    writing: Option<Duration>,
    reading: Option<Duration>,
    stall: Stall,
}

enum Side {
    One { session: Http1, flow: Arc<Flow> },
    Two { session: MeshSession, stage: Stage, body: Option<Outlet> },
}

/// How far an answer over HTTP/2 is.
#[derive(Clone, Copy)]
enum Stage {
    Head,
    Body,
    Done,
}

impl Backend {
    /// A stream of HTTP/2.
    pub fn two(session: MeshSession, peer: &HttpPeer) -> Self {
        Self::new(Side::Two { session, stage: Stage::Head, body: None }, peer)
    }

    /// A connection of HTTP/1.
    pub fn one(stream: Stream, peer: &HttpPeer) -> Self {
        let flow = Flow::of(&stream);
        flow.begin();
        Self::new(Side::One { session: Http1::new_with_options(stream, peer), flow }, peer)
    }

    fn new(side: Side, peer: &HttpPeer) -> Self {
        let (reading, writing) = (peer.options.read_timeout, peer.options.write_timeout);
        Self { side, held: false, writing, reading, stall: Stall::default() }
    }

    /// The connection, once it has carried a request whole, where it is one that carries them one by one.
    pub async fn reuse(self) -> Option<Stream> {
        match self.side {
            Side::One { mut session, flow } if !flow.is_full() => {
                session.respect_keepalive();
                session.reuse().await
            }
            Side::One { .. } | Side::Two { .. } => None,
        }
    }

    pub fn id(&self) -> UniqueIDType {
        match &self.side {
            Side::One { session, .. } => session.id(),
            Side::Two { session, .. } => session.fd(),
        }
    }

    pub fn digest(&self) -> Option<&Digest> {
        match &self.side {
            Side::One { session, .. } => Some(session.digest()),
            Side::Two { session, .. } => session.digest(),
        }
    }

    /// Makes a head fit for what is spoken here, which for HTTP/2 is done as it is sent.
    pub fn fit(&self, request: &mut RequestHeader, has_body: bool) -> Result<()> {
        match &self.side {
            Side::One { .. } => {
                set_host(request)?;
                if has_body { set_framing(request) } else { Ok(()) }
            }
            Side::Two { .. } => Ok(()),
        }
    }

    /// Sends a request's head.
    pub async fn send_head(&mut self, request: RequestHeader, end: bool) -> Result<()> {
        match &mut self.side {
            Side::One { session, flow } => {
                (session.read_timeout, session.write_timeout) = (self.reading, self.writing);
                // Part of the body is often there with it.
                flow.cork(!end);
                session.write_request_header(Box::new(request)).await?;
                if end {
                    session.finish_body().await?;
                }
            }
            Side::Two { session, body, .. } => {
                session.answer().read_timeout = self.reading;
                *body = session.send_head(Box::new(request), end)?.map(Outlet::new);
            }
        }
        Ok(())
    }

    /// Sends a part of the request's body. Does not wait for the backend to take it: see [`Self::is_full`].
    pub async fn send(&mut self, data: Bytes, end: bool) -> Result<()> {
        match &mut self.side {
            Side::One { session, flow } => {
                flow.cork(false);
                if !data.is_empty() {
                    session.write_body(&data).await?;
                }
                if end {
                    session.finish_body().await?;
                }
                Ok(())
            }
            Side::Two { body: Some(outlet), .. } => outlet.push(data, end),
            Side::Two { body: None, .. } => {
                Error::e_explain(ErrorType::InternalError, "a body after its end")
            }
        }
    }

    /// True if it does not take what was sent.
    pub fn is_full(&self) -> bool {
        match &self.side {
            Side::One { flow, .. } => flow.is_full(),
            Side::Two { body, .. } => body.as_ref().is_some_and(Outlet::is_full),
        }
    }

    /// Sends no more of the request.
    fn give_up(&mut self) {
        if let Side::Two { body, .. } = &mut self.side {
            *body = None;
        }
    }

    /// While held, no more of its answer comes in, and it does not count as slow.
    pub fn hold(&mut self, held: bool) {
        if std::mem::replace(&mut self.held, held) == held {
            return;
        }
        if let Side::One { session, flow } = &mut self.side {
            flow.hold(held);
            session.read_timeout = self.reading.filter(|_| !held);
        }
    }

    /// Waits for the next part of the answer, or for room for more of the request. Dropped before it is ready, nothing is lost
    /// of a body, and of a head over HTTP/1.
    pub async fn event(&mut self) -> Result<Event<HttpTask>> {
        let full = self.is_full();
        let Self { side, held, writing, stall, .. } = self;
        if !full {
            stall.end();
        }
        let mut stalled = |cx: &mut Context<'_>| match full {
            true => stall
                .poll(cx, *writing)
                .map(|()| Error::e_explain(ErrorType::WriteTimedout, "the backend takes nothing")),
            false => Poll::Pending,
        };
        let event = match side {
            Side::One { session, flow } => {
                let mut part = pin!(session.read_response_task());
                poll_fn(|cx| match part.as_mut().poll(cx) {
                    Poll::Ready(part) => Poll::Ready(part.map(Event::Came)),
                    Poll::Pending if full && !flow.is_full() => Poll::Ready(Ok(Event::Room)),
                    Poll::Pending => stalled(cx),
                })
                .await
            }
            Side::Two { session, stage, body } => {
                let mut part = pin!(next(session.answer(), stage));
                poll_fn(|cx| {
                    if let Some(outlet) = body.as_mut().filter(|outlet| outlet.is_full())
                        && let Poll::Ready(room) = outlet.poll_room(cx)
                    {
                        return Poll::Ready(Ok(room.map_or_else(Event::Closed, |()| Event::Room)));
                    }
                    match held {
                        false if let Poll::Ready(part) = part.as_mut().poll(cx) => {
                            Poll::Ready(part.map(Event::Came))
                        }
                        _ => stalled(cx),
                    }
                })
                .await
            }
        };
        if matches!(event, Ok(Event::Closed(_))) {
            // What waits for it is not sent any more; an answer may be on its way.
            self.give_up();
        }
        event
    }
}

/// The next part of an answer over HTTP/2.
async fn next(answer: &mut Http2Session, stage: &mut Stage) -> Result<HttpTask> {
    match stage {
        Stage::Head => {
            answer.read_response_header().await?;
            let missing = || Error::explain(ErrorType::InternalError, "no head was read");
            let head = Box::new(answer.response_header().ok_or_else(missing)?.clone());
            let ended = answer.check_response_end_or_error()?;
            if !head.status.is_informational() {
                *stage = Stage::Body;
            }
            Ok(HttpTask::Header(head, ended))
        }
        Stage::Body => body(answer, stage).await,
        Stage::Done => Ok(HttpTask::Done),
    }
}

async fn body(answer: &mut Http2Session, stage: &mut Stage) -> Result<HttpTask> {
    while let Some(data) = answer.read_response_body().await? {
        let ended = answer.check_response_end_or_error()?;
        // An empty part would be taken for the last chunk.
        if ended || !data.is_empty() {
            return Ok(HttpTask::Body(Some(data), ended));
        }
    }
    *stage = Stage::Done;
    let trailers = answer.read_trailers().await?;
    Ok(trailers.map_or(HttpTask::Done, |trailers| HttpTask::Trailer(Some(Box::new(trailers)))))
}

/// What came over HTTP/2 names its host in the URL, and HTTP/1.1 in a field (RFC 9112 section 3.2).
fn set_host(request: &mut RequestHeader) -> Result<()> {
    let Some(authority) = request.uri.authority().map(|authority| authority.as_str()) else { return Ok(()) };
    let bad = || Error::explain(ErrorType::InvalidHTTPHeader, "an authority that is no host").into_down();
    if authority.contains('@') {
        return Err(bad());
    }
    let host = HeaderValue::from_str(authority).map_err(|_| bad())?;
    request.insert_header(header::HOST, host)
}

/// A body that came over HTTP/2 need not say its length; over HTTP/1.1 it then comes in chunks (RFC 9112 section 6.3).
fn set_framing(request: &mut RequestHeader) -> Result<()> {
    let headers = &request.headers;
    if headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    request.insert_header(header::TRANSFER_ENCODING, "chunked")
}
