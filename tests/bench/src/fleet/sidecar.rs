//! One of the many sidecars: all streams of a real one, nothing behind them.

use std::{path::Path, sync::Arc};

use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_core::{
    discovery::{Protocol, type_url},
    identity::Token,
    member::{Member, Registration, RegistrationParts, Reporting, Sharing},
    quota::Quotas,
    telemetry::{AccessLog, Telemetry},
};
use tombolo_proto::{
    v1::{self, RegisterRequest, WorkloadPort, registry_client::RegistryClient},
    xds::{
        DeltaDiscoveryResponse, Node, Resource,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use tonic::transport::Channel;

use super::{CHANGING, LIMIT, join};
use crate::Failure;

/// A sidecar. Ends when it is dropped.
pub struct Sidecar {
    /// The port of the changing endpoint, as it was told last.
    port: watch::Receiver<u16>,
    discovering: JoinHandle<()>,
    _others: (Member, Registration, Reporting, Sharing),
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.discovering.abort();
    }
}

impl Sidecar {
    /// Starts one that uses these services and the changing one. Returns when it knows that one's endpoint.
    pub async fn start(
        token: &Arc<Token>,
        number: usize,
        used: Vec<String>,
        state: &Path,
    ) -> Result<Self, Failure> {
        let name = format!("side-{number}");
        let state_dir = state.join(&name);
        let member = join(token, &state_dir).await?;
        let address = format!("192.0.2.{}:{}", 1 + number % 250, 15_006 + number / 250);
        let request = RegisterRequest { name, address, ..Default::default() };
        let health = watch::channel(v1::Health::Healthy).1;
        let registration = RegistrationParts { connect: member.connect(), request, health, state_dir };
        let mut registration = Registration::start(registration);
        registration.registered().await;
        let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
        let reporting = Reporting::start(member.connect(), telemetry, None);
        let sharing = Sharing::start(member.connect(), Quotas::together());
        let (tell, port) = watch::channel(0);
        let discovering = tokio::spawn(discover(member.connect()().await?, used, tell));
        let mut sidecar = Self { port, discovering, _others: (member, registration, reporting, sharing) };
        sidecar.waits(|port| port > 0).await?;
        Ok(sidecar)
    }

    /// Waits until it was told of this port.
    pub async fn has(&mut self, port: u16) -> Result<(), Failure> {
        self.waits(|told| told >= port).await
    }

    async fn waits(&mut self, wanted: impl Fn(u16) -> bool) -> Result<(), Failure> {
        let told = tokio::time::timeout(LIMIT, self.port.wait_for(|port| wanted(*port))).await;
        told.map_err(|_| "a sidecar is not told")?.map_err(|_| "a sidecar's stream has ended")?;
        Ok(())
    }
}

/// Takes and acknowledges whatever comes.
async fn discover(channel: Channel, used: Vec<String>, tell: watch::Sender<u16>) {
    let wildcard = [type_url::CONFIG_DOCUMENT, type_url::SERVICE, type_url::TRUST_BUNDLE];
    let mut protocol = Protocol::new(Node { id: "side".into(), ..Default::default() }, &wildcard);
    for name in used.iter().map(String::as_str).chain([CHANGING]) {
        protocol.want(type_url::ENDPOINT_SET, name, false);
    }
    let (requests, queue) = mpsc::channel(64);
    for request in protocol.open(|_| Default::default()) {
        if requests.send(request).await.is_err() {
            return;
        }
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let Ok(stream) = client.delta_aggregated_resources(ReceiverStream::new(queue)).await else { return };
    let mut stream = stream.into_inner();
    while let Ok(Some(response)) = stream.message().await {
        if let Some(port) = changing_port(&response) {
            tell.send_replace(port);
        }
        if requests.send(protocol.answer(&response, &[])).await.is_err() {
            return;
        }
    }
}

fn changing_port(response: &DeltaDiscoveryResponse) -> Option<u16> {
    let port = |resource: &Resource| {
        let set = v1::EndpointSet::decode(resource.resource.as_ref()?.value.as_slice()).ok()?;
        set.ports.first()?.endpoints.first()?.target_port.try_into().ok()
    };
    response.resources.iter().find(|resource| resource.name == CHANGING).and_then(port)
}

/// Registers the workload of the changing service, and again with each port. Returns once it is taken.
pub async fn register(channel: Channel, mut ports: watch::Receiver<u16>) -> Result<JoinHandle<()>, Failure> {
    let (requests, queue) = mpsc::channel(4);
    let request = |port: u16| RegisterRequest {
        name: "changing".into(),
        address: "192.0.2.254:15006".into(),
        labels: [("app".to_owned(), "changing".to_owned())].into(),
        ports: vec![WorkloadPort { port: port.into(), name: "http".into() }],
        ..Default::default()
    };
    let first = *ports.borrow_and_update();
    requests.send(request(first)).await?;
    let mut client = RegistryClient::new(channel);
    let mut answers = client.register(ReceiverStream::new(queue)).await?.into_inner();
    answers.message().await?.ok_or("the endpoint is not registered")?;
    let answered = async move { while let Ok(Some(_)) = answers.message().await {} };
    let saying = async move {
        // A heartbeat, where nothing changes.
        let mut beat = tokio::time::interval(std::time::Duration::from_secs(5));
        loop {
            tokio::select! {
                changed = ports.changed() => if changed.is_err() { return },
                _ = beat.tick() => {}
            }
            let port = *ports.borrow_and_update();
            if requests.send(request(port)).await.is_err() {
                return;
            }
        }
    };
    Ok(tokio::spawn(async move {
        tokio::select! { () = answered => {}, () = saying => {} }
    }))
}
