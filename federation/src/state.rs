//! The state that all services of the controller share: the index, what it publishes, and where it is kept.

mod documents;
mod publishing;
mod trust;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};
use tombolo_core::{
    identity::Credentials,
    model::{TrustBundles, TrustDomain},
    resources::Problem,
    telemetry::Telemetry,
    tls::TlsError,
};
use tombolo_proto::v1;
pub use trust::{bundle_message, bundle_model};
use trust::{own_trust, server_config, trust_of};

use crate::{
    ca::{Authorities, JoinTokens, TokenBook},
    config::Documents,
    discovery::ResourceStore,
    index::{Event, Index, Moment, Refusal, RefusalKind, Session},
    ordering::Ordered,
    peering::LinkStats,
    store::{self, Store, StoreError, Write},
};

/// Calls at a time of those who have no certificate yet: one more is told to come again.
const MAX_UNPROVEN: usize = 64;

/// Tells [`Moment`]s: the wall clock at the start, counted on by the monotonic one.
#[derive(Debug)]
pub struct Clock {
    unix_millis: i64,
    started: Instant,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { unix_millis: i64::try_from(since.as_millis()).unwrap_or(i64::MAX), started: Instant::now() }
    }

    /// The moment.
    pub fn now(&self) -> Moment {
        let passed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        Moment(self.unix_millis).plus(passed)
    }
}

/// Tokens by which peers are linked: they grant nothing but that.
pub type PeerTokens = TokenBook<()>;

/// Both books of tokens.
#[derive(Clone, Default)]
pub struct Tokens {
    /// For workloads and gateways.
    pub join: JoinTokens,
    /// For peers.
    pub peer: PeerTokens,
}

/// Everything shared. The index is locked for a moment only, never across an await. Changes of documents and of tokens
/// wait one for the other, as each waits for the disk.
pub struct State {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its network.
    pub network: String,
    /// Its certificate authority.
    pub ca: Authorities,
    /// What proxies are told.
    pub resources: Arc<ResourceStore>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Where this controller is reached, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// How long a registration lives without a heartbeat, in seconds.
    pub lease_seconds: u32,
    /// How long certificates of members live.
    pub certificate_life: Duration,
    /// Certificates that were ordered, and what is wanted.
    pub ordered: Ordered,
    store: Store,
    clock: Clock,
    index: Mutex<Index>,
    documents: ArcSwap<Documents>,
    changing: tokio::sync::Mutex<()>,
    tokens: tokio::sync::Mutex<Tokens>,
    /// When what peers say may be published again: a [`Moment`].
    publish_after: AtomicI64,
    /// Services that were left then.
    unpublished: AtomicUsize,
    /// Something waits for it.
    postponed: Notify,
    exports: watch::Sender<u64>,
    peers: watch::Sender<u64>,
    bundle: watch::Sender<u64>,
    /// As many as there were peers, whose number is bounded.
    links: Mutex<BTreeMap<String, Arc<LinkStats>>>,
    foreign: Mutex<Vec<serde_json::Value>>,
    problems: ArcSwap<Vec<Problem>>,
    unproven: Semaphore,
    sessions: AtomicU64,
    credentials: ArcSwap<Credentials>,
    server: Arc<ArcSwap<ServerConfig>>,
    /// Closes when the last user of this state is gone and the file is closed: declared last, dropped last.
    _alive: mpsc::Sender<()>,
}

/// What a state is made of.
pub struct StateParts {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Its network.
    pub network: String,
    /// Its certificate authority.
    pub ca: Authorities,
    /// This controller's own certificate.
    pub credentials: Arc<Credentials>,
    /// Where this controller is reached.
    pub addresses: Vec<String>,
    /// Where it is kept.
    pub store: Store,
    /// The index with what was kept.
    pub index: Index,
    /// The configuration that was kept.
    pub documents: Documents,
    /// The tokens that were kept.
    pub tokens: Tokens,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// The time.
    pub clock: Clock,
    /// How long a registration lives without a heartbeat, in seconds.
    pub lease_seconds: u32,
    /// How long certificates of members live.
    pub certificate_life: Duration,
    /// Closes when all is over.
    pub alive: mpsc::Sender<()>,
}

