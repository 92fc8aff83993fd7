//! Requests through whole clusters: gateway, sidecars, applications, controllers, all real, in this process.

#![allow(clippy::unwrap_used)]

mod world;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use http::StatusCode;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use tombolo_core::{
    identity::{Credentials, Store, testing::FakeCa},
    model::{TrustBundles, TrustDomain, opaque_sni},
    spiffe::Document,
    tls,
};
use world::{App, Cluster, exported, get, peer, public, service, soon, until};

fn ok(body: &str) -> impl Fn(&Result<world::Answer, String>) -> bool {
    move |answer| answer.as_ref().is_ok_and(|a| a.status == StatusCode::OK && a.body == body)
}

fn status(status: u16) -> impl Fn(&Result<world::Answer, String>) -> bool {
    move |answer| answer.as_ref().is_ok_and(|a| a.status == status)
}

const GATEWAY: &str = "spiffe://east.example/ns/tombolo-system/sa/gateway";
const STOREFRONT: &str = "spiffe://east.example/ns/shop/sa/storefront";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_request_goes_all_the_way_and_stays_in_its_lane() {
    let mut east = Cluster::start("east").await;
    let gray = "apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {name: shop-v2, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, sectionName: all}]
  arms: [{name: v2, lane: v2, backendRefs: [{name: storefront, port: 7080}]}]
  rules: [{arm: v2, headers: [{name: x-gray, value: v2}]}]
";
    let all = [public("storefront"), service("shop", "storefront"), service("shop", "checkout"), gray.into()];
    east.apply(&all.concat()).await;
    let (storefront, v1, v2) = (App::new("storefront").await, App::new("v1").await, App::new("v2").await);
    let label = [("app", "storefront")];
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &label, &storefront).await;
    let _v1 = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &v1).await;
    let in_lane = [("app", "checkout"), ("tombolo.dev/lane", "v2")];
    let _v2 = east.sidecar("shop", "checkout", "checkout-2", &in_lane, &v2).await;
    storefront.calls(front.outbound("cluster/shop/checkout").await, "checkout.shop.svc.cluster.local");
    let mut gateway = east.gateway().await;
    let edge = gateway.listener(80).await;

    let baseline = format!("storefront<-{GATEWAY} v1<-{STOREFRONT}");
    until("the whole chain", || get(edge, "shop.example", "/", &[]), ok(&baseline)).await;
    // The application passes on nothing but `traceparent`.
    let gray = format!("storefront<-{GATEWAY} v2<-{STOREFRONT}");
    until("the lane", || get(edge, "shop.example", "/", &[("x-gray", "v2")]), ok(&gray)).await;
    for _ in 0..20 {
        // What claims a lane from outside is not believed.
        let claimed = get(edge, "shop.example", "/", &[("baggage", "tombolo.lane=v2")]).await;
        assert_eq!(claimed.unwrap().body, baseline);
    }
    assert_eq!(get(edge, "other.example", "/", &[]).await.unwrap().status, StatusCode::NOT_FOUND);

    east.kill_controller();
    assert_eq!(get(edge, "shop.example", "/", &[]).await.unwrap().body, baseline, "without a controller");
    // Restarted from what they have kept, with nobody to ask.
    gateway.end().await;
    let mut gateway = east.gateway().await;
    let edge = gateway.listener(80).await;
    assert_eq!(get(edge, "shop.example", "/", &[]).await.unwrap().body, baseline, "a gateway from its cache");
    front.end().await;
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &label, &storefront).await;
    let direct = get(front.outbound("cluster/shop/checkout").await, "checkout", "/", &[]).await.unwrap();
    assert_eq!(direct.body, format!("v1<-{STOREFRONT}"), "a sidecar from its cache");
}

