//! A peer in the wrong hands, over the real protocol: what it must not say is refused, counted and shown, and nobody else
//! notices.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, timeout};
use tombolo_core::{
    decide::Cidr,
    model::{SpiffeId, TrustDomain},
    telemetry::{AccessLog, Telemetry},
};
use tombolo_proto::v1::{
    self, ApplyRequest, GetRequest, PeerShowRequest, PeerTokenRequest, apply_request::File,
    link_message::Message, operator_client::OperatorClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    Options, Running, start,
    testing::{FakeLink, FakePeer},
};

const DOCUMENTS: &str = "
apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: { name: west }
spec:
  trustDomain: west.example
  import: { services: [{ namespace: bank, name: '*' }] }
  export: { services: [{ namespace: bank, name: '*' }] }
  lease: { deprioritizeAfter: 1s }
  limits: { services: 3, messagesPerSecond: 50 }
---
apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: { name: north }
spec: { trustDomain: north.example, import: { services: [{ namespace: bank, name: '*' }] } }
---
apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: { name: far }
spec:
  trustDomain: far.example
  import: { services: [{ namespace: bank, name: '*' }] }
  limits: { endpoints: 3, bytesPerSecond: 65536 }
---
apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: { name: south }
spec: { trustDomain: south.example, network: elsewhere }
---
apiVersion: v1
kind: Service
metadata: { name: ours, namespace: bank }
spec: { ports: [{ port: 80 }] }
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: { name: ours, namespace: bank }
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: { name: ours, namespace: bank }
spec: { address: 192.0.2.80, ports: [{ port: 80 }], services: [ours] }
";

struct East {
    _running: Running,
    _state: tempfile::TempDir,
    telemetry: Arc<Telemetry>,
    operator: OperatorClient<Channel>,
}

