//! What follows each new snapshot: the outbound listeners, and what is subscribed to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tombolo_core::{
    discovery::Discovery,
    lifecycle::{Readiness, Task},
    member::ListenerSet,
    model::Snapshot,
    proxy::{ConnectionService, HttpEngine, ListenLimits, Serving},
    telemetry::Telemetry,
};

use crate::{
    capture::Used,
    loopback::{Called, Plan, Purpose, Range, plan},
    options::Options,
    outbound::Uses,
    pages::Served,
    parts::{Core, Parts},
    way::{Way, Ways},
};

/// Listeners that could not be opened are tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the outbound listeners in step with the snapshot.
pub(crate) struct Following {
    discovery: Discovery,
    engine: Arc<HttpEngine>,
    uses: Arc<Uses>,
    ways: Arc<ArcSwap<Ways>>,
    /// Where the listeners are; none: the kernel redirects, and there are none.
    range: Option<Range>,
    telemetry: Arc<Telemetry>,
    synced: Task,
    listeners: ListenerSet<Called, Purpose>,
    served: Arc<ArcSwap<Served>>,
    tell: watch::Sender<()>,
}

impl Following {
    /// No listeners so far.
    pub fn new(
        options: &Options,
        core: &Core,
        parts: &Parts,
        readiness: &Readiness,
        served: Arc<ArcSwap<Served>>,
        tell: watch::Sender<()>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (engine, uses) = (Arc::clone(&parts.outbound), Arc::clone(&parts.uses));
        let make = move |_: &Called, (to, said): &Purpose| {
            Way::new(&engine, &uses, to.clone(), *said) as Arc<dyn ConnectionService>
        };
        Self {
            discovery: core.discovery.clone(),
            engine: Arc::clone(&parts.outbound),
            uses: Arc::clone(&parts.uses),
            ways: Arc::clone(&parts.ways),
            range: options.capture.is_none().then_some(options.outbound_range),
            telemetry: Arc::clone(&options.telemetry),
            synced: readiness.task("first snapshot"),
            listeners: ListenerSet::new(make, ListenLimits::default(), stop),
            served,
            tell,
        }
    }

    /// Follows for as long as it is polled.
    pub async fn run(&mut self) {
        let (mut changes, mut synced) = (self.discovery.changes(), self.discovery.synced());
        loop {
            changes.borrow_and_update();
            let failing = self.apply();
            if *synced.borrow_and_update() {
                self.synced.done();
            }
            self.tell.send_replace(());
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = synced.changed() => {}
                () = tokio::time::sleep(RETRY), if failing => {}
                // Discovery lives as long as the sidecar.
                else => std::future::pending().await,
            }
        }
    }

    /// True if something is to be tried again.
    fn apply(&mut self) -> bool {
        let snapshot = self.discovery.snapshot().load_full();
        self.uses.refresh(&snapshot);
        self.ways.store(Arc::new(self.ways.load().of(&snapshot, &self.engine, &self.uses)));
        let Plan { listeners: wanted, left_out } = self.plan(&snapshot);
        let before = self.served.load_full();
        let failed = self.listeners.apply(&wanted);
        let not_bound = failed
            .iter()
            .map(|(called, address, error)| format!("{called}: cannot listen on {address}: {error}"));
        let without = left_out.iter().map(|called| format!("{called}: no virtual address is left for it"));
        let problems: Vec<String> = not_bound.chain(without).collect();
        for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
            tracing::error!("{problem}");
        }
        let outbound: BTreeMap<_, _> =
            self.listeners.iter().map(|(key, serving)| (key.clone(), Serving::address(serving))).collect();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.telemetry.set("snapshot_version", i64::try_from(snapshot.version).unwrap_or(i64::MAX));
        self.telemetry.set("listeners_open", gauge(outbound.len()));
        self.telemetry.set("listeners_failed", gauge(problems.len()));
        self.served.store(Arc::new(Served { outbound, problems }));
        !failed.is_empty()
    }

    fn plan(&self, snapshot: &Snapshot) -> Plan {
        self.range.map(|range| plan(snapshot, &range)).unwrap_or_default()
    }

    /// How the listeners are used.
    pub fn used(&self) -> Used {
        self.listeners.iter().map(|(_, serving)| Used::of(serving)).sum()
    }

    /// The listeners, to be drained.
    pub fn into_listeners(self) -> ListenerSet<Called, Purpose> {
        self.listeners
    }
}
