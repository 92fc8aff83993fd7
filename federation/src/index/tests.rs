//! The index, event by event.

use std::sync::Arc;

use tombolo_core::{
    identity::testing::FakeCa,
    model::{SpiffeId, TrustDomain, opaque_sni},
};
use tombolo_proto::v1;

use super::*;

mod anew;
mod capacity;

/// The parts of tests that the model needs as well.
pub(crate) mod kit;

use kit::*;

mod addresses;
mod holding;
mod peers;

struct Test {
    index: Index,
    now: Moment,
}

impl Test {
    fn new(configuration: Arc<Configuration>) -> Self {
        let now = Moment(1_000_000);
        let mut test = Self { index: Index::new(settings(), Restored::default(), now), now };
        test.does(Event::Configured(configuration));
        test
    }

    /// A linked, synced peer that exports `ledger` with one endpoint behind one gateway.
    fn with_west(configuration: Arc<Configuration>) -> Self {
        let mut test = Self::new(configuration);
        let ca = FakeCa::new("west.example");
        test.does(peer(PeerEvent::Linked(identity(&ca))));
        test.does(hello(1));
        let service = exported("ledger", vec![remote_endpoint("west.example", "ledger-1")]);
        test.does(gateways(1));
        // Where the import policy does not accept it, that is told.
        test.applies(peer(PeerEvent::Service { session: 1, service }));
        test.does(synced(1, 3, true));
        test
    }

    fn applies(&mut self, event: Event) -> Vec<Refusal> {
        let refusals = self.index.apply(event, self.now);
        self.index.publish();
        refusals
    }

    fn does(&mut self, event: Event) {
        let refusals = self.applies(event);
        assert!(refusals.is_empty(), "{refusals:?}");
    }

    fn passes(&mut self, milliseconds: i64) {
        self.now = self.now.plus(milliseconds);
        self.does(Event::Tick);
    }

    fn sees(&self, key: &str, expected: &[(&str, bool)]) {
        let found = endpoints(&self.index, key).unwrap_or_else(|| panic!("{key} is not published"));
        let found: Vec<_> = found.iter().map(|(id, stale)| (id.as_str(), *stale)).collect();
        assert_eq!(found, expected, "{key}");
    }
}

const LOCAL: &str = "cluster/shop/checkout";
const REMOTE: &str = "clusterset/shop/ledger";
const ENDPOINT: &str = "east.example/shop/checkout-1/8080";
const REMOTE_ENDPOINT: &str = "west.example/shop/ledger-1/8080";

#[test]
fn a_registered_workload_is_an_endpoint_of_the_services_that_select_it() {
    let mut test = Test::new(configured(&["checkout", "payments"], &[], &[]));
    test.sees(LOCAL, &[]);
    test.does(registered(1, "checkout-1", "checkout"));
    test.sees(LOCAL, &[(ENDPOINT, false)]);
    test.sees("cluster/shop/payments", &[]);
    let Some(set) = test.index.endpoint_set(LOCAL) else {
        panic!("not published");
    };
    let endpoint = &set.ports[0].endpoints[0];
    assert_eq!(endpoint.spiffe_id, "spiffe://east.example/ns/shop/sa/checkout");
    assert_eq!(endpoint.sni, opaque_sni(&domain("east.example"), "shop", "checkout-1", 8080));
    assert_eq!((endpoint.target_port, endpoint.exported), (8080, false));
}

#[test]
fn a_lost_stream_keeps_the_endpoint_until_its_lease_ends() {
    let mut test = Test::new(configured(&["checkout"], &[], &[]));
    test.does(registered(1, "checkout-1", "checkout"));
    test.does(Event::StreamClosed { session: 1, name: Name::new("shop", "checkout-1") });
    test.passes(LEASE - 1);
    test.sees(LOCAL, &[(ENDPOINT, false)]);
    test.passes(1);
    test.sees(LOCAL, &[]);
}

#[test]
fn a_heartbeat_renews_the_lease_and_publishes_nothing() {
    let mut test = Test::new(configured(&["checkout"], &[], &[]));
    test.does(registered(1, "checkout-1", "checkout"));
    test.passes(LEASE - 1);
    assert!(test.index.apply(registered(1, "checkout-1", "checkout"), test.now).is_empty());
    let changes = test.index.publish();
    assert!(changes.resources.is_empty() && changes.saves.is_empty(), "{changes:?}");
    test.passes(LEASE - 1);
    test.sees(LOCAL, &[(ENDPOINT, false)]);
}

