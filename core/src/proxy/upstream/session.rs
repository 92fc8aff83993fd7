//! One HTTP/2 request to a sidecar, in the form of pingora's custom sessions.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_core::protocols::{
    Digest, UniqueIDType,
    http::{
        custom::{BodyWrite, CustomMessageWrite, client::Session},
        v2::{client::Http2Session, write_body},
    },
    l4::socket::SocketAddr,
};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio_util::sync::CancellationToken;

use crate::proxy::stream::hold;

/// An HTTP/2 request over mutual TLS.
pub struct MeshSession {
    exchange: Http2Session,
    abort: Option<Abort>,
    head_only: Option<HeadOnly>,
}

/// Ends an exchange in the middle of its request's body: put among the request's extensions. The engine does not do it by
/// itself for custom sessions; they would wait for an answer to a request that never ends.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct Abort(CancellationToken);

impl Abort {
    /// Ends it now.
    pub fn now(&self) {
        self.0.cancel();
    }
}

/// Says that an answer has ended with its head: put among the request's extensions.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct HeadOnly(Arc<AtomicBool>);

impl HeadOnly {
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    pub fn clear(&self) {
        self.0.store(false, Relaxed);
    }
}

impl MeshSession {
    pub(super) fn new(exchange: Http2Session) -> Self {
        Self { exchange, abort: None, head_only: None }
    }
}

/// Waits for what comes back, or for the exchange's end.
async fn unless<T>(abort: Option<&Abort>, read: impl Future<Output = Result<T>>) -> Result<T> {
    match abort {
        None => read.await,
        Some(Abort(token)) => tokio::select! {
            biased;
            () = token.cancelled() => Error::e_explain(ErrorType::ReadError, "the request was refused"),
            read = read => read,
        },
    }
}

/// Makes a request's head fit for HTTP/2: pingora does not do it for custom sessions.
fn clean(request: &mut RequestHeader) -> Result<()> {
    strip_connection_fields(request)?;
    set_authority(request)
}

/// Removes what is of one connection only (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2).
pub(in crate::proxy) fn strip_connection_fields(request: &mut RequestHeader) -> Result<()> {
    let nominated: Vec<HeaderName> = request
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in &nominated {
        request.remove_header(name);
    }
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        request.remove_header(&name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        request.remove_header(name);
    }
    // Of TE, only "trailers" may pass (RFC 9113 section 8.2.2).
    if let Some(te) = request.headers.get(header::TE).cloned() {
        request.remove_header(&header::TE);
        let trailers = te.to_str().is_ok_and(|te| te.split(',').any(|t| t.trim() == "trailers"));
        if trailers {
            request.insert_header(header::TE, HeaderValue::from_static("trailers"))?;
        }
    }
    Ok(())
}

/// Moves Host into the URL.
pub(in crate::proxy) fn set_authority(request: &mut RequestHeader) -> Result<()> {
    let host = request.remove_header(&header::HOST);
    if request.uri.authority().is_some() {
        return Ok(());
    }
    let host = host.ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "no host"))?;
    let target = request.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let uri = http::Uri::builder()
        .scheme("https")
        .authority(host.as_bytes())
        .path_and_query(target)
        .build()
        .or_err(ErrorType::InvalidHTTPHeader, "a host or path that HTTP/2 does not take")?;
    request.set_uri(uri);
    Ok(())
}

#[async_trait]
impl Session for MeshSession {
    async fn write_request_header(&mut self, mut request: Box<RequestHeader>, end: bool) -> Result<()> {
        clean(&mut request)?;
        self.abort = request.extensions_mut().remove::<Abort>();
        self.head_only = request.extensions_mut().remove::<HeadOnly>();
        self.exchange.write_request_header(request, end)
    }

    async fn write_request_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.exchange.write_request_body(data, end).await
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        self.exchange.finish_request_body()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.exchange.read_timeout = timeout;
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.exchange.write_timeout = timeout;
    }

    async fn read_response_header(&mut self) -> Result<()> {
        unless(self.abort.as_ref(), self.exchange.read_response_header()).await?;
        if let Some(HeadOnly(ended)) = self.head_only.as_ref().filter(|_| self.exchange.response_finished()) {
            ended.store(true, Relaxed);
        }
        Ok(())
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        unless(self.abort.as_ref(), self.exchange.read_response_body()).await
    }

    fn response_finished(&self) -> bool {
        self.exchange.response_finished()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.exchange.shutdown();
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.exchange.response_header()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        self.exchange.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.exchange.digest_mut()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.exchange.server_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.exchange.client_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        self.exchange.read_trailers().await
    }

    fn fd(&self) -> UniqueIDType {
        self.exchange.fd()
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        self.exchange.check_response_end_or_error()
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        let timeout = self.exchange.write_timeout;
        let stream = self.exchange.take_request_body_writer()?;
        Some(Box::new(Body { stream, timeout, ended: false }))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}

/// The request's body on its way.
struct Body {
    stream: SendStream<Bytes>,
    timeout: Option<Duration>,
    ended: bool,
}

#[async_trait]
impl BodyWrite for Body {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        let all = data.split_to(data.len());
        // The end of a body often comes alone. It is a frame of its own in any case, and servers end connections over
        // which too many empty ones come that end nothing.
        if all.is_empty() {
            return Ok(());
        }
        hold(true);
        let written = write_body(&mut self.stream, all, false, self.timeout).await;
        hold(false);
        written
    }

    /// A second call is an error: with request trailers pingora calls this again and again, and would never stop.
    async fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Error::e_explain(ErrorType::WriteError, "the request has ended already");
        }
        self.stream.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "ending a request")
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_made_fit_for_http2() {
        let mut request = RequestHeader::build("GET", b"/a?b=c", None).unwrap();
        for (name, value) in [
            ("host", "shop.example:8080"),
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "websocket"),
            ("x-other", "2"),
        ] {
            request.append_header(name, value).unwrap();
        }
        clean(&mut request).unwrap();
        assert_eq!(request.uri.to_string(), "https://shop.example:8080/a?b=c");
        let mut left: Vec<_> =
            request.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("te", "trailers"), ("x-other", "2")]);
    }

    #[tokio::test]
    async fn an_end_that_comes_alone_is_one_frame() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (request, mut answer) = connection.accept().await.unwrap().unwrap();
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let (mut frames, mut body) = (Vec::new(), request.into_body());
            while let Some(frame) = body.data().await {
                frames.push(frame.unwrap());
            }
            answer.send_response(http::Response::new(()), true).unwrap();
            frames
        });
        let (mut sender, connection) = h2::client::handshake(ours).await.unwrap();
        tokio::spawn(connection);
        let (answer, stream) = sender.send_request(http::Request::new(()), false).unwrap();
        let mut body = Body { stream, timeout: None, ended: false };
        for mut part in ["all of it", ""].map(Bytes::from) {
            body.write_all_buf(&mut part).await.unwrap();
        }
        body.finish().await.unwrap();
        answer.await.unwrap();
        assert_eq!(server.await.unwrap(), ["all of it", ""]);
    }

    #[test]
    fn a_head_without_host_is_refused() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        assert!(clean(&mut request).is_err());
    }
}
