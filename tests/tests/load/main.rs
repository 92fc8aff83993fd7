//! What holds when much comes, or a server is not well: limits that a cluster shares, health checks, outliers, adaptive
//! concurrency, users who stay where they are, an end in time; on real clusters, over real sockets.
#![allow(clippy::unwrap_used)]

mod drain;
mod hashing;
mod health;
mod outliers;
mod quota;
mod server;
#[path = "../world/mod.rs"]
mod world;

/// What is measured here is not to be disturbed by the other tests of this file: one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