#[test]
fn a_workload_that_says_goodbye_is_gone_with_its_stream() {
    let mut test = Test::new(configured(&["checkout"], &[], &[]));
    test.does(registered(1, "checkout-1", "checkout"));
    let leaving = Registration { health: v1::Health::Draining.into(), ..workload("checkout-1", "checkout") };
    test.does(Event::Registered { session: 1, registration: Arc::new(leaving) });
    test.sees(LOCAL, &[(ENDPOINT, false)]);
    test.does(Event::StreamClosed { session: 1, name: Name::new("shop", "checkout-1") });
    test.sees(LOCAL, &[]);
}

#[test]
fn the_younger_stream_holds_the_registration() {
    let mut test = Test::new(configured(&["checkout"], &[], &[]));
    test.does(registered(1, "checkout-1", "checkout"));
    test.does(registered(2, "checkout-1", "checkout"));
    assert_eq!(test.applies(registered(1, "checkout-1", "checkout"))[0].kind, RefusalKind::Outdated);
    test.does(Event::StreamClosed { session: 1, name: Name::new("shop", "checkout-1") });
    test.passes(LEASE - 1);
    test.does(registered(2, "checkout-1", "checkout"));
    test.sees(LOCAL, &[(ENDPOINT, false)]);
}

#[test]
fn another_account_does_not_take_a_name_over() {
    let mut test = Test::new(configured(&["checkout"], &[], &[]));
    test.does(registered(1, "checkout-1", "checkout"));
    let refusals = test.applies(registered(2, "checkout-1", "thief"));
    assert_eq!(refusals[0].kind, RefusalKind::Identity);
    test.sees(LOCAL, &[(ENDPOINT, false)]);
}

#[test]
fn a_restart_keeps_registrations_for_a_grace_and_virtual_addresses_for_good() {
    let mut test = Test::new(configured(&["other", "checkout"], &[], &[]));
    test.does(registered(1, "checkout-1", "checkout"));
    let restored = Restored {
        vips: vec![(LOCAL.into(), 9)],
        registrations: vec![workload("checkout-1", "checkout")],
        ..Restored::default()
    };
    test.index = Index::new(settings(), restored, test.now);
    test.does(Event::Configured(configured(&["checkout", "another"], &[], &[])));
    test.sees(LOCAL, &[(ENDPOINT, false)]);
    let vip = |index: &Index, key: &str| {
        let (_, resource) = index.published(Kind::Service).find(|(name, _)| *name == key).unwrap();
        let Resource::Service(service) = resource else { panic!("{key}") };
        service.vip_index
    };
    assert_eq!((vip(&test.index, LOCAL), vip(&test.index, "cluster/shop/another")), (9, 10));
    test.passes(GRACE - 1);
    test.sees(LOCAL, &[(ENDPOINT, false)]);
    test.passes(1);
    test.sees(LOCAL, &[]);
}

#[test]
fn malformed_registrations_are_refused_with_the_reason() {
    let id = SpiffeId::new(domain("east.example"), "shop", "checkout").unwrap();
    let good = || v1::RegisterRequest {
        name: "checkout-1".into(),
        address: "192.0.2.7:15006".into(),
        ..Default::default()
    };
    assert!(Registration::check(&id, good()).is_ok());
    let port = |port, name: &str| v1::WorkloadPort { port, name: name.into() };
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let bad = [
        v1::RegisterRequest { name: "Checkout 1".into(), ..good() },
        v1::RegisterRequest { address: "checkout:80".into(), ..good() },
        v1::RegisterRequest { ports: vec![port(0, "")], ..good() },
        v1::RegisterRequest { ports: vec![port(70_000, "")], ..good() },
        v1::RegisterRequest { ports: vec![port(80, "a"), port(80, "b")], ..good() },
        v1::RegisterRequest { ports: vec![port(80, "No Name")], ..good() },
        v1::RegisterRequest { ports: (1..=65).map(|n| port(n, "")).collect(), ..good() },
        v1::RegisterRequest { labels: (0..65).map(|n| (n.to_string(), String::new())).collect(), ..good() },
        v1::RegisterRequest { labels: label("x", &"y".repeat(318)), ..good() },
        v1::RegisterRequest { labels: label("tombolo.dev/lane", "No Lane"), ..good() },
        v1::RegisterRequest { weight: u32::MAX, ..good() },
        v1::RegisterRequest { health: 9, ..good() },
    ];
    for request in bad {
        assert!(Registration::check(&id, request.clone()).is_err(), "{request:?}");
    }
}
