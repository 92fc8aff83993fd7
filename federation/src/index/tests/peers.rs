//! What peers say, and what they are told.

use super::*;

#[test]
fn an_imported_service_is_reached_through_the_peers_gateways() {
    let test = Test::with_west(configured(&[], &[], &["ledger"]));
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
    let Some(set) = test.index.endpoint_set(REMOTE) else {
        panic!("not published");
    };
    let endpoint = &set.ports[0].endpoints[0];
    assert_eq!((endpoint.address.as_str(), endpoint.cluster.as_str()), ("", "west"));
    assert_eq!(endpoint.via, ["203.0.113.9:15443"]);
    assert_eq!(test.index.published(Kind::TrustBundle).count(), 1);
}

#[test]
fn on_one_network_an_imported_endpoint_is_reached_directly() {
    let mut test = Test::with_west(configured(&[], &[], &["ledger"]));
    let endpoint = v1::Endpoint { network: "east".into(), ..remote_endpoint("west.example", "ledger-1") };
    let service = exported("ledger", vec![endpoint]);
    let claimed = test.applies(peer(PeerEvent::Service { session: 1, service: service.clone() }));
    assert_eq!(claimed[0].kind, RefusalKind::Address, "a peer on another network has nothing on ours");
    test.does(peer(PeerEvent::Hello { session: 2, epoch: "w-1".into(), network: "east".into() }));
    test.does(peer(PeerEvent::Service { session: 2, service }));
    let Some(set) = test.index.endpoint_set(REMOTE) else {
        panic!("not published");
    };
    let endpoint = &set.ports[0].endpoints[0];
    assert_eq!((endpoint.address.as_str(), endpoint.via.len()), ("198.51.100.4:15006", 0));
}

#[test]
fn without_a_gateway_endpoints_on_another_network_are_left_out() {
    let mut test = Test::with_west(configured(&[], &[], &["ledger"]));
    test.does(peer(PeerEvent::Gateways { session: 1, addresses: vec![] }));
    test.sees(REMOTE, &[]);
}

#[test]
fn a_broken_link_makes_stale_after_its_lease_and_drops_after_its_bound() {
    let mut test = Test::with_west(configured(&[], &[], &["ledger"]));
    test.does(peer(PeerEvent::Disconnected { session: 1 }));
    test.passes(PEER_LEASE - 1);
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
    test.passes(1);
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, true)]);
    assert_eq!(test.index.peer("west").unwrap().state(), "stale");
    test.passes(PEER_DROP - PEER_LEASE - 1);
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, true)]);
    test.passes(1);
    assert_eq!(endpoints(&test.index, REMOTE), None);
    // Its roots still vouch for it: it may come back.
    assert_eq!(test.index.published(Kind::TrustBundle).count(), 1);
}

#[test]
fn a_link_that_returns_is_fresh_only_when_it_has_synced() {
    let mut test = Test::with_west(configured(&[], &[], &["ledger"]));
    test.passes(PEER_LEASE);
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, true)]);
    test.does(hello(2));
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, true)]);
    test.does(synced(2, 3, false));
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
    // What the old link still has to say counts no more.
    let late = peer(PeerEvent::Withdrawn { session: 1, name: Name::new("shop", "ledger") });
    assert_eq!(test.applies(late)[0].kind, RefusalKind::Outdated);
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
}

#[test]
fn a_withdrawn_service_is_gone_at_once_and_what_a_full_sync_does_not_name_as_well() {
    let mut test = Test::with_west(configured(&[], &[], &["*"]));
    test.does(peer(PeerEvent::Withdrawn { session: 1, name: Name::new("shop", "ledger") }));
    assert_eq!(endpoints(&test.index, REMOTE), None);
    let mut test = Test::with_west(configured(&[], &[], &["*"]));
    test.does(hello(2));
    let other = exported("other", vec![remote_endpoint("west.example", "other-1")]);
    test.does(peer(PeerEvent::Service { session: 2, service: other }));
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
    test.does(synced(2, 9, true));
    assert_eq!(endpoints(&test.index, REMOTE), None);
    assert!(endpoints(&test.index, "clusterset/shop/other").is_some());
}

#[test]
fn endpoints_of_foreign_trust_domains_are_refused_and_the_rest_is_taken() {
    let mut test = Test::with_west(configured(&[], &[], &["ledger"]));
    let mut borrowed = remote_endpoint("west.example", "ledger-2");
    borrowed.spiffe_id = "spiffe://east.example/ns/shop/sa/checkout".into();
    let mut misnamed = remote_endpoint("west.example", "ledger-3");
    misnamed.id = "west.example.evil/shop/ledger-3/8080".into();
    let good = remote_endpoint("west.example", "ledger-4");
    let service = exported("ledger", vec![borrowed, misnamed, good]);
    let refusals = test.applies(peer(PeerEvent::Service { session: 1, service }));
    assert_eq!(refusals.iter().map(|r| r.kind).collect::<Vec<_>>(), [RefusalKind::Identity]);
    test.sees(REMOTE, &[("west.example/shop/ledger-4/8080", false)]);
}

