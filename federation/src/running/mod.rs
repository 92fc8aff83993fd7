//! Putting a controller together.

mod serve;
mod tasks;

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tombolo_core::{
    acme::Patience,
    decide::{Blocks, Cidr},
    lifecycle::{
        Readiness,
        admin::{self, Admin},
    },
    model::TrustDomain,
    telemetry::Telemetry,
    tls::TlsError,
};

use crate::{
    analysis,
    ca::{Authorities, CaError, DEFAULT_TTL, MAX_TTL, MIN_TTL},
    config::Documents,
    discovery::DeltaServer,
    index::{Index, Settings},
    operator::OperatorService,
    ordering,
    peering::Peering,
    quota::Quota,
    spiffe::{self, BundleListener, Kept, Pace, Sources},
    state::{Clock, State, StateParts, Tokens},
    status,
    store::{Saved, Store, StoreError},
    traffic::Traffic,
};

/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long the end of everything may take.
const END: Duration = Duration::from_secs(5);

/// For how long things are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// A registration outlives its last heartbeat by this; whole seconds count, 3 to 3600.
    pub lease: Duration,
    /// After a restart, what was registered or imported is believed for so long without a sign of life.
    pub restart_grace: Duration,
    /// A peer that is silent for so long is stale: its endpoints are used last.
    pub peer_lease: Duration,
    /// A peer that is silent for so long has no endpoints any more.
    pub peer_drop: Duration,
    /// A proxy that is silent for so long has no share any more of limits that proxies hold together; and for so long
    /// after a start nobody's share grows, as not all may have been heard of.
    pub quota_lease: Duration,
    /// How long certificates of members live, within the bounds of the authority.
    pub certificate: Duration,
    /// What the clocks of a cluster may differ by: an old root stays in the bundle for this longer than any certificate
    /// that it has signed.
    pub skew: Duration,
    /// How often endpoints of foreign bundles are asked, whatever they say.
    pub bundles: Pace,
    /// How often files of configuration are looked at.
    pub look: Duration,
    /// When certificates that could not be ordered are tried for again.
    pub patience: Patience,
}

impl Default for Bounds {
    /// 15 s, 60 s, 30 s, 24 h, 10 s, 24 h, 5 min, 1 s.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            restart_grace: Duration::from_secs(60),
            peer_lease: Duration::from_secs(30),
            peer_drop: Duration::from_secs(24 * 3600),
            quota_lease: Duration::from_secs(10),
            certificate: DEFAULT_TTL,
            skew: Duration::from_secs(300),
            bundles: Pace { least: Duration::from_secs(10), most: Duration::from_secs(24 * 3600) },
            look: Duration::from_secs(1),
            patience: Patience::default(),
        }
    }
}

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
    /// The network; empty: one of its own, named as the cluster.
    pub network: String,
    /// Addresses that only this cluster has: a peer that names one is refused it.
    pub own_ranges: Vec<Cidr>,
    /// Where this cluster's trust bundle is served to others (SPIFFE Federation); none: nowhere.
    pub bundle_endpoint: Option<BundleListener>,
    /// The command that writes DNS records for ACME's `dns-01`, run as `COMMAND add|remove NAME VALUE`.
    pub acme_dns_hook: Option<PathBuf>,
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
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A token must be able to tell where the controller is reached.
    #[error("--advertise is needed: nobody else reaches {0}")]
    Advertise(SocketAddr),
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

