//! What a certificate says about a workload, and whether it is the leaf that SPIFFE allows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer, X509Error},
    time::ASN1Time,
};

use crate::model::{SpiffeError, SpiffeId};

/// The parts of an X.509-SVID leaf that Tombolo reads. Only its form is checked here; whether somebody vouches for it
/// is checked by the verifiers of this module's siblings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// From the one URI name.
    pub id: SpiffeId,
    /// Valid from, in whole seconds.
    pub not_before: SystemTime,
    /// Valid to, in whole seconds.
    pub not_after: SystemTime,
}

/// Why a certificate is no leaf of a workload (SPIFFE X509-SVID, sections 2 to 4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not one well-formed X.509 certificate.
    #[error("not a well-formed X.509 certificate")]
    Malformed,
    /// Not exactly one URI name. More than one is refused: which of them was meant cannot be known.
    #[error("{0} URI names, where a workload's certificate has exactly one")]
    UriCount(usize),
    /// The URI is no SPIFFE ID.
    #[error("{0}")]
    Id(#[from] SpiffeError),
    /// May sign other certificates.
    #[error("a CA certificate, where a workload's own is needed")]
    Ca,
    /// Lacks the key usage `digitalSignature`, or has one that belongs to a CA.
    #[error("the key usage must hold digitalSignature, and neither keyCertSign nor cRLSign")]
    KeyUsage,
    /// Cannot be used for both sides of a connection.
    #[error("the extended key usage must hold serverAuth and clientAuth")]
    ExtendedKeyUsage,
}

impl From<x509_parser::nom::Err<X509Error>> for LeafError {
    fn from(_: x509_parser::nom::Err<X509Error>) -> Self {
        Self::Malformed
    }
}

impl From<X509Error> for LeafError {
    fn from(_: X509Error) -> Self {
        Self::Malformed
    }
}

impl Leaf {
    /// Reads a leaf and checks its form. Says nothing about who signed it, nor about the time.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let (rest, certificate) = X509Certificate::from_der(certificate)?;
        if !rest.is_empty() {
            return Err(LeafError::Malformed);
        }
        check_usage(&certificate)?;
        Ok(Self {
            id: spiffe_id(&certificate)?,
            not_before: system_time(certificate.validity().not_before)?,
            not_after: system_time(certificate.validity().not_after)?,
        })
    }
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    if certificate.basic_constraints()?.is_some_and(|c| c.value.ca) {
        return Err(LeafError::Ca);
    }
    let usage = certificate.key_usage()?.ok_or(LeafError::KeyUsage)?.value;
    if usage.key_cert_sign() || usage.crl_sign() || !usage.digital_signature() {
        return Err(LeafError::KeyUsage);
    }
    match certificate.extended_key_usage()? {
        Some(extended) if extended.value.server_auth && extended.value.client_auth => Ok(()),
        _ => Err(LeafError::ExtendedKeyUsage),
    }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    let names = certificate.subject_alternative_name()?;
    let mut uris = names.iter().flat_map(|n| &n.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(SpiffeId::parse(uri)?),
        (None, _) => Err(LeafError::UriCount(0)),
        (Some(_), more) => Err(LeafError::UriCount(more + 1)),
    }
}

/// Times before 1970 are refused: no certificate of ours has one.
fn system_time(time: ASN1Time) -> Result<SystemTime, LeafError> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| LeafError::Malformed)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(LeafError::Malformed)
}
