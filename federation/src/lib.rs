//! The controller of one cluster: registry, configuration, certificates, discovery, and federation with peers.
//!
//! It is never in the path of a request: with every controller dead, proxies go on with what they have.

mod analysis;
pub mod ca;
pub mod config;
pub mod discovery;
pub mod index;
mod operator;
mod ordering;
mod peering;
mod quota;
mod running;
mod server;
mod spiffe;
mod state;
mod status;
mod store;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub mod testing;
mod traffic;

pub use running::{Bounds, Options, Running, StartError, start, start_with};
pub use spiffe::{BundleListener, Pace};
pub use store::StoreError;
