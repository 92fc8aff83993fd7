//! What crosses a link that is opened again, after one of the two controllers was started anew.

use std::collections::BTreeMap;

use tombolo_core::discovery::type_url;

use crate::kit::*;

const SERVICES: usize = 30;

fn name(number: usize) -> String {
    format!("s{number:02}")
}

fn key(number: usize) -> String {
    format!("clusterset/bank/{}", name(number))
}

/// West exports so many services, with an endpoint each, and east imports them.
struct Pair {
    east: Cluster,
    west: Cluster,
    _registered: Vec<Registered>,
}

async fn pair() -> Pair {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    let names: Vec<String> = (0..SERVICES).map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    east.apply(&documents(&[], "west")).await;
    west.apply(&documents(&names, "east")).await;
    let gateway_member = west.member("tombolo-system", "gateway").await;
    let mut registered = vec![gateway_member.register(gateway("203.0.113.9:15443")).await];
    let member = west.member("bank", "ledger").await;
    for name in names {
        registered.push(member.register(workload(&format!("{name}-1"), name)).await);
    }
    linked(&east, &west).await;
    east.until_peer("west", "all is imported", |p| p["imported"] == SERVICES).await;
    Pair { east, west, _registered: registered }
}

/// Of the imported services, how many have an endpoint.
fn served(held: &BTreeMap<String, Vec<u8>>) -> usize {
    let has_endpoint = |set: &Vec<u8>| {
        let set: tombolo_proto::v1::EndpointSet = prost::Message::decode(set.as_slice()).unwrap();
        set.ports.iter().any(|list| !list.endpoints.is_empty())
    };
    (0..SERVICES).filter(|number| held.get(&key(*number)).is_some_and(has_endpoint)).count()
}

#[tokio::test]
async fn one_that_was_restarted_with_its_history_is_told_only_what_changed() {
    let mut pair = pair().await;
    pair.east.stop().await;
    let second = pair.west.member("bank", "ledger").await;
    let _second = second.register(workload("s07-2", "s07")).await;
    pair.east.try_again().await.unwrap();
    let member = pair.east.member("bank", "shop").await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    let ids = ["west.example/bank/s07-1/8080", "west.example/bank/s07-2/8080"];
    discovered
        .until("the change, and all the others at every moment", |held| {
            assert!(held.is_empty() || served(held) == SERVICES, "{} are served", served(held));
            let set = prost::Message::decode(held.get(&key(7))?.as_slice());
            let set: tombolo_proto::v1::EndpointSet = set.unwrap();
            let found: Vec<String> =
                set.ports.into_iter().flat_map(|list| list.endpoints).map(|endpoint| endpoint.id).collect();
            (found == ids).then_some(())
        })
        .await;
    let is_synced = |p: &serde_json::Value| p["connected"] == true && p["state"] == "synced";
    let peer = pair.east.until_peer("west", "synced", is_synced).await;
    // A Hello, a bundle, one service, the end of the update, and what else keeps a link alive. Counted from the restart on.
    let received = peer["receivedMessages"].as_u64().unwrap();
    assert!(received < SERVICES as u64, "{received} messages were received");
}

#[tokio::test]
async fn one_that_has_lost_its_history_tells_everything_anew_and_nothing_vanishes_meanwhile() {
    let mut pair = pair().await;
    let member = pair.east.member("bank", "shop").await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    discovered.until("all", |held| (served(held) == SERVICES).then_some(())).await;
    let before = pair.east.status().await["peers"][0]["receivedMessages"].as_u64().unwrap();
    // What it tells it numbers anew with each start.
    pair.west.restart().await;
    // Something that comes after all that: a service is told of once the update before has been taken.
    let told_anew = |p: &serde_json::Value| {
        p["receivedMessages"].as_u64() > Some(before + SERVICES as u64) && p["state"] == "synced"
    };
    pair.east.until_peer("west", "told everything anew", told_anew).await;
    let third = pair.west.member("bank", "ledger").await;
    let _third = third.register(workload("s03-3", "s03")).await;
    discovered
        .until("a change of after that", |held| {
            assert_eq!(served(held), SERVICES, "nothing vanishes");
            let set: tombolo_proto::v1::EndpointSet =
                prost::Message::decode(held[&key(3)].as_slice()).unwrap();
            let is_new = |id: &str| id.contains("/s03-3/");
            set.ports
                .iter()
                .flat_map(|list| &list.endpoints)
                .any(|endpoint| is_new(&endpoint.id))
                .then_some(())
        })
        .await;
}
