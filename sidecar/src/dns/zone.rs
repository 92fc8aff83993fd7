//! Answers for the mesh's own names, from the snapshot alone (Kubernetes DNS-Based Service Discovery 1.1.0; its multicluster
//! counterpart 1.0.0 of KEP-1645 for `clusterset.local`). Pure.
//!
//! The zones are `cluster.local` and `clusterset.local` as a whole: nothing below them is anybody else's to answer. So are
//! the reverse names of virtual addresses.

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, PTR, SOA, SRV, TXT},
};
use tombolo_core::model::{Scope, ServiceEntry, ServicePort};

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
        match below {
            [] => self.found(self.records_of(service, self.name, self.kind)),
            // `_tcp.service...` exists as soon as there is a name below it (RFC 8020).
            [protocol] if service.ports.iter().any(|port| is_named(port, protocol)) => self.no_data(),
            [port, protocol] => self.port(service, port, protocol),
            _ => self.missing(),
        }
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

    /// The address records of a service under this name.
    fn records_of(&self, service: &ServiceEntry, name: &Name, kind: RecordType) -> Vec<Record> {
        let wanted = |own| kind == own || kind == RecordType::ANY;
        let v4 = self.addresses.v4.address(service.vip_index).filter(|_| wanted(RecordType::A));
        let v6 = self.addresses.v6(service.vip_index).filter(|_| wanted(RecordType::AAAA));
        let data = v4.map(|ip| RData::A(A(ip))).into_iter().chain(v6.map(|ip| RData::AAAA(AAAA(ip))));
        data.map(|data| Record::from_rdata(name.clone(), TTL, data)).collect()
    }

    /// `_PORT._PROTOCOL.SERVICE...`: only ports that have a name.
    fn port(&self, service: &ServiceEntry, port: &str, protocol: &str) -> Found {
        let named = |p: &&ServicePort| is_named(p, protocol) && port.strip_prefix('_') == Some(&*p.name);
        let Some(port) = service.ports.iter().find(named) else { return self.missing() };
        if !self.asks(RecordType::SRV) {
            return self.no_data();
        }
        let target = self.target(service);
        let (priority, weight) = (0, 100);
        let srv = RData::SRV(SRV::new(priority, weight, port.port, target.clone()));
        Found::Records {
            answers: vec![Record::from_rdata(self.name.clone(), TTL, srv)],
            additionals: self.records_of(service, &target, RecordType::ANY),
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
        match self.names.by_index(index) {
            Some(service) if self.asks(RecordType::PTR) => {
                let data = RData::PTR(PTR(self.target(service)));
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

/// A port has SRV records if it has a name; all ports that the mesh carries are TCP.
fn is_named(port: &ServicePort, protocol: &str) -> bool {
    protocol == "_tcp" && !port.name.is_empty()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