#[test]
fn what_is_published_in_slices_is_all_published_in_turn() {
    let mut test = Test::with_west(configured(&[], &[], &["*"]));
    let mut names: Vec<String> = Vec::new();
    for round in 0..3 {
        for number in 0..10 {
            let name = format!("s{number}");
            let endpoint = remote_endpoint("west.example", &format!("{name}-{round}"));
            let service = exported(&name, vec![endpoint]);
            test.index.apply(peer(PeerEvent::Service { session: 1, service }), test.now);
        }
        // What changes again and again does not keep the others waiting.
        let changes = test.index.publish_some(4).resources;
        let sets = changes.into_iter().filter(|change| change.kind == Kind::EndpointSet);
        names.extend(sets.map(|change| change.name));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 10, "{names:?}");
    while test.index.is_unpublished() {
        test.index.publish_some(4);
    }
    for number in 0..10 {
        let id = format!("west.example/shop/s{number}-2/8080");
        test.sees(&format!("clusterset/shop/s{number}"), &[(&id, false)]);
    }
}

#[test]
fn the_import_policy_decides_and_may_change_its_mind() {
    let mut test = Test::with_west(configured(&[], &[], &["ledger"]));
    test.does(Event::Configured(configured(&[], &[], &["other"])));
    assert_eq!(endpoints(&test.index, REMOTE), None);
    let service = exported("ledger", vec![remote_endpoint("west.example", "ledger-1")]);
    let refusals = test.applies(peer(PeerEvent::Service { session: 1, service }));
    assert_eq!(refusals[0].kind, RefusalKind::Policy);
    test.does(Event::Configured(configured(&[], &[], &["ledger"])));
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
}

#[test]
fn a_bundle_is_taken_only_for_the_peers_own_trust_domain_and_in_sequence() {
    let mut test = Test::with_west(configured(&[], &[], &[]));
    let (west, north) = (FakeCa::new("west.example"), FakeCa::new("north.example"));
    let send = |bundle| peer(PeerEvent::Bundle { session: 1, bundle });
    assert_eq!(test.applies(send(bundle(&north, 9)))[0].kind, RefusalKind::Identity);
    assert_eq!(test.applies(send(bundle(&west, 1)))[0].kind, RefusalKind::Outdated);
    let garbage = v1::TrustBundle { roots_der: vec![vec![1, 2, 3].into()], ..bundle(&west, 3) };
    assert_eq!(test.applies(send(garbage))[0].kind, RefusalKind::Malformed);
    test.does(send(bundle(&west, 2)));
    let Some((_, Resource::TrustBundle(held))) = test.index.published(Kind::TrustBundle).next() else {
        panic!("not published");
    };
    assert_eq!(held, &bundle(&west, 2));
}

#[test]
fn an_exported_service_is_told_to_peers_that_may_see_it() {
    let mut test = Test::with_west(configured(&["checkout", "secret"], &["checkout"], &[]));
    test.does(registered(1, "checkout-1", "checkout"));
    let gateway = Event::GatewayRegistered {
        session: 2,
        name: Name::new("tombolo-system", "gw"),
        identity: SpiffeId::new(domain("east.example"), "tombolo-system", "gateway").unwrap(),
        address: "203.0.113.1:15443".parse().unwrap(),
        draining: false,
    };
    test.does(gateway);
    let update = test.index.peer("west").unwrap().exports.since(None);
    assert_eq!(update.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["checkout"]);
    let endpoint = &update.services[0].endpoints[0].endpoints[0];
    assert_eq!(
        (endpoint.id.as_str(), endpoint.address.as_str()),
        (ENDPOINT, ""),
        "no address crosses networks"
    );
    assert_eq!(update.gateways.unwrap().mesh_addresses, ["203.0.113.1:15443"]);
    let Some(set) = test.index.endpoint_set(LOCAL) else {
        panic!("not published");
    };
    assert!(set.ports[0].endpoints[0].exported, "gateways may pass it on");
    let before = update.revision;
    test.does(Event::Configured(configured(&["checkout"], &[], &[])));
    let update = test.index.peer("west").unwrap().exports.since(Some(before));
    assert_eq!(update.withdrawn.len(), 1);
}

