//! SPIFFE verification of the other side's certificate, for both sides of a handshake.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, Error, OtherError,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};

use super::{
    TlsError,
    checked::{Checked, ClientChain, ServerChain},
    leaf::{Leaf, LeafError},
    provider,
    roots::{DomainRoots, Roots},
};
use crate::model::{SpiffeId, TrustBundle, TrustDomain};

/// Certificates in a chain, the leaf among them. A longer one is refused before any signature is checked.
pub const MAX_CHAIN: usize = 5;

/// Who may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This one.
    Id(SpiffeId),
    /// One of these.
    OneOf(Arc<[SpiffeId]>),
    /// Anyone of this trust domain.
    AnyOf(TrustDomain),
}

impl From<&SpiffeId> for Expected {
    fn from(id: &SpiffeId) -> Self {
        Self::Id(id.clone())
    }
}

impl From<SpiffeId> for Expected {
    fn from(id: SpiffeId) -> Self {
        Self::Id(id)
    }
}

impl From<&Self> for Expected {
    fn from(expected: &Self) -> Self {
        expected.clone()
    }
}

impl Expected {
    /// True if `id` may answer.
    pub fn allows(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Id(expected) => expected == id,
            Self::OneOf(expected) => expected.contains(id),
            Self::AnyOf(trust_domain) => trust_domain == id.trust_domain(),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::OneOf(ids) => {
                f.write_str("one of")?;
                ids.iter().try_for_each(|id| write!(f, " {id}"))
            }
            Self::AnyOf(trust_domain) => write!(f, "anyone of {trust_domain}"),
        }
    }
}

/// Why the other side of a handshake is refused before its chain is looked at. What is wrong with the chain itself
/// (expired, unknown issuer, bad signature) is said by rustls.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// Not a workload's leaf.
    #[error("the peer's certificate is refused: {0}")]
    Leaf(#[from] LeafError),
    /// More than [`MAX_CHAIN`] certificates.
    #[error("the peer sent {0} certificates; {MAX_CHAIN} are the most")]
    ChainTooLong(usize),
    /// There is no bundle of the peer's trust domain.
    #[error("the peer is {0}, whose trust domain is not known here")]
    UnknownTrustDomain(SpiffeId),
    /// The bundle of the peer's trust domain cannot be used.
    #[error(transparent)]
    Trust(#[from] TlsError),
    /// Somebody else answered.
    #[error("the peer is {actual}, not {expected}")]
    Unexpected {
        /// Who was meant.
        expected: Box<Expected>,
        /// Who answered.
        actual: Box<SpiffeId>,
    },
    /// No certificate of the chain is the pinned root.
    #[error("the peer's chain does not hold the pinned root")]
    NotPinned,
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Leaf(LeafError::Malformed) => CertificateError::BadEncoding.into(),
            PeerError::Leaf(LeafError::ExtendedKeyUsage) => CertificateError::InvalidPurpose.into(),
            PeerError::UnknownTrustDomain(_) | PeerError::NotPinned => CertificateError::UnknownIssuer.into(),
            // The alert is `access_denied`, which tells the other side that its certificate as such was understood.
            PeerError::Unexpected { .. } => CertificateError::ApplicationVerificationFailure.into(),
            other => CertificateError::Other(OtherError(Arc::new(other))).into(),
        }
    }
}

/// Logs what rustls has no words for, then gives it the nearest that it has.
fn refuse(error: PeerError) -> Error {
    tracing::debug!(%error, "TLS peer refused");
    error.into()
}

/// Where the anchors for one handshake come from.
#[derive(Debug)]
pub(super) enum Anchors {
    /// The bundle of the peer's own trust domain.
    Bundles(Arc<Roots>),
    /// The one certificate of the peer's chain that has this SHA-256.
    Pinned([u8; 32]),
}

impl Anchors {
    fn for_peer(
        &self,
        id: &SpiffeId,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Arc<DomainRoots>, PeerError> {
        match self {
            Self::Bundles(roots) => match roots.domain(id.trust_domain()) {
                Some(domain) => Ok(domain?),
                None => Err(PeerError::UnknownTrustDomain(id.clone())),
            },
            Self::Pinned(fingerprint) => {
                let pinned = |c: &&CertificateDer<'_>| super::fingerprint(c) == *fingerprint;
                let root = intermediates.iter().find(pinned).ok_or(PeerError::NotPinned)?;
                Ok(DomainRoots::from_certificates(id.trust_domain(), std::iter::once(root.clone()))?)
            }
        }
    }
}

fn peer_leaf(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<Leaf, PeerError> {
    let length = intermediates.len() + 1;
    if length > MAX_CHAIN {
        return Err(PeerError::ChainTooLong(length));
    }
    Ok(Leaf::parse(end_entity)?)
}

/// Checks a chain, leaf first, as a client's against one bundle at a given time, and says whose it is. For those who
/// receive a certificate of their own; in a handshake the configurations of this module do it.
pub fn check_chain(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<SpiffeId, ChainError> {
    let (end_entity, intermediates) = chain.split_first().ok_or(PeerError::Leaf(LeafError::Malformed))?;
    let leaf = peer_leaf(end_entity, intermediates)?;
    if *leaf.id.trust_domain() != bundle.trust_domain {
        return Err(PeerError::UnknownTrustDomain(leaf.id).into());
    }
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let anchors = DomainRoots::new(bundle).map_err(PeerError::Trust)?;
    anchors.client.verify_client_cert(end_entity, intermediates, UnixTime::since_unix_epoch(since))?;
    Ok(leaf.id)
}

/// Why a chain is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// Before the chain was looked at.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// By what rustls says of the chain.
    #[error("the chain does not verify: {0}")]
    Chain(#[from] Error),
}

/// Verifies servers: their chain against the bundle of the trust domain in their own SPIFFE ID, and that ID against
/// the expected one.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    anchors: Anchors,
    expected: Expected,
}

impl ServerVerifier {
    pub fn checked(anchors: Anchors, expected: Expected) -> Arc<Checked<Self>> {
        Checked::new(Self { anchors, expected })
    }
}

impl ServerChain for ServerVerifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = peer_leaf(end_entity, intermediates).map_err(refuse)?;
        let anchors = self.anchors.for_peer(&leaf.id, intermediates).map_err(refuse)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &anchors.store, intermediates, now, algorithms)?;
        if !self.expected.allows(&leaf.id) {
            let expected = Box::new(self.expected.clone());
            return Err(refuse(PeerError::Unexpected { expected, actual: Box::new(leaf.id) }));
        }
        Ok(())
    }
}

/// Verifies clients: their chain against the bundle of the trust domain in their own SPIFFE ID. Who is known here is
/// nobody's business, so that no names of roots are told.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    roots: Arc<Roots>,
    mandatory: bool,
}

impl ClientVerifier {
    pub fn checked(roots: Arc<Roots>, mandatory: bool) -> Arc<Checked<Self>> {
        Checked::new(Self { roots, mandatory })
    }
}

impl ClientChain for ClientVerifier {
    fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = peer_leaf(end_entity, intermediates).map_err(refuse)?;
        let anchors = match self.roots.domain(leaf.id.trust_domain()) {
            Some(domain) => domain.map_err(|error| refuse(error.into()))?,
            None => return Err(refuse(PeerError::UnknownTrustDomain(leaf.id))),
        };
        anchors.client.verify_client_cert(end_entity, intermediates, now).map(|_| ())
    }
}