/// The next request that comes to an application: its trace, and the connection to answer on.
async fn request_in(app: &TcpListener) -> (String, TcpStream) {
    loop {
        let (mut tcp, _) = app.accept().await.unwrap();
        let (mut head, mut part) = (String::new(), [0; 4096]);
        while !head.contains("\r\n\r\n") {
            match tcp.read(&mut part).await {
                Ok(read @ 1..) => head.push_str(std::str::from_utf8(&part[..read]).unwrap()),
                _ => break,
            }
        }
        // Who only looks whether somebody is there says nothing.
        if let Some(trace) = head.lines().find_map(|line| line.strip_prefix("traceparent: ")) {
            return (trace.into(), tcp);
        }
    }
}

/// What the callee was told, in milliseconds.
fn left(answer: Result<world::Answer, String>) -> Option<u64> {
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let left = answer.headers.get("x-left")?.to_str().unwrap();
    Some(left.strip_suffix('m').unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_takes_no_longer_than_the_caller_of_its_cause_waits() {
    let east = Cluster::start("east").await;
    let services = ["storefront", "checkout", "ledger"].map(|name| service("shop", name));
    east.apply(&services.concat()).await;
    // The test is the application of the storefront; the ledger's never answers.
    let storefront = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = |listener: &TcpListener| App::at(listener.local_addr().unwrap());
    let (checkout, client) = (App::new("checkout").await, App::new("client").await);
    let label = [("app", "storefront")];
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &label, &at(&storefront)).await;
    let _checkout = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &checkout).await;
    let _ledger = east.sidecar("shop", "ledger", "ledger-1", &[("app", "ledger")], &at(&silent)).await;
    let mut caller = east.sidecar("shop", "client", "client-1", &[], &client).await;
    let to_front = caller.outbound("cluster/shop/storefront").await;
    let (to_checkout, to_ledger) =
        (front.outbound("cluster/shop/checkout").await, front.outbound("cluster/shop/ledger").await);
    let served = format!("checkout<-{STOREFRONT}");
    until("checkout", || get(to_checkout, "checkout", "/", &[]), ok(&served)).await;
    let ask = |timeout: &'static str| {
        tokio::spawn(async move {
            let fields = [("x-tombolo-timeout", timeout)];
            let asking = || get(to_front, "storefront", "/", &fields);
            until("the storefront", asking, |answer| !status(503)(answer)).await;
        })
    };

    let asked = ask("15S");
    let (trace, mut tcp) = soon("a request", request_in(&storefront)).await;
    let call = async |fields: &[(&str, &str)]| left(get(to_checkout, "checkout", "/", fields).await);
    let told = call(&[("traceparent", &trace)]).await.unwrap();
    assert!((1..=15_000).contains(&told), "{told}");
    let id = trace.split('-').nth(1).unwrap();
    let told = call(&[("b3", &format!("{id}-05e3ac9a4f6e3b90-1"))]).await.unwrap();
    assert!((1..=15_000).contains(&told), "{told}");
    let told = call(&[("traceparent", &trace), ("x-tombolo-timeout", "9S")]).await.unwrap();
    assert!((1..=9_000).contains(&told), "its own is shorter: {told}");
    let told = call(&[("traceparent", &trace), ("x-tombolo-timeout", "1H")]).await.unwrap();
    assert!((1..=15_000).contains(&told), "its own is longer: {told}");
    assert_eq!(call(&[]).await, None, "of no trace");
    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
    soon("the answer", asked).await.unwrap();
    let after = async || call(&[("traceparent", &trace)]).await;
    until("its end", after, Option::is_none).await;

    let asked = ask("1S");
    let (trace, _tcp) = soon("a request", request_in(&storefront)).await;
    let answer = get(to_ledger, "ledger", "/", &[("traceparent", &trace)]).await;
    assert_eq!(answer.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
    soon("the answer", asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_who_may_come_in() {
    let east = Cluster::start("east").await;
    let policy = "apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: only-storefront, namespace: shop}
spec:
  selector: {app: checkout}
  rules: [{from: {spiffeIds: ['spiffe://east.example/ns/shop/sa/storefront']}}]
";
    east.apply(&[service("shop", "checkout"), policy.into()].concat()).await;
    let (app, client) = (App::new("checkout").await, App::new("client").await);
    let checkout = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &app).await;
    let mut friend = east.sidecar("shop", "storefront", "storefront-1", &[], &client).await;
    let mut stranger = east.sidecar("shop", "stranger", "stranger-1", &[], &client).await;
    let (friends, strangers) =
        (friend.outbound("cluster/shop/checkout").await, stranger.outbound("cluster/shop/checkout").await);
    let served = format!("checkout<-{STOREFRONT}");
    until("who may call is served", || get(friends, "checkout", "/", &[]), ok(&served)).await;
    until("who may not is refused", || get(strangers, "checkout", "/", &[]), status(403)).await;

    let inbound = checkout.running.addresses().inbound;
    assert!(get(inbound, "checkout", "/", &[]).await.is_err(), "plaintext");
    let name =
        opaque_sni(&TrustDomain::parse("east.example").unwrap(), "shop", "checkout-1", app.address.port());
    // A foreign authority that claims to be this one, and one that does not.
    for domain in ["east.example", "mallory.example"] {
        let credentials = FakeCa::new(domain).credentials("shop", "storefront");
        assert_eq!(knock(inbound, &name, &east, credentials).await, None, "{domain}");
    }
    let kept = Store::open(&east.state_dir().join("storefront-1")).unwrap().load().unwrap().unwrap();
    let answer = knock(inbound, &name, &east, kept.credentials).await;
    assert!(answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")), "the same way in, for a friend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policies_decide_is_seen_and_one_on_trial_decides_nothing() {
    let east = Cluster::start("east").await;
    let policies = |dry_run: bool| {
        format!(
            "apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: own-namespace, namespace: shop}}
spec: {{rules: [{{from: {{namespaces: [shop]}}}}]}}
---
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: no-admin, namespace: shop}}
spec: {{action: DENY, dryRun: {dry_run}, rules: [{{to: {{paths: ['/admin*']}}}}]}}
---
"
        )
    };
    east.apply(&[service("shop", "checkout"), policies(true)].concat()).await;
    let (app, client) = (App::new("checkout").await, App::new("client").await);
    let checkout = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &app).await;
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &[], &client).await;
    let mut foreign = east.sidecar("bank", "ledger", "ledger-1", &[], &client).await;
    let calling = front.outbound("cluster/shop/checkout").await;
    // What a client says of itself does not count.
    let forged = [("x-forwarded-client-cert", "URI=spiffe://east.example/ns/shop/sa/admin")];
    let said = format!("checkout<-{STOREFRONT}");
    let served = ok(&said);
    until("on trial, it is served", || get(calling, "checkout", "/admin/x", &forged), served).await;
    let line = checkout.logged("the call", |line| line["path"] == "/admin/x" && line["status"] == 200).await;
    let of = |line: &serde_json::Value| {
        let field = |name: &str| line[name].as_str().unwrap_or("-").to_string();
        ["authz", "authz_policy", "authz_dry_run", "authz_dry_run_policy"].map(field)
    };
    assert_eq!(of(&line), ["allow", "shop/own-namespace", "deny", "shop/no-admin"]);
    let counted = |policy: &str, action: &str, result: &str, dry_run: bool| {
        let labels =
            format!("policy=\"{policy}\",action=\"{action}\",result=\"{result}\",dry_run=\"{dry_run}\"");
        checkout.metric(&format!("tombolo_authorization_decisions_total{{{labels}}}"))
    };
    assert!(counted("shop/own-namespace", "ALLOW", "allow", false) >= 1);
    assert!(counted("shop/no-admin", "DENY", "deny", true) >= 1);
    assert_eq!(counted("shop/no-admin", "DENY", "deny", false), 0);

    let strangers = foreign.outbound("cluster/shop/checkout").await;
    until("another namespace is refused", || get(strangers, "checkout", "/", &[]), status(403)).await;
    let line = checkout.logged("the refusal", |line| line["status"] == 403).await;
    assert_eq!(of(&line), ["deny", "shop/own-namespace", "deny", "shop/own-namespace"]);
    assert_eq!(line["reason"], "rbac_denied");

    east.apply(&policies(false)).await;
    until("in force, it is refused", || get(calling, "checkout", "/admin/x", &[]), status(403)).await;
    let line = checkout.logged("the refusal", |line| line["authz_policy"] == "shop/no-admin").await;
    assert_eq!(of(&line), ["deny", "shop/no-admin", "-", "-"]);
    assert!(counted("shop/no-admin", "DENY", "deny", false) >= 1);
}

