//! What is checked of a certificate signing request (PKCS#10, RFC 2986).

use rcgen::SubjectPublicKeyInfo;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256},
    prelude::FromDer,
    x509::AlgorithmIdentifier,
};

/// Bytes of a request; ours have about 200. A larger one is refused unread.
const MAX_LENGTH: usize = 8192;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Larger than 8 KiB.
    #[error("the certificate signing request is larger than {MAX_LENGTH} bytes")]
    TooLarge,
    /// No PKCS#10 request in DER, or something after it.
    #[error("the certificate signing request is malformed")]
    Malformed,
    /// Another key than P-256, or signed otherwise than with SHA-256.
    #[error("the certificate signing request must be of a P-256 key and signed by it with SHA-256")]
    KeyType,
    /// Whoever sent it does not hold the key.
    #[error("the certificate signing request is not signed by its own key")]
    Signature,
}

/// Checks kind of key and proof of possession; returns the key. Everything else in the request is ignored.
pub(super) fn check(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_LENGTH {
        return Err(CsrError::TooLarge);
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    if !is_p256(&key.algorithm) || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(CsrError::KeyType);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.subject_public_key.data)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::KeyType)
}

fn is_p256(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256)
}
