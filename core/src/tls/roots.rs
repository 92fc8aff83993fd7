//! Trust bundles in the form that verification needs, parsed once per set of bundles and domain.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use rustls::{
    RootCertStore,
    pki_types::CertificateDer,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{TlsError, provider};
use crate::model::{TrustBundle, TrustBundles, TrustDomain};

/// How many sets of bundles are kept parsed. A process uses one, and for a moment the one before it; at the bound the
/// oldest is dropped, which costs no more than parsing it again.
const CACHED: usize = 8;

/// The roots of all trust domains of one [`TrustBundles`], each domain parsed at its first use.
#[derive(Debug)]
pub(super) struct Roots {
    domains: HashMap<TrustDomain, Domain>,
}

#[derive(Debug)]
struct Domain {
    bundle: Arc<TrustBundle>,
    parsed: OnceLock<Result<Arc<DomainRoots>, TlsError>>,
}

/// The anchors of one trust domain, and of no other.
#[derive(Debug)]
pub(super) struct DomainRoots {
    /// For servers' certificates.
    pub store: Arc<RootCertStore>,
    /// For clients' certificates.
    pub client: Arc<dyn ClientCertVerifier>,
}

impl Roots {
    /// The parsed roots of these bundles; the same ones for the same `Arc`.
    pub fn of(bundles: &Arc<TrustBundles>) -> Arc<Self> {
        static CACHE: Mutex<Vec<(Weak<TrustBundles>, Arc<Roots>)>> = Mutex::new(Vec::new());
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        // A live `Weak` keeps its allocation, so that an address is never mistaken for a newer set's.
        cache.retain(|(known, _)| known.strong_count() > 0);
        if let Some((_, roots)) =
            cache.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), &raw const **bundles))
        {
            return Arc::clone(roots);
        }
        let roots = Arc::new(Self::new(bundles));
        if cache.len() >= CACHED {
            cache.remove(0);
        }
        cache.push((Arc::downgrade(bundles), Arc::clone(&roots)));
        roots
    }

    fn new(bundles: &TrustBundles) -> Self {
        let domain = |bundle: &Arc<TrustBundle>| {
            (bundle.trust_domain.clone(), Domain { bundle: Arc::clone(bundle), parsed: OnceLock::new() })
        };
        Self { domains: bundles.iter().map(domain).collect() }
    }

    /// The anchors of one trust domain. None if there is no bundle of it; an error if its bundle cannot be used, which
    /// leaves the other domains in force.
    pub fn domain(&self, trust_domain: &TrustDomain) -> Option<Result<Arc<DomainRoots>, TlsError>> {
        let domain = self.domains.get(trust_domain)?;
        Some(domain.parsed.get_or_init(|| DomainRoots::new(&domain.bundle)).clone())
    }
}

impl DomainRoots {
    /// The anchors of one bundle.
    pub fn new(bundle: &TrustBundle) -> Result<Arc<Self>, TlsError> {
        let roots = bundle.roots.iter().map(|root| CertificateDer::from(&**root));
        Self::from_certificates(&bundle.trust_domain, roots)
    }

    /// Anchors from certificates, each of which must be a CA's.
    pub fn from_certificates<'a>(
        trust_domain: &TrustDomain,
        roots: impl Iterator<Item = CertificateDer<'a>>,
    ) -> Result<Arc<Self>, TlsError> {
        let refuse = |reason: String| TlsError::Bundle { trust_domain: trust_domain.clone(), reason };
        let mut store = RootCertStore::empty();
        for (position, root) in roots.enumerate() {
            check_root(&root).map_err(|reason| refuse(format!("root {position}: {reason}")))?;
            store.add(root).map_err(|error| refuse(format!("root {position}: {error}")))?;
        }
        let store = Arc::new(store);
        let client = WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider())
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Arc::new(Self { store, client }))
    }
}

fn check_root(root: &CertificateDer<'_>) -> Result<(), &'static str> {
    let (rest, certificate) = X509Certificate::from_der(root).map_err(|_| "not an X.509 certificate")?;
    if !rest.is_empty() {
        return Err("bytes after the certificate");
    }
    let usage = certificate.key_usage().map_err(|_| "malformed key usage")?;
    if !certificate.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("not a CA certificate");
    }
    Ok(())
}

/// Checks that each root of a bundle is a CA certificate that verification can use. For those who take bundles from
/// outside: a bundle that fails is refused and the last good one stays.
pub fn check_bundle(bundle: &TrustBundle) -> Result<(), TlsError> {
    DomainRoots::new(bundle).map(|_| ())
}
