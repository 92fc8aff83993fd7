use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use rcgen::CertificateSigningRequest;
use tombolo_core::{identity::KeyRequest, tls::Leaf};

fn east() -> TrustDomain {
    TrustDomain::parse("east.example").unwrap()
}

fn checkout() -> SpiffeId {
    SpiffeId::parse("spiffe://east.example/ns/shop/sa/checkout").unwrap()
}

fn authority() -> CertificateAuthority {
    let now = SystemTime::now();
    CertificateAuthority::from_pem(&new_root(&east(), now).unwrap(), &east(), now).unwrap()
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

/// A request that asks for much more than it may have.
fn greedy_request(key: &KeyPair) -> CertificateSigningRequest {
    let mut params = CertificateParams::new(["evil.example".to_string()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://east.example/ns/x/sa/admin".try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serialize_request(key).unwrap()
}

#[test]
fn a_signed_request_is_the_id_that_was_given_and_nothing_that_it_asked_for() {
    let (ca, now) = (authority(), SystemTime::now());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let issued = ca.sign_csr(greedy_request(&key).der(), &checkout(), DEFAULT_TTL, now).unwrap();
    assert_eq!(check_chain(&issued.chain, ca.bundle(), now).unwrap(), checkout());
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert!(!certificate.is_ca());
    assert!(!certificate.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
}

#[test]
fn a_leaf_lives_as_long_as_asked_within_bounds_and_not_longer_than_its_issuer() {
    let (ca, now) = (authority(), SystemTime::now());
    let request = KeyRequest::generate().unwrap();
    let life = |ttl, now| {
        let issued = ca.sign_csr(request.csr_der(), &checkout(), ttl, now).unwrap();
        let leaf = Leaf::parse(&issued.chain[0]).unwrap();
        assert!(leaf.not_before <= now - Duration::from_secs(299), "back-dated");
        leaf.not_after
    };
    let near = |a: SystemTime, b: SystemTime| {
        a.duration_since(b).unwrap_or_default() + b.duration_since(a).unwrap_or_default()
            < Duration::from_secs(2)
    };
    assert!(near(life(DEFAULT_TTL, now), now + days(1)));
    assert!(near(life(Duration::ZERO, now), now + MIN_TTL));
    assert!(near(life(days(1000), now), now + MAX_TTL));
    let last_day = now + ROOT_LIFE - days(1);
    assert!(near(life(MAX_TTL, last_day), now + ROOT_LIFE));
    let refused = ca.sign_csr(request.csr_der(), &checkout(), DEFAULT_TTL, now + ROOT_LIFE + days(1));
    assert!(matches!(refused, Err(CaError::Expired)));
}

#[test]
fn serials_differ_even_for_one_key() {
    let (ca, request) = (authority(), KeyRequest::generate().unwrap());
    let serial = || {
        let issued = ca.sign_csr(request.csr_der(), &checkout(), DEFAULT_TTL, SystemTime::now()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        certificate.raw_serial().to_vec()
    };
    let (first, second) = (serial(), serial());
    assert_ne!(first, second);
    assert_eq!(first.len(), 16);
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let ca = authority();
    let sign = |der: &[u8]| match ca.sign_csr(der, &checkout(), DEFAULT_TTL, SystemTime::now()) {
        Err(CaError::Csr(error)) => error,
        other => panic!("{other:?}"),
    };
    let good = KeyRequest::generate().unwrap().csr_der().to_vec();
    assert_eq!(sign(b""), CsrError::Malformed);
    assert_eq!(sign(b"-----BEGIN CERTIFICATE REQUEST-----"), CsrError::Malformed);
    assert_eq!(sign(&[0x30; 8193]), CsrError::TooLarge);
    assert_eq!(sign(&[good.clone(), vec![0]].concat()), CsrError::Malformed);
    for length in 0..good.len() {
        assert_eq!(sign(&good[..length]), CsrError::Malformed, "cut to {length}");
    }
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(sign(&changed), CsrError::Signature);
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(sign(greedy_request(&other).der()), CsrError::KeyType);
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(sign(greedy_request(&other).der()), CsrError::KeyType);
}

#[test]
fn no_changed_byte_of_a_request_is_signed_as_another_key() {
    let ca = authority();
    let request = KeyRequest::generate().unwrap();
    let key = |der: &[u8]| {
        let issued = ca.sign_csr(der, &checkout(), DEFAULT_TTL, SystemTime::now()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        Some(certificate.public_key().raw.to_vec())
    };
    let good = key(request.csr_der());
    assert!(good.is_some());
    let mut refused = 0;
    for position in 0..request.csr_der().len() {
        let mut changed = request.csr_der().to_vec();
        changed[position] ^= 0x20;
        // A tag around the signed part may be spelled otherwise; what is inside may not.
        let signed = key(&changed);
        assert!(signed.is_none() || signed == good, "byte {position} changed");
        refused += usize::from(signed.is_none());
    }
    assert!(refused > request.csr_der().len() - 8, "{refused} of {}", request.csr_der().len());
}

#[test]
fn another_trust_domain_is_not_vouched_for() {
    let foreign = SpiffeId::parse("spiffe://west.example/ns/shop/sa/checkout").unwrap();
    let request = KeyRequest::generate().unwrap();
    let refused = authority().sign_csr(request.csr_der(), &foreign, DEFAULT_TTL, SystemTime::now());
    assert!(matches!(refused, Err(CaError::ForeignId(..))));
}

#[test]
fn the_root_outlives_the_process_in_a_file_that_only_its_owner_reads() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("ca");
    let first = CertificateAuthority::open_or_create(&directory, &east()).unwrap();
    let again = CertificateAuthority::open_or_create(&directory, &east()).unwrap();
    assert_eq!(first.root_sha256(), again.root_sha256());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("ca.pem"))), (0o700, 0o600));

    fs::set_permissions(directory.join("ca.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = CertificateAuthority::open_or_create(&directory, &east());
    assert!(matches!(refused, Err(CaError::Io { .. })), "{refused:?}");
}

#[test]
fn the_authority_of_one_trust_domain_is_not_opened_as_anothers() {
    let state = tempfile::tempdir().unwrap();
    CertificateAuthority::open_or_create(state.path(), &east()).unwrap();
    let west = TrustDomain::parse("west.example").unwrap();
    let error = CertificateAuthority::open_or_create(state.path(), &west).unwrap_err().to_string();
    assert!(error.contains("spiffe://east.example") && error.contains("west.example"), "{error}");
}

#[test]
fn the_controllers_chain_ends_in_the_root_and_debug_shows_no_key() {
    let state = tempfile::tempdir().unwrap();
    let authorities = Authorities::open_or_create(state.path(), &east(), DEFAULT_TTL).unwrap();
    let ca = authority();
    let credentials = authorities.controller_credentials(DEFAULT_TTL, SystemTime::now()).unwrap();
    assert_eq!(*credentials.id(), SpiffeId::controller(&east()));
    assert_eq!(tls::fingerprint(credentials.chain().last().unwrap()), authorities.root_sha256());
    assert_eq!(
        format!("{ca:?}").split("not_after").next(),
        Some("CertificateAuthority { trust_domain: east.example, ")
    );
}

/// An intermediate under an organisation's root, as an operator would supply them.
pub(super) fn supplied(
    life: Duration,
    intermediate_is_ca: bool,
) -> (CertificateDer<'static>, CertificateDer<'static>, KeyPair) {
    let ca = |name: &str, is_ca: bool| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        params.key_usages = if is_ca { vec![KeyUsagePurpose::KeyCertSign] } else { Vec::new() };
        params.not_before = (SystemTime::now() - days(2)).into();
        params
    };
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let (root_key, key) = (key(), key());
    let root = ca("Organisation root", true).self_signed(&root_key).unwrap();
    let mut params = ca("Tombolo intermediate", intermediate_is_ca);
    params.not_after = (SystemTime::now() - days(1) + life).into();
    let issuer = Issuer::from_ca_cert_der(root.der(), &root_key).unwrap();
    (params.signed_by(&key, &issuer).unwrap().der().clone(), root.der().clone(), key)
}

fn open(certificates: &[&CertificateDer<'_>], key: &KeyPair) -> Result<CertificateAuthority, CaError> {
    let mut text = String::new();
    certificates.iter().for_each(|certificate| pem::write(&mut text, "CERTIFICATE", certificate));
    pem::write(&mut text, "PRIVATE KEY", key.serialized_der());
    CertificateAuthority::from_pem(text.as_bytes(), &east(), SystemTime::now())
}

#[test]
fn a_supplied_intermediate_signs_below_its_root() {
    let (intermediate, root, key) = supplied(days(100), true);
    let ca = open(&[&intermediate, &root], &key).unwrap();
    assert_eq!(ca.root_sha256(), tls::fingerprint(&root));
    let now = SystemTime::now();
    let request = KeyRequest::generate().unwrap();
    let issued = ca.sign_csr(request.csr_der(), &checkout(), DEFAULT_TTL, now).unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(check_chain(&issued.chain, ca.bundle(), now).unwrap(), checkout());
}

#[test]
fn supplied_files_that_cannot_sign_are_refused_at_start() {
    let reason = |result: Result<CertificateAuthority, CaError>| result.unwrap_err().to_string();
    let (intermediate, root, key) = supplied(days(100), true);
    let (_, other_root, other_key) = supplied(days(100), true);
    assert!(reason(open(&[&intermediate, &root], &other_key)).contains("does not belong"));
    assert!(reason(open(&[&intermediate, &other_root], &key)).contains("does not verify"));
    assert!(reason(open(&[], &key)).contains("no certificate"));
    assert!(reason(open(&[&intermediate, &root, &root, &root, &root], &key)).contains("at most"));
    let (expired, root, key) = supplied(Duration::from_secs(3600), true);
    assert!(reason(open(&[&expired, &root], &key)).contains("expired"));
    let (leaf, root, key) = supplied(days(100), false);
    assert!(reason(open(&[&leaf, &root], &key)).contains("does not verify"));
    let no_key = CertificateAuthority::from_pem(b"nothing", &east(), SystemTime::now());
    assert!(reason(no_key).contains("PKCS#8"));
}
