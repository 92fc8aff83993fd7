//! Discovery: the stream from the controller, the state that comes of it, and the cache of the last good state.
//!
//! ```text
//! controller --DeltaDiscoveryResponse--> Client -> Assembly (validates, keeps the last good) -> Snapshot
//!                                          ^  \-> ACK, or NACK with reasons        \-> Cache (on disk)
//!                                          \-- wanted services, at their first use
//! ```
//!
//! The protocol is incremental xDS; its rules are kept by [`Protocol`], a state machine without I/O. An answer can only
//! change what it names: what does not validate is refused object by object, and what it held before stays.

mod assembly;
mod cache;
mod client;
mod convert;
mod pauses;
mod protocol;
mod saving;

pub use assembly::{Applied, Assembly, COOKIE_KEY, Compile, Held, Refused};
pub use cache::{Cache, CacheError};
pub use client::{BeforePublish, Client, ClientParts, Connect, Discovery, DiscoveryStats};
pub use convert::ResourceError;
pub(crate) use pauses::Pauses;
pub use protocol::Protocol;

/// The type URLs of Tombolo's resources.
pub mod type_url {
    /// One configuration document, as its own JSON.
    pub const CONFIG_DOCUMENT: &str = "type.googleapis.com/tombolo.v1.ConfigDocument";
    /// One service in one scope.
    pub const SERVICE: &str = "type.googleapis.com/tombolo.v1.Service";
    /// Its endpoints.
    pub const ENDPOINT_SET: &str = "type.googleapis.com/tombolo.v1.EndpointSet";
    /// One trust domain's roots.
    pub const TRUST_BUNDLE: &str = "type.googleapis.com/tombolo.v1.TrustBundle";
    /// One edge certificate with its key; only for gateways.
    pub const EDGE_CERTIFICATE: &str = "type.googleapis.com/tombolo.v1.EdgeCertificate";
    /// All of them.
    pub const ALL: [&str; 5] = [CONFIG_DOCUMENT, SERVICE, ENDPOINT_SET, TRUST_BUNDLE, EDGE_CERTIFICATE];
}
