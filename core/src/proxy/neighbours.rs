//! Other processes that listen on the same address: with SO_REUSEPORT the kernel lets them, and shares connections out.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The state of a socket that listens, in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// True if another process listens on this very address (`proc_net_tcp(5)`). Where the kernel does not tell: false.
pub(super) fn listen_on(address: SocketAddr) -> bool {
    let file = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let Ok(text) = fs::read_to_string(file) else { return false };
    let mut inodes = text.lines().skip(1).filter_map(listening).filter(|(at, _)| *at == address).peekable();
    if inodes.peek().is_none() {
        return false;
    }
    let own = own_sockets();
    inodes.any(|(_, inode)| !own.contains(&format!("socket:[{inode}]")))
}

/// The address and inode of a line that tells of a socket that listens.
fn listening(line: &str) -> Option<(SocketAddr, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    let inode = fields.nth(5)?;
    (state == LISTEN).then(|| address(local)).flatten().map(|address| (address, inode))
}

/// Words of 32 bits in the machine's own order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(8 * at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// What this process's descriptors lead to.
fn own_sockets() -> Vec<String> {
    let Ok(descriptors) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter_map(|link| link.into_os_string().into_string().ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!(address("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        assert_eq!(address("nonsense"), None);
    }

    #[test]
    fn a_process_is_no_neighbour_of_itself() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else { continue };
            assert!(!listen_on(listener.local_addr().unwrap()));
        }
    }
}
