//! Which listeners the services of a snapshot need.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use tombolo_core::{
    member::Wanted,
    model::{AppProtocol, HostName, ServiceEntry, ServiceKey, Snapshot},
};

use super::Range;
use crate::way::{Destination, destinations};

/// Listeners at a time: each takes a file descriptor. Past it, the services that come last in the order of their names
/// have none, and are counted.
const MAX_LISTENERS: usize = 8192;

/// What an application calls: the port of a service, or of one host of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Called {
    /// The service.
    pub service: ServiceKey,
    /// The port that is called: the service's; of a host, mostly the workload's own.
    pub port: u16,
    /// The host; none: any endpoint.
    pub host: Option<HostName>,
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{} host {host} port {}", self.service, self.port),
            None => write!(f, "{} port {}", self.service, self.port),
        }
    }
}

/// Where its listener leads to, and what is said to be spoken there.
pub(crate) type Purpose = (Destination, Option<AppProtocol>);

/// The listeners of a snapshot.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// By what is called.
    pub listeners: BTreeMap<Called, Wanted<Purpose>>,
    /// What has none: the range or the number of listeners is used up, or another service has the same address.
    pub left_out: Vec<Called>,
}

/// One listener for each port of each service, or host, that has a virtual address.
pub(crate) fn plan(snapshot: &Snapshot, range: &Range) -> Plan {
    let mut plan = Plan::default();
    let mut taken = BTreeSet::new();
    let mut services: Vec<_> = snapshot.services.values().collect();
    services.sort_by(|a, b| a.key.cmp(&b.key));
    for (called, vip_index, purpose) in services.into_iter().flat_map(|entry| places(entry)) {
        let address = range.address(vip_index).map(|ip| SocketAddr::from((ip, called.port)));
        match address {
            Some(address) if plan.listeners.len() < MAX_LISTENERS && taken.insert(address) => {
                plan.listeners.insert(called, Wanted { address, purpose });
            }
            _ => plan.left_out.push(called),
        }
    }
    plan
}

/// What of a service has a virtual address.
fn places(entry: &ServiceEntry) -> Vec<(Called, u32, Purpose)> {
    let place = |port, host: Option<HostName>, to, said| {
        (Called { service: entry.key.clone(), port, host }, (to, said))
    };
    let own = entry.ports.iter().filter(|_| entry.vip_index > 0).map(|port| {
        let to = Destination { service: entry.key.clone(), port: port.port, host: None };
        let (called, purpose) = place(port.port, None, to, port.said());
        (called, entry.vip_index, purpose)
    });
    let hosts = entry.hosts().iter().filter(|host| host.vip_index > 0).flat_map(|host| {
        destinations(entry, host).map(|(port, to, said)| {
            let (called, purpose) = place(port, to.host.clone(), to, said);
            (called, host.vip_index, purpose)
        })
    });
    own.chain(hosts).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use tombolo_core::model::{Host, ServicePort};

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
            let entry = ServiceEntry {
                key: key.clone(),
                ports,
                vip_index: *vip_index,
                hosts: None,
                endpoints: BTreeMap::new(),
                summaries: BTreeMap::new(),
            };
            snapshot.services.insert(key, Arc::new(entry));
        }
        snapshot
    }

    fn key(service: &str, port: u16) -> Called {
        Called { service: ServiceKey::parse(service).unwrap(), port, host: None }
    }

    #[test]
    fn every_host_of_a_headless_service_gets_one_by_either_number_of_a_port() {
        let mut snapshot = snapshot(&[("cluster/shop/db", 0, &[80, 443])]);
        let (key, entry) = snapshot.services.iter().next().map(|(k, e)| (k.clone(), (**e).clone())).unwrap();
        let host = |name: &str, vip_index, ports: &[(u16, u16)]| Host {
            name: name.into(),
            cluster: "east".into(),
            vip_index,
            ready: true,
            ports: ports.to_vec(),
        };
        let hosts =
            [host("a", 7, &[(80, 8080), (443, 80)]), host("b", 8, &[(443, 443)]), host("c", 0, &[(80, 80)])];
        snapshot.services.insert(key, Arc::new(ServiceEntry { hosts: Some(hosts.into()), ..entry }));
        let plan = plan(&snapshot, &Range::default());
        let all: Vec<_> = plan
            .listeners
            .values()
            .map(|wanted| {
                (wanted.address.to_string(), wanted.purpose.0.port, wanted.purpose.0.host.clone().unwrap())
            })
            .collect();
        let expected = [
            // As in Kubernetes, a host's ports are the workload's own; the service's where they mean nothing else.
            ("127.64.0.7:80", 443, "a.east"),
            ("127.64.0.7:443", 443, "a.east"),
            ("127.64.0.8:443", 443, "b.east"),
            ("127.64.0.7:8080", 80, "a.east"),
        ];
        let mut expected =
            expected.map(|(at, port, host)| (at.to_owned(), port, Arc::<str>::from(host))).to_vec();
        let mut all = all;
        all.sort();
        expected.sort();
        assert_eq!(all, expected);
        assert!(plan.left_out.is_empty());
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
        assert!(plan.listeners.values().all(|wanted| wanted.purpose.1 == Some(AppProtocol::Http2)));
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
