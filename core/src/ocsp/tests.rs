//! Responses of all kinds, made by an authority of our own.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SigningKey,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::pki_types::CertificateDer;

use super::{
    der::{
        BIT_STRING, ENUMERATED, GENERALIZED_TIME, INTEGER, NULL, OCTET_STRING, OID, SEQUENCE, Values,
        context, write,
    },
    *,
};

/// 2027-01-15T08:00:00Z.
const NOW: i64 = 1_800_000_000;
const FROM: &str = "20270115070000Z";
const TO: &str = "20270116080000Z";
const GOOD: &[u8] = &[0x80, 0];

/// `ecdsa-with-SHA256`.
const ECDSA: [u8; 10] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];

struct Party {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> Party {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    Party { params, key, der }
}

impl Party {
    fn issue(&self, params: CertificateParams) -> Party {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        Party { params, key, der }
    }

    fn delegate(&self) -> Party {
        let mut params = params("responder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        self.issue(params)
    }

    /// `[2] KeyHash`.
    fn by_key(&self) -> Vec<u8> {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, self.key.public_key_raw());
        write(context(2), &[&write(OCTET_STRING, &[hash.as_ref()])])
    }

    /// `[1] Name`.
    fn by_name(&self) -> Vec<u8> {
        let (_, parsed) = <x509_parser::certificate::X509Certificate<'_> as x509_parser::prelude::FromDer<
            '_,
            _,
        >>::from_der(&self.der)
        .unwrap();
        write(context(1), &[parsed.subject().as_raw()])
    }
}

/// What a response says.
struct Said<'a> {
    status: &'a [u8],
    from: &'a str,
    to: Option<&'a str>,
    responder: Vec<u8>,
    certificates: Vec<&'a [u8]>,
}

fn good(signer: &Party) -> Said<'_> {
    Said { status: GOOD, from: FROM, to: Some(TO), responder: signer.by_key(), certificates: Vec::new() }
}

fn respond(signer: &Party, target: &Target, said: &Said<'_>) -> Vec<u8> {
    // The CertID out of the request.
    let request = target.request();
    let mut inner = Values(&request);
    for _ in 0..4 {
        inner = inner.inside(SEQUENCE).unwrap();
    }
    let id = inner.take(SEQUENCE).unwrap().whole;
    let time = |text: &str| write(GENERALIZED_TIME, &[text.as_bytes()]);
    let next = said.to.map(|to| write(context(0), &[&time(to)])).unwrap_or_default();
    let single = write(SEQUENCE, &[id, said.status, &time(said.from), &next]);
    let data = write(SEQUENCE, &[&said.responder, &time(said.from), &write(SEQUENCE, &[&single])]);
    let mut algorithm = ECDSA.to_vec();
    algorithm.extend([0x03, 0x02]);
    let algorithm = write(SEQUENCE, &[&algorithm[2..]]);
    let signature = write(BIT_STRING, &[&[0], &signer.key.sign(&data).unwrap()]);
    let certificates = match said.certificates.as_slice() {
        [] => Vec::new(),
        some => write(context(0), &[&write(SEQUENCE, some)]),
    };
    whole(&write(SEQUENCE, &[&data, &algorithm, &signature, &certificates]))
}

fn whole(basic: &[u8]) -> Vec<u8> {
    let kind = write(OID, &[&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01]]);
    let bytes = write(SEQUENCE, &[&kind, &write(OCTET_STRING, &[basic])]);
    write(SEQUENCE, &[&write(ENUMERATED, &[&[0]]), &write(context(0), &[&bytes])])
}

struct Stage {
    ca: Party,
    target: Target,
}

fn stage() -> Stage {
    let ca = authority("ca");
    let leaf = ca.issue(params("shop"));
    let target = Target::of(&[leaf.der, ca.der.clone()]).unwrap();
    Stage { ca, target }
}

#[test]
fn a_good_response_of_the_issuer_or_of_its_delegate_is_believed() {
    let Stage { ca, target } = stage();
    let expected = Ok((NOW - 3600, NOW + 24 * 3600));
    let times = |response: &[u8]| verify(response, &target, NOW).map(|s| (s.this_update, s.next_update));
    assert_eq!(times(&respond(&ca, &target, &good(&ca))), expected);
    let named = Said { responder: ca.by_name(), ..good(&ca) };
    assert_eq!(times(&respond(&ca, &target, &named)), expected);
    let delegate = ca.delegate();
    let delegated = Said { certificates: vec![&delegate.der], ..good(&delegate) };
    assert_eq!(times(&respond(&delegate, &target, &delegated)), expected);
}

#[test]
fn nobody_else_is_believed() {
    let Stage { ca, target } = stage();
    let refused = |signer: &Party, said: &Said<'_>| {
        assert_eq!(verify(&respond(signer, &target, said), &target, NOW), Err(OcspError::Signature));
    };
    let stranger = authority("ca");
    refused(&stranger, &good(&ca));
    refused(&stranger, &Said { certificates: vec![&stranger.der], ..good(&stranger) });
    let foreign = stranger.delegate();
    refused(&foreign, &Said { certificates: vec![&foreign.der], ..good(&foreign) });
    let ordinary = ca.issue(params("responder"));
    refused(&ordinary, &Said { certificates: vec![&ordinary.der], ..good(&ordinary) });
    let mut late = params("responder");
    late.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    late.not_after = time::OffsetDateTime::from_unix_timestamp(NOW - 1).unwrap();
    let late = ca.issue(late);
    refused(&late, &Said { certificates: vec![&late.der], ..good(&late) });
    // The delegate has signed, and says that it is somebody else.
    let delegate = ca.delegate();
    refused(&delegate, &Said { certificates: vec![&delegate.der], ..good(&ca) });
}

