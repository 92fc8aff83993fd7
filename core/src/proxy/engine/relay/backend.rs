//! The other side of a request: over HTTP/1 or HTTP/2, one answer in parts.

use http::{HeaderValue, header};
use pingora_core::{
    protocols::{
        Digest, Stream, UniqueID, UniqueIDType,
        http::{HttpTask, custom::client::Session as _, v1::client::HttpSession as Http1},
    },
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;

use crate::proxy::upstream::MeshSession;

/// A connection, or a stream of one, for one request.
pub(super) enum Backend {
    One(Http1),
    Two { session: MeshSession, stage: Stage },
}

/// How far an answer over HTTP/2 is.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    Head,
    Body,
    Done,
}

impl Backend {
    pub fn two(session: MeshSession) -> Self {
        Self::Two { session, stage: Stage::Head }
    }

    /// The connection, once it has carried its request, where it is one that carries them one by one.
    pub async fn reuse(self) -> Option<Stream> {
        match self {
            Self::One(mut session) => {
                session.respect_keepalive();
                session.reuse().await
            }
            Self::Two { .. } => None,
        }
    }

    pub fn id(&self) -> UniqueIDType {
        match self {
            Self::One(session) => session.id(),
            Self::Two { session, .. } => session.fd(),
        }
    }

    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::One(session) => Some(session.digest()),
            Self::Two { session, .. } => session.digest(),
        }
    }

    /// Makes a head fit for what is spoken here, which for HTTP/2 is done as it is sent.
    pub fn fit(&self, request: &mut RequestHeader) -> Result<()> {
        match self {
            Self::One(_) => set_host(request),
            Self::Two { .. } => Ok(()),
        }
    }

    /// Sends a request that has no body.
    pub async fn send(&mut self, request: RequestHeader, peer: &HttpPeer) -> Result<()> {
        let (reading, writing) = (peer.options.read_timeout, peer.options.write_timeout);
        match self {
            Self::One(session) => {
                (session.read_timeout, session.write_timeout) = (reading, writing);
                session.write_request_header(Box::new(request)).await?;
                session.finish_body().await?;
            }
            Self::Two { session, .. } => {
                session.set_read_timeout(reading);
                session.set_write_timeout(writing);
                session.write_request_header(Box::new(request), true).await?;
            }
        }
        Ok(())
    }

    /// The next part of the answer. Dropped before it is ready, nothing is lost of a body, and of a head over HTTP/1.
    pub async fn next(&mut self) -> Result<HttpTask> {
        match self {
            Self::One(session) => session.read_response_task().await,
            Self::Two { session, stage } => match stage {
                Stage::Head => {
                    session.read_response_header().await?;
                    let missing = || Error::explain(ErrorType::InternalError, "no head was read");
                    let head = Box::new(session.response_header().ok_or_else(missing)?.clone());
                    let ended = session.check_response_end_or_error(true).await?;
                    if !head.status.is_informational() {
                        *stage = Stage::Body;
                    }
                    Ok(HttpTask::Header(head, ended))
                }
                Stage::Body => body(session, stage).await,
                Stage::Done => Ok(HttpTask::Done),
            },
        }
    }
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

async fn body(session: &mut MeshSession, stage: &mut Stage) -> Result<HttpTask> {
    while let Some(data) = session.read_response_body().await? {
        let ended = session.check_response_end_or_error(false).await?;
        // An empty part would be taken for the last chunk.
        if ended || !data.is_empty() {
            return Ok(HttpTask::Body(Some(data), ended));
        }
    }
    *stage = Stage::Done;
    let trailers = session.read_trailers().await?;
    Ok(trailers.map_or(HttpTask::Done, |trailers| HttpTask::Trailer(Some(Box::new(trailers)))))
}
