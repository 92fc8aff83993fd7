//! How many connections each client has open on a listener.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use dashmap::{DashMap, mapref::entry::Entry};

/// Counts connections by client. As long as the number of all connections is bounded, so is this.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: DashMap<IpAddr, usize>,
}

/// A connection's place among those of its client, given back when it is dropped.
#[derive(Debug)]
pub(super) struct ClientPlace {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// None: this client has `most` connections already.
    pub fn enter(self: &Arc<Self>, peer: IpAddr, most: usize) -> Option<ClientPlace> {
        let client = client(peer);
        let mut open = self.open.entry(client).or_insert(0);
        if *open >= most {
            return None;
        }
        *open += 1;
        drop(open);
        Some(ClientPlace { clients: self.clone(), client })
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        if let Entry::Occupied(mut open) = self.clients.open.entry(self.client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// Who counts as one: an IPv4 address, or an IPv6 network of 64 bits, of which one client has all addresses.
fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_bound_and_leaves_nothing_behind() {
        let clients = Arc::<Clients>::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = clients.enter(ip("192.0.2.1"), 2).unwrap();
        let second = clients.enter(ip("::ffff:192.0.2.1"), 2).unwrap();
        assert!(clients.enter(ip("192.0.2.1"), 2).is_none());
        let other = clients.enter(ip("192.0.2.2"), 2).unwrap();
        drop(first);
        let third = clients.enter(ip("192.0.2.1"), 2).unwrap();
        assert!(clients.enter(ip("192.0.2.1"), 2).is_none());
        let v6 = clients.enter(ip("2001:db8::1"), 1).unwrap();
        assert!(clients.enter(ip("2001:db8::ffff:2"), 1).is_none(), "the same network");
        assert!(clients.enter(ip("2001:db8:0:1::1"), 1).is_some());
        drop((second, third, other, v6));
        assert!(clients.open.is_empty());
    }
}
