//! Applications that say what reached them: HTTP/1.1, h2c, WebSocket, gRPC, and all of them over TLS.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{ServerConfig, pki_types::pem::PemObject};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};

use super::certificates::Issued;

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// What reached a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Echo {
    pub pod: String,
    pub namespace: String,
    pub method: String,
    /// Path and query.
    pub path: String,
    pub host: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub proto: String,
    /// Names in lower case; values of one name in their order.
    pub headers: Vec<(String, String)>,
    /// The server name of the TLS connection; none: no TLS.
    pub sni: Option<String>,
    /// PEM of the client's certificate.
    pub client_certificate: Option<String>,
}

impl Echo {
    /// All values of a header, joined by commas; none: it was not there.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }
}

/// One application process.
pub struct Pod {
    pub name: String,
    pub address: SocketAddr,
    /// Everything that reached it.
    pub seen: Arc<Mutex<Vec<Echo>>>,
    serving: JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Identity {
    pod: String,
    namespace: String,
    seen: Arc<Mutex<Vec<Echo>>>,
}

#[derive(Default, Clone)]
struct Connection {
    sni: Option<String>,
    client_certificate: Option<String>,
}

impl Pod {
    /// Starts one without TLS.
    pub async fn start(namespace: &str, name: &str) -> Self {
        Self::serve(namespace, name, None).await
    }

    /// Starts one with TLS, which takes any client certificate or none.
    pub async fn start_tls(namespace: &str, name: &str, certificate: &Issued) -> Self {
        let chain = rustls::pki_types::CertificateDer::pem_slice_iter(certificate.certificate.as_bytes());
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(super::client::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(super::client::any_client())
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::serve(namespace, name, Some(Arc::new(config))).await
    }

    async fn serve(namespace: &str, name: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let identity =
            Arc::new(Identity { pod: name.into(), namespace: namespace.into(), seen: seen.clone() });
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (identity, tls) = (identity.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return converse(tcp, identity, Connection::default()).await };
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await else { return };
                    let session = stream.get_ref().1;
                    let connection = Connection {
                        sni: Some(session.server_name().unwrap_or_default().to_owned()),
                        client_certificate: session
                            .peer_certificates()
                            .and_then(|chain| chain.first())
                            .map(|certificate| STANDARD.encode(certificate)),
                    };
                    converse(stream, identity, connection).await;
                });
            }
        });
        Self { name: name.into(), address, seen, serving }
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    identity: Arc<Identity>,
    connection: Connection,
) {
    let service = service_fn(move |request| answer(request, identity.clone(), connection.clone()));
    // A client that goes away is no failure of the application.
    let _closed = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    identity: Arc<Identity>,
    connection: Connection,
) -> Result<Response<Body>, std::convert::Infallible> {
    let echo = describe(&request, &identity, connection);
    identity.seen.lock().unwrap().push(echo.clone());
    let text = serde_json::to_vec(&echo).unwrap();
    if request.headers().get("upgrade").is_some_and(|value| value == "websocket") {
        return Ok(upgrade(request));
    }
    let is_grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        let _request = request.into_body().collect().await;
        return Ok(grpc(&text));
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    if let Some(delay) = query.split('&').find_map(|pair| pair.strip_prefix("delay=")) {
        tokio::time::sleep(Duration::from_millis(delay.trim_end_matches("ms").parse().unwrap())).await;
    }
    let path = request.uri().path().to_owned();
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    if let Some(code) = path.strip_prefix("/status/") {
        *response.status_mut() = code.parse().unwrap_or(StatusCode::BAD_REQUEST);
    }
    set_headers(request.headers(), response.headers_mut());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    // A body that is not read would leave a connection that cannot be used again.
    let _request = request.into_body().collect().await;
    Ok(response)
}

fn describe(request: &Request<Incoming>, identity: &Identity, connection: Connection) -> Echo {
    let headers = request.headers();
    let host = headers.get("host").and_then(|value| value.to_str().ok()).map(str::to_owned);
    Echo {
        pod: identity.pod.clone(),
        namespace: identity.namespace.clone(),
        method: request.method().to_string(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        host: request.uri().authority().map(ToString::to_string).or(host).unwrap_or_default(),
        proto: format!("{:?}", request.version()),
        headers: headers
            .iter()
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect(),
        sni: connection.sni,
        client_certificate: connection.client_certificate,
    }
}

/// Sets the headers that the request asks for: `x-echo-set-header: NAME:VALUE, NAME:VALUE`.
fn set_headers(asked: &HeaderMap, answer: &mut HeaderMap) {
    let lists = asked.get_all("x-echo-set-header");
    for pair in lists.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')) {
        let Some((name, value)) = pair.trim().split_once(':') else { continue };
        let name = HeaderName::from_bytes(name.trim().as_bytes()).unwrap();
        answer.append(name, HeaderValue::from_str(value.trim()).unwrap());
    }
}

/// Accepts a WebSocket, and sends its bytes back as they come.
fn upgrade(request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get("sec-websocket-key").cloned();
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        let _closed = tokio::io::copy(&mut from, &mut to).await;
    });
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    // The proxy passes it on; only a browser's client would compute it.
    headers.insert("sec-websocket-accept", key.unwrap_or(HeaderValue::from_static("none")));
    response
}

/// One gRPC message that holds the echo as JSON, and the status in the trailers.
fn grpc(text: &[u8]) -> Response<Body> {
    let mut message = vec![0];
    message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    message.extend(text);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(Bytes::from(message)), Frame::trailers(trailers)];
    let body = StreamBody::new(tokio_stream::iter(frames.map(Ok)));
    let mut response = Response::new(BodyExt::boxed(body));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
