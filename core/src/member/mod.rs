//! What a gateway and a sidecar both need to take part in the mesh: listeners that follow the snapshot, identity,
//! discovery and registration put together.

mod address;
mod checking;
mod explain;
mod feed;
mod join;
mod line;
mod listeners;
mod place;
mod probing;
mod registration;
mod server_config;
mod service;
mod sharing;
mod standing;
mod traffic;
mod view;

pub use address::advertised;
pub use checking::Checking;
pub use explain::{Question, QuestionError};
pub use feed::PoolFeeder;
pub use join::{Discovering, JoinError, JoinOptions, Member};
pub use listeners::{ListenerSet, Wanted};
pub use place::place_of;
pub use probing::Probing;
pub use registration::{Registered, Registration, RegistrationParts};
pub use server_config::MeshServerConfig;
pub use service::{PeerShown, ServiceShown, explain_service};
pub use sharing::Sharing;
pub use traffic::Reporting;
pub use view::{shares, view};

/// A number that differs from process to process, for the choices of `balance`.
pub fn random_seed() -> u64 {
    fastrand::u64(..)
}
