//! Three clusters with networks of their own (all three even use the same addresses), which only their gateways and
//! controllers join: what breaks between and in them, how many requests that costs, and how long.
//!
//! Each step prints a line and is held to its budget: requests that failed, the slowest, and the time until all is as it
//! should be.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod failures;
mod links;
mod net;
mod state;
mod steps;
mod world;
