use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use tombolo_core::model::{AppProtocol, ServiceKey, Snapshot};

use super::*;

#[path = "reference.rs"]
mod reference;

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let ports = vec![
        ServicePort { name: "http".into(), port: 80, protocol: AppProtocol::Http1, sniff: false },
        ServicePort { name: "".into(), port: 9000, protocol: AppProtocol::Tcp, sniff: false },
    ];
    for (key, vip_index) in
        [("cluster/shop/checkout", 7), ("clusterset/bank/ledger", 8), ("cluster/shop/headless", 0)]
    {
        let key = ServiceKey::parse(key).unwrap();
        let entry = ServiceEntry {
            key: key.clone(),
            ports: ports.clone(),
            vip_index,
            hosts: None,
            endpoints: BTreeMap::new(),
            summaries: BTreeMap::new(),
        };
        snapshot.services.insert(key, Arc::new(entry));
    }
    snapshot
}

fn names() -> Names {
    Names::of(&Arc::new(snapshot()))
}

fn ask(name: &str, kind: RecordType) -> Found {
    find(&names(), true, &Addresses::default(), &Name::from_ascii(name).unwrap(), kind)
}

fn before_sync(name: &str) -> Found {
    find(&names(), false, &Addresses::default(), &Name::from_ascii(name).unwrap(), RecordType::A)
}