/// A controller that runs.
pub struct Running {
    /// Where proxies and peers reach it.
    pub address: SocketAddr,
    /// Where its admin pages are.
    pub admin: Option<SocketAddr>,
    /// Where the trust bundle is served.
    pub bundle_endpoint: Option<SocketAddr>,
    /// The operators' socket.
    pub socket: PathBuf,
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Running {
    /// Ends it, without waiting. Proxies go on with what they have.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ends it, and waits until all connections are closed and the state is on the disk, five seconds at most. False: it
    /// took longer.
    pub async fn shutdown(mut self) -> bool {
        self.stop();
        timeout(END, self.ended.recv()).await.is_ok()
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

/// Starts a controller. Returns when it listens and all that was kept, and that is in files, is published.
pub async fn start(options: Options) -> Result<Running, StartError> {
    start_with(options, Bounds::default()).await
}

/// As [`start`], with other bounds.
pub async fn start_with(options: Options, bounds: Bounds) -> Result<Running, StartError> {
    tombolo_core::model::check_dns_label(&options.cluster)?;
    let failed = |what, place: String| move |source| StartError::Bind { what, place, source };
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.map_err(failed("the controller", options.listen.to_string()))?;
    let address = listener.local_addr().map_err(failed("the controller", options.listen.to_string()))?;
    let (alive, ended) = mpsc::channel(1);
    let readiness = Readiness::default();
    let published = readiness.task("configuration");
    let building = (options.clone(), readiness.clone());
    // The store, the authority's key and the kept documents are read from the disk.
    let built = tokio::task::spawn_blocking(move || build(&building.0, &bounds, address, alive)).await;
    let (state, kept) = built.map_err(|_| StoreError::Abandoned)??;
    let (stop, stopped) = watch::channel(false);
    let discovery = DeltaServer::new(Arc::clone(&state.resources), state.trust_domain.clone());
    let running =
        |socket, admin, bundle_endpoint| Running { address, admin, bundle_endpoint, socket, stop, ended };

    let (kept_in, hook) = (options.state_dir.clone(), options.acme_dns_hook.clone());
    ordering::begin(&state, discovery.clone(), kept_in, hook, bounds.patience, stopped.clone()).await;
    tasks::follow_files(&state, options.config.clone(), bounds.look, stopped.clone()).await;
    let sources = Sources::begin(Arc::clone(&state), bounds.bundles, kept);
    // From here on answers are the whole truth.
    state.resources.set_synced();
    published.done();
    tokio::spawn(tasks::keep_time(Arc::clone(&state), TICK, stopped.clone()));
    tokio::spawn(sources.follow(stopped.clone()));
    let bundle_endpoint = match options.bundle_endpoint {
        None => None,
        Some(endpoint) => {
            let place = endpoint.listen.to_string();
            let bound = spiffe::serve(endpoint, Arc::clone(&state), stopped.clone()).await;
            Some(bound.map_err(failed("the bundle endpoint", place))?)
        }
    };
    tokio::spawn(tasks::publish_postponed(Arc::clone(&state), stopped.clone()));
    let renewing = tasks::renew(Arc::clone(&state), stopped.clone());
    tokio::spawn(renewing);
    tokio::spawn(tasks::rotate(Arc::clone(&state), discovery.clone(), stopped.clone()));
    let peering = Peering::start(Arc::clone(&state), stopped.clone());
    let traffic = Traffic::new(state.trust_domain.clone(), stopped.clone());
    let quota = Quota::start(state.trust_domain.clone(), bounds.quota_lease, stopped.clone());
    serve::mesh(&state, listener, (&discovery, &peering, &traffic, quota), stopped.clone());
    let pages = status::ControllerPages { state: Arc::clone(&state), discovery: discovery.clone() };
    tokio::spawn(analysis::run(Arc::clone(&state), traffic.clone(), stopped.clone()));
    let operator = OperatorService { state, peering, discovery, traffic };
    let socket = serve::operators(&options.state_dir, operator, stopped.clone())?;
    let admin = match options.admin {
        None => None,
        Some(place) => {
            let admin = Admin { readiness, telemetry: options.telemetry, pages: Arc::new(pages) };
            let bound = admin::serve(place, admin, stopped).await;
            Some(bound.map_err(failed("the admin listener", place.to_string()))?)
        }
    };
    Ok(running(socket, admin, bundle_endpoint))
}

/// Resolves when the controller is told to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that it is gone altogether.
    let _stopped = stop.wait_for(|stop| *stop).await;
}

/// Where others reach the controller.
fn addresses(options: &Options, bound: SocketAddr) -> Result<Vec<String>, StartError> {
    match options.advertise.as_slice() {
        [] if bound.ip().is_unspecified() => Err(StartError::Advertise(bound)),
        [] => Ok(vec![bound.to_string()]),
        given => Ok(given.to_vec()),
    }
}

/// `HOST:PORT` on this machine alone.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn build(
    options: &Options,
    bounds: &Bounds,
    bound: SocketAddr,
    alive: mpsc::Sender<()>,
) -> Result<(Arc<State>, Kept), StartError> {
    let addresses = addresses(options, bound)?;
    let (store, content) = Store::open(&options.state_dir)?;
    let saved = Saved::read(content);
    let outlive = bounds.certificate.clamp(MIN_TTL, MAX_TTL) + bounds.skew;
    let ca = Authorities::open_or_create(&options.state_dir.join("ca"), &options.trust_domain, outlive)?;
    let credentials = ca.controller_credentials(bounds.certificate, SystemTime::now())?;
    let clock = Clock::start();
    let mut epoch = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut epoch)
        .map_err(|_| StartError::Random)?;
    let network = if options.network.is_empty() { &options.cluster } else { &options.network };
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let lease_seconds = u32::try_from(bounds.lease.as_secs()).unwrap_or(u32::MAX).clamp(3, 3600);
    let settings = Settings {
        cluster: options.cluster.as_str().into(),
        trust_domain: options.trust_domain.clone(),
        network: network.as_str().into(),
        epoch: format!("{:016x}", u64::from_le_bytes(epoch)).into(),
        lease: i64::from(lease_seconds) * 1000,
        restart_grace: millis(bounds.restart_grace),
        peer_lease: millis(bounds.peer_lease),
        peer_drop: millis(bounds.peer_drop),
        on_loopback: addresses.iter().all(|address| is_loopback(address)),
        own_ranges: Arc::new(Blocks::new(options.own_ranges.iter().copied())),
    };
    let index = Index::new(settings, saved.index, clock.now());
    let (documents, problems) = Documents::restore(saved.generation, !options.config.is_empty());
    let state = State::new(StateParts {
        cluster: options.cluster.as_str().into(),
        network: network.clone(),
        ca,
        credentials,
        addresses,
        store,
        index,
        documents,
        tokens: Tokens { join: saved.join_tokens, peer: saved.peer_tokens },
        telemetry: Arc::clone(&options.telemetry),
        clock,
        lease_seconds,
        certificate_life: bounds.certificate,
        alive,
    })?;
    (0..saved.damaged).for_each(|_| state.telemetry.bad_input("saved_record"));
    state.tell(&problems);
    Ok((state, saved.bundles))
}
