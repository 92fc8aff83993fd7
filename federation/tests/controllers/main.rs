//! Controllers as processes see them: over real sockets, with real certificates.
#![allow(missing_docs, clippy::unwrap_used)]

mod bundles;
mod generations;
mod kit;
mod members;
mod operators;
mod peers;
mod resume;
mod rotation;
