//! Asking the gateways of other clusters whether they are there, and how far away; on a network that is shared with them, a
//! few of their endpoints.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use crate::{
    balance::Pools,
    paths::Probe,
    proxy::{MeshUpstream, knock},
    telemetry::Telemetry,
};

/// How often it is looked for probes that are due.
const TICK: Duration = Duration::from_millis(100);
/// Probes at a time, of one process; more wait for their turn.
const AT_ONCE: usize = 32;
/// How often clusters are ordered by what was measured.
const MEASURE: Duration = Duration::from_secs(1);

/// Probes that go on until this is dropped.
#[derive(Debug)]
pub struct Probing(JoinHandle<()>);

impl Probing {
    /// Begins.
    pub fn start(pools: Arc<Pools>, upstream: Arc<MeshUpstream>, telemetry: Arc<Telemetry>) -> Self {
        let prober = Arc::new(Prober { pools, upstream, telemetry });
        Self(tokio::spawn(prober.run()))
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Prober {
    pools: Arc<Pools>,
    upstream: Arc<MeshUpstream>,
    telemetry: Arc<Telemetry>,
}

impl Prober {
    async fn run(self: Arc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Dropped with this future, and every probe with it.
        let mut running = JoinSet::new();
        let mut measured = Instant::now();
        loop {
            ticks.tick().await;
            while running.try_join_next().is_some() {}
            for probe in self.pools.due_probes(Instant::now(), AT_ONCE.saturating_sub(running.len())) {
                running.spawn(Arc::clone(&self).ask(probe));
            }
            if measured.elapsed() >= MEASURE {
                measured = Instant::now();
                self.pools.measure(measured);
                self.telemetry.paths().show(&self.pools.peers(measured));
            }
        }
    }

    async fn ask(self: Arc<Self>, probe: Probe) {
        let address = probe.gateway().address();
        let result = knock(address, probe.limit()).await;
        self.telemetry.paths().probed(result.is_ok());
        let now = self.pools.paths().nanos(Instant::now());
        match (probe.finish(result.as_ref().ok().copied(), now), result) {
            (Some(true), _) => {
                tracing::info!(%address, "a peer's gateway, or endpoint on this network, answers again")
            }
            (Some(false), Err(error)) => {
                tracing::warn!(%address, %error, "a peer's gateway, or endpoint on this network, does not answer");
                self.upstream.cut(address);
            }
            _ => {}
        }
    }
}
