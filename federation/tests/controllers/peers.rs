//! Two controllers and the link between them.

use std::time::{Duration, SystemTime};

use tombolo_core::{
    discovery::type_url,
    identity::{Secret, Token},
    model::SpiffeId,
    tls::{self, grpc},
};
use tombolo_federation::Bounds;
use tombolo_proto::v1::{
    HandshakeRequest, PeerForgetRequest, PeerRevokeRequest, PeerTokenRequest, TokenRevokeRequest,
    peering_client::PeeringClient,
};
use tonic::Code;

use crate::kit::*;

const KEY: &str = "clusterset/bank/ledger";
const EAST: &str = "east.example/bank/ledger-1/8080";
const WEST: &str = "west.example/bank/ledger-1/8080";

/// Both clusters have `ledger`; west also has a gateway. Linked.
struct Pair {
    east: Cluster,
    west: Cluster,
    _gateway: Registered,
    _ledger: Registered,
}

async fn pair() -> Pair {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    east.apply(&documents(&[], "west")).await;
    west.apply(&documents(&["ledger"], "east")).await;
    let member = west.member("tombolo-system", "gateway").await;
    let gateway = member.register(gateway("203.0.113.9:15443")).await;
    let ledger = west.member("bank", "ledger").await.register(workload("ledger-1", "ledger")).await;
    linked(&east, &west).await;
    Pair { east, west, _gateway: gateway, _ledger: ledger }
}

#[tokio::test]
async fn an_exported_service_is_reached_through_the_peers_gateway() {
    let Pair { east, west, .. } = &pair().await;
    let member = east.member("bank", "shop").await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    let endpoints = discovered.endpoints(KEY, &[WEST]).await;
    let endpoint = &endpoints[0];
    assert_eq!((endpoint.address.as_str(), endpoint.cluster.as_str()), ("", "west"));
    assert_eq!(endpoint.via, ["203.0.113.9:15443"]);
    assert_eq!(endpoint.spiffe_id, "spiffe://west.example/ns/bank/sa/ledger");
    let mut bundles = member.discover(type_url::TRUST_BUNDLE).await;
    bundles.until("both bundles", |held| (held.len() == 2).then_some(())).await;
    // In west its gateway may pass peers on to it.
    let mut there = west.member("bank", "shop").await.discover(type_url::ENDPOINT_SET).await;
    assert!(there.endpoints("cluster/bank/ledger", &[WEST]).await[0].exported);
    west.until_peer("east", "confirmed", |p| p["confirmed"] == p["revision"] && p["exported"] == 1).await;
    // A new endpoint, then no export any more.
    let second = west.member("bank", "ledger").await.register(workload("ledger-2", "ledger")).await;
    discovered.endpoints(KEY, &[WEST, "west.example/bank/ledger-2/8080"]).await;
    second.drain().await;
    discovered.endpoints(KEY, &[WEST]).await;
    west.apply("apiVersion: tombolo.dev/v1alpha1\nkind: Peer\nmetadata: { name: east }\nspec: { trustDomain: east.example }\n")
        .await;
    discovered.until("withdrawn", |held| (!held.contains_key(KEY)).then_some(())).await;
}

#[tokio::test]
async fn a_link_comes_back_after_either_side_was_away_and_nothing_vanishes_meanwhile() {
    let mut pair = pair().await;
    let member = pair.east.member("bank", "shop").await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    discovered.endpoints(KEY, &[WEST]).await;
    // The exporting side: a new history, everything anew.
    pair.west.stop().await;
    pair.east.until_peer("west", "link down", |p| p["connected"] == false).await;
    pair.west.try_again().await.unwrap();
    pair.east.until_peer("west", "synced anew", |p| p["connected"] == true && p["state"] == "synced").await;
    assert_eq!(discovered.endpoints(KEY, &[WEST]).await.len(), 1);
    // The importing side: it has what it had before it hears of anyone.
    pair.west.stop().await;
    pair.east.restart().await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    let endpoints = discovered.endpoints(KEY, &[WEST]).await;
    assert_eq!((endpoints[0].stale, endpoints[0].via.len()), (false, 1));
    pair.west.try_again().await.unwrap();
    pair.east.until_peer("west", "synced anew", |p| p["connected"] == true && p["state"] == "synced").await;
}

