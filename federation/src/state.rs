//! The state that all services of the controller share: the index, what it publishes, and where it is kept.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::watch;
use tombolo_core::{
    identity::Credentials,
    model::{SpiffeId, TrustBundle, TrustBundles, TrustDomain},
    resources::Problem,
    telemetry::Telemetry,
    tls::{self, TlsError},
};
use tombolo_proto::v1;

use crate::{
    ca::{CertificateAuthority, JoinTokens, TokenBook},
    config::{self, Documents, Proposal},
    discovery::{ResourceStore, Update},
    index::{Changes, Event, Index, Kind, Moment, Refusal, Session},
    store::{Store, StoreError},
};

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

/// Both books of tokens.
#[derive(Default)]
pub struct Tokens {
    /// For workloads and gateways.
    pub join: JoinTokens,
    /// For peers.
    pub peer: TokenBook<()>,
}

/// Everything shared. Locks are held for a moment only, never across an await.
pub struct State {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its network.
    pub network: String,
    /// Its certificate authority.
    pub ca: CertificateAuthority,
    /// What proxies are told.
    pub resources: Arc<ResourceStore>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Where this controller is reached, `HOST:PORT`.
    pub addresses: Vec<String>,
    store: Store,
    clock: Clock,
    index: Mutex<Index>,
    documents: Mutex<Documents>,
    tokens: Mutex<Tokens>,
    exports: watch::Sender<u64>,
    sessions: AtomicU64,
    credentials: ArcSwap<Credentials>,
    server: Arc<ArcSwap<ServerConfig>>,
}

/// What a state is made of.
pub struct StateParts {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Its network.
    pub network: String,
    /// Its certificate authority.
    pub ca: CertificateAuthority,
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
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// The time.
    pub clock: Clock,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Puts it together and publishes what was kept.
    pub fn new(parts: StateParts) -> Result<Arc<Self>, StateError> {
        let trust_domain = parts.ca.trust_domain().clone();
        let server = server_config(&parts.credentials, own_trust(parts.ca.bundle()))?;
        let tokens = Tokens {
            join: parts.store.get("tokens/join")?.unwrap_or_default(),
            peer: parts.store.get("tokens/peer")?.unwrap_or_default(),
        };
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
            documents: Mutex::new(parts.documents),
            tokens: Mutex::new(tokens),
            exports: watch::Sender::new(0),
            sessions: AtomicU64::new(0),
            credentials: ArcSwap::new(parts.credentials),
            server: Arc::new(ArcSwap::new(server)),
            ca: parts.ca,
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

    /// Something happened: what comes of it is published and kept.
    pub fn apply(&self, event: Event) -> Vec<Refusal> {
        let mut index = locked(&self.index);
        let refusals = index.apply(event, self.clock.now());
        let changes = index.publish();
        self.publish(&index, changes);
        drop(index);
        for refusal in &refusals {
            tracing::debug!(object = refusal.object, reason = refusal.reason, "refused");
            self.telemetry.bad_input("control");
        }
        refusals
    }

    fn publish(&self, index: &Index, changes: Changes) {
        let trust_changed = changes.resources.iter().any(|change| change.kind == Kind::TrustBundle);
        if !changes.resources.is_empty() {
            self.resources.apply(changes.resources.into_iter().map(|change| Update {
                type_url: change.kind.type_url(),
                name: change.name,
                value: change.resource.map(|resource| resource.encode()),
            }));
        }
        self.store.save(changes.saves);
        if changes.exports {
            self.exports.send_modify(|count| *count += 1);
        }
        if trust_changed {
            self.retrust(index);
        }
    }

    /// The server verifies peers by their own bundles, each by its own alone.
    fn retrust(&self, index: &Index) {
        match server_config(&self.credentials.load(), trust_of(index, self.ca.bundle())) {
            Ok(config) => self.server.store(config),
            Err(error) => tracing::error!(%error, "the server keeps its last trust"),
        }
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

    /// The bundles of this cluster and of all peers.
    pub fn trust(&self) -> Arc<TrustBundles> {
        trust_of(&locked(&self.index), self.ca.bundle())
    }

    /// Looks at the index.
    pub fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&locked(&self.index))
    }

    /// Looks at the documents.
    pub fn with_documents<T>(&self, look: impl FnOnce(&Documents) -> T) -> T {
        look(&locked(&self.documents))
    }

    /// Changes with each change of what some peer is told.
    pub fn exports(&self) -> watch::Receiver<u64> {
        self.exports.subscribe()
    }

