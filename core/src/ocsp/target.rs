//! Whom a response is to be about, and where it is asked for.

use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    der_parser::{Oid, oid},
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::der::{self, INTEGER, NULL, OCTET_STRING, OID, SEQUENCE, Values, write};

/// The access method of OCSP responders (RFC 5280 section 4.2.2.1).
const ACCESS: Oid<'static> = oid!(1.3.6.1.5.5.7.48.1);
/// TLS features (RFC 7633).
const FEATURES: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);
/// `status_request` among them (RFC 6066 section 1.1), as a DER INTEGER.
const STATUS_REQUEST: [u8; 3] = [2, 1, 5];
const SHA1_OID: [u8; 5] = [0x2b, 0x0e, 0x03, 0x02, 0x1a];
const SHA256_OID: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// A certificate and its issuer, as far as OCSP goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The number as it stands in the certificate.
    serial: Vec<u8>,
    /// The issuer's certificate.
    pub(super) issuer: CertificateDer<'static>,
    /// Its subject, DER.
    pub(super) name: Vec<u8>,
    /// Its public key's bits.
    pub(super) key: Vec<u8>,
    responder: Option<String>,
}

/// Why nothing can be said of a certificate by OCSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a chain of certificates.
    #[error("the chain is not well-formed")]
    Malformed,
    /// The issuer is needed to ask, and to verify what is answered.
    #[error("tls.crt holds no certificate of the issuer after the leaf")]
    NoIssuer,
}

impl Target {
    /// Of a chain, leaf first.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Self, TargetError> {
        let (first, others) = chain.split_first().ok_or(TargetError::Malformed)?;
        let (_, leaf) = X509Certificate::from_der(first).map_err(|_| TargetError::Malformed)?;
        let is_issuer = |other: &&CertificateDer<'_>| {
            X509Certificate::from_der(other).is_ok_and(|(_, other)| other.subject() == leaf.issuer())
        };
        let issuer = others.iter().find(is_issuer).ok_or(TargetError::NoIssuer)?;
        let (_, parsed) = X509Certificate::from_der(issuer).map_err(|_| TargetError::Malformed)?;
        Ok(Self {
            serial: leaf.raw_serial().to_vec(),
            name: parsed.subject().as_raw().to_vec(),
            key: parsed.public_key().subject_public_key.data.to_vec(),
            responder: responder(&leaf),
            issuer: issuer.clone().into_owned(),
        })
    }

    /// The URL of the responder, where the certificate names one over plain HTTP.
    pub fn responder(&self) -> Option<&str> {
        self.responder.as_deref()
    }

    /// An OCSPRequest for this certificate alone, without a nonce, so that responders may answer from a cache (RFC 5019).
    pub fn request(&self) -> Vec<u8> {
        let hash = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
        let algorithm = write(SEQUENCE, &[&write(OID, &[&SHA1_OID]), &write(NULL, &[])]);
        let id = [
            algorithm,
            write(OCTET_STRING, &[hash(&self.name).as_ref()]),
            write(OCTET_STRING, &[hash(&self.key).as_ref()]),
            write(INTEGER, &[&self.serial]),
        ];
        // OCSPRequest { TBSRequest { requestList { Request { CertID } } } }
        (0..5).fold(id.concat(), |inner, _| write(SEQUENCE, &[&inner]))
    }

    /// True if this CertID's content means the certificate (RFC 6960 section 4.1.1).
    pub(super) fn is(&self, id: &[u8]) -> bool {
        let mut id = Values(id);
        let matches = |id: &mut Values<'_>| {
            let algorithm = id.inside(SEQUENCE)?.take(OID)?.content;
            let hash: &'static Algorithm = match algorithm {
                a if a == SHA1_OID => &SHA1_FOR_LEGACY_USE_ONLY,
                a if a == SHA256_OID => &SHA256,
                _ => return None,
            };
            let (name, key) = (id.take(OCTET_STRING)?.content, id.take(OCTET_STRING)?.content);
            let serial = id.take(INTEGER)?.content;
            let fits = name == digest(hash, &self.name).as_ref()
                && key == digest(hash, &self.key).as_ref()
                && serial == self.serial
                && id.is_empty();
            Some(fits)
        };
        matches(&mut id).unwrap_or_default()
    }
}

fn responder(leaf: &X509Certificate<'_>) -> Option<String> {
    leaf.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else { return None };
        access.accessdescs.iter().find_map(|description| match &description.access_location {
            GeneralName::URI(uri) if description.access_method == ACCESS && uri.starts_with("http://") => {
                Some((*uri).to_owned())
            }
            _ => None,
        })
    })
}

/// True if a certificate has the TLS feature `status_request`, which demands a staple.
pub fn must_staple(leaf: &CertificateDer<'_>) -> bool {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
    let feature = leaf.get_extension_unique(&FEATURES).ok().flatten();
    let Some(mut features) = feature.and_then(|extension| der::only(extension.value, SEQUENCE)) else {
        return false;
    };
    std::iter::from_fn(|| features.any()).any(|feature| feature.whole == STATUS_REQUEST)
}
