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
use tombolo_tests::Running;
use world::{Answer, App, Cluster, exported, get, peer, public, service, soon, until};

/// The service `shop` of namespace shop, exported, and open for callers of any cluster.
fn shop() -> String {
    service("shop", "shop") + &exported("shop", "shop", "east.example, west.example, south.example")
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

    /// How long the slowest took since this was last asked.
    fn slowest(&self) -> Duration {
        let mut done = self.done.lock().unwrap();
        let slowest = done.iter_mut().map(|done| std::mem::take(&mut done.took)).max();
        drop(done);
        slowest.unwrap_or_default()
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

fn signal(process: &mut Running, signal: &str) {
    let id = process.child().id().to_string();
    assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
}

/// Gateways and sidecars of the peers are processes. One of two gateways is frozen, then the whole cluster is killed: both
/// under load, and no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_gateway_and_a_cluster_that_is_killed_fail_no_request() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    let south = Cluster::start("south").await;
    let own = [everywhere(public("shop")), shop(), peer("west", "order: 1"), peer("south", "order: 2")];
    east.apply(&own.concat()).await;
    west.apply(&[shop(), peer("east", "")].concat()).await;
    south.apply(&[shop(), peer("east", "")].concat()).await;
    let (app, other) = (App::new("west").await, App::new("south").await);
    let mut killed = vec![
        west.process("gateway", "gateway-1", None).await,
        west.process("gateway", "gateway-2", None).await,
        west.process("sidecar", "shop-1", Some(("shop", &app))).await,
    ];
    let _south = south.process("sidecar", "shop-1", Some(("shop", &other))).await;
    let _gateway = south.process("gateway", "gateway", None).await;
    let mut gateway = east.gateway().await;
    east.peer_with(&west).await;
    east.peer_with(&south).await;
    let edge = gateway.listener(80).await;
    until("the first peer", || get(edge, "shop.example", "/", &[]), says("west")).await;
    let up =
        |peer: &str| gateway.metric(&format!("tombolo_peer_gateways{{peer=\"{peer}\",standing=\"up\"}}"));
    until("all gateways", async || (up("west"), up("south")), |up| *up == (2, 1)).await;

    let load = Load::start(edge, "shop.example");
    load.goes_to("west").await;
    signal(&mut killed[0], "-STOP");
    until("it is found out", async || up("west"), |up| *up == 1).await;
    load.goes_to("west").await;
    signal(&mut killed[0], "-CONT");
    until("it is back", async || up("west"), |up| *up == 2).await;
    load.goes_to("west").await;
    let frozen = load.slowest();
    signal(&mut killed[1], "-TERM");
    until("it drains", async || up("west"), |up| *up == 1).await;
    load.goes_to("west").await;
    let drained = load.slowest();
    for process in &mut killed {
        signal(process, "-KILL");
    }
    app.kill();
    load.goes_to("south").await;
    let died = load.slowest();
    let (_, count) = load.end().await;
    println!(
        "{count} requests, none failed; the slowest took {frozen:?} at a frozen gateway, {drained:?} at a draining one, {died:?} at a dead cluster"
    );
    let second = Duration::from_secs(1);
    // Without a time for each try, a request waits for two probes that fail.
    let fast = frozen < second * 5 / 2 && drained < second && died < second * 2;
    assert!(fast, "{frozen:?}, {drained:?}, {died:?}");
}

const FRONT: (&str, &str) = ("shop", "front");

/// A release of the service `shop` to its callers: the arm `v2` by header, and the lane `blue`.
fn release(when_unavailable: &str) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{name: shop, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: shop}}]
  arms:
    - {{name: v2, backendRefs: [{{name: shop, port: 7080, labels: {{version: v2}}}}]}}
    - {{name: blue, lane: blue, backendRefs: [{{name: shop, port: 7080}}]}}
  rules: [{{arm: v2, headers: [{{name: x-gray, value: v2}}]}}]
  whenUnavailable: {when_unavailable}
---
"
    )
}

/// Callers are sidecars. Whose arm or lane has nobody left here gets the same one in another cluster, or stable here, as the
/// release says; and stable here where there is none anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arms_and_lanes_are_found_in_another_cluster_or_stable_is_taken_here() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    let own = [shop(), peer("west", ""), release("otherCluster")];
    east.apply(&own.concat()).await;
    west.apply(&[shop(), peer("east", "")].concat()).await;
    let names = ["stable", "v2-here", "v2-there", "blue-there", "front"];
    let mut apps = Vec::new();
    for name in names {
        apps.push(App::new(name).await);
    }
    let (of_v2, blue) = ([SHOP[0], ("version", "v2")], [SHOP[0], ("tombolo.dev/lane", "blue")]);
    let _stable = east.sidecar("shop", "shop", "shop-1", &[SHOP[0], ("version", "v1")], &apps[0]).await;
    let _here = east.sidecar("shop", "shop", "shop-2", &of_v2, &apps[1]).await;
    let _there = west.sidecar("shop", "shop", "shop-2", &of_v2, &apps[2]).await;
    let _blue = west.sidecar("shop", "shop", "shop-3", &blue, &apps[3]).await;
    let _gateway = west.gateway().await;
    let mut front = east.sidecar(FRONT.0, FRONT.1, "front-1", &[], &apps[4]).await;
    east.peer_with(&west).await;
    let calls = front.outbound("cluster/shop/shop").await;
    let gray = || get(calls, "shop", "/", &[("x-gray", "v2")]);
    let in_lane = || get(calls, "shop", "/", &[("baggage", "tombolo.lane=blue")]);

    until("the arm", gray, says("v2-here")).await;
    until("the lane in another cluster", in_lane, says("blue-there")).await;
    apps[1].kill();
    until("the same arm in another cluster", gray, says("v2-there")).await;
    for _ in 0..20 {
        assert!(says("stable")(&get(calls, "shop", "/", &[]).await), "nobody else is sent there");
    }

    east.apply(&release("stable")).await;
    until("stable here", gray, says("stable")).await;
    until("the baseline here", in_lane, says("stable")).await;

    east.apply(&release("otherCluster")).await;
    until("the same arm again", gray, says("v2-there")).await;
    until("the lane again", in_lane, says("blue-there")).await;
    apps[2].kill();
    apps[3].kill();
    until("stable here, as no cluster has the arm", gray, says("stable")).await;
    until("the baseline, as no cluster has the lane", in_lane, says("stable")).await;
}

