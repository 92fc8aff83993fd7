//! The real client against the real server, over a connection in memory.

use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tombolo_core::{
    discovery::{Cache, Client, ClientParts, Discovery},
    model::{Scope, ServiceKey},
    tls::grpc::Peer,
};
use tombolo_proto::xds::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tonic::transport::{Endpoint, Server, Uri};

use super::*;

/// A controller that can be stopped and started, and restarted without memory.
struct Controller {
    store: watch::Sender<Option<Arc<ResourceStore>>>,
}

fn connect(current: watch::Receiver<Option<Arc<ResourceStore>>>) -> tombolo_core::discovery::Connect {
    Arc::new(move || {
        let mut current = current.clone();
        Box::pin(async move {
            let store = current.borrow_and_update().clone().ok_or("the controller is down")?;
            let (client, mut near) = tokio::io::duplex(64 * 1024);
            let (mut far, server) = tokio::io::duplex(64 * 1024);
            let service = AggregatedDiscoveryServiceServer::new(DeltaServer::new(
                store.clone(),
                tombolo_core::model::TrustDomain::parse("east.test").unwrap(),
            ));
            let peer = Peer {
                id: Some("spiffe://east.test/ns/shop/sa/storefront".parse().unwrap()),
                address: ([127, 0, 0, 1], 1).into(),
            };
            let layer = tower::ServiceBuilder::new().map_request(move |mut request: http::Request<_>| {
                request.extensions_mut().insert(peer.clone());
                request
            });
            let incoming = tokio_stream::once(Ok::<_, std::io::Error>(server));
            tokio::spawn(Server::builder().layer(layer).add_service(service).serve_with_incoming(incoming));
            tokio::spawn(async move {
                // The connection goes down with the controller.
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = current.changed() => {}
                }
            });
            let mut client = Some(client);
            let endpoint = Endpoint::from_static("http://controller.invalid");
            let dial = tower::service_fn(move |_: Uri| {
                let client = client.take().map(TokioIo::new);
                async move { client.ok_or_else(|| std::io::Error::other("gone")) }
            });
            endpoint.connect_with_connector(dial).await.map_err(|e| e.to_string())
        })
    })
}

impl Controller {
    fn start() -> (Self, watch::Receiver<Option<Arc<ResourceStore>>>) {
        let (store, current) = watch::channel(None);
        (Self { store }, current)
    }

    fn run(&self, store: &Arc<ResourceStore>) {
        self.store.send_replace(Some(store.clone()));
    }

    fn stop(&self) {
        self.store.send_replace(None);
    }
}

fn proxy(current: watch::Receiver<Option<Arc<ResourceStore>>>, cache: Option<Cache>) -> Discovery {
    let (client, discovery) = Client::new(ClientParts {
        node: Default::default(),
        wildcard: vec![type_url::CONFIG_DOCUMENT, type_url::SERVICE],
        compile: |_| Default::default(),
        connect: connect(current),
        cache,
        before_publish: Arc::new(|_, _| {}),
    });
    tokio::spawn(client.run(std::future::pending()));
    discovery
}

fn service(name: &str) -> [Update; 2] {
    let key = format!("cluster/shop/{name}");
    let ports = vec![v1::ServicePort { name: "http".into(), port: 80, app_protocol: String::new() }];
    let service = v1::Service {
        namespace: "shop".into(),
        name: name.into(),
        scope: 1,
        ports,
        vip_index: 1,
        ..Default::default()
    };
    let endpoint = v1::Endpoint { id: "e".into(), address: "127.0.0.1:1".into(), ..Default::default() };
    let ports = vec![v1::EndpointList { port: 80, endpoints: vec![endpoint], ..Default::default() }];
    let endpoints = v1::EndpointSet { namespace: "shop".into(), name: name.into(), scope: 1, ports };
    [
        Update {
            type_url: type_url::SERVICE,
            name: key.clone(),
            value: Some(service.encode_to_vec().into()),
        },
        Update { type_url: type_url::ENDPOINT_SET, name: key, value: Some(endpoints.encode_to_vec().into()) },
    ]
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(Scope::Cluster, "shop", name).unwrap()
}

