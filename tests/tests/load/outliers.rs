//! Servers that fail, or are slow, without saying so; and one that has too much to do.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::{task::JoinSet, time::interval};

use crate::{
    server::Server,
    world::{App, Cluster, Proxy, get, service, until},
};

fn policy(rules: &str) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: rules, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: checkout}}]
  loadBalancer: {{type: RoundRobin}}
{rules}
---
"
    )
}

/// A caller's sidecar, and the servers behind others.
struct Town {
    _east: Cluster,
    _sidecars: Vec<Proxy<tombolo_sidecar::Running>>,
    to: SocketAddr,
}

impl Town {
    async fn new(rules: &str, servers: &[Server]) -> Self {
        let east = Cluster::start("east").await;
        east.apply(&[service("shop", "checkout"), policy(rules)].concat()).await;
        let mut sidecars = Vec::new();
        for (server, workload) in servers.iter().zip(["checkout-1", "checkout-2", "checkout-3"]) {
            let labels = [("app", "checkout")];
            sidecars.push(east.sidecar("shop", "checkout", workload, &labels, &server.app).await);
        }
        let mut web = east.sidecar("shop", "web", "web-1", &[], &App::new("web").await).await;
        let to = web.outbound("cluster/shop/checkout").await;
        sidecars.push(web);
        let up =
            |a: &Result<crate::world::Answer, String>| a.as_ref().is_ok_and(|a| a.status == StatusCode::OK);
        until("it is served", || get(to, "checkout", "/", &[]), up).await;
        Self { _east: east, _sidecars: sidecars, to }
    }

    /// Asks so many times a second for so long; answers by status.
    async fn ask(&self, rate: u32, time: Duration) -> BTreeMap<u16, u32> {
        let (begun, to) = (Instant::now(), self.to);
        let mut ticks = interval(Duration::from_secs(1) / rate);
        let mut asking = JoinSet::new();
        while begun.elapsed() < time {
            ticks.tick().await;
            asking.spawn(async move { get(to, "checkout", "/", &[]).await.unwrap().status.as_u16() });
        }
        let mut out = BTreeMap::new();
        asking.join_all().await.into_iter().for_each(|status| *out.entry(status).or_default() += 1);
        out
    }

    /// The part of requests that goes to a server.
    async fn share(&self, server: &Server, rate: u32, time: Duration) -> f64 {
        let before = server.requests();
        let asked: u32 = self.ask(rate, time).await.values().sum();
        f64::from(server.requests() - before) / f64::from(asked)
    }
}

async fn three() -> [Server; 3] {
    [Server::new("a").await, Server::new("b").await, Server::new("c").await]
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_again_and_again_is_left_alone_and_tried_now_and_then() {
    let _alone = crate::ALONE.lock().await;
    let servers = three().await;
    let rules = "  outlierDetection: {consecutiveFailures: 3, baseEjection: 300ms, maxEjection: 1s, successRatePercent: 0}";
    let town = Town::new(rules, &servers).await;
    assert!(town.share(&servers[1], 60, SECOND).await > 0.25, "its share");
    servers[1].fails_every(1);
    let answers = town.ask(60, 3 * SECOND).await;
    println!("with one of three that fails: {answers:?}");
    // Three to find out, and then a probe at each end of an ejection.
    assert!(answers.get(&500).is_none_or(|failed| (3..=12).contains(failed)), "{answers:?}");
    servers[1].fails_every(0);
    town.ask(60, 2 * SECOND).await;
    let back = town.share(&servers[1], 60, SECOND).await;
    assert!(back > 0.25, "{back}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_more_often_than_the_others_is_left_alone() {
    let _alone = crate::ALONE.lock().await;
    let servers = three().await;
    let rules =
        "  outlierDetection: {interval: 1s, successRatePercent: 15, baseEjection: 10s, maxEjection: 10s}";
    let town = Town::new(rules, &servers).await;
    // Never three in a row.
    servers[2].fails_every(3);
    let town_learns = town.share(&servers[2], 100, 3 * SECOND).await;
    let after = town.share(&servers[2], 100, 2 * SECOND).await;
    println!("its share while it is found out: {town_learns:.2}, then {after:.2}");
    assert!(after < 0.05, "{after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_far_slower_than_the_others_is_left_alone_where_that_is_asked_for() {
    let _alone = crate::ALONE.lock().await;
    let servers = three().await;
    servers.iter().for_each(|server| server.takes(Duration::from_millis(20)));
    let rules = "  outlierDetection: {interval: 1s, latencyFactor: 4, baseEjection: 10s, maxEjection: 10s, minimumRequests: 10}";
    let town = Town::new(rules, &servers).await;
    servers[0].takes(Duration::from_millis(600));
    town.ask(60, 4 * SECOND).await;
    let after = town.share(&servers[0], 60, 2 * SECOND).await;
    println!("the share of the slow one: {after:.2}");
    assert!(after < 0.05, "{after}");
}

/// So many callers, each asking again as soon as it has an answer. Answers by status, and how long good ones took.
async fn crowd(to: SocketAddr, callers: usize, time: Duration) -> (BTreeMap<u16, u32>, Duration) {
    let begun = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..callers {
        all.spawn(async move {
            let mut seen = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                let answer = get(to, "checkout", "/", &[]).await;
                let status = answer.unwrap_or_else(|error| panic!("no answer: {error}")).status.as_u16();
                seen.push((status, asked.elapsed()));
                if status != 200 {
                    // Who is refused comes back a little later, as clients do.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            seen
        });
    }
    let (mut statuses, mut took) = (BTreeMap::new(), Vec::new());
    for (status, time) in all.join_all().await.into_iter().flatten() {
        *statuses.entry(status).or_default() += 1;
        took.extend((status == 200).then_some(time));
    }
    took.sort();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    (statuses, median)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_overrun_keeps_its_speed_by_an_adaptive_bound() {
    let _alone = crate::ALONE.lock().await;
    const WIDTH: usize = 3;
    const TAKES: Duration = Duration::from_millis(60);
    const CALLERS: usize = 60;
    let server = [Server::of_width("a", WIDTH).await];
    server[0].takes(TAKES);
    let town = Town::new("  circuitBreaker: {adaptiveConcurrency: true}", &server).await;
    // From the first moment on there is more than it can do: how long it takes without a queue, nobody has seen.
    crowd(town.to, CALLERS, 6 * SECOND).await;
    server[0].most();
    let (answers, median) = crowd(town.to, CALLERS, 4 * SECOND).await;
    let most = server[0].most();
    let good = answers.get(&200).copied().unwrap_or_default();
    println!("{CALLERS} callers: {answers:?}, median {median:?}, at most {most} at a time at the server");
    assert!(answers.keys().all(|status| [200, 503].contains(status)), "{answers:?}");
    // Without a bound all 60 would wait there, 1.2 s each; it can do 200 in this time.
    assert!(most < 30, "{most} at a time");
    assert!(median < TAKES * 10, "{median:?}");
    assert!(good > 100, "{answers:?}");
}
