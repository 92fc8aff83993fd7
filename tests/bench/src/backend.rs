//! The applications behind the proxies: they answer every request at once.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{Failure, load::provider};

/// Bytes of each answer's body, or of its message.
pub const BODY: usize = 1024;
/// Bytes of the body where [`LARGE_PATH`] is asked for.
pub const LARGE: usize = 100 * 1024;
/// The end of the path of such a request.
pub const LARGE_PATH: &str = "/large";
/// What comes before each message of gRPC: whether it is compressed, and its length.
pub const GRPC_PREFIX: usize = 5;

/// Starts one for HTTP/1.1 on a free port of the loopback address.
pub async fn start() -> Result<SocketAddr, Failure> {
    let answers = Answers::new();
    listen(move |tcp| async move {
        tcp.set_nodelay(true)?;
        Ok(serve(tcp, answers).await?)
    })
    .await
}

/// The same over TLS, with the certificate in this directory.
pub async fn start_tls(dir: &Path) -> Result<SocketAddr, Failure> {
    let chain = CertificateDer::pem_file_iter(dir.join("tls.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(dir.join("tls.key"))?;
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config = config.with_no_client_auth().with_single_cert(chain, key)?;
    let (answers, acceptor) = (Answers::new(), TlsAcceptor::from(Arc::new(config)));
    listen(move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            tcp.set_nodelay(true)?;
            Ok(serve(acceptor.accept(tcp).await?, answers).await?)
        }
    })
    .await
}

/// Starts one for gRPC's unary calls over HTTP/2 without TLS.
pub async fn start_grpc() -> Result<SocketAddr, Failure> {
    listen(serve_grpc).await
}

async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<SocketAddr, Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp));
        }
    });
    Ok(address)
}

#[derive(Clone, Copy)]
struct Answers {
    small: &'static [u8],
    large: &'static [u8],
}

impl Answers {
    fn new() -> Self {
        let answer = |body: usize| -> &'static [u8] {
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body}\r\n\r\n");
            (head + &"x".repeat(body)).into_bytes().leak()
        };
        Self { small: answer(BODY), large: answer(LARGE) }
    }

    fn to(self, request: &[u8]) -> &'static [u8] {
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let path = line.strip_suffix(b" HTTP/1.1").unwrap_or(line);
        if path.ends_with(LARGE_PATH.as_bytes()) { self.large } else { self.small }
    }
}

/// Requests have no body, and come one at a time.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answers: Answers) -> std::io::Result<()> {
    let mut seen = Vec::with_capacity(4096);
    while stream.read_buf(&mut seen).await? > 0 {
        if seen.ends_with(b"\r\n\r\n") {
            let answer = answers.to(&seen);
            seen.clear();
            stream.write_all(answer).await?;
            stream.flush().await?;
        }
    }
    Ok(())
}

/// A message of [`BODY`] bytes.
pub fn grpc_message() -> Bytes {
    let mut message = BytesMut::with_capacity(GRPC_PREFIX + BODY);
    message.put_u8(0);
    message.put_u32(BODY as u32);
    message.put_bytes(b'x', BODY);
    message.freeze()
}

async fn serve_grpc(tcp: TcpStream) -> Result<(), Failure> {
    tcp.set_nodelay(true)?;
    let message = grpc_message();
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    builder.max_concurrent_streams(1 << 10);
    let mut connection = builder.handshake::<_, Bytes>(tcp).await?;
    while let Some(request) = connection.accept().await {
        let (request, answer) = request?;
        tokio::spawn(answer_call(request, answer, message.clone()));
    }
    Ok(())
}

async fn answer_call(
    request: http::Request<h2::RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
    message: Bytes,
) -> Result<(), Failure> {
    let mut body = request.into_body();
    while let Some(part) = body.data().await {
        body.flow_control().release_capacity(part?.len())?;
    }
    let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = answer.send_response(head, false)?;
    stream.send_data(message, false)?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_chooses_the_size() {
        let answers = Answers::new();
        let length = |request: &[u8]| answers.to(request).len();
        assert!(length(b"GET /r0/x HTTP/1.1\r\nhost: a\r\n\r\n") < 2 * BODY);
        assert!(length(b"GET /r0/large HTTP/1.1\r\nhost: a\r\n\r\n") > LARGE);
    }
}