fn addresses(found: &Found) -> Vec<Ipv4Addr> {
    let Found::Records { answers, .. } = found else { panic!("{found:?}") };
    answers
        .iter()
        .map(|record| match &record.data {
            RData::A(address) => address.0,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_service_has_its_virtual_address_in_each_scope() {
    let checkout = ask("checkout.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(addresses(&checkout), [Ipv4Addr::new(127, 64, 0, 7)]);
    let ledger = ask("Ledger.BANK.svc.clusterset.LOCAL.", RecordType::A);
    assert_eq!(addresses(&ledger), [Ipv4Addr::new(127, 64, 0, 8)]);
    let Found::Records { answers, .. } = ledger else { panic!() };
    assert_eq!(answers[0].name.to_string(), "Ledger.BANK.svc.clusterset.LOCAL.", "as it was asked (0x20)");
    assert_eq!(answers[0].ttl, TTL);
}

#[test]
fn the_scopes_are_apart() {
    assert!(matches!(ask("checkout.shop.svc.clusterset.local.", RecordType::A), Found::NoName(_)));
    assert!(matches!(ask("ledger.bank.svc.cluster.local.", RecordType::A), Found::NoName(_)));
}

#[test]
fn a_name_without_the_type_is_no_data_and_names_the_zone() {
    for (name, kind) in [
        ("checkout.shop.svc.cluster.local.", RecordType::AAAA),
        ("checkout.shop.svc.cluster.local.", RecordType::TXT),
        ("headless.shop.svc.cluster.local.", RecordType::A),
        ("shop.svc.cluster.local.", RecordType::A),
        ("svc.cluster.local.", RecordType::A),
        ("cluster.local.", RecordType::A),
        ("dns-version.cluster.local.", RecordType::A),
        ("_tcp.checkout.shop.svc.cluster.local.", RecordType::SRV),
        ("_http._tcp.checkout.shop.svc.cluster.local.", RecordType::A),
    ] {
        match ask(name, kind) {
            Found::NoData(soa) => assert_eq!(soa.name.to_string(), "cluster.local."),
            other => panic!("{name} {kind}: {other:?}"),
        }
    }
}

#[test]
fn what_does_not_exist_is_no_name() {
    for name in [
        "cart.shop.svc.cluster.local.",
        "checkout.store.svc.cluster.local.",
        "store.svc.cluster.local.",
        "a.b.c.d.e.svc.cluster.local.",
        "_udp.checkout.shop.svc.cluster.local.",
        "_http._udp.checkout.shop.svc.cluster.local.",
        "_grpc._tcp.checkout.shop.svc.cluster.local.",
        "_._tcp.checkout.shop.svc.cluster.local.",
        "http._tcp.checkout.shop.svc.cluster.local.",
        "pod-1.checkout.shop.svc.cluster.local.",
        "check\\.out.shop.svc.cluster.local.",
        "checkout.shop.pod.cluster.local.",
        "example.com.cluster.local.",
        "www.example.com.cluster.local.",
        "www.example.com.svc.clusterset.local.",
    ] {
        assert!(matches!(ask(name, RecordType::A), Found::NoName(_)), "{name}");
        assert!(matches!(ask(name, RecordType::SRV), Found::NoName(_)), "{name}");
    }
}

#[test]
fn a_named_port_has_a_service_record_with_its_address() {
    let found = ask("_http._tcp.checkout.shop.svc.cluster.local.", RecordType::SRV);
    let Found::Records { answers, additionals } = found else { panic!("{found:?}") };
    let RData::SRV(srv) = &answers[0].data else { panic!() };
    assert_eq!((srv.port, srv.target.to_string().as_str()), (80, "checkout.shop.svc.cluster.local."));
    assert_eq!(additionals[0].name, srv.target);
    assert_eq!(additionals[0].data, RData::A(A(Ipv4Addr::new(127, 64, 0, 7))));
}

#[test]
fn before_the_first_sync_nothing_is_said_not_to_exist() {
    assert_eq!(before_sync("cart.shop.svc.cluster.local."), Found::NotReady);
    assert_eq!(before_sync("other.svc.clusterset.local."), Found::NotReady);
    assert_eq!(addresses(&before_sync("checkout.shop.svc.cluster.local.")).len(), 1, "known from the cache");
    // Whatever services there are: these are typically names outside with a search domain behind them.
    for name in ["www.example.com.cluster.local.", "a.www.example.com.shop.svc.cluster.local."] {
        assert!(matches!(before_sync(name), Found::NoName(_)), "{name}");
    }
    assert_eq!(before_sync("9.0.64.127.in-addr.arpa."), Found::NotReady);
}

/// A headless service in both scopes: of two clusters, and of this one.
fn headless(ready: [bool; 3]) -> Names {
    let ports = vec![ServicePort { name: "sql".into(), port: 80, protocol: AppProtocol::Tcp, sniff: false }];
    let host = |name: &str, cluster: &str, vip_index, ready| Host {
        name: name.into(),
        cluster: cluster.into(),
        vip_index,
        ready,
        ports: vec![(80, 5432)],
    };
    let [first, second, far] = ready;
    let own = vec![host("db-0", "east", 1, first), host("db-1", "east", 2, second)];
    let all =
        vec![host("db-0", "east", 3, first), host("db-1", "east", 4, second), host("db-0", "west", 5, far)];
    let mut snapshot = Snapshot::default();
    for (key, hosts) in [("cluster/shop/db", own), ("clusterset/shop/db", all)] {
        let key = ServiceKey::parse(key).unwrap();
        let entry = ServiceEntry {
            key: key.clone(),
            ports: ports.clone(),
            vip_index: 0,
            hosts: Some(hosts.into()),
            endpoints: BTreeMap::new(),
            summaries: BTreeMap::new(),
        };
        snapshot.services.insert(key, Arc::new(entry));
    }
    Names::of(&Arc::new(snapshot))
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_hosts() {
    let names = headless([true, false, true]);
    let ask =
        |name: &str, kind| find(&names, true, &Addresses::default(), &Name::from_ascii(name).unwrap(), kind);
    let ips = |name: &str| {
        let found = addresses(&ask(name, RecordType::A));
        found.into_iter().map(|ip| ip.octets()[3]).collect::<Vec<_>>()
    };
    assert_eq!(ips("db.shop.svc.cluster.local."), [1]);
    assert_eq!(ips("db-0.db.shop.svc.cluster.local."), [1]);
    assert_eq!(ips("db.shop.svc.clusterset.local."), [3, 5]);
    assert_eq!(ips("db-0.east.db.shop.svc.clusterset.local."), [3]);
    assert_eq!(ips("db-0.west.db.shop.svc.clusterset.local."), [5]);
    for name in [
        "db-1.db.shop.svc.cluster.local.",
        "db-0.east.db.shop.svc.cluster.local.",
        "db-0.db.shop.svc.clusterset.local.",
        "db-1.east.db.shop.svc.clusterset.local.",
        "db-0.north.db.shop.svc.clusterset.local.",
        "north.db.shop.svc.clusterset.local.",
    ] {
        assert!(matches!(ask(name, RecordType::A), Found::NoName(_)), "{name}");
    }
    assert!(matches!(ask("west.db.shop.svc.clusterset.local.", RecordType::A), Found::NoData(_)));
    let Found::Records { answers, additionals } =
        ask("_sql._tcp.db.shop.svc.clusterset.local.", RecordType::SRV)
    else {
        panic!()
    };
    let texts: Vec<_> = answers.iter().map(|record| record.data.to_string()).collect();
    let targets = [
        "0 100 5432 db-0.east.db.shop.svc.clusterset.local.",
        "0 100 5432 db-0.west.db.shop.svc.clusterset.local.",
    ];
    assert_eq!(texts, targets);
    assert_eq!(additionals.len(), 2);
}

#[test]
fn a_headless_service_without_a_ready_host_does_not_exist_as_the_specification_says() {
    let names = headless([false, false, false]);
    for name in ["db.shop.svc.cluster.local.", "_sql._tcp.db.shop.svc.clusterset.local."] {
        let name = Name::from_ascii(name).unwrap();
        let found = |synced| find(&names, synced, &Addresses::default(), &name, RecordType::A);
        assert!(matches!(found(true), Found::NoName(_)), "{name}");
        assert_eq!(found(false), Found::NotReady, "{name}: its hosts may be from the cache");
    }
}

#[test]
fn the_zones_say_which_schema_they_follow() {
    for (name, version) in
        [("dns-version.cluster.local.", "1.1.0"), ("dns-version.clusterset.local.", "1.0.0")]
    {
        let Found::Records { answers, .. } = ask(name, RecordType::TXT) else { panic!("{name}") };
        assert_eq!(answers[0].data, RData::TXT(TXT::new(vec![version.into()])));
    }
    let Found::Records { answers, .. } = ask("CLUSTER.local.", RecordType::SOA) else { panic!() };
    assert_eq!(
        (answers[0].name.to_string().as_str(), answers[0].record_type()),
        ("CLUSTER.local.", RecordType::SOA)
    );
}

#[test]
fn a_virtual_address_leads_back_to_its_name() {
    let Found::Records { answers, .. } = ask("8.0.64.127.in-addr.arpa.", RecordType::PTR) else { panic!() };
    assert_eq!(answers[0].data.to_string(), "ledger.bank.svc.clusterset.local.");
    // Nobody's, and another type: nobody else's to answer either.
    for (name, kind) in
        [("9.0.64.127.in-addr.arpa.", RecordType::PTR), ("8.0.64.127.in-addr.arpa.", RecordType::A)]
    {
        assert!(matches!(ask(name, kind), Found::NoData(_)), "{name}");
    }
    let both =
        Addresses { v4: crate::loopback::Range::captured(), v6: Some(crate::addresses::Range6::default()) };
    let reverse = |ip: &str| {
        let name = Name::from(ip.parse::<std::net::IpAddr>().unwrap());
        find(&names(), true, &both, &name, RecordType::PTR)
    };
    for ip in ["240.240.0.7", "fd74:6f6d:626f::7"] {
        let Found::Records { answers, .. } = reverse(ip) else { panic!("{ip}") };
        assert_eq!(answers[0].data.to_string(), "checkout.shop.svc.cluster.local.");
    }
    for ip in ["127.64.0.7", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(reverse(ip), Found::Foreign, "{ip}");
    }
}

#[test]
fn other_names_are_not_ours() {
    for name in [
        "example.com.",
        "svc.",
        "local.",
        "printer.local.",
        "svc.cluster.local.example.com.",
        "in-addr.arpa.",
        "64.127.in-addr.arpa.",
        "1.2.0.192.in-addr.arpa.",
        ".",
    ] {
        assert_eq!(ask(name, RecordType::A), Found::Foreign, "{name}");
        assert_eq!(before_sync(name), Found::Foreign, "{name}");
    }
}

#[test]
fn captured_traffic_has_addresses_of_both_families() {
    let addresses =
        Addresses { v4: crate::loopback::Range::captured(), v6: Some(crate::addresses::Range6::default()) };
    let name = Name::from_ascii("checkout.shop.svc.cluster.local.").unwrap();
    let ask = |kind| match find(&names(), true, &addresses, &name, kind) {
        Found::Records { answers, .. } => {
            answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(ask(RecordType::A), ["240.240.0.7"]);
    assert_eq!(ask(RecordType::AAAA), ["fd74:6f6d:626f::7"]);
    assert_eq!(ask(RecordType::ANY), ["240.240.0.7", "fd74:6f6d:626f::7"]);
    let srv = Name::from_ascii("_http._tcp.checkout.shop.svc.cluster.local.").unwrap();
    let Found::Records { additionals, .. } = find(&names(), true, &addresses, &srv, RecordType::SRV) else {
        panic!()
    };
    assert_eq!(additionals.len(), 2);
}
