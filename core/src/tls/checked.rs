//! The half of rustls' verifiers that is the same for all: that who shows a certificate has its key. What makes the
//! certificate itself acceptable differs, and is in a [`ServerChain`] or a [`ClientChain`].

use std::{fmt::Debug, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::provider;

/// Whether a server's chain is acceptable. The name that was asked for by SNI plays no part.
pub(super) trait ServerChain: Debug + Send + Sync {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error>;
}

/// Whether a client's chain is acceptable. Clients are not told whose certificates are.
pub(super) trait ClientChain: Debug + Send + Sync {
    /// False: a client may come without a certificate.
    fn is_mandatory(&self) -> bool;

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error>;
}

/// A chain's verifier as rustls takes it.
#[derive(Debug)]
pub(super) struct Checked<C> {
    chain: C,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<C> Checked<C> {
    pub(super) fn new(chain: C) -> Arc<Self> {
        Arc::new(Self { chain, algorithms: provider().signature_verification_algorithms })
    }
}

/// Both of rustls' traits ask the same of signatures.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl<C: ServerChain> ServerCertVerifier for Checked<C> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chain.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl<C: ClientChain> ClientCertVerifier for Checked<C> {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.is_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain.check(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}
