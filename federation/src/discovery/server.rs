//! The gRPC service.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tombolo_core::{
    discovery::type_url,
    model::{SpiffeId, TrustDomain},
    tls::grpc::require_id,
};
use tombolo_proto::xds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    acks::{AckStream, Acknowledged, Acks, Whom},
    store::ResourceStore,
    stream::{StreamState, Viewer},
};

/// Streams at a time; one more is refused, and tries again later.
const MAX_STREAMS: usize = 10_000;
/// Responses that wait for a slow client. A type has one under way at most, so this is never reached by an honest one.
const QUEUE: usize = 16;

/// Serves [`ResourceStore`] to the proxies of this cluster.
#[derive(Clone)]
pub struct DeltaServer {
    store: Arc<ResourceStore>,
    trust_domain: TrustDomain,
    streams: Arc<AtomicUsize>,
    nacks: Arc<AtomicU64>,
    acks: Arc<Acks>,
}

impl DeltaServer {
    /// A server for callers of this trust domain.
    pub fn new(store: Arc<ResourceStore>, trust_domain: TrustDomain) -> Self {
        Self { store, trust_domain, streams: Arc::default(), nacks: Arc::default(), acks: Arc::default() }
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Responses that clients have refused since the start.
    pub fn nacks(&self) -> u64 {
        self.nacks.load(Relaxed)
    }

    /// Waits, no longer than `limit`, until every connected proxy has taken the documents over that are published now,
    /// and says who has and who has not. A proxy answers once it decides by them.
    pub async fn acknowledged(&self, limit: Duration) -> Acknowledged {
        self.acknowledged_by(Whom::All, limit).await
    }

    /// As [`Self::acknowledged`], of gateways alone; waits also as long as none is connected.
    pub async fn acknowledged_by_gateways(&self, limit: Duration) -> Acknowledged {
        self.acknowledged_by(Whom::Gateways, limit).await
    }

    /// Connected proxies that have not taken the trust bundles over that are published now, by identity.
    pub fn without_trust(&self) -> Vec<String> {
        self.acks.without_trust(self.store.revision(type_url::TRUST_BUNDLE))
    }

    async fn acknowledged_by(&self, whom: Whom, limit: Duration) -> Acknowledged {
        let revision = self.store.revision(type_url::CONFIG_DOCUMENT);
        // Whether in time or not, the report says.
        let _in_time = tokio::time::timeout(limit, self.acks.wait(revision, whom)).await;
        self.acks.report(revision, whom)
    }

    async fn run(
        self,
        id: SpiffeId,
        acks: AckStream,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) {
        let mut state = StreamState::new(Viewer::of(&id));
        let (mut changes, mut synced) = (self.store.changes(), self.store.synced());
        loop {
            let is_synced = *synced.borrow_and_update();
            changes.borrow_and_update();
            let due = match state.responses(&self.store) {
                Ok(due) => due,
                Err(reason) => {
                    // The client may be gone already.
                    let _sent = responses.send(Err(Status::aborted(reason))).await;
                    return;
                }
            };
            for response in due {
                if responses.send(Ok(response)).await.is_err() {
                    return;
                }
            }
            if let Some(revision) = state.answered(type_url::CONFIG_DOCUMENT) {
                acks.answered(revision);
            }
            if let Some(revision) = state.answered(type_url::TRUST_BUNDLE) {
                acks.trust_answered(revision);
            }
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => match state.request(&request) {
                        Ok(None) => {}
                        Ok(Some(reason)) => {
                            self.nacks.fetch_add(1, Relaxed);
                            if request.type_url == type_url::CONFIG_DOCUMENT {
                                acks.refused(state.told(&request.type_url).unwrap_or(0), &reason);
                            }
                            tracing::warn!(%id, r#type = request.type_url, reason, "a proxy refuses a configuration");
                        }
                        Err(reason) => {
                            // The client may be gone already.
                            let _sent = responses.send(Err(Status::resource_exhausted(reason))).await;
                            return;
                        }
                    },
                    Some(Err(_)) | None => return,
                },
                changed = changes.changed() => if changed.is_err() { return },
                changed = synced.changed(), if !is_synced => if changed.is_err() { return },
                () = responses.closed() => return,
            }
        }
    }
}

/// Counts a stream as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for DeltaServer {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let id = require_id(&request)?.clone();
        if *id.trust_domain() != self.trust_domain {
            return Err(Status::permission_denied("discovery is for this cluster's own proxies"));
        }
        let open = self.streams.fetch_add(1, Relaxed);
        let counted = Counted(self.streams.clone());
        if open >= MAX_STREAMS {
            return Err(Status::resource_exhausted("too many streams"));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let server = self.clone();
        // Waited for from the moment that the client knows of the stream.
        let acks = self.acks.open(&id);
        tokio::spawn(async move {
            server.run(id, acks, request.into_inner(), sender).await;
            drop(counted);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl fmt::Debug for DeltaServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaServer").field("streams", &self.streams()).finish_non_exhaustive()
    }
}
