//! Controllers as processes see them: over real sockets, with real certificates.
#![allow(missing_docs, clippy::unwrap_used)]

mod generations;
mod kit;
mod members;
mod operators;
mod peers;
mod rotation;
