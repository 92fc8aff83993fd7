//! Binding sockets and accepting connections, within bounds.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_util::task::TaskTracker;

use super::{
    Inherited,
    clients::{ClientPlace, Clients},
    neighbours,
};

/// The kernel's queue of connections not yet accepted; past it, the kernel lets clients try again.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes a connection from its accept to its end. One future per connection, boxed once.
pub trait ConnectionService: Send + Sync + 'static {
    /// Serves one connection. `stop` turns true when the listener drains: finish what runs, begin nothing.
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()>;
}

/// A connection as it comes from the kernel.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, with TCP_NODELAY.
    pub tcp: TcpStream,
    /// What was read from it already, to find out what it is; it is read again.
    pub prefix: Bytes,
    /// Who connected.
    pub peer: SocketAddr,
    /// Turns true when this listener drains.
    pub stop: watch::Receiver<bool>,
    /// The listener's counters.
    pub stats: Arc<ListenStats>,
    /// Whose connection it counts as, for as long as it lives.
    pub place: Arc<ClientPlace>,
}

/// Bounds of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenLimits {
    /// Connections at a time. One more is closed at once and counted as refused.
    pub connections: usize,
    /// Connections at a time from one client: an IPv4 address, or an IPv6 network of 64 bits. One more is closed at once
    /// and counted as refused. By default half of all, so that no single client can shut out the others. Behind a load
    /// balancer that speaks the PROXY protocol, the client is the one that its header names (and until that is read, which
    /// takes five seconds at most, the balancer); behind one that does not, all clients are one.
    pub per_client: usize,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self { connections: 16_384, per_client: 8_192 }
    }
}

/// What happened on a listener since it was bound.
#[derive(Debug, Default)]
pub struct ListenStats {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed because the bound was reached.
    pub refused: AtomicU64,
    /// Connections that ended in the TLS handshake: failed or too slow.
    pub handshake_failed: AtomicU64,
    /// Connections closed because a request's head took too long.
    pub head_timeouts: AtomicU64,
    /// Connections that ended in a head that is no valid HTTP/1.1, or that was broken off. (A head that is valid and
    /// refused all the same is in the access log.)
    pub bad_heads: AtomicU64,
    /// Connections closed because their server name is not known here.
    pub unknown_name: AtomicU64,
    /// Connections of those who only looked whether somebody is here.
    pub probes: AtomicU64,
}

impl ListenStats {
    /// Adds one.
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Binds a TCP socket with SO_REUSEADDR; an IPv6 address takes IPv6 only. Port 0 takes a free one.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    socket(address, false, is_dual(address))
}

/// As [`bind`], but of the address's family alone, also where it is `[::]`: a socket of its own for each family is told by
/// the kernel where redirected connections were going.
pub fn bind_of_family(address: SocketAddr) -> io::Result<TcpListener> {
    socket(address, false, false)
}

/// As [`bind`], with SO_REUSEPORT: on one port, one socket may have every address and others single ones, which then get
/// the connections to them. Other processes of the same user may have the same address as well, and then share its
/// connections, as an old and a new gateway do while one replaces the other.
pub fn bind_beside(address: SocketAddr) -> io::Result<TcpListener> {
    socket(address, true, is_dual(address))
}

