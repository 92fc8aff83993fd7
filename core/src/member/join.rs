//! Becoming a member of the mesh: an identity, and the way to the controller.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tombolo_proto::xds::Node;

use super::{PoolFeeder, line::Line, standing::Watching};
use crate::{
    discovery::{Cache, Client, ClientParts, Compile, Connect, Discovery},
    identity::{
        self, GrpcSigner, Rotating, Rotation, RotationError, Schedule, Store, StoreError, Token, system_clock,
    },
    lifecycle::Readiness,
    model::{SpiffeId, TrustBundle, TrustBundles},
    resources::ResourceSet,
    telemetry::Telemetry,
    tls::{self, grpc},
};

/// At the end the disk is given so long to take what is not saved yet.
const LAST_SAVE: Duration = Duration::from_secs(10);
/// How often metrics show the state of discovery.
const REPORT: Duration = Duration::from_secs(1);

/// What a process needs to become a member.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The controllers of its cluster, `HOST:PORT`, tried in this order; the token's own come after them.
    pub controllers: Vec<String>,
    /// For its first certificate. Without one there has to be an identity in the state directory.
    pub token: Option<Arc<Token>>,
    /// Where identity and the last good snapshot outlive the process.
    pub state_dir: PathBuf,
}

/// Why a process is no member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no certificate to be had.
    #[error(transparent)]
    Identity(#[from] RotationError),
}

/// A member of the mesh. Its certificate is kept fresh for as long as this lives.
#[derive(Debug)]
pub struct Member {
    id: SpiffeId,
    rotating: Rotating,
    line: Arc<Line>,
    learned: Arc<Learned>,
    state_dir: PathBuf,
}

impl Member {
    /// Obtains an identity, or takes the one on disk. Waits for as long as it takes to reach a controller, unless there
    /// is a valid identity on disk.
    pub async fn join(options: JoinOptions) -> Result<Self, JoinError> {
        let store = Store::open(&options.state_dir)?;
        let trust_domain = match &options.token {
            Some(token) => token.trust_domain.clone(),
            None => match store.load()? {
                Some(identity) => identity.credentials.id().trust_domain().clone(),
                None => return Err(RotationError::NoProof.into()),
            },
        };
        let mut addresses = options.controllers;
        for address in options.token.iter().flat_map(|token| &token.addresses) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let rotation = Rotation {
            signer: Arc::new(GrpcSigner::controller(&trust_domain, addresses.clone())),
            store: Some(store),
            token: options.token,
            schedule: Schedule::default(),
            clock: system_clock(),
        };
        let rotating = rotation.start().await?;
        let id = rotating.credentials().borrow().id().clone();
        tracing::info!(%id, "has an identity");
        let learned = Arc::default();
        let line = Self::line(&rotating, &learned, addresses, SpiffeId::controller(&trust_domain));
        Ok(Self { id, rotating, line, learned, state_dir: options.state_dir })
    }

    /// Who this process is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificate in force.
    pub fn credentials(&self) -> identity::Watch {
        self.rotating.credentials()
    }

    /// Shows from now on how the certificate stands: in metrics, in the log, and in `readiness`, where a certificate that
    /// is late to be renewed is told, and one that has expired is missing. Ends with this member.
    pub fn show_certificate(&self, readiness: &Readiness, telemetry: &Arc<Telemetry>) {
        let watching = Watching {
            credentials: self.rotating.credentials(),
            renewals: Arc::clone(self.rotating.renewals()),
            clock: system_clock(),
            readiness: readiness.clone(),
            telemetry: Arc::clone(telemetry),
        };
        watching.start();
    }

    /// A way to the controller for one that calls it: all share a connection, made with the certificate and roots of the
    /// moment. Who asks again gets another one.
    pub fn connect(&self) -> Connect {
        self.line.user()
    }

    /// The connection, not made yet.
    fn line(
        rotating: &Rotating,
        learned: &Arc<Learned>,
        addresses: Vec<String>,
        controller: SpiffeId,
    ) -> Arc<Line> {
        let (learned, bundle) = (Arc::clone(learned), rotating.bundle());
        Line::new(rotating.credentials(), move |credentials| {
            let mut trust = TrustBundles::default();
            trust.insert((*learned.newest(&bundle)).clone());
            let config = tls::mesh_client(credentials, Arc::new(trust), &controller, &["h2"]);
            let addresses = addresses.clone();
            Box::pin(async move {
                let config = config.map_err(|error| error.to_string())?;
                grpc::connect(&addresses, config).await.map_err(|error| error.to_string())
            })
        })
    }

