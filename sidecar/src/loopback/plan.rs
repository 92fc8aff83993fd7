//! Which listeners the services of a snapshot need.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
};

use tombolo_core::{
    member::Wanted,
    model::{AppProtocol, ServiceKey, Snapshot},
};

use super::Range;

/// Listeners at a time: each takes a file descriptor. Past it, the services that come last in the order of their names
/// have none, and are counted.
const MAX_LISTENERS: usize = 8192;

/// The listeners of a snapshot.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// By service and port, with what is spoken; none: nobody says it.
    pub listeners: BTreeMap<(ServiceKey, u16), Wanted<Option<AppProtocol>>>,
    /// Services and ports without one: the range or the number of listeners is used up, or another service has the
    /// same address.
    pub left_out: Vec<(ServiceKey, u16)>,
}

/// One listener for each port of each service that has a virtual address.
pub fn plan(snapshot: &Snapshot, range: &Range) -> Plan {
    let mut plan = Plan::default();
    let mut taken: BTreeMap<SocketAddr, ServiceKey> = BTreeMap::new();
    let mut services: Vec<_> = snapshot.services.values().filter(|entry| entry.vip_index > 0).collect();
    services.sort_by(|a, b| a.key.cmp(&b.key));
    for entry in services {
        for port in &entry.ports {
            let key = (entry.key.clone(), port.port);
            let address = range.address(entry.vip_index).map(|ip| SocketAddr::from((ip, port.port)));
            match address.map(|address| (address, taken.entry(address))) {
                Some((address, Entry::Vacant(place))) if plan.listeners.len() < MAX_LISTENERS => {
                    place.insert(entry.key.clone());
                    plan.listeners.insert(key, Wanted { address, purpose: port.said() });
                }
                _ => plan.left_out.push(key),
            }
        }
    }
    plan
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use tombolo_core::model::{ServiceEntry, ServicePort};

    use super::*;

    fn snapshot(services: &[(&str, u32, &[u16])]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (key, vip_index, ports) in services {
            let key = ServiceKey::parse(key).unwrap();
            let port = |port: &u16| ServicePort {
                name: "".into(),
                port: *port,
                protocol: AppProtocol::Http2,
                sniff: false,
            };
            let ports = ports.iter().map(port).collect();
            let entry =
                ServiceEntry { key: key.clone(), ports, vip_index: *vip_index, endpoints: BTreeMap::new() };
            snapshot.services.insert(key, Arc::new(entry));
        }
        snapshot
    }

    fn key(service: &str, port: u16) -> (ServiceKey, u16) {
        (ServiceKey::parse(service).unwrap(), port)
    }

    #[test]
    fn every_port_of_every_service_gets_one() {
        let all = [
            ("cluster/shop/cart", 1, &[80, 443][..]),
            ("clusterset/shop/cart", 2, &[80]),
            ("cluster/a/b", 0, &[80]),
        ];
        let plan = plan(&snapshot(&all), &Range::default());
        let addresses: Vec<String> =
            plan.listeners.values().map(|wanted| wanted.address.to_string()).collect();
        assert_eq!(addresses, ["127.64.0.1:80", "127.64.0.1:443", "127.64.0.2:80"]);
        assert!(plan.listeners.values().all(|wanted| wanted.purpose == Some(AppProtocol::Http2)));
        assert!(plan.left_out.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_nothing_else() {
        let all = [
            ("cluster/a/first", 3, &[80][..]),
            ("cluster/b/same-address", 3, &[80, 81]),
            ("cluster/c/beyond", 7, &[80]),
        ];
        let plan = plan(&snapshot(&all), &"127.64.0.0/29".parse().unwrap());
        let kept: Vec<_> = plan.listeners.keys().cloned().collect();
        assert_eq!(kept, [key("cluster/a/first", 80), key("cluster/b/same-address", 81)]);
        assert_eq!(plan.left_out, [key("cluster/b/same-address", 80), key("cluster/c/beyond", 80)]);
    }

    #[test]
    fn the_number_is_bounded() {
        let ports: Vec<u16> = (1..=u16::MAX).take(MAX_LISTENERS + 10).collect();
        let plan = plan(&snapshot(&[("cluster/a/many", 1, &ports)]), &Range::default());
        assert_eq!((plan.listeners.len(), plan.left_out.len()), (MAX_LISTENERS, 10));
    }
}
