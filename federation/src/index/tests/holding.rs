//! What is held of a peer while links come and go: freshness, and the limits.

use tombolo_core::decide::{Blocks, Cidr};

use super::*;

const SHOP: [&str; 3] = ["a", "b", "c"];

fn service(name: &str, endpoints: usize) -> v1::ExportedService {
    let endpoint = |n| remote_endpoint("west.example", &format!("{name}-{n}"));
    exported(name, (0..endpoints).map(endpoint).collect())
}

fn says(session: Session, name: &str, endpoints: usize) -> Event {
    peer(PeerEvent::Service { session, service: service(name, endpoints) })
}

fn limited(services: usize, endpoints: usize) -> Arc<Configuration> {
    let mut configuration = Configuration::clone(&configured(&[], &[], &["*"]));
    let limits = Limits { services, endpoints, ..Limits::default() };
    configuration.peers.get_mut("west").unwrap().limits = limits;
    Arc::new(configuration)
}

impl Test {
    /// A synced peer with two services of two endpoints each.
    fn with_two(configuration: Arc<Configuration>) -> Self {
        let mut test = Self::new(configuration);
        test.does(peer(PeerEvent::Linked(identity(&FakeCa::new("west.example")))));
        test.does(hello(1));
        test.does(gateways(1));
        test.does(says(1, "a", 2));
        test.does(says(1, "b", 2));
        test.does(synced(1, 1, true));
        test
    }

    fn west(&self) -> &Peer {
        self.index.peer("west").unwrap()
    }

    /// Which of the services are held, and the revision up to which everything is.
    fn held(&self) -> (Vec<&str>, Option<u64>) {
        let is_held = |name: &&str| self.west().service(&Name::new("shop", name)).is_some();
        (SHOP.into_iter().filter(is_held).collect(), self.west().have.as_ref().map(|(_, revision)| *revision))
    }
}

#[test]
fn a_sign_of_life_on_a_link_that_has_told_everything_ends_staleness() {
    let mut test = Test::with_two(configured(&[], &[], &["*"]));
    // As with a process that was stopped for a while, while its connections stood.
    test.passes(PEER_LEASE);
    assert_eq!(test.west().state(), "stale");
    test.does(peer(PeerEvent::Heard { session: 1 }));
    assert_eq!(test.west().state(), "synced");
    let fresh = endpoints(&test.index, "clusterset/shop/a").unwrap();
    assert!(fresh.iter().all(|(_, stale)| !stale), "{fresh:?}");
    // Before everything is told, it proves nothing.
    test.passes(PEER_LEASE);
    test.does(hello(2));
    test.does(peer(PeerEvent::Heard { session: 2 }));
    assert!(test.west().stale);
}

#[test]
fn what_was_dropped_for_silence_is_told_again_over_another_link() {
    let mut test = Test::with_two(configured(&[], &[], &["*"]));
    test.passes(PEER_DROP);
    assert_eq!(test.held(), (vec![], None));
    let late = test.applies(peer(PeerEvent::Heard { session: 1 }));
    assert_eq!(late[0].kind, RefusalKind::Outdated, "the link has to begin anew");
    test.does(hello(2));
    test.does(says(2, "a", 2));
    test.does(synced(2, 1, true));
    assert_eq!(test.held(), (vec!["a"], Some(1)));
}

#[test]
fn a_service_that_is_refused_as_a_whole_keeps_what_was_held_through_a_full_sync() {
    let mut test = Test::with_two(configured(&[], &[], &["*"]));
    test.does(hello(2));
    let mut wrong = service("a", 2);
    wrong.ports = (1..=65).map(|port| v1::ServicePort { port, ..Default::default() }).collect();
    assert_eq!(test.applies(peer(PeerEvent::Service { session: 2, service: wrong })).len(), 1);
    test.does(says(2, "c", 1));
    test.does(synced(2, 2, true));
    assert_eq!(test.held(), (vec!["a", "c"], Some(2)), "b was not named");
    assert_eq!(test.west().endpoint_count(), 3);
}

#[test]
fn who_tells_everything_anew_is_not_limited_by_what_it_told_before() {
    let mut test = Test::with_two(limited(2, 4));
    // Its controller starts again, with other services.
    test.does(peer(PeerEvent::Hello { session: 2, epoch: "w-2".into(), network: "west".into() }));
    test.does(says(2, "c", 3));
    test.does(says(2, "a", 1));
    assert_eq!(test.held().0, SHOP, "nothing is gone before everything is told");
    test.does(synced(2, 1, true));
    assert_eq!((test.held(), test.west().endpoint_count()), ((vec!["a", "c"], Some(1)), 4));
    // Who resumes has to withdraw first.
    test.does(peer(PeerEvent::Hello { session: 3, epoch: "w-2".into(), network: "west".into() }));
    assert_eq!(test.applies(says(3, "b", 1))[0].kind, RefusalKind::Limit);
    test.does(peer(PeerEvent::Withdrawn { session: 3, name: Name::new("shop", "c") }));
    test.does(says(3, "b", 1));
    assert_eq!(test.held().0, ["a", "b"]);
}

#[test]
fn who_never_tells_everything_fills_nothing() {
    let mut test = Test::with_two(limited(2, 4));
    for session in 2..20 {
        let epoch = format!("w-{session}");
        test.does(peer(PeerEvent::Hello { session, epoch, network: "west".into() }));
        for name in ["x", "y"] {
            test.applies(says(session, &format!("{name}{session}"), 2));
        }
        assert!(test.west().service_count() <= 4 && test.west().endpoint_count() <= 8);
    }
}

