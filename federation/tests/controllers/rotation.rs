//! A new root in the place of the old one.

use std::time::Duration;

use tombolo_core::discovery::type_url;
use tombolo_federation::Bounds;

use crate::kit::*;

/// The shortest life of certificates, so that an old root is dropped after ten seconds.
fn bounds() -> Bounds {
    Bounds { certificate: Duration::from_secs(10), skew: Duration::ZERO, ..Bounds::default() }
}

#[tokio::test]
async fn the_new_root_signs_once_peers_and_proxies_know_it_and_the_old_one_goes_when_nothing_of_it_is_valid()
{
    let (east, west) =
        (Cluster::start("east").await, Cluster::start_with("west", bounds(), Vec::new()).await);
    linked(&east, &west).await;
    let mut bundles = west.member("bank", "shop").await.discover(type_url::TRUST_BUNDLE).await;
    bundles.until("both bundles", |held| (held.len() == 2).then_some(())).await;
    let before = west.status().await["ca"].clone();
    assert_eq!((&before["phase"], &before["sequence"]), (&"steady".into(), &1.into()));

    west.rotate(3600).await.unwrap();
    let again = west.rotate(3600).await.unwrap_err();
    assert!(again.message().contains("under way"), "{}", again.message());
    // The proxy has not confirmed: it is not read from.
    let waits = |ca: &serde_json::Value| {
        ca["waitingFor"] == serde_json::json!(["proxy spiffe://west.example/ns/bank/sa/shop"])
    };
    let published = west.until_ca("the proxy alone is waited for", waits).await;
    assert_eq!((&published["phase"], &published["signing"]), (&"published".into(), &before["signing"]));
    let roots = |held: &std::collections::BTreeMap<String, Vec<u8>>| {
        let bundle: tombolo_proto::v1::TrustBundle =
            prost::Message::decode(held["west.example"].as_slice()).unwrap();
        bundle.roots_der.len()
    };
    bundles.until("both roots", |held| (roots(held) == 2).then_some(())).await;
    let signing = west.until_ca("it signs", |ca| ca["phase"] == "signing").await;
    assert_ne!(signing["signing"], before["signing"]);
    bundles.until("one root", |held| (roots(held) == 1).then_some(())).await;
    let after = west.status().await["ca"].clone();
    assert_eq!((&after["phase"], &after["sequence"]), (&"steady".into(), &3.into()));
    let held = |shown: serde_json::Value| shown["bundle"]["sequence"] == 3;
    soon("the peer knows", async {
        while !held(east.show("west").await) {
            tokio::task::yield_now().await
        }
    })
    .await;
    // By the new root alone.
    west.member("bank", "ledger").await.channel().await;
}

#[tokio::test]
async fn a_peer_that_was_away_during_a_whole_rotation_finds_back() {
    for away in ["east", "west"] {
        let mut east = Cluster::start_with("east", bounds(), Vec::new()).await;
        let mut west = Cluster::start_with("west", bounds(), Vec::new()).await;
        linked(&east, &west).await;
        // Whoever opens the link.
        let (absent, present) = if away == "east" { (&mut east, &mut west) } else { (&mut west, &mut east) };
        absent.stop().await;
        present.rotate(1).await.unwrap();
        present.until_ca("it signs, as the lead time is over", |ca| ca["phase"] == "signing").await;
        present.restart().await;
        present.until_ca("it is over", |ca| ca["phase"] == "steady" && ca["sequence"] == 3).await;
        absent.try_again().await.unwrap();
        for (cluster, peer) in [(&*absent, present.name), (&*present, absent.name)] {
            cluster
                .until_peer(peer, "linked anew", |p| p["state"] == "synced" && p["connected"] == true)
                .await;
        }
        assert_eq!(absent.show(present.name).await["bundle"]["sequence"], 3);
    }
}

/// `away` is `east`, which opens the link, or `west`.
async fn two_rotations_without(away: &str) {
    let mut east = Cluster::start_with("east", bounds(), Vec::new()).await;
    let mut west = Cluster::start_with("west", bounds(), Vec::new()).await;
    linked(&east, &west).await;
    let (absent, present) = if away == "east" { (&mut east, &mut west) } else { (&mut west, &mut east) };
    absent.stop().await;
    for sequence in [3, 5] {
        present.rotate(1).await.unwrap();
        present.until_ca("it is over", |ca| ca["phase"] == "steady" && ca["sequence"] == sequence).await;
    }
    absent.try_again().await.unwrap();
    let told = |peer: &serde_json::Value| {
        peer["linkFailure"].as_str().is_some_and(|why| why.contains("Link them anew"))
    };
    east.until_peer("west", "told what to do", told).await;
    let (absent, present) = if away == "east" { (&east, &west) } else { (&west, &east) };
    let token = absent.peer_token(60).await;
    let refused = present.peer_join(&token).await.unwrap_err();
    assert!(
        refused.message().contains("with other roots"),
        "a token does not let anybody take its place: {refused}"
    );
    let token = present.peer_token(60).await;
    absent.peer_join(&token).await.unwrap();
    for (cluster, peer) in [(&east, "west"), (&west, "east")] {
        let synced = |p: &serde_json::Value| {
            p["state"] == "synced" && p["connected"] == true && p.get("linkFailure").is_none()
        };
        cluster.until_peer(peer, "linked anew", synced).await;
    }
}

#[tokio::test]
async fn who_opens_the_link_and_was_away_for_two_rotations_is_told_to_link_anew() {
    two_rotations_without("east").await;
}

#[tokio::test]
async fn who_opens_the_link_to_one_that_was_away_for_two_rotations_is_told_to_link_anew() {
    two_rotations_without("west").await;
}
