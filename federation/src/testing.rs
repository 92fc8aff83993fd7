//! A peer for tests and benchmarks: it speaks the real protocol over real connections, and says whatever it is told to.
//! Behind the feature `testing`; it panics where real code returns errors.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tombolo_core::{
    identity::{Token, testing::FakeCa},
    model::{SpiffeId, TrustBundles, opaque_sni},
    tls::{self, grpc},
};
use tombolo_proto::v1::{self, LinkMessage, link_message::Message, peering_client::PeeringClient};
use tonic::Streaming;

use crate::state::bundle_model;

/// A cluster that has no more than a controller's identity. Its trust domain is `CLUSTER.example`, its network is named
/// as it is.
pub struct FakePeer {
    cluster: String,
    ca: FakeCa,
}

/// Its link with a controller.
pub struct FakeLink {
    /// What is put in here is said.
    pub out: mpsc::Sender<LinkMessage>,
    /// What the controller says.
    pub incoming: Streaming<LinkMessage>,
}

impl FakePeer {
    /// A cluster with a root of its own.
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.into(), ca: FakeCa::new(&format!("{cluster}.example")) }
    }

    /// Links with the cluster that printed the token. Gives what that says of itself.
    pub async fn join(&self, token: &str) -> (Token, v1::ClusterInfo) {
        let token = Token::parse(token).unwrap();
        let expected = SpiffeId::controller(&token.trust_domain);
        let config = tls::bootstrap_client(&token.trust_domain, token.root_sha256, &expected).unwrap();
        let channel = grpc::connect(&token.addresses, config).await.unwrap();
        let bundle = v1::TrustBundle {
            trust_domain: self.ca.trust_domain().to_string(),
            roots_der: vec![self.ca.root().to_vec().into()],
            sequence: 1,
            refresh_hint_seconds: 0,
        };
        let controller_addresses = vec!["127.0.0.1:9".into()];
        let cluster =
            v1::ClusterInfo { name: self.cluster.clone(), bundle: Some(bundle), controller_addresses };
        let request = v1::HandshakeRequest { secret: token.secret.reveal().into(), cluster: Some(cluster) };
        let answer = PeeringClient::new(channel).handshake(request).await.unwrap().into_inner();
        (token, answer.cluster.unwrap())
    }

    /// Opens the link and says Hello. `epoch` names its history.
    pub async fn link(&self, token: &Token, info: &v1::ClusterInfo, epoch: &str) -> FakeLink {
        let mut trust = TrustBundles::default();
        trust.insert(bundle_model(info.bundle.as_ref().unwrap()).unwrap());
        let expected = SpiffeId::controller(&token.trust_domain);
        let config = tls::mesh_client(self.ca.controller(), Arc::new(trust), expected, &["h2"]).unwrap();
        let channel = grpc::connect(&token.addresses, config).await.unwrap();
        let (out, messages) = mpsc::channel(64);
        let hello = v1::Hello {
            cluster: self.cluster.clone(),
            epoch: epoch.into(),
            network: self.cluster.clone(),
            ..Default::default()
        };
        out.send(LinkMessage { message: Some(Message::Hello(hello)) }).await.unwrap();
        let mut client = PeeringClient::new(channel);
        let incoming = client.link(ReceiverStream::new(messages)).await.unwrap().into_inner();
        FakeLink { out, incoming }
    }

    /// An endpoint of a service, as an honest peer tells of it.
    pub fn endpoint(&self, namespace: &str, service: &str, number: usize) -> v1::Endpoint {
        let domain = self.ca.trust_domain();
        let name = format!("{service}-{number}");
        v1::Endpoint {
            id: format!("{domain}/{namespace}/{name}/8080"),
            network: self.cluster.clone(),
            locality: Some(v1::Locality {
                region: "eu-central".into(),
                zone: format!("eu-central-{}", number % 3),
            }),
            weight: 1,
            labels: [("app".to_owned(), service.to_owned())].into(),
            spiffe_id: format!("spiffe://{domain}/ns/{namespace}/sa/{service}"),
            sni: opaque_sni(domain, namespace, &name, 8080),
            target_port: 8080,
            hostname: name,
            ..Default::default()
        }
    }

    /// A service with these endpoints.
    pub fn service(&self, namespace: &str, name: &str, endpoints: Vec<v1::Endpoint>) -> v1::ExportedService {
        v1::ExportedService {
            namespace: namespace.into(),
            name: name.into(),
            ports: vec![v1::ServicePort { name: "http".into(), port: 80, app_protocol: String::new() }],
            endpoints: vec![v1::EndpointList { port: 80, endpoints, summaries: Vec::new() }],
            created_unix: 1,
            ..Default::default()
        }
    }
}

impl FakeLink {
    /// Says something. False: the link is gone.
    pub async fn say(&self, message: Message) -> bool {
        self.out.send(LinkMessage { message: Some(message) }).await.is_ok()
    }

    /// The next thing that the controller says and `wanted` knows; none: the link is gone.
    pub async fn hears<T>(&mut self, mut wanted: impl FnMut(Message) -> Option<T>) -> Option<T> {
        while let Some(Ok(LinkMessage { message })) = self.incoming.next().await {
            if let Some(found) = message.and_then(&mut wanted) {
                return Some(found);
            }
        }
        None
    }

    /// The controller has taken everything up to this revision. False: the link is gone.
    pub async fn is_taken(&mut self, revision: u64) -> bool {
        let ack = |message| match message {
            Message::Ack(ack) if ack.revision == revision => Some(()),
            _ => None,
        };
        self.hears(ack).await.is_some()
    }
}
