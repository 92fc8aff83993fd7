//! A gateway that runs.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, task::JoinHandle};
use tombolo_core::{
    balance::{Placement, Pools},
    decide::BindKey,
    lifecycle::{self, Drain, Readiness, admin::Admin},
    member::{PoolFeeder, random_seed},
    model::Snapshot,
    proxy::{EngineError, EngineParts, HttpEngine, MeshUpstream},
};

use crate::{
    director::EdgeDirector,
    edge::Edge,
    files::Files,
    options::{Options, Source},
    pages::GatewayPages,
    state::{Served, State},
    static_source::StaticSource,
};

/// A listener that could not be opened is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

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
    /// The admin pages have no place.
    #[error("admin pages on {address}: {source}")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
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
    let mut running = build(options, drain).await?;
    tokio::select! {
        () = running.ready() => {
            let listeners: Vec<_> = running.listeners().values().map(ToString::to_string).collect();
            println!("tombolo gateway ready: listening on {}", listeners.join(", "));
        }
        () = stop.signalled() => {}
    }
    running.finished().await
}

/// Starts a gateway. It serves on tasks of its own until `drain` begins, then finishes what runs and ends.
pub async fn build(options: Options, drain: Drain) -> Result<Running, Error> {
    let Source::Static { paths, poll } = options.source.clone();
    check(&paths)?;
    let pools = Arc::new(Pools::new(Placement::default(), Instant::now(), random_seed()));
    let feeder = Arc::new(PoolFeeder::new(Arc::clone(&pools)));
    let snapshot: Arc<ArcSwap<Snapshot>> = Arc::default();
    let engine = HttpEngine::new(EngineParts {
        snapshot: Arc::clone(&snapshot),
        director: Arc::new(EdgeDirector { pools: Arc::clone(&pools) }),
        picker: Arc::clone(&pools) as _,
        upstream: MeshUpstream::new(None, Arc::clone(&snapshot)),
        observer: Arc::clone(&options.telemetry) as _,
    })?;
    let telemetry = Arc::clone(&options.telemetry);
    let edge = Edge::new(engine, options.address, options.ports, Arc::clone(&telemetry), drain.watch());
    let (states, state) = watch::channel(Arc::<State>::default());
    let source = StaticSource::new(Files::new(paths), telemetry, feeder, snapshot);
    tokio::spawn(source.watch(poll, states));
    start(options, drain, pools, edge, state).await
}

/// A path that is not there at the start is a mistake; later it is a problem that passes.
fn check(paths: &[PathBuf]) -> Result<(), Error> {
    for path in paths.iter().filter(|path| path.as_os_str() != "-") {
        std::fs::metadata(path).map_err(|source| Error::Config { path: path.clone(), source })?;
    }
    Ok(())
}

async fn start(
    options: Options,
    drain: Drain,
    pools: Arc<Pools>,
    edge: Edge,
    state: watch::Receiver<Arc<State>>,
) -> Result<Running, Error> {
    let readiness = Readiness::default();
    let served: Arc<ArcSwap<Served>> = Arc::default();
    let (tell, changed) = watch::channel(());
    let following = Following {
        configured: readiness.task("configuration"),
        listening: readiness.task("listeners"),
        served: Arc::clone(&served),
        tell,
        options: options.clone(),
        edge,
    };
    let pages = GatewayPages { served: Arc::clone(&served), pools };
    let admin = match options.admin {
        None => None,
        Some(address) => {
            let shown = Admin {
                readiness: readiness.clone(),
                telemetry: Arc::clone(&options.telemetry),
                pages: Arc::new(pages),
            };
            let bound = lifecycle::admin::serve(address, shown, drain.watch()).await;
            Some(bound.map_err(|source| Error::Admin { address, source })?)
        }
    };
    let task = tokio::spawn(following.run(state, drain));
    Ok(Running { admin, readiness, served, changed, task })
}

/// Puts each state in force.
struct Following {
    configured: lifecycle::Task,
    listening: lifecycle::Task,
    served: Arc<ArcSwap<Served>>,
    tell: watch::Sender<()>,
    options: Options,
    edge: Edge,
}

impl Following {
    async fn run(mut self, mut state: watch::Receiver<Arc<State>>, mut drain: Drain) {
        let mut failing = false;
        loop {
            let retry = async {
                match failing {
                    true => tokio::time::sleep(RETRY).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drain.signalled() => break,
                changed = state.changed() => if changed.is_err() { break },
                () = retry => {}
            }
            let next = Arc::clone(&state.borrow_and_update());
            failing = self.apply(next);
        }
        // The source may have ended before the gateway does.
        drain.signalled().await;
        self.end().await;
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

    async fn end(self) {
        tracing::info!("draining");
        if !self.edge.into_listeners().drained(self.options.drain_limit).await {
            tracing::warn!(limit = ?self.options.drain_limit, "connections that did not end in time are cut");
        }
    }
}
