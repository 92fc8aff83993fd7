//! Answers for the mesh's own names, from the snapshot alone (Kubernetes DNS-Based Service Discovery 1.1.0; its multicluster
//! counterpart 1.0.0 of KEP-1645 for `clusterset.local`). Pure.
//!
//! The zones are `cluster.local` and `clusterset.local` as a whole: nothing below them is anybody else's to answer. So are
//! the reverse names of virtual addresses.
//!
//! A service has one virtual address. A headless one has none; each of its hosts has, which leads to that host alone by mutual
//! TLS, wherever it is. As the specifications have it, names of hosts that are not ready do not exist, and neither does a
//! headless service without a ready host.

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, PTR, SOA, SRV, TXT},
};
use tombolo_core::model::{Host, Scope, ServiceEntry, ServicePort};

use super::names::Names;
use crate::addresses::Addresses;

/// Seconds for which an answer, or that there is none, may be kept: changes are seen after this long.
pub const TTL: u32 = 5;
/// The same of the version of the schema.
const VERSION_TTL: u32 = 28_800;

/// What is known of a name.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Not a name of the mesh: forward it.
    Foreign,
    /// A name of the mesh that may exist, but the controller has not said so far: SERVFAIL.
    NotReady,
    /// It exists and has records of the type.
    Records {
        /// For the answer section.
        answers: Vec<Record>,
        /// Addresses of the targets of SRV records.
        additionals: Vec<Record>,
    },
    /// It exists without a record of the type: NOERROR with the zone's SOA.
    NoData(Record),
    /// It does not exist: NXDOMAIN with the zone's SOA.
    NoName(Record),
}

/// Answers a question of class IN. `synced`: the list of services is complete and from this process's own stream; before
/// that a name that is not in the snapshot is not known not to exist.
pub(super) fn find(
    names: &Names,
    synced: bool,
    addresses: &Addresses,
    name: &Name,
    kind: RecordType,
) -> Found {
    let lower = name.to_lowercase();
    // What is not text is no name of the mesh either, and is compared as such.
    let labels: Vec<&str> = lower.iter().map(|label| std::str::from_utf8(label).unwrap_or("?")).collect();
    let question = |zone| Question { names, synced, addresses, zone, name, kind };
    match labels.as_slice() {
        [below @ .., "cluster", "local"] => question(Zone(Scope::Cluster)).in_zone(below),
        [below @ .., "clusterset", "local"] => question(Zone(Scope::Clusterset)).in_zone(below),
        [.., "in-addr" | "ip6", "arpa"] => question(Zone(Scope::Cluster)).reverse(),
        _ => Found::Foreign,
    }
}

#[derive(Clone, Copy)]
struct Zone(Scope);

impl Zone {
    /// A name in this zone. The labels are checked ones, so that it always fits; the root stands for one that does not.
    fn name(self, below: &[&str]) -> Name {
        let zone = match self.0 {
            Scope::Cluster => "cluster",
            Scope::Clusterset => "clusterset",
        };
        let labels = below.iter().copied().chain([zone, "local"]);
        Name::from_labels(labels.map(str::as_bytes)).unwrap_or_else(|_| Name::root())
    }

    /// The version of the schema that its names follow.
    fn version(self) -> &'static str {
        match self.0 {
            Scope::Cluster => "1.1.0",
            Scope::Clusterset => "1.0.0",
        }
    }

    /// Says also how long it may be remembered that there is nothing (RFC 2308).
    fn soa(self, owner: Name) -> Record {
        let (server, mail) = (self.name(&["ns", "dns"]), self.name(&["hostmaster"]));
        let (refresh, retry, expire) = (7200, 1800, 86_400);
        let soa = SOA::new(server, mail, 1, refresh, retry, expire, TTL);
        Record::from_rdata(owner, TTL, RData::SOA(soa))
    }
}

struct Question<'q> {
    names: &'q Names,
    synced: bool,
    addresses: &'q Addresses,
    zone: Zone,
    name: &'q Name,
    kind: RecordType,
}

