//! The first connection of all, when no bundle is held yet: the root is known by its fingerprint from a token.

use std::sync::Arc;

use rustls::ClientConfig;

use super::{
    TlsError,
    mesh::finish_client,
    provider,
    verify::{Anchors, Expected, ServerVerifier},
};
use crate::model::{SpiffeId, TrustDomain};

/// A client's configuration that shows no certificate and takes only a server whose chain ends in the root with this
/// SHA-256 and whose leaf is `expected`, of `trust_domain`. The server has to send the root in its chain. TLS 1.3 only,
/// never resumed; ALPN `h2`.
pub fn bootstrap_client(
    trust_domain: &TrustDomain,
    root_sha256: [u8; 32],
    expected: &SpiffeId,
) -> Result<Arc<ClientConfig>, TlsError> {
    if expected.trust_domain() != trust_domain {
        return Err(TlsError::ForeignServer {
            expected: expected.clone(),
            trust_domain: trust_domain.clone(),
        });
    }
    let verifier = ServerVerifier::new(Anchors::Pinned(root_sha256), Expected::Id(expected.clone()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // The verifier above is stricter than the one by server name that it replaces.
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    finish_client(&mut config, &["h2"]);
    Ok(Arc::new(config))
}
