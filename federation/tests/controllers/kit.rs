//! Real controllers on free ports of this machine, and what tests do with them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_core::{
    discovery::type_url,
    identity::{Credentials, GrpcSigner, Identity, KeyRequest, Proof, SignError, Signer, Token},
    model::{SpiffeId, TrustBundles, TrustDomain},
    telemetry::{AccessLog, Telemetry},
    tls::{self, grpc},
};
use tombolo_federation::{Bounds, Options, Running, StartError, start_with};
use tombolo_proto::{
    v1::{self, apply_request::File, operator_client::OperatorClient, registry_client::RegistryClient},
    xds::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use tonic::{Status, Streaming, transport::Channel};

/// Nothing in these tests takes longer, unless it fails.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Waits for something, within [`LIMIT`].
pub async fn soon<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {} s", LIMIT.as_secs()))
}

/// An address of this machine that nobody else uses: while a controller restarts, no connection that begins at its port by
/// chance keeps it from listening there again.
fn own_address() -> IpAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let [high, low] = GIVEN.fetch_add(1, Relaxed).to_be_bytes();
    [127, 77, high, low.saturating_add(1)].into()
}

/// A cluster of one controller.
pub struct Cluster {
    pub name: &'static str,
    pub options: Options,
    pub bounds: Bounds,
    running: Option<Running>,
    _state: TempDir,
}

impl Cluster {
    pub async fn start(name: &'static str) -> Self {
        Self::start_with(name, Bounds::default(), Vec::new()).await
    }