#[tokio::test]
async fn a_silent_peer_is_stale_and_then_dropped() {
    let bounds = Bounds {
        peer_lease: Duration::from_secs(2),
        peer_drop: Duration::from_secs(5),
        restart_grace: Duration::from_secs(2),
        ..Bounds::default()
    };
    let east = Cluster::start_with("east", bounds, Vec::new()).await;
    let mut west = Cluster::start("west").await;
    east.apply(&documents(&["ledger"], "west")).await;
    west.apply(&documents(&["ledger"], "east")).await;
    let gateway = west.member("tombolo-system", "gateway").await.register(gateway("203.0.113.9:15443")).await;
    let ledger = west.member("bank", "ledger").await.register(workload("ledger-1", "ledger")).await;
    let member = east.member("bank", "ledger").await;
    let _own = member.register(workload("ledger-1", "ledger")).await;
    linked(&east, &west).await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    discovered.endpoints(KEY, &[EAST, WEST]).await;
    west.stop().await;
    drop((gateway, ledger));
    let peer = east.until_peer("west", "stale", |p| p["state"] == "stale").await;
    assert!(peer["staleSince"].as_str().is_some_and(|since| since.ends_with('Z')), "{peer}");
    let endpoints = discovered.until("the stale endpoint", |held| {
        let set: tombolo_proto::v1::EndpointSet = prost::Message::decode(held[KEY].as_slice()).unwrap();
        let all: Vec<_> = set.ports.into_iter().flat_map(|list| list.endpoints).collect();
        all.iter().any(|endpoint| endpoint.stale).then_some(all)
    });
    assert_eq!(endpoints.await.len(), 2);
    discovered.endpoints(KEY, &[EAST]).await;
}

#[tokio::test]
async fn a_revoked_peer_hears_of_it_and_both_sides_forget_each_other() {
    let Pair { east, west, .. } = &pair().await;
    let member = east.member("bank", "shop").await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    discovered.endpoints(KEY, &[WEST]).await;
    let request = PeerRevokeRequest { cluster: "east".into() };
    west.operator().await.peer_revoke(request).await.unwrap();
    let here = west.until_peer("east", "withdrawn", |p| p["state"] == "withdrawn").await;
    assert_eq!(here["endedBy"], "here");
    let there = east.until_peer("west", "withdrawn", |p| p["state"] == "withdrawn").await;
    assert_eq!(there["endedBy"], "peer");
    discovered.until("gone", |held| (!held.contains_key(KEY)).then_some(())).await;
    let mut bundles = member.discover(type_url::TRUST_BUNDLE).await;
    bundles.until("the own bundle alone", |held| (held.keys().eq(["east.example"])).then_some(())).await;
    let unknown = PeerRevokeRequest { cluster: "north".into() };
    assert_eq!(west.operator().await.peer_revoke(unknown).await.unwrap_err().code(), Code::NotFound);
    // Who was told, and who was told by the other, may be forgotten.
    west.until_peer("east", "told", |p| p["told"] == true).await;
    for (cluster, peer) in [(west, "east"), (east, "west")] {
        let request = || PeerForgetRequest { cluster: peer.into(), untold: false };
        cluster.operator().await.peer_forget(request()).await.unwrap();
        assert!(cluster.status().await["peers"].as_array().unwrap().is_empty());
        let again = cluster.operator().await.peer_forget(request()).await.unwrap_err();
        assert_eq!(again.code(), Code::FailedPrecondition);
    }
    // Linked anew, by a new token, this time the other way round.
    let token = east.peer_token(60).await;
    west.peer_join(&token).await.unwrap();
    discovered.endpoints(KEY, &[WEST]).await;
}

