//! A certificate chain with its private key.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use crate::{
    model::{SpiffeId, TrustBundle},
    tls::{self, Leaf, LeafError, MAX_CHAIN},
};

/// A workload's certificate chain and private key: who this process is. Immutable; a renewal makes a new one.
///
/// The key is wiped from this value's memory when it is dropped, and `Debug` never shows it.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
}

/// Why a chain and a key are no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Not 1 to [`MAX_CHAIN`] certificates.
    #[error("a chain has 1 to {MAX_CHAIN} certificates, not {0}")]
    ChainLength(usize),
    /// The first certificate is no workload's.
    #[error("the leaf: {0}")]
    Leaf(#[from] LeafError),
    /// The key is no PKCS#8 key of a supported kind. What it held is not told.
    #[error("the private key is not a supported PKCS#8 key")]
    Key,
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the leaf")]
    KeyMismatch,
}

impl Credentials {
    /// Puts credentials together. `chain` is leaf first, `key` is PKCS#8 in DER. Checks the form of the leaf and that
    /// the key is its own, not who signed it nor the time.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<Self, CredentialsError> {
        let leaf = match chain.first() {
            Some(leaf) if chain.len() <= MAX_CHAIN => Leaf::parse(leaf)?,
            _ => return Err(CredentialsError::ChainLength(chain.len())),
        };
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_slice()));
        let signing =
            rustls::crypto::ring::sign::any_supported_type(&der).map_err(|_| CredentialsError::Key)?;
        let certified = CertifiedKey::new(chain.clone(), signing);
        certified.keys_match().map_err(|_| CredentialsError::KeyMismatch)?;
        Ok(Self { chain, key, leaf, certified: Arc::new(certified) })
    }

    /// Who this is.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Valid from.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// Valid to.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// True between [`Self::not_before`] and [`Self::not_after`].
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        (self.leaf.not_before..self.leaf.not_after).contains(&now)
    }

    /// The private key, PKCS#8 in DER. Only for what writes it to its 0600 file.
    pub fn key_pkcs8(&self) -> &[u8] {
        &self.key
    }

    /// Chain and key as rustls takes them.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The SHA-256 of the leaf: differs with each renewal, for keys of connection pools.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.chain.first().map_or([0; 32], |leaf| tls::fingerprint(leaf))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.leaf.id)
            .field("not_before", &self.leaf.not_before)
            .field("not_after", &self.leaf.not_after)
            .finish_non_exhaustive()
    }
}

/// Credentials and the bundle of their own trust domain: all that a process needs to prove itself again.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who this is.
    pub credentials: Arc<Credentials>,
    /// The roots of its trust domain.
    pub bundle: Arc<TrustBundle>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::{
        pem,
        testing::{FakeCa, Leaf},
    };

    #[test]
    fn debug_shows_no_key() {
        let ca = FakeCa::new("east.example");
        let credentials = ca.credentials("shop", "checkout");
        let shown = format!("{credentials:?} {credentials:#?}");
        let mut key = String::new();
        pem::write(&mut key, "PRIVATE KEY", credentials.key_pkcs8());
        assert!(shown.contains("spiffe://east.example/ns/shop/sa/checkout"));
        assert!(!shown.contains("key:") && !key.lines().any(|line| shown.contains(line)), "{shown}");
    }

    #[test]
    fn validity_holds_from_its_first_moment_to_before_its_last() {
        let ca = FakeCa::new("east.example");
        let credentials = ca.credentials("shop", "checkout");
        let (from, to, moment) = (credentials.not_before(), credentials.not_after(), Duration::from_nanos(1));
        assert!(credentials.is_valid_at(from) && credentials.is_valid_at(to - moment));
        assert!(!credentials.is_valid_at(from - moment) && !credentials.is_valid_at(to));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let ca = FakeCa::new("east.example");
        let (leaf, key) = ca.issue_raw(&Leaf::new(&ca.id("shop", "checkout")));
        let (_, other) = ca.issue_raw(&Leaf::new(&ca.id("shop", "checkout")));
        let refusal =
            |chain: Vec<_>, key: &[u8]| Credentials::new(chain, Zeroizing::new(key.to_vec())).unwrap_err();
        assert_eq!(refusal(vec![leaf.clone()], &other), CredentialsError::KeyMismatch);
        assert_eq!(refusal(vec![leaf.clone()], b"key"), CredentialsError::Key);
        assert_eq!(refusal(Vec::new(), &key), CredentialsError::ChainLength(0));
        assert_eq!(refusal(vec![leaf; MAX_CHAIN + 1], &key), CredentialsError::ChainLength(MAX_CHAIN + 1));
        let root = vec![ca.root().clone()];
        assert!(matches!(refusal(root, &key), CredentialsError::Leaf(_)));
    }
}
