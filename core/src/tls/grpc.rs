//! gRPC over this module's TLS: a client's channel, and a server's stream of accepted connections.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::Stream;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint, server::Connected},
};
use tower::Service;

use super::peer_id;
use crate::{model::SpiffeId, outgoing};

/// Connection and handshake with one address of a controller; then the next address is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A link with nothing to say is asked this often whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// An asked link that says nothing for this long is dead.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that may be on their way to a client over one connection: what one call does not read holds up no other.
const WINDOW: u32 = 1 << 20;

/// A client's handshake with this server.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at a time. At the bound new connections wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 128;

/// The pause after a failure to accept, e.g. for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server name in the ClientHello. Nobody verifies by it, and it tells a watcher nothing.
const SERVER_NAME: &str = "controller.t";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address was given.
    #[error("no address to connect to")]
    NoAddress,
    /// Every address failed; this is the last one's error.
    #[error("{address}: {reason}")]
    Failed {
        /// The last address that was tried.
        address: String,
        /// What went wrong there, causes included.
        reason: String,
    },
}

/// Connects to the first of these addresses (`HOST:PORT`) that answers and verifies. The channel reconnects by itself,
/// to that address and with this configuration; after a rotation connect anew with a fresh one.
pub async fn connect(addresses: &[String], config: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let mut last = ConnectError::NoAddress;
    for address in addresses {
        match connect_one(address, Arc::clone(&config)).await {
            Ok(channel) => return Ok(channel),
            Err(reason) => last = ConnectError::Failed { address: address.clone(), reason },
        }
    }
    Err(last)
}

async fn connect_one(address: &str, config: Arc<ClientConfig>) -> Result<Channel, String> {
    // The scheme is http: TLS is the connector's business, and tonic must not add its own.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| causes(&error))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_connection_window_size(WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector(Connector::new(config)).await.map_err(|error| causes(&error))
}

/// An error with its sources: tonic's own text is no more than "transport error".
pub fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    // Some wrappers repeat their source's text.
    let mut texts: Vec<String> = chain.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// Dials TCP and TLS for tonic and hyper: a `tower` service from an address to a connection.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    /// The host's own name is asked for, and verified where `tls` verifies names.
    by_host: bool,
}

impl Connector {
    /// A connector that shows and demands what `config` says.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(config), by_host: false }
    }

    /// One that asks each host for its own name, as servers outside the mesh want.
    pub fn by_host(config: Arc<ClientConfig>) -> Self {
        Self { by_host: true, ..Self::new(config) }
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tls, by_host) = (self.tls.clone(), self.by_host);
        let dial = async move {
            let name = if by_host { host(&uri)? } else { SERVER_NAME };
            let name = ServerName::try_from(name.to_owned()).map_err(|_| invalid())?;
            Ok(TokioIo::new(tls.connect(name, dial(&uri).await?).await?))
        };
        Box::pin(async move {
            timeout(CONNECT_TIMEOUT, dial).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

/// A connection to where a URI says, in plaintext so far.
pub(crate) async fn dial(uri: &Uri) -> io::Result<TcpStream> {
    let tcp = outgoing::connect_host(host(uri)?, uri.port_u16().ok_or_else(invalid)?).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn host(uri: &Uri) -> io::Result<&str> {
    Ok(uri.host().ok_or_else(invalid)?.trim_start_matches('[').trim_end_matches(']'))
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

/// Who is at the other end of a connection. A request extension of every call that came over [`incoming`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Verified by the handshake; none if no certificate was shown.
    pub id: Option<SpiffeId>,
    /// Where it connects from.
    pub address: SocketAddr,
}

/// Who calls. None if the call did not come over [`incoming`].
pub fn peer<T>(request: &Request<T>) -> Option<&Peer> {
    request.extensions().get()
}

/// The verified identity of the caller, or the status `UNAUTHENTICATED`.
#[allow(clippy::result_large_err)] // tonic's own error, as its handlers return it.
pub fn require_id<T>(request: &Request<T>) -> Result<&SpiffeId, Status> {
    let id = peer(request).and_then(|peer| peer.id.as_ref());
    id.ok_or_else(|| Status::unauthenticated("a client certificate is needed"))
}

/// An accepted connection whose handshake is done.
#[derive(Debug)]
pub struct PeerStream {
    tls: server::TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

/// Accepted connections, for tonic's `serve_with_incoming`. Accepting stops when it is dropped.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<PeerStream>);

impl Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<PeerStream>>> {
        self.0.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

/// Accepts TLS connections, each with the configuration that is in force at that moment. A handshake that fails or
/// takes longer than ten seconds costs its own connection and nothing else; at most 128 run at a time.
pub fn incoming(listener: TcpListener, config: Arc<ArcSwap<ServerConfig>>) -> Incoming {
    incoming_for(listener, config, ())
}

/// The same. `held` is dropped when the listener is closed, a moment after the connections are.
pub fn incoming_for(
    listener: TcpListener,
    config: Arc<ArcSwap<ServerConfig>>,
    held: impl Send + 'static,
) -> Incoming {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        accept(&listener, config, sender).await;
        drop(listener);
        drop(held);
    });
    Incoming(receiver)
}

async fn accept(
    listener: &TcpListener,
    config: Arc<ArcSwap<ServerConfig>>,
    sender: mpsc::Sender<PeerStream>,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, sender) = (TlsAcceptor::from(config.load_full()), sender.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE_TIMEOUT, handshake(acceptor, tcp, address)).await {
                // Waiting for tonic to take it is no part of the handshake, but counts against the same bound.
                Ok(Ok(stream)) => drop(sender.send(stream).await),
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
            drop(permit);
        });
    }
}

async fn handshake(acceptor: TlsAcceptor, tcp: TcpStream, address: SocketAddr) -> io::Result<PeerStream> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let id = peer_id(tls.get_ref().1.peer_certificates());
    Ok(PeerStream { tls, peer: Peer { id, address } })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
