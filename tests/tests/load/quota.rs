//! One limit, held together by a gateway and sidecars.

use std::{net::SocketAddr, time::Duration};

use http::StatusCode;
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

use crate::world::{Answer, App, Cluster, get, public, service, until};

/// Requests a second, of all together.
const LIMIT: u32 = 60;

fn policy() -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: all-together, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: checkout}}]
  sharedRateLimit: {{requests: {LIMIT}}}
---
"
    )
}

/// One client: where it asks, by which host, how many times a second.
type Client = (SocketAddr, &'static str, u32);

/// Asks for so long; how many a second were let through, of each client.
async fn admitted(clients: &[Client], time: Duration) -> Vec<f64> {
    let begin = Instant::now();
    let mut all = JoinSet::new();
    for (at, (to, host, rate)) in clients.iter().copied().enumerate() {
        all.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / rate);
            let mut asking = JoinSet::new();
            while begin.elapsed() < time {
                ticks.tick().await;
                asking.spawn(async move { get(to, host, "/", &[]).await.unwrap().status });
            }
            let seconds = begin.elapsed().as_secs_f64();
            let answers = asking.join_all().await;
            let only = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
            assert!(answers.iter().all(|status| only.contains(status)), "{answers:?}");
            (at, answers.iter().filter(|status| **status == StatusCode::OK).count() as f64 / seconds)
        });
    }
    let mut got = all.join_all().await;
    got.sort_by_key(|(at, _)| *at);
    got.into_iter().map(|(_, rate)| rate).collect()
}

fn is_the_limit(got: &[f64]) -> bool {
    let all: f64 = got.iter().sum();
    (all - f64::from(LIMIT)).abs() <= f64::from(LIMIT) / 10.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_hold_one_limit_together() {
    let _alone = crate::ALONE.lock().await;
    let mut east = Cluster::start("east").await;
    east.apply(&[public("checkout"), service("shop", "checkout"), policy()].concat()).await;
    let (app, client) = (App::new("checkout").await, App::new("client").await);
    let _checkout = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &app).await;
    let mut gateway = east.gateway().await;
    let edge = gateway.listener(80).await;
    let mut sidecars = Vec::new();
    for workload in ["web-1", "web-2", "web-3", "web-4"] {
        sidecars.push(east.sidecar("shop", "web", workload, &[], &client).await);
    }
    let mut clients: Vec<Client> = vec![(edge, "shop.example", 90)];
    for (sidecar, rate) in sidecars.iter_mut().zip([90, 90, 8, 1]) {
        clients.push((sidecar.outbound("cluster/shop/checkout").await, "checkout", rate));
    }
    for (to, host, _) in &clients {
        let served = |a: &Result<Answer, String>| a.as_ref().is_ok_and(|a| a.status == StatusCode::OK);
        until("it is served", || get(*to, host, "/", &[]), served).await;
    }
    // So long until shares are where requests are.
    admitted(&clients, Duration::from_secs(4)).await;
    let got = admitted(&clients, Duration::from_secs(6)).await;
    println!("let through a second, of {LIMIT}: {got:.1?}");
    assert!(is_the_limit(&got), "{got:?}");
    assert!(got[3] > 7.0, "who asks for little is not starved: {got:?}");

    for (to, host, _) in [clients[0], clients[1]] {
        let answers = at_once(to, host, 2 * LIMIT).await;
        let answer = answers.into_iter().find(|a| a.status == StatusCode::TOO_MANY_REQUESTS).unwrap();
        let field = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        assert!(field("retry-after").parse::<u32>().unwrap() >= 1);
        assert_eq!(field("ratelimit-policy"), format!("\"shared\";q={LIMIT};w=1"));
        assert!(field("ratelimit").starts_with("\"shared\";r=0;t="));
    }

    // Who goes gives its share back before anybody could miss it.
    let gone = sidecars.remove(0);
    clients.remove(1);
    gone.end().await;
    // What was saved up meanwhile, the burst, is spent first.
    admitted(&clients, Duration::from_secs(4)).await;
    let got = admitted(&clients, Duration::from_secs(4)).await;
    println!("after one has gone: {got:.1?}");
    assert!(is_the_limit(&got), "{got:?}");

    // Nobody is there to ask: each keeps what it has.
    east.kill_controller();
    let got = admitted(&clients, Duration::from_secs(5)).await;
    println!("without a controller: {got:.1?}");
    assert!(is_the_limit(&got), "{got:?}");
}

async fn at_once(to: SocketAddr, host: &'static str, count: u32) -> Vec<Answer> {
    let mut all = JoinSet::new();
    for _ in 0..count {
        all.spawn(async move { get(to, host, "/", &[]).await.unwrap() });
    }
    all.join_all().await
}