/// Sends a request to an inbound listener of east with this certificate; what is answered, if anything is.
async fn knock(
    inbound: SocketAddr,
    name: &str,
    east: &Cluster,
    credentials: Arc<Credentials>,
) -> Option<String> {
    let kept = Store::open(&east.state_dir().join("checkout-1")).unwrap().load().unwrap().unwrap();
    let mut trust = TrustBundles::default();
    trust.insert((*kept.bundle).clone());
    let config = tls::mesh_client(credentials, Arc::new(trust), kept.credentials.id(), &["mesh-h1"]).unwrap();
    let tcp = TcpStream::connect(inbound).await.unwrap();
    let name = ServerName::try_from(name.to_string()).unwrap();
    let talking = async {
        let mut stream = TlsConnector::from(config).connect(name, tcp).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: checkout\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    soon("an end", talking).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_endpoints_loses_no_request() {
    let east = Cluster::start("east").await;
    east.apply(&service("shop", "checkout")).await;
    let apps = [App::new("one").await, App::new("two").await, App::new("three").await];
    let label = [("app", "checkout")];
    let _one = east.sidecar("shop", "checkout", "checkout-1", &label, &apps[0]).await;
    let two = east.sidecar("shop", "checkout", "checkout-2", &label, &apps[1]).await;
    let _three = east.sidecar("shop", "checkout", "checkout-3", &label, &apps[2]).await;
    let mut front =
        east.sidecar("shop", "storefront", "storefront-1", &[], &App::new("storefront").await).await;
    let address = front.outbound("cluster/shop/checkout").await;
    let says = |name: &'static str| {
        move |answer: &Result<world::Answer, String>| answer.as_ref().is_ok_and(|a| a.body.starts_with(name))
    };
    for name in ["one", "two", "three"] {
        until(name, || get(address, "checkout", "/", &[]), says(name)).await;
    }
    let load = Load::start(address);
    load.goes_on().await;
    // The process is killed: its sidecar is still there.
    apps[0].kill();
    load.goes_on().await;
    // The workload goes away in order.
    two.end().await;
    load.goes_on().await;
    let (requests, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {requests} failed: {:?}", failures.len(), failures.first());
    let last = get(address, "checkout", "/", &[]).await.unwrap();
    assert_eq!(last.body, format!("three<-{STOREFRONT}"));
}

/// Requests without end, from several clients.
struct Load {
    stop: watch::Sender<bool>,
    sent: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (sent, mut clients) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for _ in 0..4 {
            let (sent, stopped) = (Arc::clone(&sent), stopped.clone());
            clients.spawn(async move {
                let mut failures = Vec::new();
                while !*stopped.borrow() {
                    match get(address, "checkout", "/", &[]).await {
                        Ok(answer) if answer.status == StatusCode::OK => {}
                        other => failures.push(format!("{other:?}")),
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                failures
            });
        }
        Self { stop, sent, clients }
    }

    /// Waits until many more requests were answered.
    async fn goes_on(&self) {
        let enough = self.sent.load(Ordering::Relaxed) + 400;
        let going = async || self.sent.load(Ordering::Relaxed);
        until("load", going, |sent| *sent >= enough).await;
    }

    async fn end(mut self) -> (usize, Vec<String>) {
        self.stop.send_replace(true);
        let mut failures = Vec::new();
        while let Some(client) = soon("the end of the load", self.clients.join_next()).await {
            failures.extend(client.unwrap());
        }
        (self.sent.load(Ordering::Relaxed), failures)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_another_cluster_by_name_through_its_gateway() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    west.apply(
        &[service("bank", "ledger"), exported("bank", "ledger", "east.example"), peer("east", "")].concat(),
    )
    .await;
    east.apply(&[service("shop", "storefront"), peer("west", "")].concat()).await;
    let (ledger, storefront) = (App::new("ledger").await, App::new("storefront").await);
    let _ledger = west.sidecar("bank", "ledger", "ledger-1", &[("app", "ledger")], &ledger).await;
    let gateway = west.gateway().await;
    let label = [("app", "storefront")];
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &label, &storefront).await;
    east.peer_with(&west).await;

    let address = front.outbound("clusterset/bank/ledger").await;
    let served = format!("ledger<-{STOREFRONT}");
    until("the other cluster", || get(address, "ledger.bank.svc.clusterset.local", "/", &[]), ok(&served))
        .await;

    assert!(gateway.metric("tombolo_passthrough_connections_total") >= 1, "through the gateway, undecrypted");
    assert_eq!(gateway.metric("tombolo_passthrough_unknown_names_total"), 0);

    let dns = front.running.addresses().dns.unwrap();
    let resolved = resolve(dns, "ledger.bank.svc.clusterset.local.").await;
    assert_eq!(resolved, Some(address.ip()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_no_more_is_called_no_more_and_both_sides_show_what_is_exported() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    west.apply(
        &[service("bank", "ledger"), exported("bank", "ledger", "east.example"), peer("east", "")].concat(),
    )
    .await;
    east.apply(&[service("shop", "storefront"), peer("west", "")].concat()).await;
    let (ledger, storefront) = (App::new("ledger").await, App::new("storefront").await);
    let _ledger = west.sidecar("bank", "ledger", "ledger-1", &[("app", "ledger")], &ledger).await;
    let _gateway = west.gateway().await;
    let label = [("app", "storefront")];
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &label, &storefront).await;
    let condition = async |cluster: &Cluster, kind: &str| {
        let exports = cluster.documents("serviceexports").await;
        let all = exports[0]["status"]["conditions"].as_array().unwrap().clone();
        let found = all.into_iter().find(|condition| condition["type"] == kind).unwrap();
        (found["status"].as_str().unwrap().to_owned(), found["reason"].as_str().unwrap().to_owned())
    };
    assert_eq!(condition(&west, "Ready").await, ("False".into(), "Pending".into()));
    assert_eq!(condition(&west, "Valid").await, ("True".into(), "Valid".into()));
    east.peer_with(&west).await;
    let address = front.outbound("clusterset/bank/ledger").await;
    let call = || get(address, "ledger.bank.svc.clusterset.local", "/", &[]);
    until("the other cluster", call, ok(&format!("ledger<-{STOREFRONT}"))).await;
    assert_eq!(condition(&west, "Ready").await, ("True".into(), "Exported".into()));
    assert_eq!(condition(&west, "Conflict").await, ("False".into(), "NoConflicts".into()));
    let imports = east.documents("serviceimports").await;
    assert_eq!(imports[0]["spec"]["type"], "ClusterSetIP");
    assert_eq!(imports[0]["status"]["clusters"], serde_json::json!([{ "cluster": "west" }]));

    // Both export it, and its port is not the same: each shows that.
    let other = service("bank", "ledger").replace("appProtocol: http", "appProtocol: tcp");
    east.apply(&[other, exported("bank", "ledger", "west.example")].concat()).await;
    for cluster in [&east, &west] {
        let is_shown = |said: &(String, String)| (&*said.0, &*said.1) == ("True", "PortConflict");
        until("the conflict", || condition(cluster, "Conflict"), is_shown).await;
    }
    east.delete("serviceexport", "bank", "ledger").await;
    until("its end", || condition(&west, "Conflict"), |said| said.0 == "False").await;

    west.delete("serviceexport", "bank", "ledger").await;
    let since = std::time::Instant::now();
    until("nobody to call", call, |answer| answer.as_ref().map_or(true, |answer| answer.status != 200)).await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(east.documents("serviceimports").await, Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_of_another_clusters_headless_service_is_called_by_its_name() {
    let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
    let headless = service("bank", "ledger").replace("spec: {", "spec: {clusterIP: None, ");
    west.apply(&[headless, exported("bank", "ledger", "east.example"), peer("east", "")].concat()).await;
    east.apply(&[service("shop", "storefront"), peer("west", "")].concat()).await;
    let apps = [App::new("one").await, App::new("two").await];
    let label = [("app", "ledger")];
    let _one = west.sidecar("bank", "ledger", "ledger-1", &label, &apps[0]).await;
    let _two = west.sidecar("bank", "ledger", "ledger-2", &label, &apps[1]).await;
    let gateway = west.gateway().await;
    let front = App::new("storefront").await;
    let front = east.sidecar("shop", "storefront", "storefront-1", &[("app", "storefront")], &front).await;
    east.peer_with(&west).await;

    let dns = front.running.addresses().dns.unwrap();
    for (host, says) in [("ledger-1", "one"), ("ledger-2", "two")] {
        let name = format!("{host}.west.ledger.bank.svc.clusterset.local.");
        until("its address", || resolve(dns, &name), Option::is_some).await;
        let address = SocketAddr::new(resolve(dns, &name).await.unwrap(), world::PORT);
        let served = format!("{says}<-{STOREFRONT}");
        until("the other cluster", || get(address, "ledger", "/", &[]), ok(&served)).await;
        for _ in 0..10 {
            assert_eq!(get(address, "ledger", "/", &[]).await.unwrap().body, served, "that one alone");
        }
    }
    assert!(gateway.metric("tombolo_passthrough_connections_total") >= 2, "through the gateway, undecrypted");
    assert_eq!(resolve(dns, "ledger-1.east.ledger.bank.svc.clusterset.local.").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_renew_its_certificate_says_so_before_it_expires() {
    // The shortest life that the authority gives. It is renewed after half of that.
    let mut east = Cluster::start_with_life("east", Duration::from_secs(10)).await;
    let app = App::new("checkout").await;
    let checkout = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &app).await;
    let admin = checkout.running.addresses().admin.unwrap();
    let ready = || get(admin, "admin", "/ready", &[]);
    let renewed = "tombolo_identity_renewals_total{result=\"renewed\"}";
    until("it is renewed", async || checkout.metric(renewed), |count| *count >= 1).await;
    assert_eq!(ready().await.unwrap().body, "ready\n");

    east.kill_controller();
    let says = |status: u16, words: &'static str| {
        move |answer: &Result<world::Answer, String>| {
            answer.as_ref().is_ok_and(|a| a.status == status && a.body.contains(words))
        }
    };
    until("a warning, while it serves", ready, says(200, "degraded: the mesh certificate expires in ")).await;
    assert!(checkout.metric("tombolo_identity_renewals_total{result=\"failed\"}") >= 1);
    let id = "spiffe://east.example/ns/shop/sa/checkout";
    let left = checkout.metric(&format!("tombolo_identity_remaining_seconds{{id=\"{id}\"}}"));
    assert!((1..=6).contains(&left), "{left}");
    until("not ready", ready, says(503, "degraded: the mesh certificate has expired ")).await;
    assert!(ready().await.unwrap().body.starts_with("waiting for: a valid mesh certificate\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clusters_root_is_replaced_and_no_request_fails_also_while_its_peer_is_away() {
    // The shortest life that the authority gives: a rotation takes twelve seconds. East's certificates outlive its controller.
    let life = Duration::from_secs(10);
    let (mut east, west) = (Cluster::start("east").await, Cluster::start_with_life("west", life).await);
    west.apply(
        &[service("bank", "ledger"), exported("bank", "ledger", "east.example"), peer("east", "")].concat(),
    )
    .await;
    east.apply(&[service("shop", "storefront"), peer("west", "")].concat()).await;
    let (ledger, storefront) = (App::new("ledger").await, App::new("storefront").await);
    let ledger = west.sidecar("bank", "ledger", "ledger-1", &[("app", "ledger")], &ledger).await;
    let _gateway = west.gateway().await;
    let label = [("app", "storefront")];
    let mut front = east.sidecar("shop", "storefront", "storefront-1", &label, &storefront).await;
    east.peer_with(&west).await;
    let address = front.outbound("clusterset/bank/ledger").await;
    let served = format!("ledger<-{STOREFRONT}");
    until("the other cluster", || get(address, "ledger", "/", &[]), ok(&served)).await;

    let load = Load::start(address);
    // West's root while all are there, east's, and west's again while east's controller is away.
    west.rotate(3600).await;
    west.rotated(1).await;
    load.goes_on().await;
    east.rotate(3600).await;
    load.goes_on().await;
    east.kill_controller();
    west.rotate(1).await;
    west.rotated(3).await;
    // Nothing of the second root is left, and east knows no later one.
    let renewals = async || ledger.metric("tombolo_identity_renewals_total{result=\"renewed\"}");
    let before = renewals().await;
    until("it is renewed", renewals, |count| *count >= before + 2).await;
    load.goes_on().await;
    let (requests, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {requests} failed: {:?}", failures.len(), failures.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_of_a_trust_domain_whose_bundle_is_given_comes_in_where_a_policy_says_so() {
    let east = Cluster::start("east").await;
    let ca = FakeCa::new("north.example");
    let bundle = Document { bundle: ca.bundle(), has_sequence: true, refresh_hint: None }.print();
    let north = format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: {{name: north}}
spec:
  trustDomain: north.example
  bundleEndpoint:
    url: https://127.0.0.1:9/
    profile: https_spiffe
    spiffeId: spiffe://north.example/spire/server
    bundle: '{bundle}'
---
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: north, namespace: shop}}
spec:
  selector: {{app: checkout}}
  rules: [{{from: {{spiffeIds: ['spiffe://north.example/ns/shop/sa/friend']}}}}]
"
    );
    east.apply(&[service("shop", "checkout"), north].concat()).await;
    let app = App::new("checkout").await;
    let checkout = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &app).await;
    let inbound = checkout.running.addresses().inbound;
    let domain = TrustDomain::parse("east.example").unwrap();
    let name = opaque_sni(&domain, "shop", "checkout-1", app.address.port());
    let friend = || knock(inbound, &name, &east, ca.credentials("shop", "friend"));
    let served = |answer: &Option<String>| answer.as_ref().is_some_and(|a| a.starts_with("HTTP/1.1 200"));
    until("who is named is served", friend, served).await;
    let other = knock(inbound, &name, &east, ca.credentials("shop", "other")).await;
    assert!(other.is_some_and(|answer| answer.starts_with("HTTP/1.1 403")), "who is not is refused");
    let impostor = FakeCa::new("north.example").credentials("shop", "friend");
    assert_eq!(knock(inbound, &name, &east, impostor).await, None, "of another authority");
}

async fn resolve(dns: SocketAddr, name: &str) -> Option<std::net::IpAddr> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), dns).await.unwrap();
    let mut buffer = [0; 1500];
    let length = soon("a DNS answer", socket.recv(&mut buffer)).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(address.0.into()),
        _ => None,
    })
}
