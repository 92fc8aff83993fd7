//! Connections that this process makes. All begin here, so that all of them bear its mark where it has one: by that, the
//! rules of `tombolo sidecar init --mark` tell a sidecar from an application that runs as the same user.

use std::{
    io,
    net::{SocketAddr, UdpSocket as Unconnected},
    sync::OnceLock,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket, lookup_host};

/// The process's mark: said once, at its start, and the same for all it does.
static MARK: OnceLock<u32> = OnceLock::new();

/// Why a process cannot mark what it sends.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The kernel refuses.
    #[error(
        "packets cannot be marked with {mark:#x}: {error}; it takes CAP_NET_ADMIN in the network namespace \
         (systemd: AmbientCapabilities=CAP_NET_ADMIN; Kubernetes: securityContext.capabilities.add: [NET_ADMIN])"
    )]
    Refused {
        /// With what.
        mark: u32,
        /// What it says.
        error: io::Error,
    },
    /// There is another mark already.
    #[error("packets are marked with {0:#x} already")]
    Marked(u32),
}

/// Marks all packets of the connections that this process makes from now on (SO_MARK of socket(7)). Tries it, so that what
/// would fail fails at once. What the C library asks of resolvers stays without a mark.
pub fn mark_all(mark: u32) -> Result<(), MarkError> {
    let tried = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| socket.set_mark(mark));
    tried.map_err(|error| MarkError::Refused { mark, error })?;
    match MARK.get_or_init(|| mark) {
        now if *now == mark => Ok(()),
        other => Err(MarkError::Marked(*other)),
    }
}

/// A socket for a connection to this address.
pub fn tcp_socket(to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    mark(SockRef::from(&socket))?;
    Ok(socket)
}

/// Connects to an address.
pub async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    tcp_socket(to)?.connect(to).await
}

/// Connects to the first address of a host that takes a connection.
pub async fn connect_host(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in lookup_host((host, port)).await? {
        match connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket for datagrams, bound to this address.
pub fn udp_socket(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Unconnected::bind(local)?;
    mark(SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn mark(socket: SockRef<'_>) -> io::Result<()> {
    MARK.get().map_or(Ok(()), |mark| socket.set_mark(*mark))
}