/// How a refusal is counted.
fn counted_as(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Malformed => "control_malformed",
        RefusalKind::Policy => "control_policy",
        RefusalKind::Identity => "control_identity",
        RefusalKind::Address => "control_address",
        RefusalKind::Limit => "control_limit",
        RefusalKind::Outdated => "control_outdated",
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Puts it together and publishes what was kept.
    pub fn new(parts: StateParts) -> Result<Arc<Self>, TlsError> {
        let trust_domain = parts.ca.trust_domain().clone();
        let server = server_config(&parts.credentials, own_trust(&parts.ca.bundle()))?;
        let state = Arc::new(Self {
            cluster: parts.cluster,
            trust_domain,
            network: parts.network,
            resources: Arc::default(),
            telemetry: parts.telemetry,
            addresses: parts.addresses,
            store: parts.store,
            clock: parts.clock,
            index: Mutex::new(parts.index),
            documents: ArcSwap::from_pointee(parts.documents),
            changing: tokio::sync::Mutex::default(),
            tokens: tokio::sync::Mutex::new(parts.tokens),
            publish_after: AtomicI64::new(0),
            unpublished: AtomicUsize::new(0),
            postponed: Notify::new(),
            exports: watch::Sender::new(0),
            peers: watch::Sender::new(0),
            bundle: watch::Sender::new(0),
            links: Mutex::default(),
            foreign: Mutex::default(),
            problems: ArcSwap::default(),
            unproven: Semaphore::new(MAX_UNPROVEN),
            sessions: AtomicU64::new(0),
            credentials: ArcSwap::new(parts.credentials),
            server: Arc::new(ArcSwap::new(server)),
            ca: parts.ca,
            lease_seconds: parts.lease_seconds,
            certificate_life: parts.certificate_life,
            ordered: Ordered::default(),
            _alive: parts.alive,
        });
        state.apply(Event::OwnBundle(state.own_bundle()));
        state.configured();
        Ok(state)
    }

    /// Now.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// A number for a new stream, greater than all before.
    pub fn session(&self) -> Session {
        self.sessions.fetch_add(1, Relaxed) + 1
    }

    /// Takes an event, publishes and saves what comes of it. What is refused is counted, and told to the caller.
    pub fn apply(&self, event: Event) -> Vec<Refusal> {
        let refusals = self.apply_quietly(event);
        for refusal in &refusals {
            tracing::debug!(object = refusal.object, reason = refusal.reason, "refused");
            self.telemetry.bad_input(counted_as(refusal.kind));
        }
        refusals
    }

    /// The server verifies peers by their own bundles, each by its own alone.
    fn retrust(&self, index: &Index) {
        match server_config(&self.credentials.load(), trust_of(index, &self.ca.bundle())) {
            Ok(config) => self.server.store(config),
            Err(error) => tracing::error!(%error, "the server keeps its last trust"),
        }
    }

    /// This cluster's own bundle has changed: everybody is told.
    pub fn bundle_changed(&self) {
        self.apply(Event::OwnBundle(self.own_bundle()));
        self.retrust(&locked(&self.index));
        self.bundle.send_modify(|count| *count += 1);
    }

    /// A fresh certificate for this controller.
    pub fn renew(&self, credentials: Arc<Credentials>) {
        self.credentials.store(credentials);
        self.retrust(&locked(&self.index));
    }

    /// The server's TLS configuration; changes with certificate and trust.
    pub fn server_config(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.server.clone()
    }

    /// This controller's certificate.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.load_full()
    }

    /// The bundles of this cluster and of all peers, for this controller's own connections. Those who are peers no more
    /// are among them, so that they can be told: what else they ask for is refused by who they are.
    pub fn trust(&self) -> Arc<TrustBundles> {
        trust_of(&locked(&self.index), &self.ca.bundle())
    }

    /// Looks at the index.
    pub fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&locked(&self.index))
    }

    /// The documents in force.
    pub fn documents(&self) -> Arc<Documents> {
        self.documents.load_full()
    }

    /// Changes with each change of what some peer is told.
    pub fn exports(&self) -> watch::Receiver<u64> {
        self.exports.subscribe()
    }

    /// Changes with each peer that is linked, revoked or gone.
    pub fn peers(&self) -> watch::Receiver<u64> {
        self.peers.subscribe()
    }

    /// Changes with each change of this cluster's own bundle.
    pub fn bundle_changes(&self) -> watch::Receiver<u64> {
        self.bundle.subscribe()
    }

    /// Keeps something; it reaches the disk soon.
    pub fn save(&self, write: Write) {
        self.store.save([write]);
    }

    /// How the bundles are that come from endpoints, for the status.
    pub fn show_foreign(&self, shown: Vec<serde_json::Value>) {
        *locked(&self.foreign) = shown;
    }

    /// What was shown of them last.
    pub fn foreign(&self) -> Vec<serde_json::Value> {
        locked(&self.foreign).clone()
    }

    /// What goes over the links with a peer.
    pub fn link_stats(&self, cluster: &str) -> Arc<LinkStats> {
        let mut links = locked(&self.links);
        if let Some(known) = links.get(cluster) {
            return Arc::clone(known);
        }
        Arc::clone(links.entry(cluster.to_owned()).or_default())
    }

    /// A peer is in the list no more: what goes with it goes as well.
    pub fn peer_forgotten(&self, cluster: &str) {
        locked(&self.links).remove(cluster);
        self.retrust(&locked(&self.index));
    }

    /// A place for a call of somebody who has no certificate; none if too many are under way.
    pub fn unproven(&self) -> Option<SemaphorePermit<'_>> {
        self.unproven.try_acquire().ok()
    }

    /// Writes to the disk that failed.
    pub fn store_failures(&self) -> u64 {
        self.store.failures()
    }

    /// This cluster's own bundle, for the wire.
    pub fn own_bundle(&self) -> v1::TrustBundle {
        bundle_message(&self.ca.bundle())
    }

    /// Waits until the disk has what was noted before: who is told that something is done finds it done after a crash.
    pub async fn saved(&self) -> Result<(), StoreError> {
        self.store.commit(Vec::new()).await
    }

    /// What this cluster says of itself to a peer.
    pub fn cluster_info(&self) -> v1::ClusterInfo {
        v1::ClusterInfo {
            name: self.cluster.to_string(),
            bundle: Some(self.own_bundle()),
            controller_addresses: self.addresses.clone(),
        }
    }

    /// Changes the books of tokens, if `work` succeeds and the disk takes it: a token that was used stays used.
    pub async fn with_tokens<T, E>(
        &self,
        work: impl FnOnce(&mut Tokens) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        let mut tokens = self.tokens.lock().await;
        let mut next = tokens.clone();
        let outcome = match work(&mut next) {
            Ok(outcome) => outcome,
            Err(error) => return Ok(Err(error)),
        };
        let now = SystemTime::now();
        next.join.forget_expired(now);
        next.peer.forget_expired(now);
        let writes = vec![store::join_tokens(&next.join), store::peer_tokens(&next.peer)];
        self.store.commit(writes).await?;
        *tokens = next;
        Ok(Ok(outcome))
    }

    /// Problems of kept or watched documents, told.
    pub fn tell(&self, problems: &[Problem]) {
        for problem in problems {
            self.telemetry.bad_input("document");
            tracing::error!(%problem, "not in force; the last good one stays");
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}
