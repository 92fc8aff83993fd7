//! Where a connection was going before the kernel redirected it.

use std::{io, net::SocketAddr};

use rustix::{
    io::Errno,
    net::sockopt::{ip_original_dst, ipv6_original_dst},
};
use tokio::net::TcpStream;

/// The address that a connection was made to, if the packet filter has redirected it (`SO_ORIGINAL_DST`, Linux). None: it
/// was made to this very socket, and nothing is to be concluded from it.
pub fn original_destination(tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = tcp.local_addr()?;
    let asked = match local.ip().to_canonical().is_ipv4() {
        true => ip_original_dst(tcp).map(SocketAddr::from),
        false => ipv6_original_dst(tcp).map(SocketAddr::from),
    };
    match asked {
        Ok(original) if is_same(original, local) => Ok(None),
        Ok(original) => Ok(Some(SocketAddr::new(original.ip().to_canonical(), original.port()))),
        // Connections are not tracked at all, or this one was let through as it came.
        Err(Errno::NOENT | Errno::NOPROTOOPT | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether scope and flow of an IPv6 address differ does not matter.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_direct_connection_was_not_redirected() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Where there is no IPv6, there is nothing to ask.
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(original_destination(&accepted).unwrap(), None, "{address}");
            drop(client);
        }
    }
}
