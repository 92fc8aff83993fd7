//! Endpoint choice: tiers, health by what is seen and by checks, balancing rules, ejection of what fails, bounds on what is in flight.
//!
//! Pure state machines: the clock is passed in, the random numbers come from a seed. Reads take no lock: members are
//! swapped whole, and what changes per request is counted in atomics.
//!
//! A request goes to the endpoints of its lane, then to those of the baseline. In each, tiers (zone, region, cluster, other
//! clusters one by one, see `ranks`) share the load by what they can carry, see `tiers`. Only when nothing at all is healthy
//! are draining endpoints used, then such as discovery dropped while they were answering, then ejected ones and those whose
//! gateways are down: failing with certainty would be worse than a try.

mod adaptive;
mod backing;
mod checking;
mod checks;
mod choose;
mod health;
mod maglev;
mod members;
mod outliers;
mod pools;
mod ranks;
mod rng;
mod showing;
mod state;
mod tiers;
mod witnesses;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::{hash::Hash, time::Duration};

use dashmap::DashMap;

pub use checking::{Check, Seen};
pub use pools::{Pick, Placement, Pools};
pub use ranks::PeerSeen;
pub use showing::{EndpointShown, GatewayShown, NextShown, PortShown, TierShown};

/// A table of one service port, of which there are many: with the usual number of parts, each with a lock and padded to a
/// cache line, it would take 512 bytes for each core.
fn small_table<K: Eq + Hash, V>() -> DashMap<K, V> {
    DashMap::with_shard_amount(2)
}

/// As time is counted here.
fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
