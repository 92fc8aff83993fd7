//! Failover between whole clusters, all in this process: what dies, and what the callers notice of it.

#![allow(clippy::unwrap_used)]

mod world;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::{sync::watch, task::JoinSet};
use world::{Answer, App, Cluster, get, public, service, soon, until};

/// Everything is exported to this peer, and everything that it offers is imported.
fn peer(name: &str, more: &str) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: {{name: {name}}}
spec:
  trustDomain: {name}.example
  {more}
  export: {{services: [{{namespace: '*', name: '*'}}]}}
  import: {{services: [{{namespace: '*', name: '*'}}]}}
---
"
    )
}

/// The service `shop` of namespace shop, exported, and open for callers of any cluster.
fn shop() -> String {
    service("shop", "shop")
        + "apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: shop, namespace: shop}
---
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: all, namespace: shop}
spec:
  rules: [{from: {trustDomains: [east.example, west.example, south.example]}}]
---
"
}

fn everywhere(documents: String) -> String {
    documents
        .replace("{name: shop, port", "{group: multicluster.x-k8s.io, kind: ServiceImport, name: shop, port")
}

const SHOP: [(&str, &str); 1] = [("app", "shop")];

fn says(name: &'static str) -> impl Fn(&Result<Answer, String>) -> bool {
    move |answer| answer.as_ref().is_ok_and(|a| a.status == StatusCode::OK && a.body.starts_with(name))
}

/// What became of one request.
#[derive(Debug, Clone)]
struct Done {
    at: Instant,
    took: Duration,
    said: Result<String, String>,
}

/// Requests without end, from several clients.
struct Load {
    stop: watch::Sender<bool>,
    done: Arc<Mutex<Vec<Done>>>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(address: SocketAddr, host: &'static str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (done, mut clients) = (Arc::<Mutex<Vec<Done>>>::default(), JoinSet::new());
        for _ in 0..4 {
            let (stopped, done) = (stopped.clone(), Arc::clone(&done));
            clients.spawn(async move {
                while !*stopped.borrow() {
                    let at = Instant::now();
                    let said = match get(address, host, "/", &[]).await {
                        Ok(answer) if answer.status == StatusCode::OK => Ok(answer.body),
                        other => Err(format!("{other:?}")),
                    };
                    done.lock().unwrap().push(Done { at, took: at.elapsed(), said });
                }
            });
        }
        Self { stop, done, clients }
    }

    /// Waits until many more requests were answered by this application, and by no other.
    async fn goes_to(&self, name: &str) {
        let since = Instant::now();
        // How many were, and what became of the last one.
        let answered = async || {
            let done = self.done.lock().unwrap();
            let of = |d: &&Done| d.at >= since && d.said.as_ref().is_ok_and(|said| said.starts_with(name));
            (done.iter().filter(of).count(), done.last().map(|done| done.said.clone()))
        };
        until(name, answered, |(count, _)| *count >= 200).await;
    }

    /// Ends; no request may have failed. How long the slowest took, and how many there were.
    async fn end(mut self) -> (Duration, usize) {
        self.stop.send_replace(true);
        while let Some(client) = soon("the end of the load", self.clients.join_next()).await {
            client.unwrap();
        }
        let done = self.done.lock().unwrap();
        let failed: Vec<_> = done.iter().filter(|done| done.said.is_err()).collect();
        assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), done.len(), failed.first());
        (done.iter().map(|done| done.took).max().unwrap(), done.len())
    }
}

/// A public gateway whose cluster loses all endpoints of a service serves from the cluster that its documents put first, and
/// when that is lost as a whole, from the next one; no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_serves_from_peers_when_its_own_endpoints_die() {
    let east = Cluster::start("east").await;
    let west = Cluster::start("west").await;
    let south = Cluster::start("south").await;
    let own = [everywhere(public("shop")), shop(), peer("west", "order: 2"), peer("south", "order: 1")];
    east.apply(&own.concat()).await;
    west.apply(&[shop(), peer("east", "")].concat()).await;
    south.apply(&[shop(), peer("east", "")].concat()).await;
    let apps = [App::new("east").await, App::new("west").await, App::new("south").await];
    let one = east.sidecar("shop", "shop", "shop-1", &SHOP, &apps[0]).await;
    let _two = west.sidecar("shop", "shop", "shop-1", &SHOP, &apps[1]).await;
    let three = south.sidecar("shop", "shop", "shop-1", &SHOP, &apps[2]).await;
    let _west = west.gateway().await;
    let far = south.gateway().await;
    let mut gateway = east.gateway().await;
    east.peer_with(&west).await;
    east.peer_with(&south).await;
    let edge = gateway.listener(80).await;
    until("its own", || get(edge, "shop.example", "/", &[]), says("east")).await;
    let rank = |name: &str| gateway.metric(&format!("tombolo_peer_failover_rank{{peer=\"{name}\"}}"));
    until("the order", async || (rank("south"), rank("west")), |ranks| *ranks == (1, 2)).await;

    let load = Load::start(edge, "shop.example");
    load.goes_to("east").await;
    // As a process that is killed: application and sidecar, without a word to anybody.
    apps[0].kill();
    drop(one);
    load.goes_to("south").await;
    apps[2].kill();
    drop((three, far));
    load.goes_to("west").await;
    let (slowest, count) = load.end().await;
    println!("{count} requests, none failed; the slowest took {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
