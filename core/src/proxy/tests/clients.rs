//! Clients: raw bytes, HTTP/2, TLS.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::harness::soon;
use crate::tls;

/// Sends bytes on a connection of their own, and reads to the end of it.
pub async fn raw(address: SocketAddr, request: &str) -> String {
    soon("a raw exchange", async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end too.
        let _ = tcp.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}

/// `GET /` on a connection of its own, with these header lines.
pub async fn get(address: SocketAddr, headers: &str) -> String {
    raw(
        address,
        &format!("GET /a?b=c HTTP/1.1\r\nhost: Shop.example:80\r\nconnection: close\r\n{headers}\r\n"),
    )
    .await
}

pub async fn post(address: SocketAddr, body: &str) -> String {
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    raw(address, &format!("{head}{body}")).await
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// The body of an answer, out of its chunks if it came in such.
pub fn body(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return rest.into();
    }
    let mut whole = String::new();
    while let Some((size, chunk)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole += &chunk[..size];
        rest = &chunk[size + 2..];
    }
    whole
}

/// Reads from a stream until it ends a header section, and returns all that was read.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    soon("a head", async {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_ne!(
                stream.read(&mut byte).await.unwrap(),
                0,
                "ended in {}",
                String::from_utf8_lossy(&read)
            );
            read.extend(byte);
        }
        String::from_utf8(read).unwrap()
    })
    .await
}

pub type H2Client = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// An HTTP/2 client over any stream.
pub async fn http2(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> H2Client {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io));
    let (client, connection) = soon("an HTTP/2 handshake", handshake).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn http2_get(client: &mut H2Client, url: &str) -> (u16, Bytes) {
    let request = Request::get(url).body(Full::default()).unwrap();
    let response = soon("an HTTP/2 answer", client.send_request(request)).await.unwrap();
    let status = response.status().as_u16();
    (status, soon("an HTTP/2 body", response.into_body().collect()).await.unwrap().to_bytes())
}

/// A server certificate for a name, by an authority of its own, and a client that trusts it.
pub struct Site {
    pub server: Arc<ServerConfig>,
    root: rustls::RootCertStore,
}

impl Site {
    pub fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut server = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut root = rustls::RootCertStore::empty();
        root.add(made.cert.der().clone()).unwrap();
        Self { server: Arc::new(server), root }
    }

    pub async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        alpn: &str,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.root.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let tcp = TcpStream::connect(address).await?;
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        soon("a TLS handshake", tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
    }
}
