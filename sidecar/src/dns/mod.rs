//! DNS for the application behind the sidecar: the mesh's own names from the snapshot, all others forwarded.

mod forward;
mod kept;
mod message;
mod names;
mod outgoing;
mod server;
mod zone;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinHandle,
};
use tombolo_core::{model::Snapshot, telemetry::Telemetry};

pub use forward::ForwardError;
pub use zone::TTL;

use crate::addresses::Addresses;
use forward::Forwarder;
use message::Reply;
use names::Names;
use server::Server;
use zone::Found;

/// Where the mesh's own names come from.
#[derive(Clone)]
pub struct Directory {
    /// Services and their virtual addresses.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// True once the controller has told this process all services. Before that, a name that is not in the snapshot is
    /// answered SERVFAIL.
    pub synced: watch::Receiver<bool>,
    /// Where the virtual addresses lie.
    pub addresses: Addresses,
}

/// Why there is no DNS server.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be listened on.
    #[error("DNS on {address}: {source}{}", hint(source))]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The resolvers cannot be used.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; if another sidecar of this machine has it, give this one --dns-listen and --outbound-range of its own"
        }
        _ => "",
    }
}

/// A DNS server that answers. It ends when this is dropped.
pub struct Dns {
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Dns {
    /// Listens on `listen`, UDP and TCP, and on `beside` as well, at the same port: the other family's address, to which
    /// captured questions come. Forwards to `resolvers` (none: those of `/etc/resolv.conf`).
    pub async fn start(
        listen: SocketAddr,
        beside: Option<IpAddr>,
        resolvers: &[SocketAddr],
        directory: Directory,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, DnsError> {
        let failed = |source| DnsError::Bind { address: listen, source };
        let (udp, tcp) = bind(listen).await.map_err(failed)?;
        let address = udp.local_addr().map_err(failed)?;
        let mut sockets = vec![(udp, tcp)];
        let mut own = vec![address];
        if let Some(ip) = beside {
            let listen = SocketAddr::new(ip, address.port());
            sockets.push(bind(listen).await.map_err(|source| DnsError::Bind { address: listen, source })?);
            own.push(listen);
        }
        let forwarder = Forwarder::new(resolvers, &own)?;
        let server = Server::new(
            Answers { directory, names: ArcSwap::default(), turns: AtomicUsize::new(0), forwarder },
            telemetry,
        );
        let serve = |(udp, tcp)| {
            let (by_udp, by_tcp) = (Arc::clone(&server), Arc::clone(&server));
            [tokio::spawn(by_udp.udp(Arc::new(udp))), tokio::spawn(by_tcp.tcp(tcp))]
        };
        Ok(Self { address, tasks: sockets.into_iter().flat_map(serve).collect() })
    }

    /// Where it listens, with the real port: the same by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Tries for a port that is free by UDP and TCP, if any will do.
const PORT_TRIES: usize = 16;

async fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let udp = UdpSocket::bind(listen).await?;
        match tombolo_core::proxy::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if tries <= 1 => return Err(error),
            Err(_) => tries -= 1,
        }
    }
}

/// Knows all names.
struct Answers {
    directory: Directory,
    /// Of the snapshot that the last question met.
    names: ArcSwap<Names>,
    /// How many answers there were.
    turns: AtomicUsize,
    forwarder: Forwarder,
}

impl Answers {
    /// The reply to a question about the mesh; none if it is not about the mesh.
    fn own(&self, name: &Name, kind: RecordType) -> Option<Reply> {
        // Read first: a snapshot that is at least as new as the sync.
        let synced = *self.directory.synced.borrow();
        let code = |code| Reply { authoritative: true, ..Reply::code(code) };
        match zone::find(&self.names(), synced, &self.directory.addresses, name, kind) {
            Found::Foreign => None,
            Found::NotReady => Some(Reply::code(ResponseCode::ServFail)),
            Found::Records { mut answers, additionals } => {
                // Of several hosts, each is the first in its turn: most clients take that one.
                let turn = self.turns.fetch_add(1, Ordering::Relaxed) % answers.len().max(1);
                answers.rotate_left(turn);
                Some(Reply { answers, additionals, ..code(ResponseCode::NoError) })
            }
            Found::NoData(soa) => Some(Reply { authorities: vec![soa], ..code(ResponseCode::NoError) }),
            Found::NoName(soa) => Some(Reply { authorities: vec![soa], ..code(ResponseCode::NXDomain) }),
        }
    }

    /// The names of the snapshot in force.
    fn names(&self) -> Arc<Names> {
        let snapshot = self.directory.snapshot.load();
        let names = self.names.load_full();
        if names.are_of(&snapshot) {
            return names;
        }
        // Of two that make them at a time, the later one stays; if that is the older, the next question makes them anew.
        let names = Arc::new(Names::of(&snapshot));
        self.names.store(Arc::clone(&names));
        names
    }

    async fn foreign(&self, name: &Name, kind: RecordType) -> Reply {
        let answer = self.forwarder.ask(name, kind).await;
        Reply { answers: answer.answers, authorities: answer.authorities, ..Reply::code(answer.code) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
