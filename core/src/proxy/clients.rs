//! How many connections each client has open on a listener.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use dashmap::{DashMap, mapref::entry::Entry};

/// Counts connections by client. As long as the number of all connections is bounded, so is this.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: DashMap<IpAddr, usize>,
}

/// A connection's place among those of its client, given back when it is dropped.
#[derive(Debug)]
pub struct ClientPlace {
    clients: Arc<Clients>,
    most: usize,
    /// Held for no longer than it takes to read or change it.
    client: Mutex<IpAddr>,
}

impl Clients {
    /// None: this client has `most` connections already.
    pub fn enter(self: &Arc<Self>, peer: IpAddr, most: usize) -> Option<ClientPlace> {
        let client = client(peer);
        self.add(client, most).then(|| ClientPlace { clients: self.clone(), most, client: client.into() })
    }

    fn add(&self, client: IpAddr, most: usize) -> bool {
        let mut open = self.open.entry(client).or_insert(0);
        let has_room = *open < most;
        *open += usize::from(has_room);
        has_room
    }

    fn remove(&self, client: IpAddr) {
        if let Entry::Occupied(mut open) = self.open.entry(client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

impl ClientPlace {
    /// Who connected turns out to speak for this client: the connection is one of this client's from now on, and none of
    /// who connected. False: this client has as many as it may have.
    pub(super) fn pass_to(&self, peer: IpAddr) -> bool {
        let client = client(peer);
        let mut counted = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if *counted == client {
            return true;
        }
        let has_room = self.clients.add(client, self.most);
        if has_room {
            self.clients.remove(std::mem::replace(&mut counted, client));
        }
        has_room
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        self.clients.remove(*self.client.get_mut().unwrap_or_else(PoisonError::into_inner));
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

    #[test]
    fn a_place_passes_to_whom_a_balancer_speaks_for() {
        let clients = Arc::<Clients>::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let balanced = || clients.enter(ip("10.0.0.1"), 1);
        let first = balanced().unwrap();
        assert!(balanced().is_none());
        assert!(first.pass_to(ip("192.0.2.1")));
        let second = balanced().unwrap();
        assert!(!second.pass_to(ip("192.0.2.1")), "that client has its connection");
        assert!(balanced().is_none(), "it is still the balancer's");
        assert!(second.pass_to(ip("10.0.0.1")), "it speaks for itself");
        assert!(second.pass_to(ip("192.0.2.2")));
        drop(first);
        let third = balanced().unwrap();
        assert!(third.pass_to(ip("192.0.2.1")));
        drop((second, third));
        assert!(clients.open.is_empty());
    }
}