impl Question<'_> {
    fn in_zone(&self, below: &[&str]) -> Found {
        match below {
            [] if self.asks(RecordType::SOA) => self.records([self.zone.soa(self.name.clone())].into()),
            [] => self.no_data(),
            ["dns-version"] => self.version(),
            [below @ .., "svc"] => self.below_svc(below),
            _ => self.no_name(),
        }
    }

    fn below_svc(&self, below: &[&str]) -> Found {
        match below {
            [] => self.no_data(),
            [namespace] if self.names.has_namespace(self.zone.0, namespace) => self.no_data(),
            [_] => self.missing(),
            [rest @ .., service, namespace] if rest.len() <= 2 => {
                match self.names.service(self.zone.0, namespace, service) {
                    Some(service) => self.below_service(service, rest),
                    None => self.missing(),
                }
            }
            // No name is as long: typically another zone's, with a search domain behind it.
            _ => self.no_name(),
        }
    }

    fn below_service(&self, service: &ServiceEntry, below: &[&str]) -> Found {
        if service.hosts.is_some() {
            return self.below_headless(service, below);
        }
        match below {
            [] => self.found(self.addresses(service.vip_index, self.name, self.kind)),
            // `_tcp.service...` exists as soon as there is a name below it (RFC 8020).
            [protocol] if service.ports.iter().any(|port| is_named(port, protocol)) => self.no_data(),
            [port, protocol] => self.port(service, port, protocol),
            _ => self.missing(),
        }
    }

    fn below_headless(&self, service: &ServiceEntry, below: &[&str]) -> Found {
        let ready = || service.hosts().iter().filter(|host| host.ready);
        let found = |hosts: &mut dyn Iterator<Item = &Host>| {
            let addresses = hosts.flat_map(|host| self.addresses(host.vip_index, self.name, self.kind));
            self.found(addresses.collect())
        };
        match (self.zone.0, below) {
            (_, []) if ready().next().is_some() => found(&mut ready()),
            (_, [protocol]) if service.ports.iter().any(|port| is_served(service, port, protocol)) => {
                self.no_data()
            }
            (Scope::Clusterset, [cluster]) if ready().any(|host| *host.cluster == **cluster) => {
                self.no_data()
            }
            (_, [port, protocol]) if protocol.starts_with('_') => self.port_of_hosts(service, port, protocol),
            (Scope::Cluster, [name]) if ready().any(|host| *host.name == **name) => {
                found(&mut ready().filter(|host| *host.name == **name))
            }
            (Scope::Clusterset, [name, cluster]) => {
                let mut hosts = ready().filter(|host| (&*host.name, &*host.cluster) == (*name, *cluster));
                match hosts.next() {
                    Some(host) => found(&mut std::iter::once(host)),
                    None => self.missing(),
                }
            }
            _ => self.missing(),
        }
    }

    /// `_PORT._PROTOCOL.SERVICE...` of a headless service: a record for each ready host that serves the port, with the
    /// workload's own number of it.
    fn port_of_hosts(&self, service: &ServiceEntry, port: &str, protocol: &str) -> Found {
        let port = named_port(service, port, protocol).filter(|port| is_served(service, port, protocol));
        let Some(port) = port else { return self.missing() };
        if !self.asks(RecordType::SRV) {
            return self.no_data();
        }
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        for (host, own) in servers(service, port) {
            let name = self.host_name(service, host);
            additionals.extend(self.addresses(host.vip_index, &name, RecordType::ANY));
            answers.push(self.srv(own, name));
        }
        Found::Records { answers, additionals }
    }

    /// True if records of this type are asked for.
    fn asks(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    fn version(&self) -> Found {
        if !self.asks(RecordType::TXT) {
            return self.no_data();
        }
        let text = TXT::new(vec![self.zone.version().to_owned()]);
        self.records(vec![Record::from_rdata(self.name.clone(), VERSION_TTL, RData::TXT(text))])
    }

    /// The address records of what has a virtual address of this index, under this name.
    fn addresses(&self, index: u32, name: &Name, kind: RecordType) -> Vec<Record> {
        let wanted = |own| kind == own || kind == RecordType::ANY;
        let v4 = self.addresses.v4.address(index).filter(|_| wanted(RecordType::A));
        let v6 = self.addresses.v6(index).filter(|_| wanted(RecordType::AAAA));
        let data = v4.map(|ip| RData::A(A(ip))).into_iter().chain(v6.map(|ip| RData::AAAA(AAAA(ip))));
        data.map(|data| Record::from_rdata(name.clone(), TTL, data)).collect()
    }

    /// `_PORT._PROTOCOL.SERVICE...`: only ports that have a name.
    fn port(&self, service: &ServiceEntry, port: &str, protocol: &str) -> Found {
        let Some(port) = named_port(service, port, protocol) else { return self.missing() };
        if !self.asks(RecordType::SRV) {
            return self.no_data();
        }
        let target = self.target(service);
        Found::Records {
            additionals: self.addresses(service.vip_index, &target, RecordType::ANY),
            answers: vec![self.srv(port.port, target)],
        }
    }

    fn srv(&self, port: u16, target: Name) -> Record {
        let (priority, weight) = (0, 100);
        Record::from_rdata(self.name.clone(), TTL, RData::SRV(SRV::new(priority, weight, port, target)))
    }

    /// The name of a host.
    fn host_name(&self, service: &ServiceEntry, host: &Host) -> Name {
        let (key, zone) = (&service.key, Zone(service.key.scope));
        match key.scope {
            Scope::Cluster => zone.name(&[&host.name, &key.name, &key.namespace, "svc"]),
            Scope::Clusterset => zone.name(&[&host.name, &host.cluster, &key.name, &key.namespace, "svc"]),
        }
    }

    /// The name of a service.
    fn target(&self, service: &ServiceEntry) -> Name {
        Zone(service.key.scope).name(&[&service.key.name, &service.key.namespace, "svc"])
    }

    /// Whose a virtual address is. One that is nobody's is a name all the same: each is a zone of its own.
    fn reverse(&self) -> Found {
        let address = self.name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len());
        let Some(index) = address.and_then(|net| self.addresses.index_of(net.addr())) else {
            return Found::Foreign;
        };
        let ready = |host: Option<&Host>| host.is_none_or(|host| host.ready);
        match self.names.by_index(index).filter(|(_, host)| ready(*host)) {
            Some((service, host)) if self.asks(RecordType::PTR) => {
                let name = host.map_or_else(|| self.target(service), |host| self.host_name(service, host));
                let data = RData::PTR(PTR(name));
                self.records(vec![Record::from_rdata(self.name.clone(), TTL, data)])
            }
            None if !self.synced => Found::NotReady,
            _ => Found::NoData(self.zone.soa(self.name.clone())),
        }
    }

    fn found(&self, records: Vec<Record>) -> Found {
        if records.is_empty() { self.no_data() } else { self.records(records) }
    }

    fn records(&self, answers: Vec<Record>) -> Found {
        Found::Records { answers, additionals: Vec::new() }
    }

    fn no_data(&self) -> Found {
        Found::NoData(self.zone.soa(self.zone.name(&[])))
    }

    /// It never exists, whatever services there are.
    fn no_name(&self) -> Found {
        Found::NoName(self.zone.soa(self.zone.name(&[])))
    }

    /// It does not exist as far as is known.
    fn missing(&self) -> Found {
        if self.synced { self.no_name() } else { Found::NotReady }
    }
}

/// The port that `_PORT._PROTOCOL` is.
fn named_port<'s>(service: &'s ServiceEntry, port: &str, protocol: &str) -> Option<&'s ServicePort> {
    let name = port.strip_prefix('_')?;
    service.ports.iter().find(|port| is_named(port, protocol) && *port.name == *name)
}

/// The ready hosts that serve a port, with their own number of it.
fn servers<'s>(service: &'s ServiceEntry, port: &ServicePort) -> impl Iterator<Item = (&'s Host, u16)> {
    let number = port.port;
    let own = move |host: &Host| host.ports.iter().find(|(port, _)| *port == number).map(|(_, own)| *own);
    service.hosts().iter().filter(|host| host.ready).filter_map(move |host| Some((host, own(host)?)))
}

/// True if some host has an SRV record for it.
fn is_served(service: &ServiceEntry, port: &ServicePort, protocol: &str) -> bool {
    is_named(port, protocol) && servers(service, port).next().is_some()
}

/// A port has SRV records if it has a name; all ports that the mesh carries are TCP.
fn is_named(port: &ServicePort, protocol: &str) -> bool {
    protocol == "_tcp" && !port.name.is_empty()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
