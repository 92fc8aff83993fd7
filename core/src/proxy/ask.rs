//! Small requests of our own over a connection: sent whole, answered whole.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header, response::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{
    Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::Connection;

/// Bytes of an answer's body; a longer one is an error.
const ANSWER: usize = 64 * 1024;
/// A flag and the length of a message (gRPC over HTTP2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Http1 = http1::SendRequest<Full<Bytes>>;
pub(super) type Http2 = http2::SendRequest<Full<Bytes>>;

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub head: Parts,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// Begins HTTP/1.1 on a connection, which lives as long as what is given back.
pub(super) async fn http1(connection: Connection) -> Result<Http1, Error> {
    let (sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(driver);
    Ok(sender)
}

/// Begins HTTP/2 on a connection, which lives as long as what is given back.
pub(super) async fn http2(connection: Connection) -> Result<Http2, Error> {
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(connection)).await?;
    tokio::spawn(driver);
    Ok(sender)
}

/// Asks over HTTP/1.1: the authority stands in Host (RFC 9112 section 3.2.1).
pub(super) async fn over_http1(sender: &mut Http1, request: &Request<Bytes>) -> Result<Answer, Error> {
    let mut request = copy(request);
    let authority =
        request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str())).transpose()?;
    if let Some(authority) = authority {
        request.headers_mut().insert(header::HOST, authority);
    }
    let target = request.uri().path_and_query().cloned().ok_or("no target")?;
    *request.uri_mut() = Uri::builder().path_and_query(target).build()?;
    whole(sender.send_request(request).await?).await
}

/// Asks over HTTP/2: the authority stands in the URI.
pub(super) async fn over_http2(sender: &mut Http2, request: &Request<Bytes>) -> Result<Answer, Error> {
    let mut request = copy(request);
    request.headers_mut().remove(header::HOST);
    whole(sender.send_request(request).await?).await
}

fn copy(request: &Request<Bytes>) -> Request<Full<Bytes>> {
    let mut copy = Request::new(Full::new(request.body().clone()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Reads an answer to its end.
async fn whole(response: Response<Incoming>) -> Result<Answer, Error> {
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = incoming.frame().await {
        match frame?.into_data() {
            Ok(data) if body.len() + data.len() > ANSWER => return Err("the answer is too long".into()),
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Answer { head, body: body.freeze(), trailers })
}

/// The body of a gRPC call.
pub(super) fn grpc_body(message: &impl Message) -> Result<Bytes, Error> {
    let mut body = BytesMut::with_capacity(PREFIX + message.encoded_len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut body)?;
    Ok(body.freeze())
}

/// The one message of the answer to a gRPC call.
pub(super) fn grpc_message<M: Message + Default>(answer: Answer) -> Result<M, Error> {
    if answer.head.status != StatusCode::OK {
        return Err(format!("the server answered {}", answer.head.status).into());
    }
    // An answer without a message has its status among the headers.
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
    match trailers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(status) => return Err(format!("grpc-status {}", String::from_utf8_lossy(status)).into()),
        None => return Err("no grpc-status".into()),
    }
    let mut body = answer.body;
    if body.len() < PREFIX || body.get_u8() != 0 {
        return Err("no message, or a compressed one".into());
    }
    let length = usize::try_from(body.get_u32())?;
    if body.len() != length {
        return Err("not one whole message".into());
    }
    Ok(M::decode(body)?)
}
