//! Addresses that a peer may not name: this cluster's own, and nobody's.

use tombolo_core::decide::{Blocks, Cidr};

use super::*;

const EAST: &str = "east";

/// A cluster with a workload at 192.0.2.7:15006 and a range of its own; its peer is on the same network.
fn flat() -> Test {
    let now = Moment(1_000_000);
    let ranges = Blocks::new([Cidr::parse("10.1.0.0/16").unwrap()]);
    let settings = Settings { own_ranges: Arc::new(ranges), ..settings() };
    let mut test = Test { index: Index::new(settings, Restored::default(), now), now };
    test.does(Event::Configured(configured(&["checkout"], &[], &["ledger"])));
    test.does(registered(7, "checkout-1", "checkout"));
    test.does(peer(PeerEvent::Linked(identity(&FakeCa::new("west.example")))));
    test.does(peer(PeerEvent::Hello { session: 1, epoch: "w-1".into(), network: EAST.into() }));
    test
}

/// What is refused of an endpoint of the peer at this address.
fn says(test: &mut Test, address: &str) -> Vec<RefusalKind> {
    let endpoint = v1::Endpoint {
        network: EAST.into(),
        address: address.into(),
        ..remote_endpoint("west.example", "ledger-1")
    };
    let service = exported("ledger", vec![endpoint]);
    let refused = test.applies(peer(PeerEvent::Service { session: 1, service }));
    refused.iter().map(|refusal| refusal.kind).collect()
}

#[test]
fn a_peer_on_this_network_has_endpoints_anywhere_but_on_our_machines() {
    let mut test = flat();
    let refused = [RefusalKind::Address];
    // The sidecar, whatever else listens there, what the operator says is ours, the cloud's metadata.
    for ours in
        ["192.0.2.7:15006", "192.0.2.7:22", "[::ffff:192.0.2.7]:22", "10.1.2.3:443", "169.254.169.254:80"]
    {
        assert_eq!(says(&mut test, ours), refused, "{ours}");
        test.sees(REMOTE, &[]);
    }
    assert_eq!(says(&mut test, "192.0.2.8:15006"), []);
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
}

#[test]
fn gateways_of_a_peer_are_not_among_us_either() {
    let mut test = flat();
    let gateways = |addresses: &[&str]| {
        let addresses = addresses.iter().map(ToString::to_string).collect();
        peer(PeerEvent::Gateways { session: 1, addresses })
    };
    let refused =
        test.applies(gateways(&["192.0.2.7:6379", "10.1.0.1:15008", "[fe80::1]:1", "203.0.113.9:1"]));
    assert_eq!(refused.len(), 1, "told once: {refused:?}");
    assert_eq!(refused[0].kind, RefusalKind::Address);
    assert_eq!(test.index.peer("west").unwrap().gateways, ["203.0.113.9:1"]);
}