    /// Starts discovery, from the cached snapshot if there is one. Everything of the types in `wildcard` is wanted;
    /// `feeder` gets each snapshot before it is published.
    pub fn discover(
        &self,
        kind: &str,
        wildcard: Vec<&'static str>,
        compile: Compile,
        feeder: Arc<PoolFeeder>,
        telemetry: Arc<Telemetry>,
    ) -> (Discovery, Discovering) {
        self.discover_following(kind, wildcard, compile, feeder, telemetry, |_| {})
    }

    /// As [`Self::discover`]; `follow` sees the documents of each snapshot before the controller is told that they are in
    /// force.
    pub fn discover_following(
        &self,
        kind: &str,
        wildcard: Vec<&'static str>,
        compile: Compile,
        feeder: Arc<PoolFeeder>,
        telemetry: Arc<Telemetry>,
        follow: impl Fn(&ResourceSet) + Send + Sync + 'static,
    ) -> (Discovery, Discovering) {
        let (learned, own) = (Arc::clone(&self.learned), self.id.clone());
        let (client, discovery) = Client::new(ClientParts {
            node: Node {
                id: self.id.to_string(),
                user_agent_name: format!("tombolo-{kind}"),
                ..Node::default()
            },
            wildcard,
            compile,
            connect: self.connect(),
            cache: Some(Cache::new(&self.state_dir)),
            before_publish: Arc::new(move |snapshot, documents| {
                if let Some(bundle) = snapshot.trust.get(own.trust_domain()) {
                    learned.learn(bundle);
                }
                feeder.feed(snapshot);
                follow(documents);
            }),
        });
        let discovering = Discovering::start(client, discovery.clone(), self.credentials(), telemetry);
        (discovery, discovering)
    }
}

/// Discovery that runs. Dropped, it ends without saving what it heard last.
#[derive(Debug)]
pub struct Discovering {
    end: Option<oneshot::Sender<()>>,
    client: JoinHandle<()>,
    report: JoinHandle<()>,
}

impl Discovering {
    fn start(
        client: Client,
        discovery: Discovery,
        credentials: identity::Watch,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let (end, ended) = oneshot::channel();
        // Its sender lives in what this makes, and goes with it.
        let client = client.run(async move { drop(ended.await) });
        let report = report(discovery, credentials, telemetry);
        Self { end: Some(end), client: tokio::spawn(client), report: tokio::spawn(report) }
    }

    /// Hears no more of the controller, and waits until the last good state is saved, 10 s at most: who starts
    /// again with no controller there starts from that.
    pub async fn finish(mut self) {
        drop(self.end.take());
        if tokio::time::timeout(LAST_SAVE, &mut self.client).await.is_err() {
            tracing::warn!(limit = ?LAST_SAVE, "the snapshot is not saved in time: a restart would use an older one");
        }
    }
}

impl Drop for Discovering {
    fn drop(&mut self) {
        self.client.abort();
        self.report.abort();
    }
}

/// Shows in metrics how discovery and the certificate do, for as long as it is polled.
async fn report(discovery: Discovery, credentials: identity::Watch, telemetry: Arc<Telemetry>) {
    let stats = discovery.stats();
    let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut nacks = 0;
    loop {
        telemetry.set("controller_connected", i64::from(stats.connected.load(Relaxed)));
        telemetry.set("discovery_streams", gauge(stats.streams.load(Relaxed)));
        telemetry.set("discovery_saves_failed", gauge(stats.saves_failed.load(Relaxed)));
        let refused = stats.nacks.load(Relaxed);
        (nacks..refused).for_each(|_| telemetry.bad_input("control"));
        nacks = refused;
        let expires = credentials.borrow().not_after().duration_since(SystemTime::UNIX_EPOCH);
        telemetry.set("identity_expires_unix", gauge(expires.unwrap_or_default().as_secs()));
        tokio::time::sleep(REPORT).await;
    }
}

/// The own trust domain's bundle, as discovery has told it last.
#[derive(Debug, Default)]
struct Learned(Mutex<Option<Arc<TrustBundle>>>);

impl Learned {
    fn learn(&self, bundle: &Arc<TrustBundle>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(bundle));
    }

    /// This one or the certificate's, whichever is newer.
    fn newest(&self, issued: &watch::Receiver<Arc<TrustBundle>>) -> Arc<TrustBundle> {
        let issued = Arc::clone(&issued.borrow());
        let learned = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        learned.filter(|learned| learned.sequence > issued.sequence).unwrap_or(issued)
    }
}
