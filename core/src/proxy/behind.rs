//! Listeners behind a load balancer that tells who its client is: the PROXY protocol, versions 1 and 2.
//!
//! The header is read to its last byte and no further, before anything else sees the connection.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    ConnectionService,
    listen::{Accepted, ListenStats},
};
use crate::decide::Proxied;

/// A header has to be there so soon; then the connection is closed and counted as a failed handshake.
const LIMIT: Duration = Duration::from_secs(5);
/// The begin of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const LINE: usize = 107;
/// The longest header of version 2 after its first 16 bytes: addresses and what else a proxy may tell. Past it, the
/// connection is closed.
const REST: usize = 4096;

/// A service whose connections begin with a header that names the client.
pub struct Behind {
    /// Whose connections do, and in which version.
    pub proxied: Arc<Proxied>,
    /// Who serves what comes after it.
    pub service: Arc<dyn ConnectionService>,
}

impl ConnectionService for Behind {
    fn serve(self: Arc<Self>, mut accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.proxied.expects(accepted.peer.ip()) {
                let reading = read_client(&mut accepted.tcp, &self.proxied);
                match tokio::time::timeout(LIMIT, reading).await {
                    Ok(Ok(Some(client))) if !accepted.place.pass_to(client.ip()) => {
                        return ListenStats::count(&accepted.stats.refused);
                    }
                    Ok(Ok(client)) => accepted.peer = client.unwrap_or(accepted.peer),
                    Ok(Err(error)) => {
                        tracing::debug!(peer = %accepted.peer, %error, "no PROXY header");
                        return ListenStats::count(&accepted.stats.handshake_failed);
                    }
                    Err(_) => return ListenStats::count(&accepted.stats.handshake_failed),
                }
            }
            self.service.clone().serve(accepted).await;
        })
    }
}

impl std::fmt::Debug for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behind").field("proxied", &self.proxied).finish_non_exhaustive()
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The client that the header names; none: it names nobody (a health check of the balancer itself).
async fn read_client(
    wire: &mut (impl AsyncRead + Unpin),
    proxied: &Proxied,
) -> io::Result<Option<SocketAddr>> {
    // The shortest header of either version is longer.
    let mut begin = [0; SIGNATURE.len()];
    wire.read_exact(&mut begin).await?;
    if begin == SIGNATURE && proxied.v2 {
        return read_v2(wire).await;
    }
    if begin.starts_with(b"PROXY ") && proxied.v1 {
        return read_v1(wire, &begin).await;
    }
    Err(bad("no header of a version that is expected"))
}

async fn read_v1(wire: &mut (impl AsyncRead + Unpin), begin: &[u8]) -> io::Result<Option<SocketAddr>> {
    let mut line = begin.to_vec();
    // Byte for byte, as what follows the line is for others to read.
    while !line.ends_with(b"\n") {
        if line.len() == LINE {
            return Err(bad("a line that is too long"));
        }
        line.push(wire.read_u8().await?);
    }
    let line = line.strip_suffix(b"\r\n").ok_or_else(|| bad("a line without its end"))?;
    let line = std::str::from_utf8(line).map_err(|_| bad("a line that is no text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, target, source_port, target_port] => {
            let address =
                |text: &str| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == (*family == "TCP4"));
            let (source, _) = address(source).zip(address(target)).ok_or_else(|| bad("no addresses"))?;
            let port = |text: &str| text.parse::<u16>().map_err(|_| bad("no port"));
            port(target_port)?;
            Ok(Some(SocketAddr::new(source, port(source_port)?)))
        }
        _ => Err(bad("a line of another form")),
    }
}

async fn read_v2(wire: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let (version, family) = (wire.read_u8().await?, wire.read_u8().await?);
    let length = usize::from(wire.read_u16().await?);
    if version >> 4 != 2 || length > REST {
        return Err(bad("a header of another version, or too long"));
    }
    let mut rest = vec![0; length];
    wire.read_exact(&mut rest).await?;
    let mut rest = rest.as_slice();
    match (version & 0xf, family) {
        // LOCAL: the balancer itself calls.
        (0, _) => Ok(None),
        (1, 0x11) => {
            let ip = Ipv4Addr::from(rest.read_u32().await?);
            rest.read_u32().await?;
            Ok(Some(SocketAddr::new(ip.into(), rest.read_u16().await?)))
        }
        (1, 0x21) => {
            let ip = Ipv6Addr::from(rest.read_u128().await?);
            rest.read_u128().await?;
            Ok(Some(SocketAddr::new(ip.into(), rest.read_u16().await?)))
        }
        // Unix sockets, datagrams, or not said.
        (1, _) => Ok(None),
        _ => Err(bad("a command that is not known")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ANY: Proxied = Proxied { v1: true, v2: true, from: None };

    async fn read(bytes: &[u8], proxied: &Proxied) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let mut wire = bytes;
        let client = read_client(&mut wire, proxied).await;
        (client, wire.to_vec())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, rest, b"GET /"].concat()
    }

    #[tokio::test]
    async fn a_header_names_the_client_and_leaves_what_follows() {
        let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80];
        // What else a proxy tells comes after the addresses.
        let told = [&v4[..], &[3, 0, 1, 9]].concat();
        let v6 =
            [&Ipv6Addr::LOCALHOST.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0x30, 0x39, 0, 80]].concat();
        for (header, client) in [
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\nGET /".to_vec(), Some("10.0.0.1:12345")),
            (b"PROXY TCP6 ::1 ::1 12345 80\r\nGET /".to_vec(), Some("[::1]:12345")),
            (b"PROXY UNKNOWN\r\nGET /".to_vec(), None),
            (b"PROXY UNKNOWN a b c\r\nGET /".to_vec(), None),
            (v2(1, 0x11, &v4), Some("10.0.0.1:12345")),
            (v2(1, 0x11, &told), Some("10.0.0.1:12345")),
            (v2(1, 0x21, &v6), Some("[::1]:12345")),
            (v2(0, 0, &[]), None),
            (v2(1, 0x31, &[0; 216]), None),
        ] {
            let (found, rest) = read(&header, &ANY).await;
            assert_eq!(found.unwrap(), client.map(|text| text.parse().unwrap()), "{header:?}");
            assert_eq!(rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY TCP4 {}", "1".repeat(200));
        for bytes in [
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 99999 80\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 80\nGET /".to_vec(),
            long.into_bytes(),
            v2(7, 0x11, &[0; 12]),
            v2(1, 0x11, &[0; 5]),
            [&SIGNATURE[..], &[0x31, 0x11, 0, 0]].concat(),
            [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
            b"PROX".to_vec(),
        ] {
            assert!(read(&bytes, &ANY).await.0.is_err(), "{bytes:?}");
        }
        let v1 = b"PROXY UNKNOWN\r\n";
        assert!(read(v1, &Proxied { v2: true, ..Default::default() }).await.0.is_err(), "another version");
    }
}
