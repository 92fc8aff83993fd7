//! The cluster's certificate authority: it vouches for the workloads of one trust domain.
//!
//! `STATE_DIR/ca/ca.pem` (0600, in a directory 0700) holds the issuing certificate, the certificates above it up to the
//! root, and the issuing certificate's key (PKCS#8), in this order. Where the file is missing a root is made. An operator
//! who has an authority already puts such a file there before the first start: a root alone, or an intermediate with
//! what is above it.
//!
//! Nothing here is async or remembers whom it signed for; who may have which certificate is the caller's to decide.

mod authorities;
mod csr;
mod rotation;
mod tokens;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use tombolo_core::{
    identity::{
        files::{create_private_dir, read_private, write_private},
        pem,
    },
    model::{BundleError, SpiffeId, TrustBundle, TrustDomain},
    tls::{self, MAX_CHAIN, check_bundle, check_chain},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};
use zeroize::{Zeroize, Zeroizing};

pub use authorities::{Authorities, DEFAULT_LEAD, MAX_LEAD, Progress};
pub use csr::CsrError;
pub use rotation::{Phase, Step};
pub use tokens::{JoinGrant, JoinTokens, MAX_TOKENS, TokenBook, TokenBookError};

/// Life of a certificate unless something else is asked for.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

/// The shortest life that is given; less is raised to it.
pub const MIN_TTL: Duration = Duration::from_secs(10);

/// The longest life that is given; more is cut to it.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// How far a leaf's beginning lies in the past, for clocks that are behind.
const BACK_DATED: Duration = Duration::from_secs(300);

/// Life of a root that is made here.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Vouches for the workloads of one trust domain. `Debug` shows no key.
pub struct CertificateAuthority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    /// The issuing certificate and those above it, without the root.
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    bundle: TrustBundle,
    /// No leaf outlives the issuing certificate.
    not_after: SystemTime,
    /// See [`Self::cookie_secret`].
    cookie_secret: hmac::Tag,
}

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The chain, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// End of the leaf's life.
    pub not_after: SystemTime,
}

/// Why the authority cannot be opened, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The file system refuses, or the file's mode does.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was supplied is no authority for this trust domain. Never shows any of the key.
    #[error("certificate authority: {0}")]
    Unusable(String),
    /// The request is refused.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// Someone of another trust domain.
    #[error("{0} is not of the trust domain {1}")]
    ForeignId(SpiffeId, TrustDomain),
    /// The issuing certificate's time is over.
    #[error("the issuing certificate has expired")]
    Expired,
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

fn unusable(error: impl fmt::Display) -> CaError {
    CaError::Unusable(error.to_string())
}

impl CertificateAuthority {
    /// Opens the authority in `directory` (`STATE_DIR/ca`), or makes a P-256 root of ten years there.
    pub fn open_or_create(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let path = directory.join("ca.pem");
        let failed = |source| CaError::Io { path: path.clone(), source };
        create_private_dir(directory).map_err(failed)?;
        let text = match read_private(&path).map_err(failed)? {
            Some(text) => Zeroizing::new(text),
            None => {
                let text = new_root(trust_domain, SystemTime::now())?;
                write_private(&path, &text).map_err(failed)?;
                text
            }
        };
        Self::from_pem(&text, trust_domain, SystemTime::now())
    }

    /// An authority from PEM: the issuing certificate, those above it, the root last, and the issuing certificate's key
    /// (PKCS#8). What cannot sign for this trust domain so that its own bundle verifies it is refused.
    pub fn from_pem(text: &[u8], trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        let mut chain = chain.map_err(|_| unusable("not well-formed PEM"))?;
        // A leaf comes before it, and for pinning the root goes along.
        if chain.len() >= MAX_CHAIN {
            return Err(unusable(format_args!("at most {} certificates", MAX_CHAIN - 1)));
        }
        let key = read_key(text)?;
        let issuing = chain.first().cloned().ok_or_else(|| unusable("no certificate"))?;
        let root = chain.pop().ok_or_else(|| unusable("no certificate"))?;
        let not_after = check_issuing(&issuing, &key, trust_domain)?;
        let bundle = TrustBundle::new(trust_domain.clone(), vec![Arc::from(&*root)], 1);
        let bundle = bundle.map_err(|error: BundleError| unusable(error))?;
        check_bundle(&bundle).map_err(unusable)?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.serialized_der());
        let cookie_secret = hmac::sign(&secret, b"tombolo cookie secret v1");
        let issuer = Issuer::from_ca_cert_der(&issuing, key)?;
        let authority = Self {
            trust_domain: trust_domain.clone(),
            issuer,
            intermediates: chain,
            root,
            bundle,
            not_after,
            cookie_secret,
        };
        authority.check_itself(now)?;
        Ok(authority)
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle of its trust domain: the root.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// From what the cluster's gateways derive the key that signs issued cookies: derived from the issuing certificate's
    /// key, so that it outlives every process and nothing more has to be kept. A new issuing certificate changes it.
    pub fn cookie_secret(&self) -> &[u8] {
        self.cookie_secret.as_ref()
    }

