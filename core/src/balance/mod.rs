//! Endpoint choice: tiers, health, power of two choices on peak-EWMA latency and load, ejection of what fails.
//!
//! Pure state machines: the clock is passed in, the random numbers come from a seed. Reads take no lock: members are
//! swapped whole, and what changes per request is counted in atomics.
//!
//! A request takes, in this order: endpoints of its lane, then of the baseline; in each, the lowest tier (zone, region,
//! cluster, other clusters, stale ones) that has a healthy endpoint. Only when nothing at all is healthy are draining
//! endpoints used, then ejected ones: failing with certainty would be worse than a try.

mod health;
mod members;
mod pools;
mod rng;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use pools::{Pick, Placement, Pools};
