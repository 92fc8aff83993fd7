//! A gateway that runs.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tombolo_core::{
    acme::Challenges,
    decide::BindKey,
    lifecycle::{self, Drain, Readiness, admin::Admin},
    member::{Checking, JoinError, Probing},
    model::{NameError, SpiffeId},
    proxy::{EngineError, EngineParts, HttpEngine, HttpLimits, Inherited, MeshUpstream, Sharing, open},
    telemetry::Samples,
};

use crate::{
    certificates::CertificateBook,
    director::EdgeDirector,
    edge::Edge,
    following::Following,
    handover::Predecessor,
    options::Options,
    origin::{Membership, Origin},
    pages::GatewayPages,
    stapling::Stapling,
    state::Served,
};

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path of the configuration cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address cannot be listened on, or found out.
    #[error("{what} on {address}: {source}")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The process that serves now cannot be asked for its sockets, or its place not be taken.
    #[error("the handover at {path}: {source}", path = path.display())]
    Handover {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no identity.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The identity is not a gateway's.
    #[error("{0} is no gateway; make the token with --namespace tombolo-system --account gateway")]
    NoGateway(SpiffeId),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A task of its own ended by a panic.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A gateway that runs, on tasks of its own.
pub struct Running {
    admin: Option<SocketAddr>,
    mesh: Option<SocketAddr>,
    readiness: Readiness,
    served: Arc<ArcSwap<Served>>,
    changed: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// The bound address of the admin pages.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The bound address of the mesh listener.
    pub fn mesh(&self) -> Option<SocketAddr> {
        self.mesh
    }

    /// The public listeners that are open, with their real addresses.
    pub fn listeners(&self) -> BTreeMap<BindKey, SocketAddr> {
        self.served.load().listeners.clone()
    }

    /// The version of the configuration that is served.
    pub fn version(&self) -> u64 {
        self.served.load().state.snapshot.version
    }

    /// Waits until the gateway serves: it has its configuration, and every listener is open.
    pub async fn ready(&mut self) {
        while !self.readiness.is_ready() && self.changed.changed().await.is_ok() {}
    }

    /// Waits for the next change of what is served.
    pub async fn changed(&mut self) {
        // An error means that the gateway has ended; there is no next change.
        let _ended = self.changed.changed().await;
    }

    /// Waits until the gateway has drained and ended.
    pub async fn finished(self) -> Result<(), Error> {
        self.task.await.map_err(|error| Error::Internal(error.to_string()))
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("admin", &self.admin).field("listeners", &self.listeners()).finish()
    }
}

/// Starts a gateway, says on standard output when it is `ready`, and waits until it has drained.
pub async fn run(options: Options, drain: Drain) -> Result<(), Error> {
    let mut stop = drain.clone();
    let mut running = tokio::select! {
        running = build(options, drain) => running?,
        () = stop.signalled() => return Ok(()),
    };
    tokio::select! {
        () = running.ready() => {
            lifecycle::say(format_args!("tombolo gateway ready: {}", opened(&running)));
            lifecycle::notify_ready();
        }
        () = stop.signalled() => {}
    }
    running.finished().await
}

/// Where it listens, for people.
fn opened(running: &Running) -> String {
    let public: Vec<_> = running.listeners().values().map(ToString::to_string).collect();
    let public = match public.as_slice() {
        [] => "no Gateway has a listener here yet".to_owned(),
        addresses => format!("listening on {}", addresses.join(", ")),
    };
    match running.mesh() {
        Some(mesh) => format!("{public}; for peers on {mesh}"),
        None => public,
    }
}

/// Starts a gateway. It serves on tasks of its own until `drain` begins, then finishes what runs and ends.
pub async fn build(options: Options, drain: Drain) -> Result<Running, Error> {
    // Stopped by the drain's own order, not by its beginning.
    let (stop, stopped) = watch::channel(false);
    let telemetry = Arc::clone(&options.telemetry);
    let (predecessor, inherited) = find_predecessor(&options).await?;
    let challenges: Arc<Challenges> = Arc::default();
    let ordering = (options.acme.clone(), Arc::clone(&challenges));
    let book = CertificateBook::new(Stapling::start(options.ocsp.clone(), Arc::clone(&telemetry)));
    let staples = book.staples();
    let samples = Arc::new(Samples::new(options.sampled.clone()));
    tokio::spawn(adapt(Arc::downgrade(&samples)));
    let seen = (&telemetry, &samples);
    let origin =
        Origin::new(options.source.clone(), ordering, book, seen, &inherited, stopped.clone()).await?;
    let Origin { snapshot, pools, certificates, state, quotas, membership } = origin;
    let identity = membership.as_ref().map(Membership::credentials);
    let upstream =
        MeshUpstream::along(Arc::clone(pools.paths()), identity, Arc::clone(&snapshot), certificates);
    let checked = (Arc::clone(&pools), Arc::clone(&upstream), Arc::clone(&snapshot));
    let parts = EngineParts {
        snapshot: Arc::clone(&snapshot),
        director: Arc::new(EdgeDirector {
            pools: Arc::clone(&pools),
            challenges: Arc::clone(&challenges),
            samples: Arc::clone(&samples),
        }),
        picker: Arc::clone(&pools) as _,
        upstream: Arc::clone(&upstream),
        observer: Arc::clone(&telemetry) as _,
        quotas: Arc::clone(&quotas),
    };
    let limits = HttpLimits {
        trusted_hops: options.trusted_hops,
        trusted_field: options.trusted_field,
        body_rate: options.body_rate,
        ..HttpLimits::default()
    };
    let engine = HttpEngine::within(parts, limits)?;
    let mut edge = Edge::new(engine, &options, challenges, stopped.clone());
    edge.inherit(inherited.clone());
    let readiness = Readiness::default();
    if let Some(membership) = &membership {
        membership.show_certificate(&readiness, &options.telemetry);
    }
    let served: Arc<ArcSwap<Served>> = Arc::default();
    let pages = GatewayPages {
        served: Arc::clone(&served),
        pools,
        quotas,
        staples,
        samples: membership.is_none().then_some(samples),
    };
    let admin = open_admin(&options, &inherited)?;
    let admin_socket = admin.as_ref().and_then(|admin| admin.as_fd().try_clone_to_owned().ok());
    let admin = serve_admin(&options, admin, &readiness, pages, stopped)?;
    let mesh = membership.as_ref().map(|membership| membership.mesh.address());
    let (tell, changed) = watch::channel(());
    let following = Following {
        probing: Probing::start(Arc::clone(&checked.0), Arc::clone(&upstream), Arc::clone(&telemetry)),
        checking: Checking::start(checked.0, checked.1, checked.2, telemetry),
        configured: readiness.task("configuration"),
        readiness: readiness.clone(),
        listening: readiness.task("listeners"),
        served: Arc::clone(&served),
        tell,
        options,
        stop,
        membership,
        edge,
        admin: admin_socket,
        inherited,
        predecessor,
        successor: None,
    };
    let task = tokio::spawn(following.run(state, drain));
    Ok(Running { admin, mesh, readiness, served, changed, task })
}

/// Adapts the share of requests that are sampled, for as long as somebody samples.
async fn adapt(samples: Weak<Samples>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    while let Some(samples) = {
        ticks.tick().await;
        samples.upgrade()
    } {
        samples.tick();
    }
}

/// The process whose place this one takes, with its sockets.
async fn find_predecessor(options: &Options) -> Result<(Option<Predecessor>, Inherited), Error> {
    let Some(path) = &options.handover else { return Ok(Default::default()) };
    let found = Predecessor::find(path).await;
    let found = found.map_err(|source| Error::Handover { path: path.clone(), source })?;
    Ok(found.map_or_else(Default::default, |(predecessor, inherited)| (Some(predecessor), inherited)))
}

fn admin_failed(address: SocketAddr) -> impl Fn(io::Error) -> Error {
    move |source| Error::Listen { what: "admin pages", address, source }
}

fn open_admin(options: &Options, inherited: &Inherited) -> Result<Option<TcpListener>, Error> {
    let Some(address) = options.admin else { return Ok(None) };
    open(address, inherited, Sharing::None).map(Some).map_err(admin_failed(address))
}

fn serve_admin(
    options: &Options,
    socket: Option<TcpListener>,
    readiness: &Readiness,
    pages: GatewayPages,
    stop: watch::Receiver<bool>,
) -> Result<Option<SocketAddr>, Error> {
    let (Some(address), Some(socket)) = (options.admin, socket) else { return Ok(None) };
    let shown = Admin {
        readiness: readiness.clone(),
        telemetry: Arc::clone(&options.telemetry),
        pages: Arc::new(pages),
    };
    lifecycle::admin::serve_on(socket, shown, stop).map(Some).map_err(admin_failed(address))
}
