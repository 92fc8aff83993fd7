//! The same answers in the plainest way: every record is listed, and a name is looked up as RFC 1034 (section 4.3.2) and
//! RFC 8020 have it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    prelude::*,
    sample::{select, subsequence},
};
use tombolo_core::model::{AppProtocol, Host};

use super::*;

const KINDS: [RecordType; 5] =
    [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::PTR];
const ZONES: [&str; 2] = ["cluster.local.", "clusterset.local."];

type Records = BTreeMap<String, BTreeMap<RecordType, BTreeSet<String>>>;

fn addresses() -> Addresses {
    Addresses { v4: crate::loopback::Range::captured(), v6: Some(crate::addresses::Range6::default()) }
}

struct Reference {
    records: Records,
    /// Names that exist without records of their own, and with nothing below them.
    empty: BTreeSet<String>,
}

impl Reference {
    fn of(services: &[ServiceEntry]) -> Self {
        let mut reference = Self { records: Records::new(), empty: BTreeSet::new() };
        for (zone, version) in ZONES.into_iter().zip(["1.1.0", "1.0.0"]) {
            reference.add(&format!("dns-version.{zone}"), RecordType::TXT, version.into());
            reference.empty.insert(format!("svc.{zone}"));
        }
        for service in services {
            reference.list(service);
        }
        reference
    }

    fn list(&mut self, service: &ServiceEntry) {
        let name = format!("{}.", service.key.dns_name());
        let (_, namespace) = name.split_once('.').unwrap();
        self.empty.insert(namespace.to_owned());
        let named = |port: &&ServicePort| !port.name.is_empty();
        if service.hosts.is_none() {
            self.add_addresses(&name, service.vip_index);
            for port in service.ports.iter().filter(named) {
                let data = format!("0 100 {} {name}", port.port);
                self.add(&format!("_{}._tcp.{name}", port.name), RecordType::SRV, data);
            }
        }
        for host in service.hosts().iter().filter(|host| host.ready) {
            let host_name = format!("{}.", service.host_dns_name(host));
            self.add_addresses(&name, host.vip_index);
            self.add_addresses(&host_name, host.vip_index);
            for port in service.ports.iter().filter(named) {
                for (_, own) in host.ports.iter().filter(|(number, _)| *number == port.port) {
                    let data = format!("0 100 {own} {host_name}");
                    self.add(&format!("_{}._tcp.{name}", port.name), RecordType::SRV, data);
                }
            }
        }
    }

    fn add_addresses(&mut self, name: &str, index: u32) {
        let (v4, v6) = (addresses().v4.address(index).unwrap(), addresses().v6(index).unwrap());
        self.add(name, RecordType::A, v4.to_string());
        self.add(name, RecordType::AAAA, v6.to_string());
        for (ip, name) in [(v4.into(), name), (std::net::IpAddr::from(v6), name)] {
            let reverse = Name::from(ip).to_string();
            // The name of a host, not that of its service.
            let names = self.records.entry(reverse).or_default().entry(RecordType::PTR).or_default();
            *names = [name.to_owned()].into();
        }
    }

    fn add(&mut self, name: &str, kind: RecordType, data: String) {
        self.records.entry(name.to_owned()).or_default().entry(kind).or_default().insert(data);
    }

    /// None: no name. Empty: no data.
    fn answer(&self, name: &str, kind: RecordType) -> Option<BTreeSet<String>> {
        if let Some(kinds) = self.records.get(name) {
            return Some(kinds.get(&kind).cloned().unwrap_or_default());
        }
        let below = format!(".{name}");
        let exists = self.records.keys().chain(&self.empty).any(|other| other.ends_with(&below))
            || self.empty.contains(name);
        exists.then(BTreeSet::new)
    }
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort { name: name.into(), port, protocol: AppProtocol::Http1, sniff: false }
}

