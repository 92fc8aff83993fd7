//! The PROXY protocol to backends: who the client is, said before anything else on a connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::{decide::ProxyVersion, proxy::Arrival};

/// The begin of version 2, with its version and what follows it: addresses.
const V2_PROXY: [u8; 13] = *b"\r\n\r\n\0\r\nQUIT\n\x21";
/// The same for connections that no client asked for.
const V2_LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// What one connection begins with. A connection that announces a client is for that client's connection alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Announce {
    version: ProxyVersion,
    /// The client, and where it came in; none: the call is our own.
    ends: Option<(SocketAddr, SocketAddr)>,
}

impl Announce {
    /// For a call on behalf of a client; without one, the header says that it is our own.
    pub fn of(version: Option<ProxyVersion>, arrival: Option<&Arrival>) -> Option<Self> {
        let ends = arrival.map(|arrival| one_family(arrival.peer, arrival.local));
        version.map(|version| Self { version, ends })
    }

    /// The header.
    pub fn header(&self) -> Vec<u8> {
        match (self.version, self.ends) {
            (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (ProxyVersion::V1, Some((client, here))) => {
                let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (client.ip(), here.ip());
                format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), here.port()).into()
            }
            (ProxyVersion::V2, None) => V2_LOCAL.to_vec(),
            (ProxyVersion::V2, Some((client, here))) => binary(client, here),
        }
    }
}

fn binary(client: SocketAddr, here: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    for end in [client, here] {
        match end.ip() {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    addresses.extend(client.port().to_be_bytes());
    addresses.extend(here.port().to_be_bytes());
    let family = if client.is_ipv4() { TCP4 } else { TCP6 };
    // Twelve or thirty-six.
    let length = u8::try_from(addresses.len()).unwrap_or_default();
    [&V2_PROXY[..], &[family, 0, length], &addresses].concat()
}

/// A header has one family for both: where they differ, IPv4 is written as IPv6 can.
fn one_family(client: SocketAddr, here: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (client, here) = (plain(client), plain(here));
    let wide = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    if client.is_ipv4() == here.is_ipv4() { (client, here) } else { (wide(client), wide(here)) }
}

/// As it goes through pingora in the place of the server name, and so into the key of pooled connections.
impl fmt::Display for Announce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version.name())?;
        match self.ends {
            Some((client, here)) => write!(f, " {client} {here}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Announce {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let version = words.next().and_then(ProxyVersion::parse).ok_or(())?;
        let ends = match (words.next(), words.next()) {
            (Some(client), Some(here)) => {
                Some((client.parse().map_err(|_| ())?, here.parse().map_err(|_| ())?))
            }
            _ => None,
        };
        Ok(Self { version, ends })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn announce(version: ProxyVersion, client: &str, here: &str) -> Announce {
        let ends = one_family(client.parse().unwrap(), here.parse().unwrap());
        Announce { version, ends: Some(ends) }
    }

    #[test]
    fn headers_are_as_specified() {
        let v1 = |client, here| String::from_utf8(announce(ProxyVersion::V1, client, here).header()).unwrap();
        assert_eq!(v1("192.0.2.1:5", "192.0.2.9:80"), "PROXY TCP4 192.0.2.1 192.0.2.9 5 80\r\n");
        assert_eq!(v1("[::ffff:192.0.2.1]:5", "192.0.2.9:80"), "PROXY TCP4 192.0.2.1 192.0.2.9 5 80\r\n");
        let mixed = v1("[2001:db8::1]:5", "192.0.2.9:80");
        assert_eq!(mixed, "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.9 5 80\r\n");
        let v2 = announce(ProxyVersion::V2, "192.0.2.1:5", "192.0.2.9:80").header();
        let addresses = [192, 0, 2, 1, 192, 0, 2, 9, 0, 5, 0, 80];
        assert_eq!(v2, [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat());
        let v6 = announce(ProxyVersion::V2, "[2001:db8::1]:5", "[::1]:80").header();
        assert_eq!((v6.len(), &v6[12..16]), (52, &b"\x21\x21\0\x24"[..]));
        let own = |version| Announce { version, ends: None }.header();
        assert_eq!(own(ProxyVersion::V1), b"PROXY UNKNOWN\r\n");
        assert_eq!(own(ProxyVersion::V2), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    }

    #[test]
    fn it_passes_through_pingora_as_text() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for announce in [
                Announce { version, ends: None },
                announce(version, "192.0.2.1:5", "192.0.2.9:80"),
                announce(version, "[2001:db8::1]:5", "[::1]:80"),
            ] {
                assert_eq!(announce.to_string().parse(), Ok(announce));
            }
        }
        assert!("v3".parse::<Announce>().is_err());
    }
}