    /// This cluster's own bundle, for the wire.
    pub fn own_bundle(&self) -> v1::TrustBundle {
        bundle_message(self.ca.bundle())
    }

    /// What this cluster says of itself to a peer.
    pub fn cluster_info(&self) -> v1::ClusterInfo {
        v1::ClusterInfo {
            name: self.cluster.to_string(),
            bundle: Some(self.own_bundle()),
            controller_addresses: self.addresses.clone(),
        }
    }

    /// Changes the documents by what `propose` makes of them: kept first, then in force. `None` changes nothing.
    pub fn change_documents<E>(
        &self,
        propose: impl FnOnce(&Documents) -> Result<Option<Proposal>, E>,
    ) -> Result<Result<u64, E>, StoreError> {
        let mut documents = locked(&self.documents);
        let proposal = match propose(&documents) {
            Ok(Some(proposal)) => proposal,
            Ok(None) => return Ok(Ok(documents.generation().number)),
            Err(error) => return Ok(Err(error)),
        };
        let number = proposal.generation.number;
        if proposal.generation.documents != documents.generation().documents
            || proposal.generation.from_files != documents.generation().from_files
        {
            self.store.put_generation(&proposal.generation)?;
        }
        documents.adopt(proposal);
        drop(documents);
        self.configured();
        Ok(Ok(number))
    }

    fn configured(&self) {
        let (configuration, generation) = {
            let documents = locked(&self.documents);
            let number = documents.generation().number;
            (config::configuration(number, documents.resources(), &self.cluster), number)
        };
        self.telemetry.set("configuration_generation", i64::try_from(generation).unwrap_or(i64::MAX));
        self.apply(Event::Configured(Arc::new(configuration)));
    }

    /// Uses the books of tokens; what changes in them is kept before anybody gets an answer.
    pub fn with_tokens<T>(&self, work: impl FnOnce(&mut Tokens) -> T) -> Result<T, StoreError> {
        let mut tokens = locked(&self.tokens);
        let outcome = work(&mut tokens);
        let now = SystemTime::now();
        tokens.join.forget_expired(now);
        tokens.peer.forget_expired(now);
        self.store.put("tokens/join", &tokens.join)?;
        self.store.put("tokens/peer", &tokens.peer)?;
        Ok(outcome)
    }

    /// Problems of kept or watched documents, told.
    pub fn tell(&self, problems: &[Problem]) {
        for problem in problems {
            self.telemetry.bad_input("document");
            tracing::error!(%problem, "not in force; the last good one stays");
        }
    }
}

/// Why the state cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn server_config(
    credentials: &Arc<Credentials>,
    trust: Arc<TrustBundles>,
) -> Result<Arc<ServerConfig>, TlsError> {
    tls::controller_server(credentials.clone(), trust, &["h2"])
}

fn own_trust(bundle: &TrustBundle) -> Arc<TrustBundles> {
    let mut trust = TrustBundles::default();
    trust.insert(bundle.clone());
    Arc::new(trust)
}

fn trust_of(index: &Index, own: &TrustBundle) -> Arc<TrustBundles> {
    let mut trust = TrustBundles::default();
    for (_, peer) in index.peers().filter(|(_, peer)| peer.ended.is_none()) {
        if let Some(bundle) = bundle_model(&peer.identity.bundle) {
            trust.insert(bundle);
        }
    }
    // Last, so that no peer can take its place.
    trust.insert(own.clone());
    Arc::new(trust)
}

/// A bundle for the wire.
fn bundle_message(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: bundle.trust_domain.to_string(),
        roots_der: bundle.roots.iter().map(|root| root.to_vec().into()).collect(),
        sequence: bundle.sequence,
        refresh_hint_seconds: 3600,
    }
}

/// A bundle from the wire; none if it is not valid.
pub fn bundle_model(message: &v1::TrustBundle) -> Option<TrustBundle> {
    let domain = TrustDomain::parse(&message.trust_domain).ok()?;
    let roots = message.roots_der.iter().map(|root| Arc::from(root.as_ref())).collect();
    let bundle = TrustBundle::new(domain, roots, message.sequence).ok()?;
    tls::check_bundle(&bundle).ok()?;
    Some(bundle)
}

/// The controller of a trust domain.
pub fn controller_of(trust_domain: &TrustDomain) -> SpiffeId {
    SpiffeId::controller(trust_domain)
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}
