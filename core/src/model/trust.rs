//! Trust bundles. Roots of different trust domains are never pooled.

use std::{collections::HashMap, sync::Arc};

use super::TrustDomain;

/// The roots of one trust domain, DER-encoded (SPIFFE Trust Domain and Bundle, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose roots these are.
    pub trust_domain: TrustDomain,
    /// DER certificates; 1 to 16.
    pub roots: Vec<Arc<[u8]>>,
    /// Grows with each change.
    pub sequence: u64,
}

/// Why a bundle is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No root, or more than 16.
    #[error("a trust bundle has 1 to 16 roots, not {0}")]
    Count(usize),
}

impl TrustBundle {
    /// A bundle of 1 to 16 roots. That each is a CA certificate is checked by `tls` when it is put to use.
    pub fn new(trust_domain: TrustDomain, roots: Vec<Arc<[u8]>>, sequence: u64) -> Result<Self, BundleError> {
        if !(1..=16).contains(&roots.len()) {
            return Err(BundleError::Count(roots.len()));
        }
        Ok(Self { trust_domain, roots, sequence })
    }
}

/// All bundles that a proxy knows, by trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustBundles(HashMap<TrustDomain, Arc<TrustBundle>>);

impl TrustBundles {
    /// The only bundle that may verify a certificate of this trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.0.get(trust_domain)
    }

    /// Adds or replaces a trust domain's bundle.
    pub fn insert(&mut self, bundle: TrustBundle) {
        self.0.insert(bundle.trust_domain.clone(), Arc::new(bundle));
    }

    /// Removes a trust domain's bundle.
    pub fn remove(&mut self, trust_domain: &TrustDomain) {
        self.0.remove(trust_domain);
    }

    /// All bundles, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.0.values()
    }
}
