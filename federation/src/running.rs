//! Putting a controller together.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    time::interval,
};
use tokio_stream::wrappers::UnixListenerStream;
use tombolo_core::{
    lifecycle::{
        Readiness,
        admin::{self, Admin, Page, Pages},
    },
    model::TrustDomain,
    telemetry::Telemetry,
    tls::grpc,
};
use tombolo_proto::{
    v1::{
        identity_server::IdentityServer, operator_server::OperatorServer, peering_server::PeeringServer,
        registry_server::RegistryServer,
    },
    xds::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use tonic::transport::Server;

use crate::{
    ca::{CaError, CertificateAuthority, DEFAULT_TTL},
    config::{Documents, Watcher},
    discovery::DeltaServer,
    index::{Event, Index, Settings},
    operator::OperatorService,
    peering::Peering,
    server::Services,
    state::{Clock, State, StateError, StateParts},
    status,
    store::{Store, StoreError},
};

/// How long a registration outlives its last heartbeat.
pub const LEASE_SECONDS: u32 = 15;
/// After a restart, what was registered or imported is believed for so long without a sign of life.
const RESTART_GRACE: Duration = Duration::from_secs(60);
/// A peer that is silent for so long is stale; its endpoints are used last.
const PEER_LEASE: Duration = Duration::from_secs(30);
/// A peer that is silent for so long has no endpoints any more.
const PEER_DROP: Duration = Duration::from_secs(24 * 3600);
/// How often files are looked at, and leases.
const TICK: Duration = Duration::from_millis(500);
/// A message may be this large.
const MAX_MESSAGE: usize = 64 << 20;
/// Messages of workloads are small.
const MAX_SMALL_MESSAGE: usize = 1 << 20;

/// Everything that a controller is told at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where CA, configuration and registrations are kept.
    pub state_dir: PathBuf,
    /// Where proxies and peers reach it; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The same as they see it, `HOST:PORT`; none: as it is bound.
    pub advertise: Vec<String>,
    /// Files and directories of documents.
    pub config: Vec<PathBuf>,
    /// The network.
    pub network: String,
    /// Where the admin pages are; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster's name.
    #[error("the cluster's name: {0}")]
    Cluster(#[from] tombolo_core::model::NameError),
    /// The certificate authority.
    #[error("the certificate authority: {0}")]
    Ca(#[from] CaError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS.
    #[error("{0}")]
    State(String),
    /// A listener.
    #[error("{what} on {place}: {source}")]
    Bind {
        /// Which listener.
        what: &'static str,
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// No randomness.
    #[error("the system gives no random numbers")]
    Random,
}

impl From<StateError> for StartError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Store(error) => Self::Store(error),
            StateError::Tls(error) => Self::State(error.to_string()),
        }
    }
}

/// A controller that runs.
pub struct Running {
    /// Where proxies and peers reach it.
    pub address: SocketAddr,
    /// Where its admin pages are.
    pub admin: Option<SocketAddr>,
    /// The operators' socket.
    pub socket: PathBuf,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Ends it. Proxies go on with what they have.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Starts a controller. Returns when it listens.
pub async fn start(options: Options) -> Result<Running, StartError> {
    tombolo_core::model::check_dns_label(&options.cluster)?;
    let failed = |what, place: String| move |source| StartError::Bind { what, place, source };
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(failed("the controller", options.listen.to_string()))?;
    let address = listener.local_addr().map_err(failed("the controller", options.listen.to_string()))?;
    let state = build(&options, address)?;
    let (stop, stopped) = watch::channel(false);
    let discovery = DeltaServer::new(state.resources.clone(), state.trust_domain.clone());
    let peering = Peering::start(state.clone(), stopped.clone());

    follow_files(&state, options.config.clone(), stopped.clone());
    keep_time(state.clone(), stopped.clone());
    renew(state.clone(), stopped.clone());
    serve_mesh(&state, listener, &discovery, &peering, stopped.clone());
    let operator = OperatorService { state: state.clone(), peering, discovery: discovery.clone() };
    let socket = serve_operators(&options, operator, stopped.clone())?;
    let admin = match options.admin {
        None => None,
        Some(place) => {
            let pages = Arc::new(ControllerPages { state: state.clone(), discovery });
            let readiness = Readiness::default();
            let admin = Admin { readiness, telemetry: options.telemetry.clone(), pages };
            let bound = admin::serve(place, admin, stopped).await;
            Some(bound.map_err(failed("the admin listener", place.to_string()))?)
        }
    };
    // What was kept and what the files say is published: from here on answers are the whole truth.
    state.resources.set_synced();
    Ok(Running { address, admin, socket, stop })
}

fn build(options: &Options, address: SocketAddr) -> Result<Arc<State>, StartError> {
    let store = Store::open(&options.state_dir)?;
    let ca = CertificateAuthority::open_or_create(&options.state_dir.join("ca"), &options.trust_domain)?;
    let credentials = ca.controller_credentials(DEFAULT_TTL, SystemTime::now())?;
    let clock = Clock::start();
    let mut epoch = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut epoch)
        .map_err(|_| StartError::Random)?;
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let settings = Settings {
        cluster: options.cluster.as_str().into(),
        trust_domain: options.trust_domain.clone(),
        network: options.network.as_str().into(),
        epoch: format!("{:016x}", u64::from_le_bytes(epoch)).into(),
        lease: i64::from(LEASE_SECONDS) * 1000,
        restart_grace: millis(RESTART_GRACE),
        peer_lease: millis(PEER_LEASE),
        peer_drop: millis(PEER_DROP),
    };
    let index = Index::new(settings, store.restore()?, clock.now());
    let (documents, problems) = Documents::restore(store.last_generation()?.unwrap_or_default());
    let addresses = match options.advertise.as_slice() {
        [] => vec![address.to_string()],
        given => given.to_vec(),
    };
    let state = State::new(StateParts {
        cluster: options.cluster.as_str().into(),
        network: options.network.clone(),
        ca,
        credentials,
        addresses,
        store,
        index,
        documents,
        telemetry: options.telemetry.clone(),
        clock,
    })?;
    state.tell(&problems);
    Ok(state)
}

