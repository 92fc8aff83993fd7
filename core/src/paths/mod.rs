//! The ways to other clusters: what is seen of the gateways in front of them, and in which order clusters are fallen back on.
//!
//! Pure state machines: the clock is passed in. What requests ask for (is this gateway down, was it slow of late) is kept in
//! atomics; what changes it comes from probes and from connections that are made, both rare beside requests.

mod gateway;
mod order;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dashmap::DashMap;

pub use gateway::{Gateway, Probe, Showing, Standing};
pub use order::{Order, Seen};

/// Gateways that are told apart; those of more are taken to be up.
const MAX_GATEWAYS: usize = 1024;

/// All gateways that some endpoint is behind.
#[derive(Debug)]
pub struct Paths {
    origin: Instant,
    gateways: DashMap<SocketAddr, Arc<Gateway>>,
}

/// The gateways that lead to the same endpoints.
pub type Ways = Arc<[Arc<Gateway>]>;

impl Paths {
    /// None yet. `origin` is now.
    pub fn new(origin: Instant) -> Self {
        Self { origin, gateways: DashMap::new() }
    }

    /// The gateway at this address; none: there are too many.
    pub fn gateway(&self, address: SocketAddr) -> Option<Arc<Gateway>> {
        if let Some(known) = self.get(address) {
            return Some(known);
        }
        let fits = self.gateways.len() < MAX_GATEWAYS;
        fits.then(|| self.gateways.entry(address).or_insert_with(|| Arc::new(Gateway::new(address))).clone())
    }

    /// The gateway at this address, if something is known of it.
    pub fn get(&self, address: SocketAddr) -> Option<Arc<Gateway>> {
        self.gateways.get(&address).map(|known| Arc::clone(&known))
    }

    /// Forgets those that nobody holds: no endpoint is behind them any more.
    pub fn forget_unused(&self) {
        self.gateways.retain(|_, gateway| Arc::strong_count(gateway) > 1);
    }

    /// Time as gateways count it.
    pub fn nanos(&self, now: Instant) -> u64 {
        nanos_of(now.saturating_duration_since(self.origin))
    }

    /// A connection to this address was not taken, or not in time.
    pub fn failed(&self, address: SocketAddr, now: Instant) {
        if let Some(gateway) = self.gateway(address) {
            gateway.failed(self.nanos(now));
        }
    }

    /// The connection was taken, but then nobody spoke: the gateway, or who is behind it.
    pub fn unanswered(&self, address: SocketAddr, now: Instant) {
        if let Some(gateway) = self.gateway(address) {
            gateway.unanswered(self.nanos(now));
        }
    }

    /// Somebody behind this address has answered.
    pub fn answered(&self, address: SocketAddr, now: Instant) {
        // Of what is no gateway nothing is kept.
        if let Some(gateway) = self.get(address) {
            gateway.answered(self.nanos(now));
        }
    }

    /// Which of these to connect to: one of the best, `spread` (random) over equals. None: all are in `tried`.
    pub fn choose(
        &self,
        gateways: &[SocketAddr],
        tried: &[SocketAddr],
        spread: u64,
        now: Instant,
    ) -> Option<SocketAddr> {
        let now = self.nanos(now);
        let first = usize::try_from(spread % gateways.len().max(1) as u64).unwrap_or_default();
        let turn = gateways.iter().cycle().skip(first).take(gateways.len());
        let known = turn.filter(|address| !tried.contains(address));
        let chosen = known.map(|address| (self.get(*address), *address)).min_by_key(|(gateway, _)| {
            gateway.as_ref().map_or(Standing::Up, |gateway| gateway.standing(now))
        });
        let (gateway, address) = chosen?;
        if let Some(gateway) = gateway {
            gateway.used(now);
        }
        Some(address)
    }
}

/// True if some of these gateways is not known to be down.
pub fn is_reachable(ways: &[Arc<Gateway>]) -> bool {
    ways.iter().any(|gateway| !gateway.is_down())
}

/// The shortest round trip to one that is up, as far as it is known.
pub fn round_trip(ways: &[Arc<Gateway>]) -> Option<Duration> {
    ways.iter().filter(|gateway| !gateway.is_down()).filter_map(|gateway| gateway.round_trip()).min()
}

/// True if all of these gateways are down or lose much.
pub fn is_failing(ways: &[Arc<Gateway>]) -> bool {
    ways.iter().all(|gateway| gateway.is_down() || gateway.is_lossy())
}

fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
