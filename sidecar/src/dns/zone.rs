//! Answers for the mesh's own names, from the snapshot alone (Kubernetes DNS-Based Service Discovery 1.1; Multi-Cluster
//! Services, KEP-1645, for `clusterset.local`). Pure.

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, SOA, SRV},
};
use tombolo_core::model::{Scope, ServiceEntry, ServiceKey, ServicePort, Snapshot};

use crate::addresses::Addresses;

/// Seconds for which an answer, or that there is none, may be kept: changes are seen after this long.
pub const TTL: u32 = 5;

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
pub fn find(
    snapshot: &Snapshot,
    synced: bool,
    addresses: &Addresses,
    name: &Name,
    kind: RecordType,
) -> Found {
    let labels: Vec<String> =
        name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let Some((zone, below)) = Zone::of(&labels) else { return Found::Foreign };
    let question = Question { snapshot, addresses, zone, name, kind };
    match question.answer(below) {
        Found::NoName(_) if !synced => Found::NotReady,
        found => found,
    }
}

#[derive(Clone, Copy)]
struct Zone(Scope);

impl Zone {
    /// The zone that a name lies in, and the labels below it.
    fn of<'n>(labels: &'n [&'n str]) -> Option<(Self, &'n [&'n str])> {
        match labels {
            [below @ .., "svc", "cluster", "local"] => Some((Self(Scope::Cluster), below)),
            [below @ .., "svc", "clusterset", "local"] => Some((Self(Scope::Clusterset), below)),
            _ => None,
        }
    }

    fn labels(self) -> [&'static str; 3] {
        match self.0 {
            Scope::Cluster => ["svc", "cluster", "local"],
            Scope::Clusterset => ["svc", "clusterset", "local"],
        }
    }

    /// A name in this zone. The labels are checked ones, so that it always fits; the root stands for one that does not.
    fn name(self, below: &[&str]) -> Name {
        let labels = below.iter().copied().chain(self.labels());
        Name::from_labels(labels.map(str::as_bytes)).unwrap_or_else(|_| Name::root())
    }

    fn soa(self) -> Record {
        let (server, mail) = (self.name(&["dns"]), self.name(&["hostmaster"]));
        let (refresh, retry, expire) = (7200, 1800, 86_400);
        let soa = SOA::new(server, mail, 1, refresh, retry, expire, TTL);
        Record::from_rdata(self.name(&[]), TTL, RData::SOA(soa))
    }
}

struct Question<'q> {
    snapshot: &'q Snapshot,
    addresses: &'q Addresses,
    zone: Zone,
    name: &'q Name,
    kind: RecordType,
}

impl Question<'_> {
    fn answer(&self, below: &[&str]) -> Found {
        match below {
            [] if self.kind == RecordType::SOA => self.records(vec![self.zone.soa()]),
            [] => self.no_data(),
            [namespace] => self.namespace(namespace),
            [service, namespace] => match self.service(namespace, service) {
                Some(service) => self.address(service),
                None => self.no_name(),
            },
            // `_tcp.service...` exists as soon as there is a name below it (RFC 8020).
            [protocol, service, namespace] => match self.service(namespace, service) {
                Some(service) if service.ports.iter().any(|port| is_named(port, protocol)) => self.no_data(),
                _ => self.no_name(),
            },
            [port, protocol, service, namespace] => match self.service(namespace, service) {
                Some(service) => self.port(service, port, protocol),
                None => self.no_name(),
            },
            _ => self.no_name(),
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        let key = ServiceKey::new(self.zone.0, namespace, name).ok()?;
        self.snapshot.services.get(&key).map(|entry| &**entry)
    }

    /// A namespace exists where a service does.
    fn namespace(&self, namespace: &str) -> Found {
        let mut keys = self.snapshot.services.keys();
        match keys.any(|key| key.scope == self.zone.0 && *key.namespace == *namespace) {
            true => self.no_data(),
            false => self.no_name(),
        }
    }

    fn address(&self, service: &ServiceEntry) -> Found {
        match self.records_of(service, self.name, self.kind) {
            records if records.is_empty() => self.no_data(),
            records => self.records(records),
        }
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
        let Some(port) = service.ports.iter().find(named) else { return self.no_name() };
        if !matches!(self.kind, RecordType::SRV | RecordType::ANY) {
            return self.no_data();
        }
        let target = self.zone.name(&[&*service.key.name, &*service.key.namespace]);
        let (priority, weight) = (0, 100);
        let srv = RData::SRV(SRV::new(priority, weight, port.port, target.clone()));
        Found::Records {
            answers: vec![Record::from_rdata(self.name.clone(), TTL, srv)],
            additionals: self.records_of(service, &target, RecordType::ANY),
        }
    }

    fn records(&self, answers: Vec<Record>) -> Found {
        Found::Records { answers, additionals: Vec::new() }
    }

    fn no_data(&self) -> Found {
        Found::NoData(self.zone.soa())
    }

    fn no_name(&self) -> Found {
        Found::NoName(self.zone.soa())
    }
}

/// A port has SRV records if it has a name; all ports that the mesh carries are TCP.
fn is_named(port: &ServicePort, protocol: &str) -> bool {
    protocol == "_tcp" && !port.name.is_empty()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