#[test]
fn what_is_our_own_by_now_is_not_restored() {
    let mut test = Test::with_two(configured(&[], &[], &["*"]));
    for (range, left, have) in [("198.51.100.0/24", 0, false), ("192.0.2.0/24", 2, true)] {
        let service = test.west().service(&Name::new("shop", "a")).unwrap();
        let saved = test.index.peers.get_mut("west").unwrap().saved(test.now);
        let saved = SavedPeer { services: vec![service], ..saved };
        let restored = Restored { peers: vec![(west(), saved)], ..Restored::default() };
        let own_ranges = Arc::new(Blocks::new([Cidr::parse(range).unwrap()]));
        let index = Index::new(Settings { own_ranges, ..settings() }, restored, test.now);
        let peer = index.peer("west").unwrap();
        assert_eq!((peer.endpoint_count(), peer.have.is_some()), (left, have), "{range}");
    }
}

#[test]
fn what_was_cut_off_is_asked_for_when_there_is_room() {
    let mut test = Test::with_two(limited(2, 4));
    assert_eq!(test.held(), (vec!["a", "b"], Some(1)));
    assert_eq!(test.applies(says(1, "c", 1))[0].kind, RefusalKind::Limit);
    test.does(synced(1, 2, false));
    assert_eq!(test.held(), (vec!["a", "b"], None), "the next link begins with everything");
    test.does(Event::Configured(limited(3, 5)));
    let late = test.applies(peer(PeerEvent::Heard { session: 1 }));
    assert_eq!(late[0].kind, RefusalKind::Outdated, "and that is now");
    test.does(hello(2));
    SHOP.iter().for_each(|name| test.does(says(2, name, 1)));
    test.does(synced(2, 2, true));
    assert_eq!(test.held(), (SHOP.to_vec(), Some(2)));
    // Limits that are not reached change nothing.
    test.does(Event::Configured(limited(4, 9)));
    test.does(peer(PeerEvent::Heard { session: 2 }));
    // Those that are exceeded now do.
    test.does(Event::Configured(limited(1, 9)));
    assert_eq!(test.applies(peer(PeerEvent::Heard { session: 2 }))[0].kind, RefusalKind::Outdated);
    test.does(hello(3));
    test.does(says(3, "a", 1));
    assert_eq!(test.applies(says(3, "b", 1))[0].kind, RefusalKind::Limit);
    test.does(synced(3, 2, true));
    assert_eq!(test.held(), (vec!["a"], None));
}

#[test]
fn a_peer_that_has_not_told_everything_has_not_lost_its_gateways() {
    let none = |session| peer(PeerEvent::Gateways { session, addresses: vec![] });
    let reached = |test: &Test| endpoints(&test.index, "clusterset/shop/a").unwrap().len();
    let mut test = Test::with_two(configured(&[], &[], &["*"]));
    test.does(hello(2));
    test.does(none(2));
    assert_eq!(reached(&test), 2);
    test.does(gateways(2));
    test.does(synced(2, 1, false));
    assert_eq!(reached(&test), 2, "it has found them");
    test.does(hello(3));
    test.does(none(3));
    test.does(synced(3, 1, false));
    assert_eq!(reached(&test), 0, "it has none");
}

#[test]
fn who_is_told_nothing_has_nothing_to_confirm() {
    let mut configuration = Configuration::clone(&configured(&["checkout"], &["checkout"], &[]));
    let north = PeerPolicy {
        trust_domain: domain("north.example"),
        export: patterns(&[]),
        ..configuration.peers["west"].clone()
    };
    configuration.peers.insert("north".into(), north);
    let mut test = Test::new(Arc::new(configuration));
    let of = |cluster: &str, event| Event::Peer { cluster: cluster.into(), event };
    for (session, cluster) in [(1, "west"), (2, "north")] {
        let ca = FakeCa::new(&format!("{cluster}.example"));
        test.does(of(cluster, PeerEvent::Linked(identity(&ca))));
        test.does(of(cluster, PeerEvent::Hello { session, epoch: "1".into(), network: cluster.into() }));
        let revision = test.index.peer(cluster).unwrap().exports.revision();
        test.does(of(cluster, PeerEvent::Acked { session, revision }));
    }
    test.does(registered(9, "checkout-1", "checkout"));
    test.passes(1000);
    let lag = |test: &Test, cluster| test.index.peer(cluster).unwrap().contact.lag(test.now);
    assert_eq!((lag(&test, "west"), lag(&test, "north")), (1000, 0));
    test.does(of("north", PeerEvent::Answered { session: 2 }));
    test.passes(PEER_LEASE - 1);
    let lease = test.index.lease_of("north");
    assert!(test.index.peer("north").unwrap().is_connected(lease, test.now));
    assert!(!test.index.peer("west").unwrap().is_connected(lease, test.now));
}

#[test]
fn a_peer_is_dropped_when_its_document_says_another_network() {
    let mut test = Test::with_two(configured(&[], &[], &["*"]));
    let pinned = |network: &str| {
        let mut configuration = Configuration::clone(&configured(&[], &[], &["*"]));
        configuration.peers.get_mut("west").unwrap().network = Some(network.into());
        Event::Configured(Arc::new(configuration))
    };
    test.does(pinned("west"));
    assert_eq!(test.held(), (vec!["a", "b"], Some(1)));
    // Also where it is past its limits, so that nothing of it is whole.
    test.index.peers.get_mut("west").unwrap().have = None;
    test.does(pinned("elsewhere"));
    assert_eq!((test.held(), test.west().gateways.len()), ((vec![], None), 0));
    assert_eq!(test.applies(hello(2))[0].kind, RefusalKind::Policy);
}
