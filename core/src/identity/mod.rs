//! This process's own identity: key, certificate signing request, certificate, rotation, and the tokens by which a
//! process proves itself for the first time.

mod credentials;
pub mod files;
pub mod pem;
mod renewals;
mod request;
mod rotation;
mod signer;
mod store;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub mod testing;
pub mod token;

use std::sync::Arc;

pub use credentials::{Credentials, CredentialsError, Identity};
pub use renewals::{Renewals, Standing};
pub use request::{KeyError, KeyRequest};
pub use rotation::{Clock, Rotating, Rotation, RotationError, Schedule, system_clock};
pub use signer::{GrpcSigner, Proof, SignError, Signed, Signer};
pub use store::{Store, StoreError};
pub use token::{Purpose, Secret, Token, TokenError};

/// The credentials in force; changes with each renewal.
pub type Watch = tokio::sync::watch::Receiver<Arc<Credentials>>;