impl East {
    async fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
        let options = Options {
            cluster: "east".into(),
            trust_domain: TrustDomain::parse("east.example").unwrap(),
            state_dir: state.path().join("controller"),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Vec::new(),
            config: Vec::new(),
            network: "east".into(),
            own_ranges: vec![Cidr::parse("10.1.0.0/16").unwrap()],
            bundle_endpoint: None,
            acme_dns_hook: None,
            admin: None,
            telemetry: Arc::clone(&telemetry),
        };
        let running = start(options).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", running.socket.display())).unwrap();
        let mut operator = OperatorClient::new(endpoint.connect().await.unwrap());
        let files = vec![File { name: "east.yaml".into(), text: DOCUMENTS.into() }];
        let answer = operator.apply(ApplyRequest { files, ..Default::default() }).await.unwrap().into_inner();
        assert!(answer.errors.is_empty(), "{:?}", answer.errors);
        Self { _running: running, _state: state, telemetry, operator }
    }

    async fn link(&mut self, peer: &FakePeer) -> FakeLink {
        let request = PeerTokenRequest { ttl_seconds: 60, uses: 1 };
        let token = self.operator.peer_token(request).await.unwrap().into_inner().token;
        let (token, info) = peer.join(&token).await;
        peer.link(&token, &info, "1").await
    }

    async fn peer(&mut self, name: &str) -> Value {
        let shown = self.operator.peer_show(PeerShowRequest { cluster: name.into() }).await.unwrap();
        serde_json::from_str(&shown.into_inner().json).unwrap()
    }

    /// Ids of all endpoints of other clusters.
    async fn endpoints(&mut self) -> Vec<String> {
        let request = GetRequest { kind: "endpoints".into(), ..Default::default() };
        let got = self.operator.get(request).await.unwrap().into_inner().documents_json;
        let sets: Vec<Value> = got.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let lists = sets.iter().flat_map(|set| set["ports"].as_array().unwrap());
        let endpoints = lists.flat_map(|list| list["endpoints"].as_array().unwrap());
        let ids = endpoints.map(|endpoint| endpoint["id"].as_str().unwrap().to_owned());
        ids.filter(|id| !id.starts_with("east.example/")).collect()
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

fn synced(revision: u64) -> Message {
    Message::Synced(v1::Synced { revision, full: false })
}

fn gateways(addresses: &[&str]) -> Message {
    let mesh_addresses = addresses.iter().map(ToString::to_string).collect();
    Message::Gateways(v1::Gateways { revision: 1, mesh_addresses })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_compromised_peer_may_not_say_is_refused_counted_and_shown() {
    let mut east = East::start().await;
    let west = FakePeer::new("west");
    let mut link = east.link(&west).await;
    let good = west.endpoint("bank", "ledger", 0);
    // Somebody else's identity, our network, our addresses, absurd weights: each beside one that is good.
    let mut foreign = west.endpoint("bank", "ledger", 1);
    foreign.spiffe_id = SpiffeId::controller(&TrustDomain::parse("east.example").unwrap()).to_string();
    let mut here = west.endpoint("bank", "ledger", 2);
    (here.network, here.address) = ("east".into(), "192.0.2.99:80".into());
    let mut heavy = west.endpoint("bank", "ledger", 3);
    heavy.weight = u32::MAX;
    let mut long = west.endpoint("bank", "ledger", 4);
    long.id.push_str(&"x".repeat(600));
    let mut ours = west.endpoint("bank", "ledger", 5);
    ours.address = "192.0.2.80:80".into();
    let mut inside = west.endpoint("bank", "ledger", 6);
    inside.address = "10.1.2.3:443".into();
    let all = vec![good.clone(), foreign, here, heavy, long, ours, inside];
    link.say(Message::Service(west.service("bank", "ledger", all))).await;
    // What is not imported from it, names that are none, and more than it may have.
    link.say(Message::Service(west.service("shop", "checkout", vec![west.endpoint("shop", "checkout", 0)])))
        .await;
    link.say(Message::Service(west.service("bank", &"n".repeat(300), Vec::new()))).await;
    for name in ["a", "b", "c"] {
        link.say(Message::Service(west.service("bank", name, vec![west.endpoint("bank", name, 0)]))).await;
    }
    link.say(gateways(&[
        "198.51.100.1:15443",
        "192.0.2.80:80",
        "10.1.0.9:15443",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "[::]:1",
        "x:1",
    ]))
    .await;
    link.say(synced(1)).await;
    assert!(soon("the end", link.is_taken(1)).await);

    // What is taken may be published a moment later. The third is one too many.
    let expected = ["west.example/bank/a-0/8080", &good.id];
    soon("what is published", async {
        while east.endpoints().await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let shown = east.peer("west").await;
    assert_eq!(shown["gateways"], serde_json::json!(["198.51.100.1:15443"]), "{shown}");
    let by_kind = &shown["refusedByKind"];
    for (kind, least) in [("identity", 1), ("address", 2), ("limit", 3), ("policy", 1), ("malformed", 2)] {
        assert!(by_kind[kind].as_u64() >= Some(least), "{kind}: {by_kind}");
        let metric = format!("tombolo_peer_refused_total{{peer=\"west\",kind=\"{kind}\"}}");
        let found = || east.telemetry.encode().lines().any(|line| line.starts_with(&metric));
        soon(&metric, async {
            while !found() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    let reasons: Vec<&str> = shown["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refusal| refusal["reason"].as_str().unwrap())
        .collect();
    assert!(reasons.contains(&"more than 3 services"), "{reasons:?}");

    // One message that is larger than any may be ends the link, and nothing that was taken is lost by it.
    let mut huge = west.service("bank", "ledger", Vec::new());
    huge.annotations.insert("x".into(), "y".repeat(5 << 20));
    link.say(Message::Service(huge)).await;
    assert!(soon("the end of the link", link.hears(|_| None::<()>)).await.is_none());
    let shown = east.peer("west").await;
    assert_eq!(shown["refusals"].as_array().unwrap().last().unwrap()["object"], "message", "{shown}");
    assert_eq!(east.endpoints().await.len(), 2);

    // A peer that is not on the network that its document names has no link.
    let south = FakePeer::new("south");
    let mut link = east.link(&south).await;
    assert!(soon("no link", link.hears(|_| None::<()>)).await.is_none());
    assert_eq!(east.peer("south").await["refusedByKind"]["policy"], 1);
}

/// A peer that speaks as fast as it can, each message with a note of so many bytes; what was read of it a second is held to
/// what it may say, and one message more. Others notice nothing.
async fn is_read_slowly(name: &str, note: usize, counted: &str, per_second: f64, message: f64) {
    let mut east = East::start().await;
    let (loud, north) = (FakePeer::new(name), FakePeer::new("north"));
    let (mut flooding, mut quiet) = (east.link(&loud).await, east.link(&north).await);
    let mut number = 0;
    let out = flooding.out.clone();
    let flood = tokio::spawn(async move {
        loop {
            number += 1;
            let mut service = loud.service("bank", "ledger", vec![loud.endpoint("bank", "ledger", number)]);
            service.annotations.insert("note".into(), "x".repeat(note));
            if out.send(v1::LinkMessage { message: Some(Message::Service(service)) }).await.is_err() {
                return;
            }
        }
    });
    let drained = tokio::spawn(async move { flooding.hears(|_| None::<()>).await });
    let since = Instant::now();
    while east.peer(name).await["throttledSeconds"].as_f64() < Some(0.5) {
        assert!(since.elapsed() < Duration::from_secs(20), "it is not slowed down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (before, since) = (east.peer(name).await[counted].as_f64().unwrap(), Instant::now());
    for revision in 1..=20 {
        let endpoint = north.endpoint("bank", "other", revision as usize);
        quiet.say(Message::Service(north.service("bank", "other", vec![endpoint]))).await;
        quiet.say(synced(revision)).await;
        assert!(timeout(Duration::from_secs(1), quiet.is_taken(revision)).await.unwrap(), "{revision}");
    }
    tokio::time::sleep_until(since + Duration::from_secs(1)).await;
    let read = east.peer(name).await[counted].as_f64().unwrap() - before;
    let most = 1.2 * per_second * since.elapsed().as_secs_f64() + message;
    assert!(read <= most, "{counted}: {read} in {:?}", since.elapsed());
    assert_eq!(east.peer("north").await["throttledSeconds"], 0.0);
    flood.abort();
    drained.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_too_much_is_read_slowly_and_others_are_not() {
    is_read_slowly("west", 0, "receivedMessages", 50.0, 1.0).await;
    is_read_slowly("far", 4000, "receivedBytes", 65_536.0, 5000.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_beyond_a_peers_limit_are_refused_and_taken_when_there_is_room() {
    let mut east = East::start().await;
    let far = FakePeer::new("far");
    let mut link = east.link(&far).await;
    let service = |name: &str, endpoints: usize| {
        let endpoints = (0..endpoints).map(|number| far.endpoint("bank", name, number)).collect();
        Message::Service(far.service("bank", name, endpoints))
    };
    link.say(service("a", 2)).await;
    link.say(service("b", 2)).await;
    link.say(synced(1)).await;
    assert!(soon("the end", link.is_taken(1)).await);
    let shown = east.peer("far").await;
    assert_eq!(
        (&shown["imported"], &shown["refusals"][0]["reason"]),
        (&1.into(), &"more than 3 endpoints in all".into())
    );
    link.say(service("a", 1)).await;
    link.say(service("b", 2)).await;
    link.say(synced(2)).await;
    assert!(soon("the end", link.is_taken(2)).await);
    assert_eq!(east.peer("far").await["imported"], 2);
    // The limit is raised: it is to say everything again, as what was refused is nowhere.
    let text = DOCUMENTS.replace("endpoints: 3", "endpoints: 9");
    let files = vec![File { name: "east.yaml".into(), text }];
    let answer = east.operator.apply(ApplyRequest { files, ..Default::default() }).await.unwrap();
    assert!(answer.into_inner().errors.is_empty());
    let is_over = |message| matches!(message, Message::Ping(_)).then_some(());
    while soon("the end of the link", link.hears(is_over)).await.is_some() {
        link.say(Message::Pong(v1::Pong { id: 0 })).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_but_confirms_nothing_is_not_connected() {
    let mut east = East::start().await;
    let mut link = east.link(&FakePeer::new("west")).await;
    link.say(Message::Synced(v1::Synced { revision: 1, full: true })).await;
    let told = |message| match message {
        Message::Synced(synced) => Some(synced.revision),
        _ => None,
    };
    let revision = soon("all that is told", link.hears(told)).await.unwrap();
    // More often than the lease ends, though that is short; each answer is a sign of life.
    let since = Instant::now();
    for _ in 0..6 {
        let asked = |message| match message {
            Message::Ping(v1::Ping { id }) => Some(id),
            _ => None,
        };
        let id = soon("a question", link.hears(asked)).await.unwrap();
        link.say(Message::Pong(v1::Pong { id })).await;
        assert_eq!(east.peer("west").await["connected"], false);
    }
    assert!(since.elapsed() < Duration::from_secs(15), "six questions took {:?}", since.elapsed());
    link.say(Message::Ack(v1::Ack { revision })).await;
    soon("it is connected", async {
        while east.peer("west").await["connected"] != true {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
