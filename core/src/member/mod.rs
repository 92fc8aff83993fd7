//! What a gateway and a sidecar both need to take part in the mesh: listeners that follow the snapshot, identity,
//! discovery and registration put together.

mod explain;
mod feed;
mod listeners;
mod view;

pub use explain::{Question, QuestionError};
pub use feed::PoolFeeder;
pub use listeners::{ListenerSet, Wanted};
pub use view::view;

/// A number that differs from process to process, for the choices of `balance`.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
