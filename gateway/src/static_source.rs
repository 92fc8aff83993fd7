//! A gateway without a controller: its documents are files.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tombolo_core::{
    decide::{CookieKey, compile},
    member::PoolFeeder,
    model::{Snapshot, TrustBundles},
    resources::{Object, ResourceSet, kinds::GrayRelease, static_services},
    telemetry::Telemetry,
};

use crate::{
    certificates::{CertificateBook, Certificates},
    files::{Files, Loaded},
    ordering::Ordering,
    state::State,
};

/// The name of the cluster that a gateway without a controller is.
const CLUSTER: &str = "static";

/// What decisions are made from, of these documents.
pub(crate) fn picture(resources: &ResourceSet, version: u64, cookies: Option<CookieKey>) -> Snapshot {
    Snapshot {
        version,
        config: Arc::new(compile(resources)),
        services: static_services(resources, CLUSTER),
        trust: Arc::new(TrustBundles::default()),
        cookies,
    }
}

/// Where each state is put in force.
pub(crate) struct Slots {
    /// What decisions are made from.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What is shown to backends.
    pub certificates: Arc<ArcSwap<Certificates>>,
}

/// Reads files, and reads them again when they change.
pub(crate) struct StaticSource {
    files: Files,
    ordering: Ordering,
    loaded: Option<Loaded>,
    telemetry: Arc<Telemetry>,
    feeder: Arc<PoolFeeder>,
    into: Slots,
    book: CertificateBook,
    cookies: Option<CookieKey>,
    version: u64,
}

impl StaticSource {
    /// Nothing read so far. Each state is put into `into`: after the pools, the certificates before the snapshot.
    pub fn new(
        files: Files,
        ordering: Ordering,
        telemetry: Arc<Telemetry>,
        feeder: Arc<PoolFeeder>,
        into: Slots,
        book: CertificateBook,
    ) -> Self {
        Self { files, ordering, loaded: None, telemetry, feeder, into, book, cookies: None, version: 0 }
    }

    /// What signs issued cookies.
    pub fn with_cookies(self, cookies: Option<CookieKey>) -> Self {
        Self { cookies, ..self }
    }

    /// Looks for changes, and puts them in force. None: there are none. Blocks for as long as reading and compiling takes.
    pub fn poll(&mut self) -> Option<Arc<State>> {
        match self.files.load() {
            Some(loaded) => {
                self.report(&loaded);
                self.loaded = Some(loaded);
            }
            None if self.ordering.has_news() => {}
            None => return None,
        }
        let loaded = self.loaded.as_ref()?;
        let mut resources = loaded.resources.clone();
        self.ordering.overlay(&mut resources);
        self.book.update(&resources, &self.telemetry);
        self.version += 1;
        let snapshot = picture(&resources, self.version, self.cookies.clone());
        self.ordering.want(&snapshot.config);
        let snapshot = Arc::new(snapshot);
        self.feeder.feed(&snapshot);
        let certificates = Arc::new(self.book.certificates());
        self.into.certificates.store(Arc::clone(&certificates));
        self.into.snapshot.store(Arc::clone(&snapshot));
        Some(Arc::new(State {
            snapshot,
            certificates,
            problems: loaded.problems.clone(),
            certificate_problems: self.book.problems(),
            kept: loaded.kept.clone(),
        }))
    }

    fn report(&self, loaded: &Loaded) {
        for problem in &loaded.problems {
            self.telemetry.bad_input("document");
            tracing::error!("{problem}");
        }
        for object in &loaded.kept {
            tracing::warn!(object = &**object, "in force as it was before its problem");
        }
        let is_automatic = |release: &&_| {
            let release: &&Arc<Object<GrayRelease>> = release;
            release.spec.analysis.is_some()
        };
        for release in loaded.resources.gray_releases.values().filter(is_automatic) {
            tracing::warn!(
                release = %release.meta.key(),
                "its analysis is not carried out: that takes a controller; its arms keep the weights of the document"
            );
        }
        tracing::info!(
            objects = loaded.resources.len(),
            problems = loaded.problems.len(),
            "configuration read"
        );
    }

    /// Polls for as long as somebody listens.
    pub async fn watch(mut self, poll: Duration, states: watch::Sender<Arc<State>>) {
        let mut ticks = tokio::time::interval(poll);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ordered = self.ordering.changes();
        loop {
            tokio::select! {
                Ok(()) = ordered.changed() => {}
                _ = ticks.tick() => {}
                () = states.closed() => return,
            }
            let polled = tokio::task::spawn_blocking(move || {
                let state = self.poll();
                (self, state)
            });
            // It fails only where it panicked: the last good state stays.
            let Ok((source, state)) = polled.await else {
                return tracing::error!("the files are no longer watched");
            };
            self = source;
            if let Some(state) = state {
                states.send_replace(state);
            }
        }
    }
}