#[tokio::test]
async fn a_peer_is_forgotten_only_once_it_is_ended_and_knows_it_or_never_shall() {
    let Pair { mut east, west: mut gone, .. } = pair().await;
    let request = |untold| PeerForgetRequest { cluster: "west".into(), untold };
    let refused = east.operator().await.peer_forget(request(true)).await.unwrap_err();
    assert!(refused.message().contains("it is linked"), "{refused}");
    gone.stop().await;
    east.operator().await.peer_revoke(PeerRevokeRequest { cluster: "west".into() }).await.unwrap();
    let refused = east.operator().await.peer_forget(request(false)).await.unwrap_err();
    assert!(refused.message().contains("does not know yet"), "{refused}");
    east.operator().await.peer_forget(request(true)).await.unwrap();
    assert!(east.status().await["peers"].as_array().unwrap().is_empty());
    soon("no metrics any more", async {
        while east.options.telemetry.encode().contains("tombolo_peer_state{peer=\"west\"") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    east.restart().await;
    assert!(east.status().await["peers"].as_array().unwrap().is_empty(), "also on the disk");
}

#[tokio::test]
async fn joining_twice_moves_the_link_and_does_not_double_it() {
    let Pair { east, west, .. } = &pair().await;
    let token = east.peer_token(60).await;
    west.peer_join(&token).await.unwrap();
    let token = west.peer_token(60).await;
    east.peer_join(&token).await.unwrap();
    let mut discovered = east.member("bank", "shop").await.discover(type_url::ENDPOINT_SET).await;
    discovered.endpoints(KEY, &[WEST]).await;
    let second = west.member("bank", "ledger").await.register(workload("ledger-2", "ledger")).await;
    discovered.endpoints(KEY, &[WEST, "west.example/bank/ledger-2/8080"]).await;
    second.drain().await;
    discovered.endpoints(KEY, &[WEST]).await;
}

#[tokio::test]
async fn peer_tokens_that_are_used_expired_revoked_or_damaged_link_nobody() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    let refused = async |token: &str, word: &str| {
        let status = east.peer_join(token).await.unwrap_err();
        assert!(status.message().contains(word), "{word}: {}", status.message());
        assert_eq!(west.status().await["peers"].as_array().unwrap().len(), 0);
    };
    let own = east.peer_token(60).await;
    refused(&own, "own trust domain").await;
    let token = west.peer_token(60).await;
    let mut damaged = token.clone();
    damaged.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
    refused(&damaged, "damaged").await;
    let parsed = Token::parse(&token).unwrap();
    let tampered = Token { root_sha256: [7; 32], ..parsed.clone() };
    refused(&tampered.print().unwrap(), "no controller with the token's root was reached").await;
    let elsewhere = Token { addresses: vec![east.running().address.to_string()], ..parsed.clone() };
    refused(&elsewhere.print().unwrap(), "no controller with the token's root was reached").await;
    let guessed = Token { secret: Secret::generate().unwrap(), ..parsed.clone() };
    refused(&guessed.print().unwrap(), "not known").await;
    let join = west.join_token("bank", "ledger", 1).await;
    refused(&join.print().unwrap(), "join token").await;
    let revoked = west.peer_token(60).await;
    west.operator().await.token_revoke(TokenRevokeRequest { token: revoked.clone() }).await.unwrap();
    refused(&revoked, "not known").await;
    // Expired: seen by the one who joins, and by the one who issued it.
    let short = Token::parse(&west.peer_token(1).await).unwrap();
    soon("expired", async {
        while short.check_time(SystemTime::now()).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    refused(&short.print().unwrap(), "expired").await;
    let controller = SpiffeId::controller(&short.trust_domain);
    let config = tls::bootstrap_client(&short.trust_domain, short.root_sha256, &controller).unwrap();
    let channel = grpc::connect(&short.addresses, config).await.unwrap();
    let ca = tombolo_core::identity::testing::FakeCa::new("north.example");
    let cluster = tombolo_proto::v1::ClusterInfo {
        name: "north".into(),
        bundle: Some(tombolo_proto::v1::TrustBundle {
            trust_domain: "north.example".into(),
            roots_der: vec![ca.root().to_vec().into()],
            sequence: 1,
            refresh_hint_seconds: 0,
        }),
        controller_addresses: vec!["127.0.0.1:1".into()],
    };
    let shake = async |secret: &str, cluster: tombolo_proto::v1::ClusterInfo| {
        let request = HandshakeRequest { secret: secret.into(), cluster: Some(cluster) };
        PeeringClient::new(channel.clone()).handshake(request).await.map_err(|status| status.code())
    };
    assert_eq!(shake(short.secret.reveal(), cluster.clone()).await.err(), Some(Code::PermissionDenied));
    // Who claims this cluster's own name or trust domain is refused, and the token is not spent.
    let secret = parsed.secret.reveal();
    let impostor = tombolo_proto::v1::ClusterInfo { name: "west".into(), ..cluster.clone() };
    assert_eq!(shake(secret, impostor).await.err(), Some(Code::FailedPrecondition));
    assert_eq!(west.status().await["peers"].as_array().unwrap().len(), 0);
    east.peer_join(&token).await.unwrap();
    // Used once.
    assert_eq!(shake(secret, cluster).await.err(), Some(Code::PermissionDenied));
    let north = Cluster::start("north").await;
    let status = north.peer_join(&token).await.unwrap_err();
    assert!(status.message().contains("used already"), "{}", status.message());
    // As often as it was said.
    let request = PeerTokenRequest { ttl_seconds: 60, uses: 2 };
    let token = west.operator().await.peer_token(request).await.unwrap().into_inner().token;
    let south = Cluster::start("south").await;
    for cluster in [&north, &south] {
        cluster.peer_join(&token).await.unwrap();
    }
    let status = east.peer_join(&token).await.unwrap_err();
    assert!(status.message().contains("used already"), "{}", status.message());
}

/// One side revokes while the other is down; the other hears of it when it is back, whoever opens the link.
async fn revoked_while_away(away: &str) {
    let Pair { mut east, mut west, .. } = pair().await;
    let (absent, present) = if away == "east" { (&mut east, &west) } else { (&mut west, &east) };
    absent.stop().await;
    present.revoke(absent.name).await;
    let here = present.until_peer(absent.name, "withdrawn", |p| p["state"] == "withdrawn").await;
    assert_eq!((&here["endedBy"], &here["told"]), (&"here".into(), &false.into()));
    absent.try_again().await.unwrap();
    let there = absent.until_peer(present.name, "withdrawn", |p| p["state"] == "withdrawn").await;
    assert_eq!((&there["endedBy"], &there["imported"]), (&"peer".into(), &0.into()));
    present.until_peer(absent.name, "told", |p| p["told"] == true).await;
    // What was revoked stays so.
    absent.restart().await;
    absent.until_peer(present.name, "withdrawn", |p| p["state"] == "withdrawn").await;
    let token = absent.peer_token(60).await;
    present.peer_join(&token).await.unwrap();
    for (cluster, peer) in [(&*absent, present.name), (present, absent.name)] {
        cluster.until_peer(peer, "linked anew", |p| p["state"] == "synced" && p["connected"] == true).await;
    }
}

#[tokio::test]
async fn the_side_that_opens_the_link_hears_that_it_was_revoked_while_it_was_away() {
    revoked_while_away("east").await;
}

#[tokio::test]
async fn the_side_that_is_linked_to_hears_that_it_was_revoked_while_it_was_away() {
    revoked_while_away("west").await;
}

#[tokio::test]
async fn a_peer_is_shown_with_what_it_has_confirmed_and_what_it_has_withdrawn() {
    let Pair { east, west, .. } = &pair().await;
    let shown = west.until_peer("east", "all is confirmed", |p| {
        p["confirmed"] == p["revision"] && p["lagSeconds"] == 0.0 && p["roundTripMillis"].is_f64()
    });
    let shown = shown.await;
    assert!(shown["sentBytes"].as_u64().unwrap() > 100 && shown["receivedMessages"].as_u64().unwrap() > 2);
    assert_eq!(
        (&shown["deprioritizeAfterSeconds"], &shown["dropAfterSeconds"]),
        (&30.into(), &86_400.into())
    );
    soon("metrics", async {
        let line = "tombolo_peer_state{peer=\"east\",state=\"synced\"} 1";
        while !west.options.telemetry.encode().contains(line) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    east.until_peer("west", "imported", |p| p["imported"] == 1).await;
    let shown = east.show("west").await;
    let service = &shown["services"][0];
    assert_eq!(
        (&service["name"], &service["state"], &service["endpoints"]),
        (&"ledger".into(), &"synced".into(), &1.into())
    );
    assert_eq!(shown["dials"], true);
    let unexported = documents(&["ledger"], "east").replace(
        "export: { services: [{ namespace: bank, name: '*' }] }",
        "lease: { deprioritizeAfter: 2s, dropAfter: 1h }",
    );
    west.apply(&unexported).await;
    east.until_peer("west", "withdrawn", |p| p["imported"] == 0).await;
    let service = &east.show("west").await["services"][0];
    assert_eq!((&service["name"], &service["state"]), (&"ledger".into(), &"withdrawn".into()));
    let shown = west.show("east").await;
    assert_eq!((&shown["deprioritizeAfterSeconds"], &shown["dropAfterSeconds"]), (&2.into(), &3600.into()));
}

#[tokio::test]
async fn two_sides_that_have_much_to_say_do_not_wait_for_each_other() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    let names = |side: &str| (0..1_500).map(|n| format!("{side}-{n}")).collect::<Vec<_>>();
    let (easts, wests) = (names("e"), names("w"));
    let refs = |names: &[String]| documents(&names.iter().map(String::as_str).collect::<Vec<_>>(), "x");
    let of = |names: &[String], peer: &str| {
        refs(names)
            .replace("name: x }", &format!("name: {peer} }}"))
            .replace("x.example", &format!("{peer}.example"))
    };
    east.apply(&of(&easts, "west")).await;
    west.apply(&of(&wests, "east")).await;
    linked(&east, &west).await;
    east.until_peer("west", "all of west's", |p| p["imported"] == 1_500).await;
    west.until_peer("east", "all of east's", |p| p["imported"] == 1_500 && p["confirmed"] == p["revision"])
        .await;
}
