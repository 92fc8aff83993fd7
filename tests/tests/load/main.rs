//! What holds when much comes, or a server is not well: limits that a cluster shares, health checks, outliers, adaptive
//! concurrency; on real clusters, over real sockets.
#![allow(clippy::unwrap_used)]

mod health;
mod outliers;
mod quota;
mod server;
#[path = "../world/mod.rs"]
mod world;
