//! Applications and clients of a scenario's own, down to the bytes.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::client::Tls;

/// Nothing of a conversation may take longer.
const SOON: Duration = Duration::from_secs(10);

pub type Body = BoxBody<Bytes, Infallible>;
pub type Client = http2::SendRequest<Body>;

/// Any byte stream.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Waits, bounded.
#[track_caller]
pub fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(SOON, future).await {
            Ok(value) => value,
            Err(_) => panic!("{place}: {what}: not within {SOON:?}"),
        }
    }
}

/// An application that answers as `handler` says. Speaks HTTP/1.1 and h2c.
pub async fn application<H, F>(handler: H) -> SocketAddr
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    conversation(move |tcp| serve(tcp, handler.clone())).await
}

/// Speaks HTTP on a connection.
pub async fn serve<H, F>(tcp: TcpStream, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // A client that goes away is no failure of the application.
    let _closed = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service).await;
}

/// An application that does this with each of its connections.
pub async fn conversation<H, F>(script: H) -> SocketAddr
where
    H: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(script(tcp));
        }
    });
    address
}

/// A body that is whole.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A body whose parts are sent one by one.
pub fn parts() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver).map(Ok))))
}

/// One part.
pub fn part(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

/// Trailers with this status of gRPC.
pub fn grpc_status(code: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    Frame::trailers(trailers)
}

/// The next part that holds data; none at the end.
pub async fn next(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let data = soon("a part", body.frame()).await?.unwrap().into_data().ok()?;
        if !data.is_empty() {
            return Some(data);
        }
    }
}

/// What comes after the last part.
pub async fn trailers(body: &mut Incoming) -> HeaderMap {
    soon("trailers", body.frame()).await.unwrap().unwrap().into_trailers().unwrap()
}

/// A connection, over TLS with this server name if there is one, which then agrees on `h2` or HTTP/1.1.
pub async fn connect(to: SocketAddr, sni: Option<&str>, h2: bool) -> Box<dyn Wire> {
    let tcp = soon("a connection", TcpStream::connect(to)).await.unwrap();
    let Some(sni) = sni else { return Box::new(tcp) };
    let tls = Tls { sni: sni.into(), roots: None, client: None };
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls.config(h2)));
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    Box::new(soon("a handshake", connector.connect(name, tcp)).await.unwrap())
}

/// An HTTP/2 client, with prior knowledge or over TLS.
pub async fn http2(to: SocketAddr, sni: Option<&str>) -> Client {
    http2_over(connect(to, sni, true).await).await
}

/// The same on a connection that is there.
pub async fn http2_over(wire: impl Wire + 'static) -> Client {
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(wire));
    let (client, connection) = soon("an HTTP/2 handshake", shaken).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sends bytes.
pub async fn say(wire: &mut (impl AsyncWrite + Unpin + ?Sized), text: &str) {
    soon("sending", async {
        wire.write_all(text.as_bytes()).await.unwrap();
        wire.flush().await.unwrap();
    })
    .await;
}

/// Reads until what was read ends so.
#[track_caller]
pub fn hear<'a>(
    wire: &'a mut (impl AsyncRead + Unpin + ?Sized),
    end: &'a str,
) -> impl Future<Output = String> + 'a {
    let place = std::panic::Location::caller();
    async move {
        let mut read = Vec::new();
        let reading = async {
            while !read.ends_with(end.as_bytes()) {
                let mut byte = [0];
                match wire.read(&mut byte).await {
                    Ok(1) => read.extend(byte),
                    _ => return false,
                }
            }
            true
        };
        let heard = tokio::time::timeout(SOON, reading).await;
        let text = String::from_utf8_lossy(&read).into_owned();
        assert!(matches!(heard, Ok(true)), "{place}: wanted {end:?} ({heard:?}), heard {text:?}");
        text
    }
}

/// Reads a head, in lower case.
#[track_caller]
pub fn head(wire: &mut (impl AsyncRead + Unpin + ?Sized)) -> impl Future<Output = String> {
    let heard = hear(wire, "\r\n\r\n");
    async move { heard.await.to_ascii_lowercase() }
}

/// Reads what is left of a body in chunks after its last chunk's line: trailers, if there are any, and an empty line.
pub async fn trailer_section(wire: &mut (impl AsyncRead + Unpin + ?Sized)) -> String {
    let mut lines = String::new();
    loop {
        let line = hear(wire, "\r\n").await;
        if line == "\r\n" {
            return lines;
        }
        lines += &line;
    }
}
