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
    let verifier = ServerVerifier::checked(Anchors::Pinned(root_sha256), Expected::Id(expected.clone()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // The verifier above is stricter than the one by server name that it replaces.
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    finish_client(&mut config, &["h2"]);
    Ok(Arc::new(config))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        identity::{
            Credentials,
            testing::{FakeCa, Leaf, trust},
        },
        tls::{controller_server, fingerprint, testing::handshake},
    };

    async fn first_contact(pinned: &FakeCa, server: Arc<Credentials>) -> Result<Option<SpiffeId>, String> {
        let expected = SpiffeId::controller(pinned.trust_domain());
        let client = bootstrap_client(pinned.trust_domain(), fingerprint(pinned.root()), &expected).unwrap();
        let server = controller_server(server, trust(&[pinned]), &["h2"]).unwrap();
        handshake(client, server).await.client
    }

    #[tokio::test]
    async fn the_controller_is_known_by_its_root() {
        let ca = FakeCa::new("east.example");
        let peer = first_contact(&ca, ca.controller()).await;
        assert_eq!(peer, Ok(Some(SpiffeId::controller(ca.trust_domain()))));
    }

    #[tokio::test]
    async fn others_are_refused() {
        let (ca, foreign) = (FakeCa::new("east.example"), FakeCa::new("east.example"));
        let refused = first_contact(&ca, foreign.controller()).await.unwrap_err();
        assert!(refused.contains("UnknownIssuer"), "{refused}");

        // The right root is public: sending it along proves nothing.
        let leaf = Leaf::new(&SpiffeId::controller(ca.trust_domain()));
        let (certificate, key) = foreign.issue_raw(&leaf);
        let borrowed = Credentials::new(vec![certificate, ca.root().clone()], key).unwrap();
        let refused = first_contact(&ca, Arc::new(borrowed)).await.unwrap_err();
        assert!(refused.contains("UnknownIssuer") || refused.contains("BadSignature"), "{refused}");

        // Signed by the right root, which is not sent.
        let refused = first_contact(&ca, ca.issue(&leaf)).await.unwrap_err();
        assert!(refused.contains("UnknownIssuer"), "{refused}");

        // Another workload of the right authority.
        let (certificate, key) = ca.issue_raw(&Leaf::new(&ca.id("shop", "checkout")));
        let other = Credentials::new(vec![certificate, ca.root().clone()], key).unwrap();
        let refused = first_contact(&ca, Arc::new(other)).await.unwrap_err();
        assert!(refused.contains("ApplicationVerificationFailure"), "{refused}");

        let mut late = Leaf::new(&SpiffeId::controller(ca.trust_domain()));
        late.not_after = late.not_before + std::time::Duration::from_secs(60);
        let (certificate, key) = ca.issue_raw(&late);
        let expired = Credentials::new(vec![certificate, ca.root().clone()], key).unwrap();
        let refused = first_contact(&ca, Arc::new(expired)).await.unwrap_err();
        assert!(refused.contains("Expired"), "{refused}");
    }

    #[test]
    fn a_server_of_another_trust_domain_is_never_expected() {
        let (east, west) = (FakeCa::new("east.example"), FakeCa::new("west.example"));
        let expected = SpiffeId::controller(west.trust_domain());
        let config = bootstrap_client(east.trust_domain(), fingerprint(east.root()), &expected);
        assert!(matches!(config, Err(TlsError::ForeignServer { .. })));
    }
}
