//! A gateway that runs.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
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
    member::{Checking, JoinError},
    model::{NameError, SpiffeId},
    proxy::{EngineError, EngineParts, HttpEngine, HttpLimits, Inherited, MeshUpstream, Sharing, open},
    telemetry::Samples,
};

use crate::{
    certificates::CertificateBook,
    director::EdgeDirector,
    edge::Edge,
    handover::{Predecessor, Successor, Wish},
    options::Options,
    origin::{Membership, Origin},
    pages::GatewayPages,
    stapling::Stapling,
    state::{Served, State},
};

/// A listener that could not be opened is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// The controller is given so long to take note that the gateway goes away.
const FAREWELL: Duration = Duration::from_secs(2);
/// After that, peers have so long to hear of it before the listeners close.
const SETTLE: Duration = Duration::from_millis(500);

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
            let listeners: Vec<_> = running.listeners().values().map(ToString::to_string).collect();
            lifecycle::say(format_args!("tombolo gateway ready: listening on {}", listeners.join(", ")));
            lifecycle::notify_ready();
        }
        () = stop.signalled() => {}
    }
    running.finished().await
}

/// Starts a gateway. It serves on tasks of its own until `drain` begins, then finishes what runs and ends.
pub async fn build(options: Options, drain: Drain) -> Result<Running, Error> {
    // Stopped by the drain's own order, not by its beginning.
    let (stop, stopped) = watch::channel(false);
    let telemetry = Arc::clone(&options.telemetry);
    let (predecessor, inherited) = find_predecessor(&options).await?;
    let challenges: Arc<Challenges> = Arc::default();
    let ordering = (options.acme.clone(), Arc::clone(&challenges));
    let book = CertificateBook::new(Stapling::start(options.ocsp, Arc::clone(&telemetry)));
    let staples = book.staples();
    let samples = Arc::new(Samples::new(options.sampled.clone()));
    tokio::spawn(adapt(Arc::downgrade(&samples)));
    let seen = (&telemetry, &samples);
    let origin =
        Origin::new(options.source.clone(), ordering, book, seen, &inherited, stopped.clone()).await?;
    let Origin { snapshot, pools, certificates, state, quotas, membership } = origin;
    let identity = membership.as_ref().map(Membership::credentials);
    let upstream = MeshUpstream::with_client_certificates(identity, Arc::clone(&snapshot), certificates);
    let checked = (Arc::clone(&pools), Arc::clone(&upstream), Arc::clone(&snapshot));
    let parts = EngineParts {
        snapshot: Arc::clone(&snapshot),
        director: Arc::new(EdgeDirector {
            pools: Arc::clone(&pools),
            challenges: Arc::clone(&challenges),
            samples,
        }),
        picker: Arc::clone(&pools) as _,
        upstream: Arc::clone(&upstream),
        observer: Arc::clone(&telemetry) as _,
        quotas: Arc::clone(&quotas),
    };
    let limits = HttpLimits {
        trusted_hops: options.trusted_hops,
        body_rate: options.body_rate,
        ..HttpLimits::default()
    };
    let engine = HttpEngine::within(parts, limits)?;
    let mut edge = Edge::new(engine, &options, challenges, stopped.clone());
    edge.inherit(inherited.clone());
    let readiness = Readiness::default();
    let served: Arc<ArcSwap<Served>> = Arc::default();
    let pages = GatewayPages { served: Arc::clone(&served), pools, quotas, staples };
    let admin = open_admin(&options, &inherited)?;
    let admin_socket = admin.as_ref().and_then(|admin| admin.as_fd().try_clone_to_owned().ok());
    let admin = serve_admin(&options, admin, &readiness, pages, stopped)?;
    let mesh = membership.as_ref().map(|membership| membership.mesh.address());
    let (tell, changed) = watch::channel(());
    let following = Following {
        _checking: Checking::start(checked.0, checked.1, checked.2, telemetry),
        configured: readiness.task("configuration"),
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

/// Puts each state in force.
struct Following {
    _checking: Checking,
    configured: lifecycle::Task,
    listening: lifecycle::Task,
    served: Arc<ArcSwap<Served>>,
    tell: watch::Sender<()>,
    options: Options,
    stop: watch::Sender<bool>,
    membership: Option<Membership>,
    edge: Edge,
    /// The admin pages' socket once more.
    admin: Option<OwnedFd>,
    inherited: Inherited,
    predecessor: Option<Predecessor>,
    successor: Option<Successor>,
}

/// Why a gateway ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was told to.
    Told,
    /// Another process has taken its place.
    Replaced,
}

impl Following {
    async fn run(mut self, mut state: watch::Receiver<Arc<State>>, mut drain: Drain) {
        let mut failing = false;
        let end = loop {
            let retry = async {
                match failing {
                    true => tokio::time::sleep(RETRY).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drain.signalled() => break End::Told,
                wish = Successor::wish(&mut self.successor) => match wish {
                    Wish::Sockets(asked) => {
                        // An asker that has gone meanwhile takes nothing over.
                        let _gone = asked.send(self.sockets());
                        continue;
                    }
                    Wish::Taken => break End::Replaced,
                },
                changed = state.changed() => if changed.is_err() {
                    // The source may end before the gateway does.
                    drain.signalled().await;
                    break End::Told;
                },
                () = retry => {}
            }
            let next = Arc::clone(&state.borrow_and_update());
            failing = self.apply(next);
            if !failing {
                self.take_place().await;
            }
        };
        // Nobody reads the files for this process any more, and it orders no certificates: the next one may.
        drop(state);
        self.end(end).await;
    }

    /// Everything is open: the process before this one may go, and the next may come.
    async fn take_place(&mut self) {
        self.inherited.close_rest();
        // First the place where the next process asks: it must not find the old one there, which is about to end.
        if let (Some(path), None) = (&self.options.handover, &self.successor) {
            match Successor::listen(path.clone()) {
                Ok(successor) => self.successor = Some(successor),
                Err(error) => tracing::error!(%error, path = %path.display(), "no process can take over"),
            }
        }
        if let Some(predecessor) = self.predecessor.take()
            && let Err(error) = predecessor.release().await
        {
            tracing::warn!(%error, "the process before this one could not be told to go");
        }
    }

    /// Every socket that is open.
    fn sockets(&self) -> Vec<OwnedFd> {
        let mesh = self.membership.as_ref().and_then(|membership| membership.mesh.socket());
        let admin = self.admin.as_ref().and_then(|admin| admin.try_clone().ok());
        self.edge.sockets().chain(mesh).chain(admin).collect()
    }

    /// True if something is to be tried again.
    fn apply(&mut self, state: Arc<State>) -> bool {
        let before = self.served.load_full();
        let problems = self.edge.apply(&state.snapshot.config, &state.certificates);
        for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
            tracing::error!("{problem}");
        }
        let listeners = self.edge.addresses();
        let (telemetry, gauge) = (&self.options.telemetry, |n: usize| i64::try_from(n).unwrap_or(i64::MAX));
        telemetry.set("snapshot_version", i64::try_from(state.snapshot.version).unwrap_or(i64::MAX));
        telemetry.set("listeners_open", gauge(listeners.len()));
        telemetry.set("listeners_failed", gauge(problems.len()));
        self.configured.done();
        if problems.is_empty() {
            self.listening.done();
        }
        let failing = !problems.is_empty();
        self.served.store(Arc::new(Served { state, listeners, problems }));
        self.tell.send_replace(());
        failing
    }

    /// Tells the controller first, then finishes what runs.
    async fn end(self, end: End) {
        match end {
            End::Told => {
                tracing::info!("draining");
                lifecycle::notify_stopping();
            }
            // The service goes on: it is the other process now.
            End::Replaced => tracing::info!("draining: another process has taken over"),
        }
        // Who comes now opens sockets of its own.
        drop(self.successor);
        let limit = self.options.drain_limit;
        let mesh = match self.membership {
            Some(membership) if end == End::Replaced => Some(membership.leave()),
            Some(membership) => {
                let mesh = membership.withdraw(FAREWELL).await;
                tokio::time::sleep(SETTLE).await;
                Some(mesh)
            }
            None => None,
        };
        self.stop.send_replace(true);
        let passed = async {
            match &mesh {
                Some(mesh) => mesh.drained(limit).await,
                None => true,
            }
        };
        let (edge, passed) = tokio::join!(self.edge.into_listeners().drained(limit), passed);
        if !(edge && passed) {
            tracing::warn!(?limit, "connections that did not end in time are cut");
        }
    }
}
