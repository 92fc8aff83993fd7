//! A gateway's life: each state put in force, and its end in order.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tombolo_core::{
    lifecycle::{self, Drain, Readiness},
    member::{Checking, Probing},
    proxy::Inherited,
    resources::Problem,
};

use crate::{
    edge::Edge,
    handover::{Predecessor, Successor, Wish},
    options::Options,
    origin::Membership,
    state::{Served, State},
};

/// A listener that could not be opened is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// The controller is given so long to take note that the gateway goes away.
const FAREWELL: Duration = Duration::from_secs(2);
/// After that, peers have so long to hear of it before the listeners close.
const SETTLE: Duration = Duration::from_millis(500);

/// Puts each state in force.
pub(crate) struct Following {
    pub checking: Checking,
    /// Goes on while requests do.
    pub probing: Probing,
    pub readiness: Readiness,
    pub configured: lifecycle::Task,
    pub listening: lifecycle::Task,
    pub served: Arc<ArcSwap<Served>>,
    pub tell: watch::Sender<()>,
    pub options: Options,
    pub stop: watch::Sender<bool>,
    pub membership: Option<Membership>,
    pub edge: Edge,
    /// The admin pages' socket once more.
    pub admin: Option<OwnedFd>,
    pub inherited: Inherited,
    pub predecessor: Option<Predecessor>,
    pub successor: Option<Successor>,
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
    /// Until the drain, or until another process has taken over; then ends in order.
    pub async fn run(mut self, mut state: watch::Receiver<Arc<State>>, mut drain: Drain) {
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
        telemetry.set("document_problems", gauge(state.problems.len()));
        self.readiness.degraded("documents", trouble(&state.problems));
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
        let remains = match self.membership {
            Some(membership) if end == End::Replaced => Some(membership.leave()),
            Some(membership) => {
                let remains = membership.withdraw(FAREWELL).await;
                tokio::time::sleep(SETTLE).await;
                Some(remains)
            }
            None => None,
        };
        self.stop.send_replace(true);
        let passed = async {
            match &remains {
                Some(remains) => remains.drained(limit).await,
                None => true,
            }
        };
        let (edge, passed) = tokio::join!(self.edge.into_listeners().drained(limit), passed);
        if !(edge && passed) {
            tracing::warn!(?limit, "connections that did not end in time are cut");
        }
        if let Some(remains) = remains {
            remains.finish().await;
        }
        drop((self.checking, self.probing));
    }
}

/// What `/ready` says of documents that do not count as they are written; all of it stands on `/config`.
fn trouble(problems: &[Problem]) -> Option<String> {
    let first = problems.first()?;
    Some(match problems.len() - 1 {
        0 => format!("a document is not in force: {first}"),
        more => format!("documents are not in force: {first} (and {more} more problems, see /config)"),
    })
}