async fn until(discovery: &Discovery, what: &str, holds: impl Fn(&Discovery) -> bool) {
    let mut changes = discovery.changes();
    let waiting = async {
        loop {
            changes.borrow_and_update();
            if holds(discovery) {
                return;
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn knows(discovery: &Discovery, name: &str) -> bool {
    discovery.snapshot().load().services.contains_key(&key(name))
}

#[tokio::test]
async fn what_comes_in_parts_is_believed_to_be_everything_only_when_it_is() {
    let (controller, current) = Controller::start();
    let names: Vec<String> = (0..1000).map(|number| format!("service-{number}")).collect();
    let store = Arc::new(ResourceStore::default());
    store.apply(names.iter().flat_map(|name| service(name)));
    store.set_synced();
    controller.run(&store);
    let discovery = proxy(current, None);
    let mut confirmed = discovery.confirmed();
    let confirmed = tokio::time::timeout(Duration::from_secs(20), confirmed.wait_for(|all| *all)).await;
    assert!(confirmed.is_ok_and(|confirmed| confirmed.is_ok()));
    assert!(names.iter().all(|name| knows(&discovery, name)));
    assert!(discovery.stats().acks.load(std::sync::atomic::Ordering::Relaxed) > 4, "it came in parts");
    assert!(discovery.snapshot().load().version <= 2, "a snapshot is made of all of it");
}

#[tokio::test]
async fn a_proxy_learns_keeps_and_resumes() {
    let (controller, current) = Controller::start();
    let store = Arc::new(ResourceStore::default());
    store.apply(service("checkout"));
    store.set_synced();
    controller.run(&store);
    let directory = tempfile::tempdir().unwrap();
    let cache = || Some(Cache::new(directory.path()));
    let discovery = proxy(current.clone(), cache());
    until(&discovery, "checkout", |d| knows(d, "checkout")).await;
    assert!(discovery.snapshot().load().services[&key("checkout")].endpoints.is_empty(), "not asked for yet");
    assert!(discovery.wait_for(&key("checkout"), Duration::from_secs(20)).await);

    // A controller that has lost everything and is not synced blanks nothing.
    let empty = Arc::new(ResourceStore::default());
    controller.run(&empty);
    let mut synced = discovery.synced();
    synced.wait_for(|synced| *synced).await.unwrap();
    controller.stop();
    assert!(knows(&discovery, "checkout"));

    // It comes back with a change: the difference arrives, and what is gone goes.
    let next = Arc::new(ResourceStore::default());
    next.apply(service("payments"));
    next.set_synced();
    controller.run(&next);
    until(&discovery, "payments for checkout", |d| knows(d, "payments") && !knows(d, "checkout")).await;
    assert_eq!(discovery.stats().nacks.load(std::sync::atomic::Ordering::Relaxed), 0);

    // What was asked for is in the cache, and a restart without a controller starts from it.
    next.apply(service("checkout"));
    until(&discovery, "both", |d| knows(d, "checkout")).await;
    assert!(discovery.wait_for(&key("checkout"), Duration::from_secs(20)).await);
    controller.stop();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let again = proxy(current.clone(), cache());
        let snapshot = again.snapshot().load_full();
        let whole = knows(&again, "payments")
            && snapshot.services.get(&key("checkout")).is_some_and(|entry| !entry.endpoints.is_empty());
        if whole && *again.synced().borrow() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the cache was never written");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_bad_resource_is_refused_and_the_others_are_taken() {
    let (controller, current) = Controller::start();
    let store = Arc::new(ResourceStore::default());
    store.apply(service("checkout"));
    store.set_synced();
    controller.run(&store);
    let discovery = proxy(current, None);
    until(&discovery, "checkout", |d| knows(d, "checkout")).await;
    let port = |port| v1::ServicePort { port, ..Default::default() };
    let bad = v1::Service {
        namespace: "shop".into(),
        name: "checkout".into(),
        scope: 1,
        ports: vec![port(0)],
        vip_index: 1,
        ..Default::default()
    };
    let value = Some(bad.encode_to_vec().into());
    let bad = Update { type_url: type_url::SERVICE, name: "cluster/shop/checkout".into(), value };
    store.apply(service("payments").into_iter().chain([bad]));
    until(&discovery, "payments", |d| knows(d, "payments")).await;
    let snapshot = discovery.snapshot().load_full();
    assert_eq!(snapshot.services[&key("checkout")].ports[0].port, 80, "the last good one stays");
    assert_eq!(discovery.stats().nacks.load(std::sync::atomic::Ordering::Relaxed), 1);
}
