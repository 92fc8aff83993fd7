//! The stream to the controller, kept open, and what comes of it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::DashSet;
use futures::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_proto::xds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tonic::transport::Channel;

use super::{
    assembly::{Assembly, Compile},
    cache::Cache,
    pauses::Pauses,
    protocol::{MAX_NAMES, Protocol},
    saving::Unsaved,
    type_url,
};
use crate::{
    model::{ServiceKey, Snapshot},
    resources::ResourceSet,
};

/// Requests that wait to be sent; the stream is slow when there are so many, and the sender waits.
const QUEUE: usize = 64;
/// A connection must be made within this time.
const CONNECT: Duration = Duration::from_secs(10);
/// A message may be this large.
const MAX_MESSAGE: usize = 64 << 20;

/// Makes a channel to the controller; called for each try.
pub type Connect = Arc<dyn Fn() -> BoxFuture<'static, Result<Channel, String>> + Send + Sync>;

/// Sees each snapshot and its documents.
pub type BeforePublish = Arc<dyn Fn(&Snapshot, &ResourceSet) + Send + Sync>;

/// What a client is made of.
pub struct ClientParts {
    /// Who this proxy says it is; the controller believes the certificate.
    pub node: Node,
    /// Types of which everything is wanted.
    pub wildcard: Vec<&'static str>,
    /// `decide::compile`.
    pub compile: Compile,
    /// How to reach the controller.
    pub connect: Connect,
    /// Where the last good state is kept.
    pub cache: Option<Cache>,
    /// Called with each new snapshot and its documents before they are published, and so before they are acknowledged; balancing takes over the endpoints here.
    pub before_publish: BeforePublish,
}

/// Counters of a client.
#[derive(Debug, Default)]
pub struct DiscoveryStats {
    /// A stream is open and has answered.
    pub connected: AtomicBool,
    /// Responses taken whole.
    pub acks: AtomicU64,
    /// Responses of which something was refused.
    pub nacks: AtomicU64,
    /// Streams opened.
    pub streams: AtomicU64,
    /// Saves of the cache that failed.
    pub saves_failed: AtomicU64,
}

/// What is discovered, for the rest of the process. Cheap to clone.
#[derive(Clone)]
pub struct Discovery {
    snapshot: Arc<ArcSwap<Snapshot>>,
    documents: Arc<ArcSwap<ResourceSet>>,
    version: watch::Receiver<u64>,
    synced: watch::Receiver<bool>,
    confirmed: watch::Receiver<bool>,
    wanted: Arc<DashSet<ServiceKey>>,
    want: mpsc::UnboundedSender<ServiceKey>,
    stats: Arc<DiscoveryStats>,
}

impl Discovery {
    /// The snapshot in force.
    pub fn snapshot(&self) -> &Arc<ArcSwap<Snapshot>> {
        &self.snapshot
    }

    /// The documents in force: what the snapshot was compiled from. Published just before it.
    pub fn documents(&self) -> &Arc<ArcSwap<ResourceSet>> {
        &self.documents
    }

