//! Clusters on one network: their sidecars reach each other directly, and no gateway is needed.

#![allow(clippy::unwrap_used)]

mod world;

use std::time::Duration;

use http::StatusCode;
use world::{App, Cluster, exported, get, peer, service, soon, until};

const STOREFRONT: &str = "spiffe://east.example/ns/shop/sa/storefront";

async fn on_one_network(name: &'static str) -> Cluster {
    Cluster::start_as(name, "lan", |bounds| bounds.peer_lease = Duration::from_secs(1)).await
}

/// With a server of the service that is exported.
async fn serving(name: &'static str) -> (Cluster, world::Proxy<tombolo_sidecar::Running>) {
    let (cluster, app) = (on_one_network(name).await, App::new(name).await);
    let exported = exported("bank", "ledger", "east.example");
    cluster.apply(&[service("bank", "ledger"), exported, peer("east", "")].concat()).await;
    let sidecar = cluster.sidecar("bank", "ledger", "ledger-1", &[("app", "ledger")], &app).await;
    (cluster, sidecar)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_measured_and_the_dead_come_last_without_a_gateway() {
    let east = on_one_network("east").await;
    let ((mut west, in_west), (north, _in_north)) = (serving("west").await, serving("north").await);
    east.apply(
        &[service("shop", "storefront"), peer("west", "order: 1"), peer("north", "order: 2")].concat(),
    )
    .await;
    let app = App::new("storefront").await;
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &[("app", "storefront")], &app).await;
    east.peer_with(&west).await;
    east.peer_with(&north).await;
    let address = front.outbound("clusterset/bank/ledger").await;
    let call = || get(address, "ledger.bank.svc.clusterset.local", "/", &[]);
    let says = |cluster: &str| {
        let body = format!("{cluster}<-{STOREFRONT}");
        move |answer: &Result<world::Answer, String>| {
            answer.as_ref().is_ok_and(|answer| answer.status == StatusCode::OK && answer.body == body)
        }
    };
    until("the first in order", call, says("west")).await;
    for peer in ["west", "north"] {
        let metric = format!("tombolo_peer_gateway_round_trip_microseconds{{peer=\"{peer}\"}}");
        until(&metric, async || front.metric(&metric), |micros| *micros > 0).await;
    }

    // Nobody is left to say that the endpoint is gone.
    west.kill_controller();
    in_west.end().await;
    until("the next in order", call, says("north")).await;
    let admin = front.running.addresses().admin.unwrap();
    let page = "/explain?service=bank/ledger&scope=clusterset";
    let tiers = || async move { soon("explain", get(admin, "admin", page, &[])).await.unwrap().body };
    until("west's place is the last", tiers, |page| page.contains("stale and failing")).await;
    for _ in 0..20 {
        let answer = call().await;
        assert!(says("north")(&answer), "{answer:?}");
    }
}
