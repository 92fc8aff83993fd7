//! Asking endpoints for their health, as TrafficPolicies say.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use crate::{
    balance::{Check, Pools},
    decide::{Backend, ShownCertificate},
    model::{ServiceKey, Snapshot},
    proxy::{Asked, MeshUpstream},
    telemetry::Telemetry,
};

/// How often it is looked for checks that are due.
const TICK: Duration = Duration::from_millis(50);
/// Checks at a time, of one process; more wait for their turn, those that are late the longest first.
const AT_ONCE: usize = 32;
/// How often it is told how many endpoints fail.
const TELL: Duration = Duration::from_secs(1);

/// Checks that go on until this is dropped.
#[derive(Debug)]
pub struct Checking(JoinHandle<()>);

impl Checking {
    /// Begins.
    pub fn start(
        pools: Arc<Pools>,
        upstream: Arc<MeshUpstream>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let checker = Arc::new(Checker { pools, upstream, snapshot, telemetry });
        Self(tokio::spawn(checker.run()))
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Checker {
    pools: Arc<Pools>,
    upstream: Arc<MeshUpstream>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    telemetry: Arc<Telemetry>,
}

impl Checker {
    async fn run(self: Arc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Dropped with this future, and every check with it.
        let mut running = JoinSet::new();
        let (mut told, mut shown) = (Instant::now(), HashSet::new());
        loop {
            ticks.tick().await;
            while running.try_join_next().is_some() {}
            for check in self.pools.due_checks(Instant::now(), AT_ONCE.saturating_sub(running.len())) {
                running.spawn(Arc::clone(&self).check(check));
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                self.tell(&mut shown);
            }
        }
    }

    /// Shows how many endpoints of each service fail: 0 of services that are not checked any more.
    fn tell(&self, shown: &mut HashSet<ServiceKey>) {
        let failing = self.pools.failing_checks();
        for service in shown.iter().filter(|service| !failing.contains_key(*service)) {
            self.telemetry.checks().failing(service, 0);
        }
        for (service, count) in &failing {
            self.telemetry.checks().failing(service, *count);
        }
        *shown = failing.into_keys().collect();
    }

    async fn check(self: Arc<Self>, check: Check) {
        let result = self.ask(&check).await;
        let (service, port) = check.service();
        let (service, endpoint) = (service.clone(), Arc::clone(check.endpoint()));
        self.telemetry.checks().ended(&service, result.is_ok());
        let change = check.finish(result.is_ok(), Instant::now(), &self.pools);
        match (change, result) {
            (Some(_), Ok(())) => {
                tracing::info!(%service, port, endpoint = %endpoint.id, "passes its health checks again");
            }
            (Some(_), Err(reason)) => {
                tracing::warn!(%service, port, endpoint = %endpoint.id, reason, "fails its health checks, and gets no requests");
            }
            (None, _) => {}
        }
    }

    async fn ask(&self, check: &Check) -> Result<(), String> {
        let snapshot = self.snapshot.load_full();
        let (service, port) = check.service();
        let known = snapshot.services.get(service).and_then(|entry| entry.port(port));
        let protocol = known.map(|port| port.protocol).unwrap_or_default();
        let labels = Arc::default();
        let backend = Backend::Service { service: service.clone(), port, labels, protocol };
        let tls = snapshot.config.tls_of(&backend, &ShownCertificate::default());
        let tls = tls.map_err(|_| "its BackendTLSPolicy cannot be carried out".to_owned())?;
        let asked = Asked { endpoint: check.endpoint(), host: &service.dns_name(), protocol, tls: &tls };
        self.upstream.check(asked, check.rules()).await
    }
}
