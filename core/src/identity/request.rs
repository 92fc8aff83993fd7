//! A fresh key and its certificate signing request.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{Credentials, CredentialsError};

/// A new P-256 key with a PKCS#10 request that proves possession of it. The request names nobody: who the certificate
/// is for is decided by the signer.
pub struct KeyRequest {
    key: Zeroizing<Vec<u8>>,
    csr: Vec<u8>,
}

/// The key could not be made. Happens only if the system gives no random bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot make a key: {0}")]
pub struct KeyError(String);

impl KeyRequest {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        let refuse = |error: rcgen::Error| KeyError(error.to_string());
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(refuse)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&pair).map_err(refuse)?;
        Ok(Self { key: Zeroizing::new(pair.serialize_der()), csr: csr.der().to_vec() })
    }

    /// The request, PKCS#10 in DER.
    pub fn csr_der(&self) -> &[u8] {
        &self.csr
    }

    /// The key with the chain that a signer returned for it, leaf first.
    pub fn with_chain(self, chain: Vec<CertificateDer<'static>>) -> Result<Credentials, CredentialsError> {
        Credentials::new(chain, self.key)
    }
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRequest").finish_non_exhaustive()
    }
}