    /// Changes with each snapshot.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    /// True once there is a good state: from the cache, or the first answer for every type.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.clone()
    }

    /// True once the controller itself has answered for every type of which everything is wanted: from then on, what
    /// is not in the snapshot does not exist. The cache alone does not say so.
    pub fn confirmed(&self) -> watch::Receiver<bool> {
        self.confirmed.clone()
    }

    /// Counters.
    pub fn stats(&self) -> &Arc<DiscoveryStats> {
        &self.stats
    }

    /// Subscribes to a service's endpoints, for as long as the process runs. At most 10,000; one more is ignored, and
    /// its endpoints stay unknown.
    pub fn want(&self, service: &ServiceKey) {
        if self.wanted.contains(service) || self.wanted.len() >= MAX_NAMES {
            return;
        }
        if self.wanted.insert(service.clone()) {
            // The client may have ended; then nothing is subscribed to any more.
            let _sent = self.want.send(service.clone());
        }
    }

    /// Subscribes, and waits until the service's endpoints are known, no longer than `limit`. False: they are not.
    pub async fn wait_for(&self, service: &ServiceKey, limit: Duration) -> bool {
        self.want(service);
        let mut version = self.version.clone();
        let known = async {
            loop {
                version.borrow_and_update();
                let known =
                    self.snapshot.load().services.get(service).is_some_and(|e| !e.endpoints.is_empty());
                if known || version.changed().await.is_err() {
                    return known;
                }
            }
        };
        timeout(limit, known).await.unwrap_or(false)
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// Keeps a stream open and publishes what comes of it.
pub struct Client {
    parts: ClientParts,
    protocol: Protocol,
    assembly: Assembly,
    answered: BTreeSet<&'static str>,
    /// Something has changed that is in no snapshot yet.
    unpublished: bool,
    snapshot: Arc<ArcSwap<Snapshot>>,
    documents: Arc<ArcSwap<ResourceSet>>,
    version: watch::Sender<u64>,
    synced: watch::Sender<bool>,
    confirmed: watch::Sender<bool>,
    want: mpsc::UnboundedReceiver<ServiceKey>,
    unsaved: Unsaved,
    stats: Arc<DiscoveryStats>,
}

impl Client {
    /// A client that has taken over the cache, if there is a good one. [`Self::run`] does the rest.
    pub fn new(parts: ClientParts) -> (Self, Discovery) {
        let (version, versions) = watch::channel(0);
        let (synced, is_synced) = watch::channel(false);
        let (confirmed, is_confirmed) = watch::channel(false);
        let (want, wants) = mpsc::unbounded_channel();
        let (snapshot, documents) = (Arc::new(ArcSwap::default()), Arc::new(ArcSwap::default()));
        let stats = Arc::new(DiscoveryStats::default());
        let wanted = Arc::new(DashSet::new());
        let mut client = Self {
            protocol: Protocol::new(parts.node.clone(), &parts.wildcard),
            assembly: Assembly::new(parts.compile),
            answered: BTreeSet::new(),
            unpublished: false,
            snapshot: snapshot.clone(),
            documents: documents.clone(),
            version,
            synced,
            confirmed,
            want: wants,
            unsaved: Unsaved::default(),
            stats: stats.clone(),
            parts,
        };
        client.load_cache(&wanted);
        let discovery = Discovery {
            snapshot,
            documents,
            version: versions,
            synced: is_synced,
            confirmed: is_confirmed,
            wanted,
            want,
            stats,
        };
        (client, discovery)
    }

    fn load_cache(&mut self, wanted: &DashSet<ServiceKey>) {
        let Some(cache) = &self.parts.cache else { return };
        let responses = match cache.load() {
            Ok(Some(responses)) => responses,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "the cached snapshot is not used"),
        };
        for response in &responses {
            for refused in self.assembly.apply(response).refused {
                tracing::warn!(
                    name = refused.name,
                    reason = refused.reason,
                    "not taken from the cached snapshot"
                );
            }
        }
        // What was used before the restart is subscribed to again.
        for name in self.assembly.versions(type_url::ENDPOINT_SET).into_keys() {
            if let Ok(key) = ServiceKey::parse(&name) {
                wanted.insert(key);
                self.protocol.want(type_url::ENDPOINT_SET, &name, false);
            }
        }
        self.publish();
        self.synced.send_replace(true);
        tracing::info!("starts from the cached snapshot");
    }

    /// Connects, serves the stream, connects again, until `end`; then what is not saved yet is saved, without delay. A
    /// client that is dropped before saves nothing more.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        let mut saving = JoinSet::new();
        if let Some(cache) = self.parts.cache.clone() {
            saving.spawn(self.unsaved.save_to(cache, Arc::clone(&self.stats)));
        }
        tokio::select! {
            () = self.follow() => {}
            () = end => {}
        }
        // The saver ends with what it is told by.
        drop(self);
        while saving.join_next().await.is_some() {}
    }

    async fn follow(&mut self) {
        let mut pauses = Pauses::default();
        loop {
            let connecting = timeout(CONNECT, (self.parts.connect)()).await;
            let outcome = match connecting.unwrap_or_else(|_| Err("timed out".into())) {
                Ok(channel) => self.serve(channel, &mut pauses).await,
                Err(error) => error,
            };
            if self.stats.connected.swap(false, Relaxed) {
                tracing::warn!(
                    reason = outcome,
                    "the controller is away; the last good state stays in force"
                );
            } else {
                tracing::debug!(reason = outcome, "the controller is not reached");
            }
            pauses.pause().await;
        }
    }

    /// One stream from its beginning to its end. Says why it ended.
    async fn serve(&mut self, channel: Channel, pauses: &mut Pauses) -> String {
        let (requests, queue) = mpsc::channel::<DeltaDiscoveryRequest>(QUEUE);
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        for request in self.protocol.open(|url| self.assembly.versions(url)) {
            if requests.send(request).await.is_err() {
                return "the stream has ended".into();
            }
        }
        let mut stream = match client.delta_aggregated_resources(ReceiverStream::new(queue)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        self.stats.streams.fetch_add(1, Relaxed);
        loop {
            let request = tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => {
                        pauses.again_short();
                        Some(self.take(&response))
                    }
                    Ok(None) => return "the controller has ended the stream".into(),
                    Err(status) => return status.message().to_owned(),
                },
                Some(service) = self.want.recv() => {
                    self.protocol.want(type_url::ENDPOINT_SET, &service.to_string(), true)
                }
            };
            if let Some(request) = request
                && requests.send(request).await.is_err()
            {
                return "the stream has ended".into();
            }
        }
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        if !self.stats.connected.swap(true, Relaxed) {
            tracing::info!("the controller answers");
        }
        let applied = self.assembly.apply(response);
        let counter = if applied.refused.is_empty() { &self.stats.acks } else { &self.stats.nacks };
        counter.fetch_add(1, Relaxed);
        for refused in &applied.refused {
            tracing::warn!(name = refused.name, reason = refused.reason, "refused; the last good one stays");
        }
        self.unpublished |= applied.changed;
        // Else more of the same follows once this is acknowledged.
        if !response.system_version_info.is_empty() {
            self.whole(&response.type_url);
        }
        self.protocol.answer(response, &applied.refused)
    }

    /// All of a type is here that there is to be told.
    fn whole(&mut self, type_url: &str) {
        if std::mem::take(&mut self.unpublished) {
            self.publish();
            if self.parts.cache.is_some() {
                self.unsaved.put(self.assembly.held());
            }
        }
        if let Some(url) = type_url::ALL.into_iter().find(|url| *url == type_url) {
            self.answered.insert(url);
        }
        if !*self.confirmed.borrow() && self.parts.wildcard.iter().all(|url| self.answered.contains(url)) {
            if !*self.synced.borrow() {
                // Also where everything is empty there is a snapshot now.
                self.publish();
                self.synced.send_replace(true);
            }
            self.confirmed.send_replace(true);
        }
    }

    fn publish(&mut self) {
        let snapshot = self.assembly.snapshot();
        (self.parts.before_publish)(&snapshot, self.assembly.documents());
        let version = snapshot.version;
        self.documents.store(Arc::new(self.assembly.documents().clone()));
        self.snapshot.store(Arc::new(snapshot));
        self.version.send_replace(version);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("stats", &self.stats).finish_non_exhaustive()
    }
}