fn serve_mesh(
    state: &Arc<State>,
    listener: TcpListener,
    discovery: &DeltaServer,
    peering: &Peering,
    mut stop: watch::Receiver<bool>,
) {
    let services = Services(state.clone());
    let discovery =
        AggregatedDiscoveryServiceServer::new(discovery.clone()).max_decoding_message_size(MAX_MESSAGE);
    let peering = PeeringServer::new(peering.clone()).max_decoding_message_size(MAX_SMALL_MESSAGE * 16);
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .concurrency_limit_per_connection(64)
        .add_service(IdentityServer::new(services.clone()).max_decoding_message_size(MAX_SMALL_MESSAGE))
        .add_service(RegistryServer::new(services).max_decoding_message_size(MAX_SMALL_MESSAGE))
        .add_service(discovery)
        .add_service(peering);
    let incoming = grpc::incoming(listener, state.server_config());
    tokio::spawn(async move {
        tokio::select! {
            outcome = server.serve_with_incoming(incoming) => if let Err(error) = outcome {
                tracing::error!(%error, "the controller's server has ended");
            },
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
}

fn serve_operators(
    options: &Options,
    operator: OperatorService,
    mut stop: watch::Receiver<bool>,
) -> Result<PathBuf, StartError> {
    use std::os::unix::fs::PermissionsExt;
    let path = options.state_dir.join("controller.sock");
    let failed = |source| StartError::Bind {
        what: "the operators' socket",
        place: path.display().to_string(),
        source,
    };
    // Left by a process that was killed. The store's lock tells that no other controller runs on this directory.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The directory is for its owner alone (0700), so that there is no moment in which others could connect.
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let service = OperatorServer::new(operator)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let server = Server::builder().add_service(service);
    tokio::spawn(async move {
        tokio::select! {
            outcome = server.serve_with_incoming(UnixListenerStream::new(listener)) => if let Err(error) = outcome {
                tracing::error!(%error, "the operators' socket has ended");
            },
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
    Ok(path)
}

/// The files as they are at the start, at once; then whenever they change.
fn follow_files(state: &Arc<State>, paths: Vec<PathBuf>, mut stop: watch::Receiver<bool>) {
    if paths.is_empty() {
        return;
    }
    let mut watcher = Watcher::new(paths);
    look(state, &mut watcher);
    let state = state.clone();
    tokio::spawn(async move {
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let looking = (state.clone(), watcher);
            let done = tokio::task::spawn_blocking(move || {
                let (state, mut watcher) = looking;
                look(&state, &mut watcher);
                watcher
            });
            match done.await {
                Ok(back) => watcher = back,
                Err(_) => return tracing::error!("files are not watched any more"),
            }
        }
    });
}

fn look(state: &State, watcher: &mut Watcher) {
    let Some((sources, unreadable)) = watcher.changed() else { return };
    state.tell(&unreadable);
    let now = state.now().unix_seconds();
    let outcome = state.change_documents(|documents| {
        let (proposal, problems) = documents.follow(&sources, now);
        state.tell(&problems);
        // While a file cannot be read, what it holds must not seem to be gone.
        Ok::<_, ()>(if unreadable.is_empty() { proposal } else { None })
    });
    match outcome {
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "the files are not in force"),
    }
}

fn keep_time(state: Arc<State>, mut stop: watch::Receiver<bool>) {
    tokio::spawn(async move {
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => drop(state.apply(Event::Tick)),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    });
}

/// A fresh certificate for the controller, each half of a life.
fn renew(state: Arc<State>, mut stop: watch::Receiver<bool>) {
    tokio::spawn(async move {
        let mut ticks = interval(DEFAULT_TTL / 2);
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match state.ca.controller_credentials(DEFAULT_TTL, SystemTime::now()) {
                Ok(credentials) => state.renew(credentials),
                Err(error) => tracing::error!(%error, "the controller keeps its old certificate"),
            }
        }
    });
}

struct ControllerPages {
    state: Arc<State>,
    discovery: DeltaServer,
}

impl Pages for ControllerPages {
    fn page(&self, path: &str, _: Option<&str>) -> Option<Page> {
        match path {
            "/config" => Some(Page::json(&status::status(&self.state, &self.discovery))),
            "/explain" => Some(Page::error(
                http::StatusCode::NOT_FOUND,
                "a controller decides no request; ask a gateway's or a sidecar's admin listener",
            )),
            _ => None,
        }
    }
}
