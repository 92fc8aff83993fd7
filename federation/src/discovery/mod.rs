//! The discovery server: incremental xDS over what the index has published.
//!
//! [`ResourceStore`] holds every resource with its version; each stream has a [`StreamState`], which says without I/O
//! what its client has to be told; [`DeltaServer`] is the gRPC service around them.

mod acks;
mod server;
mod store;
mod stream;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use acks::Acknowledged;
pub use server::DeltaServer;
pub use store::{ResourceStore, Update};
pub use stream::{StreamState, Viewer};
