//! rustls configurations: SPIFFE verification against one trust domain's bundle, edge certificates by SNI.
//!
//! Nothing here reads or writes files, and nothing takes a peer unverified. The cryptography is ring's, given to each
//! configuration: no default of the process is needed or used.

mod backend;
mod checked;
mod clients;
pub mod edge;
pub mod grpc;
mod leaf;
mod mesh;
mod pinned;
mod roots;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;
mod verify;

use std::sync::{Arc, OnceLock};

use rustls::{crypto::CryptoProvider, pki_types::CertificateDer};

pub use backend::backend_client;
pub use clients::ClientValidation;
pub use edge::{EdgeCertificate, EdgeCertificateError, EdgeCertificates, edge_server};
pub use leaf::{Leaf, LeafError};
pub use mesh::{controller_server, mesh_client, mesh_server, public_server};
pub use pinned::bootstrap_client;
pub use roots::check_bundle;
pub use verify::{ChainError, Expected, MAX_CHAIN, PeerError, check_chain};

use crate::model::{SpiffeId, TrustDomain};

/// Why a configuration cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// A trust bundle holds something that is no usable root.
    #[error("trust bundle of {trust_domain}: {reason}")]
    Bundle {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Which root, and what is wrong with it.
        reason: String,
    },
    /// The server to expect is not of the trust domain whose root is pinned.
    #[error("{expected} is not of the trust domain {trust_domain}")]
    ForeignServer {
        /// Who was to be expected.
        expected: SpiffeId,
        /// The pinned domain.
        trust_domain: TrustDomain,
    },
    /// rustls takes no such configuration.
    #[error("TLS configuration: {0}")]
    Config(#[from] rustls::Error),
}

/// The cryptography that everything here uses.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// Who the other side is, from the certificates of a connection whose handshake one of this module's configurations
/// has finished. None if it showed none. Never ask this of a connection that was verified otherwise.
pub fn peer_id(certificates: Option<&[CertificateDer<'_>]>) -> Option<SpiffeId> {
    Leaf::parse(certificates?.first()?).ok().map(|leaf| leaf.id)
}

/// SHA-256 of a certificate's DER: how a root is pinned.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref());
    fingerprint
}
