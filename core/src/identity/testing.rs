//! A certificate authority for tests: trust domains, bundles and credentials in a line each. Behind the feature
//! `testing`; it panics where real code returns errors.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use zeroize::Zeroizing;

use super::{Clock, Credentials, Proof, SignError, Signed, Signer, system_clock};
use crate::model::{SpiffeId, TrustBundle, TrustBundles, TrustDomain};

/// A root with its key, of one trust domain.
pub struct FakeCa {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    key: KeyPair,
}

/// A leaf to issue. [`Leaf::new`] gives a good one; tests change what they want to be wrong.
pub struct Leaf {
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid to.
    pub not_after: SystemTime,
    /// Extended key usage.
    pub extended: Vec<ExtendedKeyUsagePurpose>,
    /// Key usage.
    pub usage: Vec<KeyUsagePurpose>,
    /// Basic constraints.
    pub is_ca: IsCa,
}

impl Leaf {
    /// Valid from five minutes ago for an hour, for one workload.
    pub fn new(id: &SpiffeId) -> Self {
        Self::at(id, SystemTime::now(), Duration::from_secs(3600))
    }

    /// Valid from five minutes before `now`, to `life` after it.
    pub fn at(id: &SpiffeId, now: SystemTime, life: Duration) -> Self {
        Self {
            uris: vec![id.to_string()],
            dns: Vec::new(),
            not_before: now - Duration::from_secs(300),
            not_after: now + life,
            extended: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            usage: vec![KeyUsagePurpose::DigitalSignature],
            is_ca: IsCa::ExplicitNoCa,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        let uris = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        let dns = self.dns.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns).collect();
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.extended_key_usages = self.extended.clone();
        params.key_usages = self.usage.clone();
        params.is_ca = self.is_ca;
        params
    }
}

impl FakeCa {
    /// A new root for a trust domain, e.g. `east.example`. Two of the same name are foreign to each other.
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} root"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { trust_domain: TrustDomain::parse(trust_domain).unwrap(), root, key }
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// An id of its trust domain.
    pub fn id(&self, namespace: &str, account: &str) -> SpiffeId {
        SpiffeId::new(self.trust_domain.clone(), namespace, account).unwrap()
    }

    /// Its bundle: one root, sequence 1.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.trust_domain.clone(), vec![Arc::from(&*self.root)], 1).unwrap()
    }

    /// Credentials of a workload, good for an hour.
    pub fn credentials(&self, namespace: &str, account: &str) -> Arc<Credentials> {
        self.issue(&Leaf::new(&self.id(namespace, account)))
    }

    /// Credentials of its controller, whose chain ends in the root, as pinned clients need it.
    pub fn controller(&self) -> Arc<Credentials> {
        let (leaf, key) = self.issue_raw(&Leaf::new(&SpiffeId::controller(&self.trust_domain)));
        Arc::new(Credentials::new(vec![leaf, self.root.clone()], key).unwrap())
    }

    /// Credentials from any leaf that has the form of one.
    pub fn issue(&self, leaf: &Leaf) -> Arc<Credentials> {
        let (certificate, key) = self.issue_raw(leaf);
        Arc::new(Credentials::new(vec![certificate], key).unwrap())
    }

    /// A certificate and key from any leaf, however wrong.
    pub fn issue_raw(&self, leaf: &Leaf) -> (CertificateDer<'static>, Zeroizing<Vec<u8>>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        (self.sign_leaf(leaf, &key), Zeroizing::new(key.serialize_der()))
    }

    fn sign_leaf(&self, leaf: &Leaf, key: &impl PublicKeyData) -> CertificateDer<'static> {
        let issuer = Issuer::from_ca_cert_der(&self.root, &self.key).unwrap();
        leaf.params().signed_by(key, &issuer).unwrap().der().clone()
    }
}

/// All the bundles of these authorities.
pub fn trust(authorities: &[&FakeCa]) -> Arc<TrustBundles> {
    let mut bundles = TrustBundles::default();
    authorities.iter().for_each(|ca| bundles.insert(ca.bundle()));
    Arc::new(bundles)
}

/// A [`Signer`] that signs whatever it is asked for `id`, by a clock and with a life that tests choose, or is away, or
/// refuses.
pub struct FakeSigner {
    /// Whose authority.
    pub ca: Arc<FakeCa>,
    /// Whom it signs for.
    pub id: SpiffeId,
    /// How long a certificate lives.
    pub life: Duration,
    /// What time it is.
    pub clock: Clock,
    /// What happened so far: each proof, in order.
    pub seen: Mutex<Vec<Proof>>,
    /// What to say instead of a certificate.
    pub failure: Mutex<Option<SignError>>,
}

impl FakeSigner {
    /// A signer for `id` by the system's clock.
    pub fn new(ca: Arc<FakeCa>, id: SpiffeId, life: Duration) -> Self {
        Self { ca, id, life, clock: system_clock(), seen: Mutex::default(), failure: Mutex::default() }
    }

    /// From now on it says this; none: it signs again.
    pub fn fail(&self, failure: Option<SignError>) {
        *self.failure.lock().unwrap() = failure;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[async_trait]
impl Signer for FakeSigner {
    async fn sign(&self, csr_der: &[u8], proof: &Proof) -> Result<Signed, SignError> {
        self.seen.lock().unwrap().push(proof.clone());
        if let Some(failure) = self.failure.lock().unwrap().clone() {
            return Err(failure);
        }
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der)).unwrap();
        let leaf = Leaf::at(&self.id, (self.clock)(), self.life);
        Ok(Signed { chain: vec![self.ca.sign_leaf(&leaf, &csr.public_key)], bundle: self.ca.bundle() })
    }
}