#[test]
fn what_is_changed_or_cut_anywhere_is_refused_without_a_panic() {
    let Stage { ca, target } = stage();
    let delegate = ca.delegate();
    let said = Said { certificates: vec![&delegate.der], ..good(&delegate) };
    let response = respond(&delegate, &target, &said);
    assert!(verify(&response, &target, NOW).is_ok());
    for end in 0..response.len() {
        assert_eq!(verify(&response[..end], &target, NOW), Err(OcspError::Malformed), "cut at {end}");
    }
    let mut believed = 0;
    for at in 0..response.len() {
        for bit in 0..8 {
            let mut changed = response.clone();
            changed[at] ^= 1 << bit;
            believed += usize::from(verify(&changed, &target, NOW).is_ok());
        }
    }
    assert_eq!(believed, 0);
    let mut longer = response;
    longer.push(0);
    assert_eq!(verify(&longer, &target, NOW), Err(OcspError::Malformed));
    assert_eq!(verify(&vec![0x30; MAX_RESPONSE + 1], &target, NOW), Err(OcspError::TooLong));
}

#[test]
fn only_good_and_in_time_is_stapled() {
    let Stage { ca, target } = stage();
    let check = |status: &[u8], from: &str, to: Option<&str>| {
        verify(&respond(&ca, &target, &Said { status, from, to, ..good(&ca) }), &target, NOW).map(|_| ())
    };
    let revoked = write(context(1), &[&write(GENERALIZED_TIME, &[FROM.as_bytes()])]);
    assert_eq!(check(&revoked, FROM, Some(TO)), Err(OcspError::Revoked));
    assert_eq!(check(&[0x82, 0], FROM, Some(TO)), Err(OcspError::Unknown));
    assert_eq!(check(GOOD, FROM, None), Err(OcspError::Endless));
    assert_eq!(
        check(GOOD, "20270115070000Z", Some("20270115080000Z")),
        Err(OcspError::Expired),
        "to the second"
    );
    assert_eq!(check(GOOD, "20270115070000Z", Some("20270115080001Z")), Ok(()));
    assert_eq!(check(GOOD, "20270115080459Z", Some(TO)), Ok(()), "clocks differ");
    assert_eq!(check(GOOD, "20270115080501Z", Some(TO)), Err(OcspError::NotYet));
    assert_eq!(check(GOOD, TO, Some(FROM)), Err(OcspError::NotYet));
    for odd in ["20271315070000Z", "2027011507000Z", "202701150700000", "+0270115070000Z"] {
        assert_eq!(check(GOOD, odd, Some(TO)), Err(OcspError::Malformed), "{odd}");
    }
}

#[test]
fn a_responder_that_cannot_answer_is_told_and_another_certificate_is_not_ours() {
    let Stage { ca, target } = stage();
    let later = write(SEQUENCE, &[&write(ENUMERATED, &[&[3]])]);
    let error = verify(&later, &target, NOW).unwrap_err();
    assert_eq!(error.to_string(), "the OCSP responder answers tryLater");
    let other = ca.issue(params("other"));
    let other = Target::of(&[other.der, ca.der.clone()]).unwrap();
    assert_eq!(verify(&respond(&ca, &other, &good(&ca)), &target, NOW), Err(OcspError::Other));
}

#[test]
fn a_chain_tells_its_responder_and_what_it_demands() {
    let ca = authority("ca");
    let mut with = params("shop");
    let url = write(0x86, &[b"http://ocsp.example/x"]);
    let access = write(OID, &[&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01]]);
    let aia = write(SEQUENCE, &[&write(SEQUENCE, &[&access, &url])]);
    with.custom_extensions = vec![
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], aia),
        CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 5, 5, 7, 1, 24],
            write(SEQUENCE, &[&write(INTEGER, &[&[5]])]),
        ),
    ];
    let (with, without) = (ca.issue(with), ca.issue(params("shop")));
    assert!(must_staple(&with.der) && !must_staple(&without.der));
    let target = Target::of(&[with.der.clone(), ca.der.clone()]).unwrap();
    assert_eq!(target.responder(), Some("http://ocsp.example/x"));
    assert_eq!(Target::of(&[without.der.clone(), ca.der.clone()]).unwrap().responder(), None);
    assert_eq!(Target::of(std::slice::from_ref(&with.der)), Err(TargetError::NoIssuer));
    assert_eq!(Target::of(&[with.der, authority("other").der]), Err(TargetError::NoIssuer));
    assert_eq!(Target::of(&[]), Err(TargetError::Malformed));
    assert!(!must_staple(&CertificateDer::from(vec![write(NULL, &[])[0]])));
}
