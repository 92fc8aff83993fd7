//! Serving a bundle over HTTPS: `GET` any path gives the document.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Connections at a time; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 64;
/// A connection is closed after this long, whatever it does.
const MOST_TIME: Duration = Duration::from_secs(30);
/// A request's head may take this long.
const HEAD: Duration = Duration::from_secs(5);
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves what `document` gives, over what `tls` gives, both asked for each connection, until `stop` resolves.
pub async fn serve(
    listener: TcpListener,
    tls: impl Fn() -> Arc<ServerConfig>,
    document: impl Fn() -> String,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    let (acceptor, document) = (TlsAcceptor::from(tls()), Bytes::from(document()));
                    tokio::spawn(async move {
                        // Who fails or is late learns nothing, and costs its own connection.
                        let _ended = timeout(MOST_TIME, connection(acceptor, tcp, document)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection at the bundle endpoint");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
}

async fn connection(acceptor: TlsAcceptor, tcp: TcpStream, document: Bytes) {
    let Ok(stream) = acceptor.accept(tcp).await else { return };
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = respond(request.method(), document.clone());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that goes away is its own affair.
    let _served = served.await;
}

fn respond(method: &Method, document: Bytes) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return refused;
    }
    let mut answer = Response::new(Full::new(document));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
