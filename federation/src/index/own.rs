//! Addresses of this cluster's own, which no peer can have.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tombolo_core::decide::Blocks;
use tombolo_proto::v1;

/// What is where in this cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnAddresses {
    workloads: Counted,
    gateways: Counted,
    /// Of documents.
    fixed: HashSet<SocketAddr>,
    /// What the operator says that nobody else has.
    ranges: Arc<Blocks>,
}

impl OwnAddresses {
    /// Nobody is there yet; these ranges are the cluster's own.
    pub fn new(ranges: Arc<Blocks>) -> Self {
        Self { ranges, ..Self::default() }
    }

    /// A workload came, or moved to here from `old`.
    pub fn workload(&mut self, new: SocketAddr, old: Option<SocketAddr>) {
        self.workloads.put(new, old);
    }

    /// A workload is gone.
    pub fn workload_gone(&mut self, address: SocketAddr) {
        self.workloads.remove(address);
    }

    /// A gateway came, or moved to here from `old`.
    pub fn gateway(&mut self, new: SocketAddr, old: Option<SocketAddr>) {
        self.gateways.put(new, old);
    }

    /// A gateway is gone.
    pub fn gateway_gone(&mut self, address: SocketAddr) {
        self.gateways.remove(address);
    }

    /// The endpoints of documents are these.
    pub fn fix<'a>(&mut self, endpoints: impl Iterator<Item = &'a v1::Endpoint>) {
        self.fixed = endpoints.filter_map(|endpoint| endpoint.address.parse().ok().map(canonical)).collect();
    }

    /// Where a workload of ours is, every port is ours: what else listens there was not meant for peers. Gateways and what
    /// documents name are often reached by an address that several share (a NAT's, a load balancer's): of those the very
    /// port is ours, and so it is of workloads where all clusters are on one machine.
    pub fn has(&self, address: SocketAddr, on_loopback: bool) -> bool {
        let address = canonical(address);
        let is_workload = match on_loopback {
            true => self.workloads.has(address),
            false => self.workloads.has_any(address.ip()),
        };
        is_workload
            || self.gateways.has(address)
            || self.fixed.contains(&address)
            || self.ranges.contains(address.ip())
    }
}

/// An IPv4 address is the same however it is written.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Addresses, with how many have each.
#[derive(Debug, Clone, Default)]
struct Counted(BTreeMap<(IpAddr, u16), usize>);

impl Counted {
    fn put(&mut self, new: SocketAddr, old: Option<SocketAddr>) {
        *self.0.entry(key(new)).or_default() += 1;
        old.into_iter().for_each(|old| self.remove(old));
    }

    fn remove(&mut self, address: SocketAddr) {
        if let Some(count) = self.0.get_mut(&key(address)) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key(address));
            }
        }
    }

    fn has(&self, address: SocketAddr) -> bool {
        self.0.contains_key(&key(address))
    }

    fn has_any(&self, ip: IpAddr) -> bool {
        self.0.range((ip, 0)..=(ip, u16::MAX)).next().is_some()
    }
}

fn key(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_core::decide::Cidr;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn own() -> OwnAddresses {
        let ranges = ["10.1.0.0/16", "2001:db8:1::/48"].map(|range| Cidr::parse(range).unwrap());
        let mut own = OwnAddresses::new(Arc::new(Blocks::new(ranges)));
        own.workload(at("192.0.2.7:15006"), None);
        own.workload(at("[::ffff:192.0.2.8]:15006"), None);
        own.gateway(at("198.51.100.1:15008"), None);
        let fixed = v1::Endpoint { address: "203.0.113.9:5432".into(), ..Default::default() };
        own.fix([&fixed].into_iter());
        own
    }

    #[test]
    fn what_is_ours_is_known_by_address_port_or_range() {
        let own = own();
        for (address, is_ours) in [
            ("192.0.2.7:15006", true),
            ("192.0.2.7:22", true),
            ("[::ffff:192.0.2.7]:22", true),
            ("192.0.2.8:6379", true),
            ("192.0.2.9:15006", false),
            ("198.51.100.1:15008", true),
            ("198.51.100.1:15009", false),
            ("203.0.113.9:5432", true),
            ("203.0.113.9:15008", false),
            ("10.1.255.255:1", true),
            ("10.2.0.0:1", false),
            ("[2001:db8:1::5]:443", true),
            ("[2001:db8:2::5]:443", false),
        ] {
            assert_eq!(own.has(at(address), false), is_ours, "{address}");
        }
    }

    #[test]
    fn on_one_machine_the_port_tells() {
        let mut own = OwnAddresses::default();
        own.workload(at("127.0.0.1:15006"), None);
        assert!(own.has(at("127.0.0.1:15006"), true) && !own.has(at("127.0.0.1:15007"), true));
    }

    #[test]
    fn who_is_gone_or_has_moved_leaves_its_address() {
        let mut own = own();
        // Another workload of the same machine.
        own.workload(at("192.0.2.7:15007"), None);
        own.workload(at("192.0.2.70:15006"), Some(at("192.0.2.7:15006")));
        assert!(own.has(at("192.0.2.7:1"), false), "the other is still there");
        own.workload_gone(at("192.0.2.7:15007"));
        assert!(!own.has(at("192.0.2.7:1"), false) && own.has(at("192.0.2.70:1"), false));
        own.gateway_gone(at("198.51.100.1:15008"));
        assert!(!own.has(at("198.51.100.1:15008"), false));
    }
}
