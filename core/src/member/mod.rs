//! What a gateway and a sidecar both need to take part in the mesh: listeners that follow the snapshot, identity,
//! discovery and registration put together.

mod listeners;

pub use listeners::{ListenerSet, Wanted};