/// What a peer says that it can take is held by all its callers together, and what is over is told apart from what has
/// failed. `explain` shows why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_gets_no_more_than_it_can_take() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    east.apply(&[shop(), peer("west", "")].concat()).await;
    let limit = "apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: takes, namespace: shop}
spec: {targetRefs: [{kind: Service, name: shop}], capacity: {requestsPerSecond: 50}}
---
";
    west.apply(&[shop(), peer("east", ""), limit.into()].concat()).await;
    let (app, own) = (App::new("west").await, App::new("front").await);
    let _west = west.sidecar("shop", "shop", "shop-1", &SHOP, &app).await;
    let gateway = west.gateway().await;
    let mut front = east.sidecar(FRONT.0, FRONT.1, "front-1", &[], &own).await;
    let mut other = east.sidecar(FRONT.0, FRONT.1, "front-2", &[], &own).await;
    east.peer_with(&west).await;
    let calls = front.outbound("clusterset/shop/shop").await;
    let others = other.outbound("clusterset/shop/shop").await;
    until("the other cluster", || get(calls, "shop", "/", &[]), says("west")).await;
    until("the other cluster", || get(others, "shop", "/", &[]), says("west")).await;

    let begun = Instant::now();
    let call = async |calls| {
        let (mut served, mut shed) = (0_u32, 0_u32);
        while begun.elapsed() < Duration::from_secs(4) {
            match get(calls, "shop", "/", &[]).await.unwrap().status {
                StatusCode::OK => served += 1,
                StatusCode::SERVICE_UNAVAILABLE => shed += 1,
                other => panic!("{other}"),
            }
        }
        (served, shed)
    };
    let (one, two) = tokio::join!(call(calls), call(others));
    println!("{one:?} and {two:?} served and shed in {:?}", begun.elapsed());
    let (served, shed) = (one.0 + two.0, one.1 + two.1);
    // 50 a second, and half a second's worth saved up.
    assert!((30..=250).contains(&served) && shed > 0, "{served} served, {shed} shed");
    assert!(one.0 > 0 && two.0 > 0, "each has a part of it: {one:?}, {two:?}");
    front.logged("what was shed", |line| line["status"] == 503 && line["reason"] == "peer_capacity").await;

    let admin = front.running.addresses().admin.unwrap();
    let answer = get(admin, "admin", "/explain?service=shop/shop&scope=clusterset", &[]).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let port = &shown["ports"][0];
    assert_eq!(shown["peers"][0]["cluster"], "west", "{shown}");
    assert_eq!(
        (&port["tiers"][0]["name"], &port["tiers"][0]["sharePercent"]),
        (&"peer 1".into(), &100.0.into())
    );
    assert_eq!(port["tiers"][0]["capacities"]["west"], 50);
    assert_eq!(port["tiers"][0]["endpoints"][0]["seen"], "healthy");
    assert_eq!(port["gateways"][0]["address"], gateway.running.mesh().unwrap().to_string());
    assert_eq!(port["gateways"][0]["standing"], "up");
    assert!(port["gateways"][0]["roundTripMs"].as_f64().is_some_and(|ms| ms > 0.0));
    let why = port["next"]["why"].as_str().unwrap();
    assert!(port["next"]["tier"] == "peer 1" || why.starts_with("503 peer_capacity"), "{port}");
    let shown: tombolo_core::member::ServiceShown = serde_json::from_value(shown).unwrap();
    println!("{shown}");
    let explain = move || {
        let mut command =
            tombolo_tests::command(["explain", "--service", "shop/shop", "--scope", "clusterset"]);
        command.arg("--admin").arg(admin.to_string()).output().unwrap()
    };
    let said = tokio::task::spawn_blocking(explain).await.unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("peer 1    west") && said.contains("west takes 50 requests a second"), "{said}");
    let wrong = get(admin, "admin", "/explain?service=shop", &[]).await.unwrap();
    assert_eq!((wrong.status, wrong.body.contains("NAMESPACE/NAME")), (StatusCode::BAD_REQUEST, true));
}
