//! One HTTP/2 request to a sidecar, in the form of pingora's custom sessions.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_core::protocols::{
    Digest, UniqueIDType,
    http::{
        custom::{BodyWrite, CustomMessageWrite, client::Session},
        v2::client::Http2Session,
    },
    l4::socket::SocketAddr,
};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

/// An HTTP/2 request over mutual TLS. The relay takes it apart; the engine, which would drive it as a custom session, is only given
/// tunnels, and these are made of HTTP/1.1.
pub struct MeshSession(Http2Session);

impl MeshSession {
    pub(super) fn new(exchange: Http2Session) -> Self {
        Self(exchange)
    }

    /// Sends a request's head, and gives where its body goes, unless it ends with that.
    pub fn send_head(
        &mut self,
        mut request: Box<RequestHeader>,
        end: bool,
    ) -> Result<Option<SendStream<Bytes>>> {
        clean(&mut request)?;
        self.0.write_request_header(request, end)?;
        Ok(self.0.take_request_body_writer().filter(|_| !end))
    }

    /// Where the answer comes from.
    pub fn answer(&mut self) -> &mut Http2Session {
        &mut self.0
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
        self.0.write_request_header(request, end)
    }

    async fn write_request_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.0.write_request_body(data, end).await
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        self.0.finish_request_body()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.0.read_timeout = timeout;
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.0.write_timeout = timeout;
    }

    async fn read_response_header(&mut self) -> Result<()> {
        self.0.read_response_header().await
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        self.0.read_response_body().await
    }

    fn response_finished(&self) -> bool {
        self.0.response_finished()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.0.shutdown();
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.0.response_header()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        self.0.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.0.digest_mut()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.0.server_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.0.client_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        self.0.read_trailers().await
    }

    fn fd(&self) -> UniqueIDType {
        self.0.fd()
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        self.0.check_response_end_or_error()
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }
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

    #[test]
    fn a_head_without_host_is_refused() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        assert!(clean(&mut request).is_err());
    }
}