/// `[::]` alone means both families, as users expect; any other address is what it says.
fn is_dual(address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

fn socket(address: SocketAddr, beside: bool, dual: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if beside {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!dual)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How an address is listened on where no socket was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// See [`bind`].
    None,
    /// See [`bind_beside`]; an address that another process listens on already is refused, as each would get some of the
    /// other's connections.
    Own,
    /// The same, and addresses may be shared with other processes.
    Processes,
}

/// The socket of this address that was taken over, else a new one.
pub fn open(address: SocketAddr, inherited: &Inherited, sharing: Sharing) -> io::Result<TcpListener> {
    let Some(socket) = inherited.take(address) else {
        if sharing == Sharing::Own && address.port() != 0 && neighbours::listen_on(address) {
            let message = "another process of this user listens there, and would share its connections: stop it, take \
                           its place with --handover, or allow it with --share-ports";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        return self::socket(address, sharing != Sharing::None, is_dual(address));
    };
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// A listener that serves. Dropping this does not end it; [`Serving::stop`] does.
pub struct Serving {
    address: SocketAddr,
    /// Gone when nobody accepts on it any more.
    socket: Weak<TcpListener>,
    stop: watch::Sender<bool>,
    connections: TaskTracker,
    stats: Arc<ListenStats>,
}

impl Serving {
    /// The bound address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same socket once more, to be handed to another process; none: it does not listen any more.
    pub fn socket(&self) -> Option<OwnedFd> {
        self.socket.upgrade()?.as_fd().try_clone_to_owned().ok()
    }

    /// The listener's counters.
    pub fn stats(&self) -> &Arc<ListenStats> {
        &self.stats
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.connections.len()
    }

    /// Stops accepting and drains: HTTP/2 gets a GOAWAY, HTTP/1.1 closes after the next response (or, where no request
    /// comes, after a moment), tunnels go on until their own end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until every connection has ended, no longer than `limit`. Call [`Self::stop`] first. False: some is left.
    pub async fn drained(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.connections.wait()).await.is_ok()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("address", &self.address).field("open", &self.open()).finish()
    }
}

/// Accepts on `listener` until it is stopped, or `drain` turns true.
pub fn serve(
    listener: TcpListener,
    service: Arc<dyn ConnectionService>,
    limits: ListenLimits,
    drain: watch::Receiver<bool>,
) -> io::Result<Serving> {
    let stats = Arc::new(ListenStats::default());
    let (stop, stopped) = watch::channel(false);
    let connections = TaskTracker::new();
    let listener = Arc::new(listener);
    let serving = Serving {
        address: listener.local_addr()?,
        socket: Arc::downgrade(&listener),
        stop: stop.clone(),
        connections: connections.clone(),
        stats: stats.clone(),
    };
    let accepting = Accepting {
        listener,
        service,
        places: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        clients: Arc::default(),
        per_client: limits.per_client,
        connections,
        stats,
        stopped,
    };
    tokio::spawn(async move {
        accepting.run(drain).await;
        // Also where the process drains, each connection listens to its own listener only.
        stop.send_replace(true);
    });
    Ok(serving)
}

struct Accepting {
    listener: Arc<TcpListener>,
    service: Arc<dyn ConnectionService>,
    places: Arc<Semaphore>,
    clients: Arc<Clients>,
    per_client: usize,
    connections: TaskTracker,
    stats: Arc<ListenStats>,
    stopped: watch::Receiver<bool>,
}

impl Accepting {
    async fn run(self, mut drain: watch::Receiver<bool>) {
        let mut stopped = self.stopped.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = signalled(&mut stopped) => break,
                () = signalled(&mut drain) => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => self.begin(tcp, peer),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.take_waiting();
        self.connections.close();
    }

    /// Takes the connections that the kernel has accepted already: closing the socket would reset them.
    fn take_waiting(&self) {
        for _ in 0..BACKLOG {
            match self.listener.accept().now_or_never() {
                Some(Ok((tcp, peer))) => self.begin(tcp, peer),
                Some(Err(_)) | None => return,
            }
        }
    }

    fn begin(&self, tcp: TcpStream, peer: SocketAddr) {
        let place = self.places.clone().try_acquire_owned().ok();
        let places = place.and_then(|place| Some((place, self.clients.enter(peer.ip(), self.per_client)?)));
        let Some((place, of_client)) = places else {
            ListenStats::count(&self.stats.refused);
            return;
        };
        let of_client = Arc::new(of_client);
        ListenStats::count(&self.stats.accepted);
        // It fails only where the client is already gone, which the first read finds out.
        let _ = tcp.set_nodelay(true);
        let accepted = Accepted {
            tcp,
            prefix: Bytes::new(),
            peer,
            stop: self.stopped.clone(),
            stats: self.stats.clone(),
            place: of_client.clone(),
        };
        let future = self.service.clone().serve(accepted);
        self.connections.spawn(async move {
            future.await;
            drop((place, of_client));
        });
    }
}

/// Resolves when the signal is true; never, if its sender is gone without having said so.
pub(super) async fn signalled(signal: &mut watch::Receiver<bool>) {
    if signal.wait_for(|on| *on).await.is_err() {
        std::future::pending::<()>().await;
    }
}
