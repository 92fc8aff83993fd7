//! What tests of the index are made of.

use tombolo_core::resources::kinds::{ServicePattern, ServicePatterns, ServicePortSpec};

use super::*;

pub const LEASE: i64 = 15_000;
pub const GRACE: i64 = 60_000;
pub const PEER_LEASE: i64 = 15_000;
pub const PEER_DROP: i64 = 86_400_000;

pub fn settings() -> Settings {
    Settings {
        cluster: "east".into(),
        trust_domain: domain("east.example"),
        network: "east".into(),
        epoch: "e".into(),
        lease: LEASE,
        restart_grace: GRACE,
        peer_lease: PEER_LEASE,
        peer_drop: PEER_DROP,
        on_loopback: false,
        own_ranges: Arc::default(),
    }
}

pub fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

pub fn workload(name: &str, app: &str) -> Registration {
    let id = SpiffeId::new(domain("east.example"), "shop", app).unwrap();
    let request = v1::RegisterRequest {
        name: name.into(),
        address: "192.0.2.7:15006".into(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        ports: vec![v1::WorkloadPort { port: 8080, name: "http".into() }],
        ..Default::default()
    };
    Registration::check(&id, request).unwrap()
}

pub fn registered(session: Session, name: &str, app: &str) -> Event {
    Event::Registered { session, registration: Arc::new(workload(name, app)) }
}

pub fn service(app: &str) -> (Name, ServiceSpec) {
    let port = ServicePortSpec {
        name: "http".into(),
        port: 80,
        target_port: None,
        protocol: None,
        app_protocol: None,
        node_port: None,
    };
    let selector = [("app".to_owned(), app.to_owned())].into();
    (Name::new("shop", app), ServiceSpec { selector, ports: vec![port], ..ServiceSpec::default() })
}

pub fn patterns(names: &[&str]) -> ServicePatterns {
    let pattern = |name: &&str| ServicePattern { namespace: "shop".into(), name: (*name).into() };
    ServicePatterns { services: names.iter().map(pattern).collect() }
}

/// A configuration with these services, exported ones, and a policy towards `west`.
pub fn configured(services: &[&str], exports: &[&str], import: &[&str]) -> Arc<Configuration> {
    let policy = PeerPolicy {
        trust_domain: domain("west.example"),
        export: patterns(&["*"]),
        import: patterns(import),
        lease: LeasePolicy::default(),
        network: None,
        limits: Limits::default(),
        bundle_endpoint: None,
    };
    Arc::new(Configuration {
        services: services.iter().map(|app| service(app)).collect(),
        exports: exports
            .iter()
            .map(|app| (Name::new("shop", app), ExportSpec { created: 100, ..ExportSpec::default() }))
            .collect(),
        peers: [("west".to_owned(), policy)].into(),
        ..Configuration::default()
    })
}

pub fn west() -> Arc<str> {
    "west".into()
}

pub fn peer(event: PeerEvent) -> Event {
    Event::Peer { cluster: west(), event }
}

pub fn bundle(ca: &FakeCa, sequence: u64) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: ca.trust_domain().to_string(),
        roots_der: vec![ca.root().to_vec().into()],
        sequence,
        refresh_hint_seconds: 0,
    }
}

pub fn identity(ca: &FakeCa) -> PeerIdentity {
    PeerIdentity {
        trust_domain: ca.trust_domain().clone(),
        bundle: bundle(ca, 1),
        addresses: vec!["192.0.2.1:15010".into()],
        dials: true,
    }
}

pub fn remote_endpoint(trust_domain: &str, name: &str) -> v1::Endpoint {
    let domain = domain(trust_domain);
    v1::Endpoint {
        id: format!("{domain}/shop/{name}/8080"),
        address: "198.51.100.4:15006".into(),
        network: "west".into(),
        spiffe_id: format!("spiffe://{domain}/ns/shop/sa/ledger"),
        sni: opaque_sni(&domain, "shop", name, 8080),
        target_port: 8080,
        weight: 1,
        ..Default::default()
    }
}

pub fn exported(name: &str, endpoints: Vec<v1::Endpoint>) -> v1::ExportedService {
    v1::ExportedService {
        revision: 1,
        namespace: "shop".into(),
        name: name.into(),
        ports: vec![v1::ServicePort { name: "http".into(), port: 80, app_protocol: String::new() }],
        endpoints: vec![v1::EndpointList { port: 80, endpoints, ..Default::default() }],
        created_unix: 200,
        headless: false,
        ..Default::default()
    }
}

pub fn hello(session: Session) -> Event {
    peer(PeerEvent::Hello { session, epoch: "w-1".into(), network: "west".into() })
}

pub fn gateways(session: Session) -> Event {
    peer(PeerEvent::Gateways { session, addresses: vec!["203.0.113.9:15443".into()] })
}

pub fn synced(session: Session, revision: u64, full: bool) -> Event {
    peer(PeerEvent::Synced { session, revision, full })
}

/// Ids and staleness of the endpoints of a published service; none if it is not published.
pub fn endpoints(index: &Index, key: &str) -> Option<Vec<(String, bool)>> {
    let set = index.endpoint_set(key)?;
    let endpoints = set.ports.iter().flat_map(|list| &list.endpoints);
    Some(endpoints.map(|endpoint| (endpoint.id.clone(), endpoint.stale)).collect())
}