/// What a service is; its addresses are given later.
type Drawn = (Scope, &'static str, &'static str, Vec<(&'static str, u16)>, Option<Vec<DrawnHost>>);
type DrawnHost = ((&'static str, &'static str), bool, Vec<(u16, u16)>);

fn service() -> impl Strategy<Value = Drawn> {
    let ports = subsequence(vec![("http", 80), ("grpc", 81), ("", 82)], 0..=3);
    let names = select(vec![("h0", "east"), ("h1", "east"), ("h0", "west"), ("x", "x")]);
    let own = subsequence(vec![(80, 8080), (81, 80), (82, 82)], 0..=3);
    let hosts = prop::collection::vec((names, any::<bool>(), own), 0..4);
    let scope = select(vec![Scope::Cluster, Scope::Clusterset]);
    (scope, select(vec!["a", "b"]), select(vec!["x", "y", "z"]), ports, prop::option::of(hosts))
}

/// As the controller tells them: each key once, each host once, addresses of their own; in the cluster's scope only its own
/// hosts.
fn entries(drawn: Vec<Drawn>) -> Vec<ServiceEntry> {
    let mut indexes = 1..;
    let mut services = BTreeMap::new();
    for (scope, namespace, name, ports, hosts) in drawn {
        let key = ServiceKey::new(scope, namespace, name).unwrap();
        let hosts = hosts.map(|hosts| {
            let hosts: BTreeMap<_, _> = hosts
                .into_iter()
                .map(|((name, cluster), ready, ports)| ((cluster, name), (ready, ports)))
                .collect();
            let own = hosts
                .into_iter()
                .filter(|((cluster, _), _)| scope == Scope::Clusterset || *cluster == "east");
            let host = |((cluster, name), (ready, ports)): ((&str, &str), _)| Host {
                name: name.into(),
                cluster: cluster.into(),
                vip_index: indexes.next().unwrap(),
                ready,
                ports,
            };
            own.map(host).collect::<Vec<_>>().into()
        });
        let vip_index = if hosts.is_none() { indexes.next().unwrap() } else { 0 };
        let ports = ports.into_iter().map(|(name, number)| port(name, number)).collect();
        services.insert(
            key.clone(),
            ServiceEntry {
                key,
                ports,
                vip_index,
                hosts,
                endpoints: BTreeMap::new(),
                summaries: BTreeMap::new(),
            },
        );
    }
    services.into_values().collect()
}

/// Names that exist or nearly do, in any case of letters.
fn name() -> impl Strategy<Value = String> {
    let label = select(vec![
        "a",
        "b",
        "x",
        "y",
        "z",
        "h0",
        "h1",
        "east",
        "west",
        "_http",
        "_grpc",
        "_tcp",
        "_udp",
        "_",
        "svc",
        "com",
        "dns-version",
    ]);
    let below_service = select(vec![
        "",
        "h0.",
        "h1.",
        "h0.east.",
        "h0.west.",
        "east.",
        "_tcp.",
        "_http._tcp.",
        "_grpc._tcp.",
        "_udp.",
    ]);
    let near = (below_service, select(vec!["x", "y", "z"]), select(vec!["a", "b"]), select(ZONES.to_vec()))
        .prop_map(|(below, service, namespace, zone)| format!("{below}{service}.{namespace}.svc.{zone}"));
    let far = (
        prop::collection::vec(label, 0..6),
        select(vec!["svc.cluster.local.", "svc.clusterset.local.", "cluster.local.", "clusterset.local."]),
    )
        .prop_map(|(labels, zone)| labels.iter().map(|label| format!("{label}.")).collect::<String>() + zone);
    let reverse = (0..20u32, any::<bool>()).prop_map(|(index, v6)| match v6 {
        true => Name::from(std::net::IpAddr::from(addresses().v6(index.max(1)).unwrap())).to_string(),
        false => Name::from(std::net::IpAddr::from([240, 240, 0, index as u8])).to_string(),
    });
    (prop_oneof![4 => near, 3 => far, 1 => reverse], any::<u64>()).prop_map(|(name, capitals)| {
        let upper = |(at, letter): (usize, char)| match capitals >> (at % 64) & 1 {
            1 => letter.to_ascii_uppercase(),
            _ => letter,
        };
        name.chars().enumerate().map(upper).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_that_of_the_reference(
        drawn in prop::collection::vec(service(), 0..5),
        asked in prop::collection::vec((name(), select(KINDS.to_vec())), 1..40),
    ) {
        let services = entries(drawn);
        let reference = Reference::of(&services);
        let mut snapshot = Snapshot::default();
        snapshot.services.extend(services.into_iter().map(|entry| (entry.key.clone(), Arc::new(entry))));
        let names = Names::of(&Arc::new(snapshot));
        for (asked, kind) in asked {
            let name = Name::from_ascii(&asked).unwrap();
            let expected = reference.answer(&asked.to_ascii_lowercase(), kind);
            let found = find(&names, true, &addresses(), &name, kind);
            match (&found, &expected) {
                (Found::Records { answers, .. }, Some(data)) if !data.is_empty() => {
                    for record in answers {
                        prop_assert_eq!(record.name.to_string(), asked.clone(), "as it was asked");
                        prop_assert_eq!(record.record_type(), kind);
                    }
                    let got: Vec<_> = answers.iter().map(|record| match &record.data {
                        RData::TXT(text) => String::from_utf8(text.txt_data[0].to_vec()).unwrap(),
                        data => data.to_string(),
                    }).collect();
                    prop_assert_eq!(got.len(), data.len(), "{} {}: {:?}", asked, kind, got);
                    prop_assert_eq!(&got.into_iter().collect::<BTreeSet<_>>(), data);
                }
                (Found::NoData(_), Some(data)) => prop_assert!(data.is_empty(), "{} {}: {:?}", asked, kind, data),
                // Each virtual address is a zone of its own.
                (Found::NoData(_), None) => prop_assert!(asked.to_ascii_lowercase().ends_with(".arpa."), "{asked}"),
                (Found::NoName(_), None) => {}
                _ => prop_assert!(false, "{} {}: {:?} instead of {:?}", asked, kind, found, expected),
            }
            // Before the list is known to be whole, the same; but nothing that may come is said not to exist.
            match (find(&names, false, &addresses(), &name, kind), found) {
                (Found::NotReady, Found::NoName(_) | Found::NoData(_)) => {}
                (early, late) => {
                    prop_assert_eq!(&early, &late);
                    if let Found::NoName(_) = early {
                        let lower = asked.to_ascii_lowercase();
                        let labels = lower.trim_end_matches('.').split('.').count();
                        prop_assert!(!lower.contains("svc.cluster") || labels > 7, "{asked}");
                    }
                }
            }
        }
    }
}
