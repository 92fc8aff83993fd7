//! What the controller does by the clock.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::interval};
use tombolo_core::resources::Watcher;

use super::stopped;
use crate::{ca::DEFAULT_TTL, index::Event, state::State, status::peers};

/// The files as they are at the start, at once; then whenever they change, until `stop`.
pub(super) async fn follow_files(
    state: &Arc<State>,
    paths: Vec<PathBuf>,
    pause: Duration,
    mut stop: watch::Receiver<bool>,
) {
    if paths.is_empty() {
        return;
    }
    let mut watcher = look(state, Watcher::new(paths)).await;
    let state = Arc::clone(state);
    tokio::spawn(async move {
        let mut ticks = interval(pause);
        while let Some(present) = watcher.take() {
            tokio::select! {
                _ = ticks.tick() => watcher = look(&state, present).await,
                () = stopped(&mut stop) => return,
            }
        }
        tracing::error!("the files are not watched any more");
    });
}

/// Looks once. Gives the watcher back, unless looking panicked.
async fn look(state: &Arc<State>, mut watcher: Watcher) -> Option<Watcher> {
    let looking = tokio::task::spawn_blocking(move || {
        let changed = watcher.changed();
        (watcher, changed)
    });
    let (watcher, changed) = looking.await.ok()?;
    let Some((sources, unreadable)) = changed else { return Some(watcher) };
    state.tell(&unreadable);
    let (now, telling) = (state.now().unix_seconds(), Arc::clone(state));
    let propose = move |documents: &crate::config::Documents| {
        let (proposal, problems) = documents.follow(&sources, unreadable.is_empty(), now);
        telling.tell(&problems);
        Ok::<_, ()>(proposal)
    };
    if let Err(error) = state.change_documents(propose, true).await {
        tracing::error!(%error, "the files are not in force");
    }
    Some(watcher)
}

/// Tells the index that time goes on, until `stop`.
pub(super) async fn keep_time(state: Arc<State>, pause: Duration, mut stop: watch::Receiver<bool>) {
    let mut ticks = interval(pause);
    loop {
        tokio::select! {
            _ = ticks.tick() => drop(state.apply(Event::Tick)),
            () = stopped(&mut stop) => return,
        }
        gauge(&state);
    }
}

/// Shows the state of things as metrics.
fn gauge(state: &State) {
    let counts = state.with_index(|index| {
        let peers = |wanted: &str| index.peers().filter(|(_, peer)| peer.state() == wanted).count();
        [
            ("workloads", index.workloads().count()),
            ("gateways", index.gateways().count()),
            ("peers_synced", peers("synced")),
            ("peers_stale", peers("stale")),
            ("service_conflicts", index.conflicts().count()),
        ]
    });
    for (kind, count) in counts {
        state.telemetry.set(kind, i64::try_from(count).unwrap_or(i64::MAX));
    }
    peers::gauge(state);
    state.telemetry.set("store_failures", i64::try_from(state.store_failures()).unwrap_or(i64::MAX));
}

/// A fresh certificate for the controller, each half of a life. One that cannot be had is tried for again after a minute.
pub(super) async fn renew(state: Arc<State>, mut stop: watch::Receiver<bool>) {
    let mut pause = DEFAULT_TTL / 2;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&mut stop) => return,
        }
        pause = match state.ca.controller_credentials(DEFAULT_TTL, SystemTime::now()) {
            Ok(credentials) => {
                state.renew(credentials);
                DEFAULT_TTL / 2
            }
            Err(error) => {
                tracing::error!(%error, "the controller keeps its old certificate");
                Duration::from_secs(60)
            }
        };
    }
}