    /// SHA-256 of the root, for tokens.
    pub fn root_sha256(&self) -> [u8; 32] {
        tls::fingerprint(&self.root)
    }

    /// Signs a request (PKCS#10 in DER) for `id`. Of the request only its key counts, which must be P-256 and the one
    /// that signed it; names and extensions that it asks for are ignored. `ttl` is kept between [`MIN_TTL`] and
    /// [`MAX_TTL`], and the leaf does not outlive the issuing certificate.
    pub fn sign_csr(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        if *id.trust_domain() != self.trust_domain {
            return Err(CaError::ForeignId(id.clone(), self.trust_domain.clone()));
        }
        let key = csr::check(csr_der)?;
        self.sign(&key, id, ttl, now)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        if now >= self.not_after {
            return Err(CaError::Expired);
        }
        let not_after = (now + ttl.clamp(MIN_TTL, MAX_TTL)).min(self.not_after);
        let mut params = leaf_params(id)?;
        params.not_before = (now - BACK_DATED).into();
        params.not_after = not_after.into();
        let mut chain = vec![params.signed_by(key, &self.issuer)?.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Issued { chain, not_after })
    }

    /// A cross certificate for the root of `next`; none where one of the two roots has its key elsewhere.
    fn introduces(&self, next: &Self) -> Result<Option<CertificateDer<'static>>, CaError> {
        let are_roots = self.intermediates.is_empty() && next.intermediates.is_empty();
        are_roots.then(|| self.vouch_for(next)).transpose()
    }

    /// A cross certificate: the root of `next` as this authority vouches for it.
    fn vouch_for(&self, next: &Self) -> Result<CertificateDer<'static>, CaError> {
        let malformed = |_| unusable("the next root is not well-formed");
        let (_, root) = X509Certificate::from_der(&next.root).map_err(malformed)?;
        let name = root.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = name.ok_or_else(|| unusable("the next root has no name"))?;
        let mut params = root_params(&self.trust_domain, name, SystemTime::now())?;
        params.not_after = self.not_after.min(next.not_after).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(next.issuer.key(), &self.issuer)?.der().clone())
    }

    /// Signs something and verifies it as everybody else will: finds wrong chains, foreign roots, expired certificates
    /// and constraints before the first workload does.
    fn check_itself(&self, now: SystemTime) -> Result<(), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let id = SpiffeId::controller(&self.trust_domain);
        let issued = self.sign(&key, &id, DEFAULT_TTL, now)?;
        let verified = check_chain(&issued.chain, &self.bundle, now);
        verified.map(|_| ()).map_err(|error| unusable(format_args!("what it signs does not verify: {error}")))
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn leaf_params(id: &SpiffeId) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    params.serial_number = Some(random_serial()?);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A new root with its key, in PEM.
fn new_root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    // Roots that follow one another have names of their own: a chain is then found by its names.
    let serial = random_serial()?;
    let number: String = serial.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = root_params(trust_domain, &format!("Tombolo root {number} of {trust_domain}"), now)?;
    params.serial_number = Some(serial);
    params.not_after = (now + ROOT_LIFE).into();
    // Room for one intermediate, or for a cross certificate.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let mut text = Zeroizing::new(String::new());
    pem::write(&mut text, "CERTIFICATE", params.self_signed(&key)?.der());
    pem::write(&mut text, "PRIVATE KEY", key.serialized_der());
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

/// What a root and a cross certificate for it have in common.
fn root_params(
    trust_domain: &TrustDomain,
    name: &str,
    now: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.serial_number = Some(random_serial()?);
    params.not_before = (now - BACK_DATED).into();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// 127 random bits: positive, and never the same twice (RFC 5280, section 4.1.2.2).
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| unusable("the system gives no random bytes"))?;
    // The first bit is the sign; the second is set so that no leading zeros are left to encode.
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn read_key(text: &[u8]) -> Result<KeyPair, CaError> {
    let mut der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| {
        unusable("no PKCS#8 private key beside the certificates (`openssl pkcs8 -topk8 -nodes` makes one)")
    })?;
    let key = KeyPair::try_from(&der);
    der.zeroize();
    key.map_err(|_| unusable("the private key is of no supported kind"))
}

/// Checks that the issuing certificate's key is this one and that it is not another trust domain's authority; returns
/// the end of its life.
fn check_issuing(
    issuing: &CertificateDer<'_>,
    key: &KeyPair,
    trust_domain: &TrustDomain,
) -> Result<SystemTime, CaError> {
    let malformed = |_| unusable("the issuing certificate is not well-formed");
    let (_, certificate) = X509Certificate::from_der(issuing).map_err(malformed)?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(unusable("the private key does not belong to the first certificate"));
    }
    let names =
        certificate.subject_alternative_name().map_err(|_| unusable("malformed alternative names"))?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        // An authority without a SPIFFE ID may sign for any trust domain: its bundle says for which.
        if let GeneralName::URI(uri) = name
            && *uri != format!("spiffe://{trust_domain}")
        {
            return Err(unusable(format_args!("is the authority of {uri:?}, not of {trust_domain}")));
        }
    }
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(not_after))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