#[test]
fn what_stands_behind_the_named_is_told_in_one_line_and_published() {
    let mut test = Test::with_west(configured(&["checkout"], &["checkout"], &["ledger"]));
    for number in 0..100 {
        test.does(registered(100 + number, &format!("checkout-{number:03}"), "checkout"));
    }
    test.passes(SUMMARY_PACE);
    let told = |test: &Test, have| test.index.peer("west").unwrap().exports.since(have);
    let update = told(&test, None);
    let list = &update.services[0].endpoints[0];
    assert_eq!((list.endpoints.len(), list.summaries[0].total), (MAX_NAMED, 100));
    // Workloads beyond those that are named come and go.
    for number in 100..150 {
        test.does(registered(100 + number, &format!("checkout-{number:03}"), "checkout"));
    }
    assert_eq!(told(&test, None).revision, update.revision, "not yet");
    test.passes(SUMMARY_PACE);
    let later = told(&test, Some(update.revision));
    assert_eq!((later.services.len(), later.summaries.len()), (0, 1));
    assert_eq!(later.summaries[0].ports[0].summaries[0].total, 150);
    // The same from the other side.
    let summary = |healthy| v1::Summary { healthy, total: 500, total_weight: 500, ..Default::default() };
    let list = |healthy| v1::EndpointList { port: 80, endpoints: vec![], summaries: vec![summary(healthy)] };
    let (name, session) = (Name::new("shop", "ledger"), 1);
    test.does(peer(PeerEvent::Summaries { session, name: name.clone(), ports: vec![list(300)] }));
    let published = |test: &Test| {
        let set = test.index.endpoint_set(REMOTE).unwrap();
        set.ports[0].summaries.iter().map(|s| (s.cluster.clone(), s.healthy)).collect::<Vec<_>>()
    };
    assert_eq!(published(&test), [("west".to_owned(), 300)]);
    let absurd = peer(PeerEvent::Summaries { session, name, ports: vec![list(501)] });
    assert_eq!(test.applies(absurd)[0].kind, RefusalKind::Malformed);
    let unknown = Name::new("shop", "unknown");
    let unknown = peer(PeerEvent::Summaries { session, name: unknown, ports: vec![list(1)] });
    assert_eq!(test.applies(unknown)[0].kind, RefusalKind::Outdated);
}

#[test]
fn a_service_of_the_cluster_set_has_the_endpoints_of_both_clusters() {
    let mut test = Test::with_west(configured(&["ledger"], &["ledger"], &["ledger"]));
    test.does(registered(1, "ledger-1", "ledger"));
    test.sees("cluster/shop/ledger", &[("east.example/shop/ledger-1/8080", false)]);
    test.sees(REMOTE, &[("east.example/shop/ledger-1/8080", false), (REMOTE_ENDPOINT, false)]);
    // Not exported here, this cluster's endpoints are no part of it.
    test.does(Event::Configured(configured(&["ledger"], &[], &["ledger"])));
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
}

#[test]
fn the_older_export_wins_a_conflict_and_it_is_shown() {
    let mut test = Test::with_west(configured(&["ledger"], &["ledger"], &["ledger"]));
    test.does(registered(1, "ledger-1", "ledger"));
    let mut service = exported("ledger", vec![remote_endpoint("west.example", "ledger-1")]);
    service.ports[0].app_protocol = "tcp".into();
    test.does(peer(PeerEvent::Service { session: 1, service }));
    test.sees(REMOTE, &[("east.example/shop/ledger-1/8080", false)]);
    assert_eq!(test.index.conflicts().map(|c| c.cluster.as_str()).collect::<Vec<_>>(), ["west"]);
}

#[test]
fn exports_of_several_clusters_are_merged_and_the_oldest_says_what_cannot_be() {
    let mut test = Test::with_west(configured(&["ledger"], &["ledger"], &["ledger"]));
    let name = Name::new("shop", "ledger");
    let mut theirs = exported("ledger", vec![remote_endpoint("west.example", "ledger-1")]);
    theirs.ports.push(v1::ServicePort { name: "admin".into(), port: 81, app_protocol: "tcp".into() });
    theirs.labels.insert("team".into(), "west".into());
    theirs.annotations.insert("note".into(), "west".into());
    test.does(peer(PeerEvent::Service { session: 1, service: theirs.clone() }));
    let kinds =
        |test: &Test| -> Vec<&str> { test.index.conflicts_of(&name).iter().map(|c| c.kind).collect() };
    let import = test.index.import(&name).unwrap();
    assert_eq!(import.clusters, ["east", "west"], "by age");
    let ports: Vec<_> = import.ports.iter().map(|(name, port, _)| (name.as_str(), *port)).collect();
    assert_eq!(ports, [("http", 80), ("admin", 81)], "the ports of both");
    assert!(import.vip_index > 0 && !import.headless && import.labels.is_empty());
    assert_eq!(kinds(&test), ["LabelsConflict", "AnnotationsConflict"]);
    // The other one's is older: what it says holds, and the conflict is shown all the same.
    (theirs.created_unix, theirs.headless) = (50, true);
    test.does(peer(PeerEvent::Service { session: 1, service: theirs }));
    let import = test.index.import(&name).unwrap();
    assert_eq!((import.clusters, import.headless), (vec!["west".to_owned(), "east".to_owned()], true));
    assert_eq!((import.labels["team"].as_str(), import.annotations["note"].as_str()), ("west", "west"));
    assert_eq!(kinds(&test), ["TypeConflict", "LabelsConflict", "AnnotationsConflict"]);
    assert_eq!(test.index.told_to(&name).map(|cluster| &**cluster).collect::<Vec<_>>(), ["west"]);
    assert_eq!(test.index.import_names().collect::<Vec<_>>(), std::slice::from_ref(&name));
    test.does(peer(PeerEvent::Withdrawn { session: 1, name: name.clone() }));
    assert_eq!(test.index.import(&name).unwrap().clusters, ["east"]);
    assert!(kinds(&test).is_empty());
}

