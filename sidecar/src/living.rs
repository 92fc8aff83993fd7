//! A sidecar's life, and its end in order.

use std::time::{Duration, Instant};

use tokio::{sync::watch, time::sleep};
use tombolo_core::{
    lifecycle::{self, Drain},
    member::{Checking, Member, MeshServerConfig, Probing, Registration},
    proxy::Serving,
};

use crate::{
    capture::{Listening, Used},
    dns::Dns,
    following::Following,
    health::Probe,
    local::Captured,
    options::Options,
    parts::Core,
};

/// The controller is given so long to take note that the workload goes away.
const FAREWELL: Duration = Duration::from_secs(2);
/// After that, callers have so long to hear of it before the inbound listener closes.
const SETTLE: Duration = Duration::from_millis(500);
/// Whether the application has gone is looked at this often, and believed after this long.
const LOOK: Duration = Duration::from_millis(250);
const GONE: Duration = Duration::from_secs(2);

/// Everything that lives as long as the sidecar.
pub(crate) struct Living {
    pub options: Options,
    pub member: Member,
    pub core: Core,
    pub probe: Probe,
    pub registration: Registration,
    pub config: MeshServerConfig,
    pub dns: Option<Dns>,
    pub serving: Serving,
    pub captured: Option<Captured>,
    pub http_proxy: Option<Listening>,
    pub stop: watch::Sender<bool>,
    pub following: Following,
    pub checking: Checking,
    pub probing: Probing,
}

impl Living {
    /// Lives until the drain, then ends in order: deregistered first, the application's own calls last.
    pub async fn run(self, mut drain: Drain) {
        let Self {
            options,
            member,
            core,
            probe,
            registration,
            config,
            dns,
            serving,
            captured,
            http_proxy,
            stop,
            mut following,
            checking,
            probing,
        } = self;
        tokio::select! {
            () = following.run() => {}
            () = drain.signalled() => {}
        }
        tracing::info!("draining");
        lifecycle::notify_stopping();
        if !registration.withdraw(FAREWELL).await {
            tracing::warn!("the controller has not taken note that this workload goes away");
        }
        // The application's own calls go on meanwhile.
        tokio::select! {
            () = following.run() => {}
            () = sleep(SETTLE) => {}
        }
        serving.stop();
        let inbound = captured.as_ref().map(|captured| &captured.inbound);
        if let Some(listening) = inbound {
            listening.stop();
        }
        // One limit for all of them.
        let end = Instant::now() + options.drain_limit;
        let left = || end.saturating_duration_since(Instant::now());
        let mut finished = serving.drained(left()).await;
        let calls = captured.as_ref().map(|captured| &captured.outbound).into_iter().chain(&http_proxy);
        if let Some(listening) = inbound {
            finished &= listening.drained(left()).await;
        }
        if options.outlive_app {
            let used = || calls.clone().map(Listening::used).sum();
            outlive(&mut following, &probe, used, end).await;
        }
        stop.send_replace(true);
        finished &= following.into_listeners().drained(left()).await;
        for listening in calls {
            finished &= listening.drained(left()).await;
        }
        if !finished {
            tracing::warn!(limit = ?options.drain_limit, "connections that did not end in time are cut");
        }
        core.sharing.give_back().await;
        core.discovering.finish().await;
        drop((member, (checking, probing), core.reporting, probe, config, dns));
    }
}

/// Goes on until the application has gone, or the end: its ports are closed, and it calls nobody any more. Closed ports alone do
/// not tell: an application that ends may have calls to make.
async fn outlive(following: &mut Following, probe: &Probe, calls: impl Fn() -> Used, end: Instant) {
    let (mut last, mut since) = (Used::default(), Instant::now());
    loop {
        tokio::select! {
            () = following.run() => {}
            () = sleep(LOOK) => {}
        }
        let (now, used) = (Instant::now(), [calls(), following.used()].into_iter().sum::<Used>());
        if used.open > 0 || used != last || !probe.is_gone() {
            (last, since) = (used, now);
        }
        if now >= end || now >= since + GONE {
            return;
        }
    }
}
