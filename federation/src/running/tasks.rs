//! What the controller does by the clock.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time::interval};
use tombolo_core::{identity::Credentials, resources::Watcher};

use super::stopped;
use crate::{
    ca::Step,
    discovery::DeltaServer,
    index::Event,
    state::State,
    status::{peers, unconfirmed},
};

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
        telling.show_problems(unreadable.iter().chain(&problems).cloned().collect());
        Ok::<_, ()>(proposal)
    };
    if let Err(error) = state.change_documents(propose, true).await {
        tracing::error!(%error, "the files are not in force");
    }
    Some(watcher)
}

/// How often the state of things is shown as metrics.
const SHOW: Duration = Duration::from_secs(1);

/// Tells the index that time goes on, until `stop`.
pub(super) async fn keep_time(state: Arc<State>, pause: Duration, mut stop: watch::Receiver<bool>) {
    let (mut ticks, mut shown) = (interval(pause), None::<Instant>);
    loop {
        tokio::select! {
            _ = ticks.tick() => drop(state.apply(Event::Tick)),
            () = stopped(&mut stop) => return,
        }
        // With many peers that is some work.
        if shown.is_none_or(|shown| shown.elapsed() >= SHOW) {
            gauge(&state);
            shown = Some(Instant::now());
        }
    }
}

/// Publishes what peers said while there was too much of it, until `stop`.
pub(super) async fn publish_postponed(state: Arc<State>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = state.publish_postponed() => {}
        () = stopped(&mut stop) => {}
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
    let (progress, bundle) = (state.ca.progress(), state.ca.bundle());
    state.telemetry.set("ca_rotation_phase", progress.rotation.phase as i64);
    state.telemetry.set("ca_roots", i64::try_from(bundle.roots.len()).unwrap_or(i64::MAX));
    peers::gauge(state);
    state.telemetry.set("store_failures", i64::try_from(state.store_failures()).unwrap_or(i64::MAX));
}

/// How often the clock on the wall is looked at: it may be set while a certificate waits for half of its life.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The pause after a failure to renew.
const RETRY: Duration = Duration::from_secs(60);

/// A fresh certificate for the controller, each half of a life, by the clock on the wall; and whenever another root signs.
/// One that cannot be had is tried for again after a minute.
pub(super) async fn renew(state: Arc<State>, mut stop: watch::Receiver<bool>) {
    let mut bundle = state.bundle_changes();
    let half = |credentials: &Credentials| {
        let (from, to) = (SystemTime::now(), credentials.not_after());
        (from, from + to.duration_since(from).unwrap_or_default() / 2)
    };
    let (mut from, mut until) = half(&state.credentials());
    loop {
        let now = SystemTime::now();
        // A clock that was set back makes nobody wait for what was renewed before.
        let left = if now < from { Duration::ZERO } else { until.duration_since(now).unwrap_or_default() };
        tokio::select! {
            () = tokio::time::sleep(left.min(LONGEST_SLEEP)), if !left.is_zero() => continue,
            Ok(()) = bundle.changed() => {}
            () = stopped(&mut stop) => return,
            () = std::future::ready(()), if left.is_zero() => {}
        }
        match state.ca.controller_credentials(state.certificate_life, SystemTime::now()) {
            Ok(credentials) => {
                (from, until) = half(&credentials);
                state.renew(credentials);
            }
            Err(error) => {
                tracing::error!(%error, "the controller keeps its old certificate");
                from = SystemTime::now();
                until = from + RETRY;
            }
        }
    }
}

/// How often a rotation of the root is looked at.
const ROTATING: Duration = Duration::from_millis(500);

/// Goes on with a rotation of the root whenever everybody has confirmed, or the time for it has passed.
pub(super) async fn rotate(state: Arc<State>, discovery: DeltaServer, mut stop: watch::Receiver<bool>) {
    let (mut ticks, mut last) = (interval(ROTATING), Instant::now());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stop) => return,
        }
        let passed = last.elapsed();
        last = Instant::now();
        let all_confirmed = unconfirmed(&state, &discovery).is_empty();
        let passing = Arc::clone(&state);
        let step = tokio::task::spawn_blocking(move || passing.ca.pass(passed, all_confirmed)).await;
        match step {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(step))) => {
                match step {
                    Step::Sign => tracing::info!("the new root signs from now on"),
                    Step::Retire => tracing::info!("the old root is not trusted any more"),
                }
                state.bundle_changed();
            }
            Ok(Err(error)) => tracing::error!(%error, "the rotation of the root waits"),
            // It panicked, which was reported then, or the process ends.
            Err(_) => return,
        }
    }
}