#[test]
fn a_revoked_peer_vouches_for_nobody_and_can_be_linked_again() {
    for revoke in [PeerEvent::Revoked, PeerEvent::Left { session: 1 }] {
        let mut test = Test::with_west(configured(&["checkout"], &["checkout"], &["*"]));
        test.does(peer(revoke));
        assert_eq!(endpoints(&test.index, REMOTE), None);
        assert_eq!(test.index.published(Kind::TrustBundle).count(), 0);
        let west = test.index.peer("west").unwrap();
        assert_eq!((west.state(), west.exports.len()), ("withdrawn", 0));
        let epoch = west.exports.epoch().to_owned();
        assert_eq!(test.applies(hello(2))[0].kind, RefusalKind::Policy);
        test.does(peer(PeerEvent::Linked(identity(&FakeCa::new("west.example")))));
        test.does(hello(3));
        assert_ne!(test.index.peer("west").unwrap().exports.epoch(), epoch, "a new history");
    }
}

#[test]
fn peers_are_told_apart_by_name_and_trust_domain() {
    let mut test = Test::with_west(configured(&[], &[], &[]));
    let linked = |cluster: &str, domain: &str| Event::Peer {
        cluster: cluster.into(),
        event: PeerEvent::Linked(identity(&FakeCa::new(domain))),
    };
    for (cluster, domain) in
        [("east", "x.example"), ("north", "east.example"), ("north", "west.example"), ("west", "x.example")]
    {
        assert_eq!(
            test.applies(linked(cluster, domain))[0].kind,
            RefusalKind::Identity,
            "{cluster} {domain}"
        );
    }
    test.does(linked("north", "north.example"));
    // Another one with the same name and domain, as whoever has a token can say.
    let joins = |ca: &FakeCa| Event::Peer {
        cluster: "north".into(),
        event: PeerEvent::Linked(PeerIdentity { dials: false, ..identity(ca) }),
    };
    let other = FakeCa::new("north.example");
    let taken = test.applies(joins(&other));
    assert!(taken[0].reason.contains("other roots"), "{taken:?}");
    test.does(Event::Peer { cluster: "north".into(), event: PeerEvent::Revoked });
    test.does(joins(&other));
    let known = test.index.peer("north").unwrap().identity.clone();
    let borrowed = PeerIdentity {
        dials: false,
        addresses: vec!["203.0.113.66:1".into()],
        bundle: bundle(&other, u64::MAX),
        ..identity(&other)
    };
    test.does(Event::Peer { cluster: "north".into(), event: PeerEvent::Linked(borrowed) });
    assert_eq!(test.index.peer("north").unwrap().identity, known, "roots are no secret");
}

#[test]
fn too_much_of_a_peer_is_refused_and_the_last_good_stays() {
    let mut test = Test::with_west(configured(&[], &[], &["*"]));
    let ports = (1..=65).map(|port| v1::ServicePort { port, ..Default::default() }).collect();
    let service = v1::ExportedService { ports, ..exported("ledger", vec![]) };
    let refusals = test.applies(peer(PeerEvent::Service { session: 1, service }));
    assert_eq!(refusals[0].kind, RefusalKind::Limit);
    test.sees(REMOTE, &[(REMOTE_ENDPOINT, false)]);
    assert_eq!(test.index.peer("west").unwrap().refusals.total(), 1);
    let many = (0..1_001).map(|n| remote_endpoint("west.example", &format!("l-{n}"))).collect();
    let refusals = test.applies(peer(PeerEvent::Service { session: 1, service: exported("ledger", many) }));
    assert_eq!(refusals[0].kind, RefusalKind::Limit);
    assert_eq!(endpoints(&test.index, REMOTE).unwrap().len(), 1_000);
}
