//! Servers that say themselves that they are not well.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::StatusCode;

use crate::{
    server::Server,
    world::{Answer, App, Cluster, Proxy, get, public, service, until},
};

/// From one check to the next; two that fail take a server out, two that pass bring it back.
const INTERVAL: Duration = Duration::from_millis(200);
/// A check that is not answered, and a busy machine.
const SLACK: Duration = Duration::from_millis(1500);

fn policy(question: &str) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: checked, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: checkout}}]
  loadBalancer: {{type: RoundRobin}}
  healthCheck:
    {{{question}, interval: 200ms, timeout: 500ms, healthyThreshold: 2, unhealthyThreshold: 2, jitterPercent: 0}}
---
"
    )
}

fn is_up(answer: &Result<Answer, String>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.status == StatusCode::OK)
}

struct Town {
    _east: Cluster,
    servers: Vec<Server>,
    _beside: Vec<Proxy<tombolo_sidecar::Running>>,
    web: Proxy<tombolo_sidecar::Running>,
    gateway: Proxy<tombolo_gateway::Running>,
    /// Through the gateway, and through the sidecar of a caller.
    ways: [(SocketAddr, &'static str); 2],
}

impl Town {
    async fn new(question: &str) -> Self {
        let east = Cluster::start("east").await;
        east.apply(&[public("checkout"), service("shop", "checkout"), policy(question)].concat()).await;
        let (mut servers, mut beside) = (Vec::new(), Vec::new());
        for (name, workload) in [("a", "checkout-1"), ("b", "checkout-2"), ("c", "checkout-3")] {
            let server = Server::new(name).await;
            beside
                .push(east.sidecar("shop", "checkout", workload, &[("app", "checkout")], &server.app).await);
            servers.push(server);
        }
        let mut gateway = east.gateway().await;
        let mut web = east.sidecar("shop", "web", "web-1", &[], &App::new("web").await).await;
        let ways = [
            (gateway.listener(80).await, "shop.example"),
            (web.outbound("cluster/shop/checkout").await, "checkout"),
        ];
        let town = Self { _east: east, servers, _beside: beside, web, gateway, ways };
        for way in 0..2 {
            town.until_each_serves(way).await;
        }
        town
    }

    async fn until_each_serves(&self, way: usize) {
        let (to, host) = self.ways[way];
        let mut missing = vec!["a", "b", "c"];
        until("it answers", || get(to, host, "/", &[]), is_up).await;
        let begun = Instant::now();
        while !missing.is_empty() {
            let answer = get(to, host, "/", &[]).await;
            assert!(is_up(&answer), "{answer:?}");
            missing.retain(|name| *name != answer.as_ref().unwrap().body);
            assert!(begun.elapsed() < crate::world::SOON, "{missing:?} get no requests");
        }
    }

    /// A server says that it is ill, and later that it is well again. Its requests would all be served.
    async fn falls_ill_and_recovers(&self) {
        let ill = &self.servers[1];
        ill.is_well(false);
        let fell_ill = Instant::now();
        let failing = "tombolo_health_check_endpoints_failing{service=\"cluster/shop/checkout\"}";
        // The interval that runs, and two checks.
        while fell_ill.elapsed() < INTERVAL * 3 + SLACK {
            for (to, host) in self.ways {
                assert!(is_up(&get(to, host, "/", &[]).await));
            }
            if self.web.metric(failing) + self.gateway.metric(failing) == 2 {
                break;
            }
        }
        println!("out after {:?}", fell_ill.elapsed());
        let before = ill.requests();
        for _ in 0..60 {
            for (to, host) in self.ways {
                assert!(is_up(&get(to, host, "/", &[]).await));
            }
        }
        assert_eq!(ill.requests(), before, "no request after {:?}", fell_ill.elapsed());
        for proxy in [&self.web.telemetry, &self.gateway.telemetry] {
            assert!(proxy.encode().contains(&format!("{failing} 1")));
        }
        ill.is_well(true);
        for way in 0..2 {
            self.until_each_serves(way).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_by_http_that_it_is_ill_gets_no_requests_until_it_is_well() {
    let _alone = crate::ALONE.lock().await;
    let town = Town::new(&format!("path: {}", crate::server::HEALTH)).await;
    town.falls_ill_and_recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_who_says_so_by_grpc() {
    let _alone = crate::ALONE.lock().await;
    Town::new("type: GRPC").await.falls_ill_and_recovers().await;
}
