//! The controller of one cluster: registry, configuration, certificates, discovery, and federation with peers.
//!
//! It is never in the path of a request: with every controller dead, proxies go on with what they have.

pub mod ca;
pub mod discovery;
pub mod index;