    pub async fn start_with(name: &'static str, bounds: Bounds, config: Vec<PathBuf>) -> Self {
        let state = TempDir::new().unwrap();
        let options = Options {
            cluster: name.into(),
            trust_domain: TrustDomain::parse(&format!("{name}.example")).unwrap(),
            state_dir: state.path().join("state"),
            listen: SocketAddr::new(own_address(), 0),
            advertise: Vec::new(),
            config,
            network: String::new(),
            own_ranges: Vec::new(),
            bundle_endpoint: None,
            acme_dns_hook: None,
            admin: Some(([127, 0, 0, 1], 0).into()),
            telemetry: Arc::new(Telemetry::new(AccessLog::off())),
        };
        let running = start_with(options.clone(), bounds).await.unwrap();
        // After a restart its peers look for it where it was.
        let options = Options { listen: running.address, ..options };
        Self { name, options, bounds, running: Some(running), _state: state }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub async fn stop(&mut self) {
        assert!(self.running.take().unwrap().shutdown().await, "{} does not end", self.name);
    }

    pub async fn try_again(&mut self) -> Result<(), StartError> {
        self.running = Some(start_with(self.options.clone(), self.bounds).await?);
        Ok(())
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.try_again().await.unwrap();
    }

    pub async fn operator(&self) -> OperatorClient<Channel> {
        let socket = self.running().socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://controller");
        OperatorClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    pub async fn try_apply(&self, text: &str) -> v1::ApplyResponse {
        let files = vec![File { name: "test.yaml".into(), text: text.into() }];
        let request = v1::ApplyRequest { files, author: "test".into(), ..Default::default() };
        self.operator().await.apply(request).await.unwrap().into_inner()
    }

    pub async fn apply(&self, text: &str) {
        let answer = self.try_apply(text).await;
        assert_eq!(answer.errors, Vec::<String>::new());
    }

    pub async fn status(&self) -> Value {
        let answer = self.operator().await.status(v1::StatusRequest {}).await.unwrap().into_inner();
        serde_json::from_str(&answer.json).unwrap()
    }

    /// Waits until a peer's status is as `is` wants it.
    pub async fn until_peer(&self, peer: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let status = self.status().await;
                let peers = status["peers"].as_array().unwrap();
                if let Some(found) = peers.iter().find(|p| p["name"] == peer && is(p)) {
                    return found.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        let last = || async { self.status().await["peers"].to_string() };
        match timeout(LIMIT, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("{}: {what}, but {}", self.name, last().await),
        }
    }

    pub async fn join_token(&self, namespace: &str, account: &str, uses: u32) -> Token {
        let request = v1::JoinTokenRequest {
            namespace: namespace.into(),
            account: account.into(),
            ttl_seconds: 60,
            uses,
        };
        let answer = self.operator().await.join_token(request).await.unwrap().into_inner();
        Token::parse(&answer.token).unwrap()
    }

    pub async fn peer_token(&self, ttl_seconds: u32) -> String {
        let request = v1::PeerTokenRequest { ttl_seconds, uses: 1 };
        self.operator().await.peer_token(request).await.unwrap().into_inner().token
    }

    pub async fn revoke(&self, peer: &str) {
        let request = v1::PeerRevokeRequest { cluster: peer.into() };
        self.operator().await.peer_revoke(request).await.unwrap();
    }

    pub async fn rotate(&self, lead_seconds: u32) -> Result<(), Status> {
        self.operator().await.rotate(v1::RotateRequest { lead_seconds, ..Default::default() }).await.map(drop)
    }

    /// Waits until the authority's status is as `is` wants it.
    pub async fn until_ca(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let status = self.status().await["ca"].clone();
                if is(&status) {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(what, waiting).await
    }

    pub async fn show(&self, peer: &str) -> Value {
        let request = v1::PeerShowRequest { cluster: peer.into() };
        let answer = self.operator().await.peer_show(request).await.unwrap().into_inner();
        serde_json::from_str(&answer.json).unwrap()
    }

    pub async fn peer_join(&self, token: &str) -> Result<v1::PeerJoinResponse, Status> {
        let request = v1::PeerJoinRequest { token: token.into() };
        self.operator().await.peer_join(request).await.map(tonic::Response::into_inner)
    }

    /// A certificate by a join token.
    pub async fn sign(&self, token: Token) -> Result<Member, SignError> {
        let signer = GrpcSigner::controller(&token.trust_domain.clone(), Vec::new());
        let key = KeyRequest::generate().unwrap();
        let signed = signer.sign(key.csr_der(), &Proof::Join(Arc::new(token))).await?;
        let credentials = Arc::new(key.with_chain(signed.chain).unwrap());
        let identity = Identity { credentials, bundle: Arc::new(signed.bundle) };
        Ok(Member { identity, address: self.running().address.to_string() })
    }

    pub async fn member(&self, namespace: &str, account: &str) -> Member {
        let token = self.join_token(namespace, account, 1).await;
        self.sign(token).await.unwrap()
    }
}

/// Somebody with a certificate.
pub struct Member {
    pub identity: Identity,
    address: String,
}

impl Member {
    pub async fn try_channel(&self, credentials: Arc<Credentials>) -> Result<Channel, grpc::ConnectError> {
        let mut trust = TrustBundles::default();
        trust.insert((*self.identity.bundle).clone());
        let controller = SpiffeId::controller(&self.identity.bundle.trust_domain);
        let config = tls::mesh_client(credentials, Arc::new(trust), controller, &["h2"]).unwrap();
        grpc::connect(std::slice::from_ref(&self.address), config).await
    }

    pub async fn channel(&self) -> Channel {
        self.try_channel(self.identity.credentials.clone()).await.unwrap()
    }

    pub async fn try_register(&self, request: v1::RegisterRequest) -> Result<Registered, Status> {
        let (sender, receiver) = mpsc::channel(4);
        sender.send(request.clone()).await.unwrap();
        let mut client = RegistryClient::new(self.channel().await);
        let mut answers = client.register(ReceiverStream::new(receiver)).await?.into_inner();
        let first = answers.message().await?.unwrap();
        Ok(Registered { request, first, sender, answers })
    }

    pub async fn register(&self, request: v1::RegisterRequest) -> Registered {
        self.try_register(request).await.unwrap()
    }

    /// Asks for everything of one type.
    pub async fn discover(&self, type_url: &'static str) -> Discovered {
        let (sender, receiver) = mpsc::channel(16);
        let node = Some(Node { id: "test".into(), ..Default::default() });
        let request = DeltaDiscoveryRequest { node, type_url: type_url.into(), ..Default::default() };
        sender.send(request).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await);
        let answers = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap();
        Discovered { type_url, held: Default::default(), sender, answers: answers.into_inner() }
    }
}

/// An open registration stream.
pub struct Registered {
    request: v1::RegisterRequest,
    pub first: v1::RegisterResponse,
    sender: mpsc::Sender<v1::RegisterRequest>,
    answers: Streaming<v1::RegisterResponse>,
}

impl Registered {
    pub async fn drain(mut self) {
        self.request.set_health(v1::Health::Draining);
        self.sender.send(self.request.clone()).await.unwrap();
        self.answers.message().await.unwrap().unwrap();
    }
}

/// An open discovery stream with what it holds.
pub struct Discovered {
    type_url: &'static str,
    held: std::collections::BTreeMap<String, Vec<u8>>,
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Discovered {
    async fn next(&mut self) {
        let answer = self.answers.message().await.unwrap().expect("the stream has ended");
        for resource in answer.resources {
            self.held.insert(resource.name, resource.resource.unwrap().value);
        }
        for name in answer.removed_resources {
            self.held.remove(&name);
        }
        let ack = DeltaDiscoveryRequest {
            type_url: self.type_url.into(),
            response_nonce: answer.nonce,
            ..Default::default()
        };
        self.sender.send(ack).await.unwrap();
    }

    /// Waits until what is held is as `is` wants it.
    pub async fn until<T>(
        &mut self,
        what: &str,
        is: impl Fn(&std::collections::BTreeMap<String, Vec<u8>>) -> Option<T>,
    ) -> T {
        soon(what, async {
            loop {
                if let Some(found) = is(&self.held) {
                    return found;
                }
                self.next().await;
            }
        })
        .await
    }

    /// Waits until this EndpointSet has these endpoints, and gives them.
    pub async fn endpoints(&mut self, key: &str, ids: &[&str]) -> Vec<v1::Endpoint> {
        assert_eq!(self.type_url, type_url::ENDPOINT_SET);
        self.until(&format!("{key} with {ids:?}"), |held| {
            let set: v1::EndpointSet = prost::Message::decode(held.get(key)?.as_slice()).unwrap();
            let all: Vec<_> = set.ports.into_iter().flat_map(|list| list.endpoints).collect();
            (all.iter().map(|e| e.id.as_str()).collect::<Vec<_>>() == ids).then_some(all)
        })
        .await
    }
}

/// What a sidecar says.
pub fn workload(name: &str, app: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        name: name.into(),
        address: "192.0.2.7:15006".into(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        ports: vec![v1::WorkloadPort { port: 8080, name: "http".into() }],
        ..Default::default()
    }
}

/// What a gateway says.
pub fn gateway(address: &str) -> v1::RegisterRequest {
    v1::RegisterRequest { name: "gw".into(), gateway_mesh_address: address.into(), ..Default::default() }
}

/// Services of namespace `bank`, each exported, and a peer that all is exported to and imported from.
pub fn documents(services: &[&str], peer: &str) -> String {
    let mut text = format!(
        "apiVersion: tombolo.dev/v1alpha1\nkind: Peer\nmetadata: {{ name: {peer} }}\nspec:\n  trustDomain: {peer}.example\n  export: {{ services: [{{ namespace: bank, name: '*' }}] }}\n  import: {{ services: [{{ namespace: bank, name: '*' }}] }}\n"
    );
    for service in services {
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {service}, namespace: bank }}\nspec: {{ selector: {{ app: {service} }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n---\napiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {{ name: {service}, namespace: bank }}\n"
        );
    }
    text
}

/// Two clusters, linked by a token of `west` that `east` used.
pub async fn linked(east: &Cluster, west: &Cluster) {
    let token = west.peer_token(60).await;
    let joined = east.peer_join(&token).await.unwrap();
    assert_eq!((joined.cluster.as_str(), joined.trust_domain.as_str()), ("west", "west.example"));
    for (cluster, peer) in [(east, "west"), (west, "east")] {
        cluster.until_peer(peer, "synced", |p| p["state"] == "synced" && p["connected"] == true).await;
    }
}
