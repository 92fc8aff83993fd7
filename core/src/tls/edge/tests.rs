use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, version};

use super::*;
use crate::tls::testing::named_handshake;

/// A self-signed certificate for these names, with its key, in PEM.
fn pem_pair(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn certificate(secret: &str, names: &[&str]) -> EdgeCertificate {
    let (certificate, key) = pem_pair(names);
    EdgeCertificate::from_pem(secret, certificate.as_bytes(), key.as_bytes()).unwrap()
}

/// Which of `all` is found for a server name.
fn found<'a>(set: &EdgeCertificates, all: &[&'a EdgeCertificate], name: Option<&str>) -> Option<&'a str> {
    let certified = set.find(name)?;
    all.iter().find(|one| Arc::ptr_eq(one.certified(), &certified)).map(|one| &*one.secret)
}

#[test]
fn an_exact_name_comes_before_a_wildcard_and_that_before_the_first() {
    let first = certificate("a/first", &["first.example"]);
    let wild = certificate("a/wild", &["*.shop.example"]);
    let exact = certificate("a/exact", &["www.shop.example", "WWW.Upper.example"]);
    let all = [&first, &wild, &exact];
    let mut set = EdgeCertificates::default();
    set.add(None, all);
    let find = |name| found(&set, &all, name);
    assert_eq!(find(Some("www.shop.example")), Some("a/exact"));
    assert_eq!(find(Some("WWW.shop.example.")), Some("a/exact"));
    assert_eq!(find(Some("www.upper.example")), Some("a/exact"));
    assert_eq!(find(Some("api.shop.example")), Some("a/wild"));
    assert_eq!(find(Some("a.b.shop.example")), Some("a/first"), "a wildcard covers one label");
    assert_eq!(find(Some("shop.example")), Some("a/first"));
    assert_eq!(find(Some("other")), Some("a/first"));
    assert_eq!(find(None), Some("a/first"));
}

#[test]
fn the_listener_is_found_before_the_certificate() {
    // Both certificates name both hosts; the listeners tell which is meant.
    let one = certificate("a/one", &["one.example", "two.example"]);
    let two = certificate("a/two", &["one.example", "two.example"]);
    let wide = certificate("a/wide", &["unrelated.example"]);
    let deep = certificate("a/deep", &["unrelated.example"]);
    let all = [&one, &two, &wide, &deep];
    let mut set = EdgeCertificates::default();
    set.add(Some("two.example"), [&two]);
    set.add(Some("One.example"), [&one]);
    set.add(Some("*.example"), [&wide]);
    set.add(Some("*.deep.example"), [&deep]);
    let find = |name| found(&set, &all, name);
    assert_eq!(find(Some("one.example")), Some("a/one"));
    assert_eq!(find(Some("two.example")), Some("a/two"));
    assert_eq!(
        find(Some("x.y.example")),
        Some("a/wide"),
        "a listener's wildcard covers any number of labels"
    );
    assert_eq!(find(Some("x.deep.example")), Some("a/deep"));
    assert_eq!(find(Some("deep.example")), Some("a/wide"));
    assert_eq!(find(Some("example")), None);
    assert_eq!(find(None), None, "no listener is for every host");
}

#[test]
fn the_first_of_two_with_the_same_name_counts() {
    let (one, two) = (certificate("a/one", &["x.example"]), certificate("a/two", &["x.example"]));
    let all = [&one, &two];
    let mut set = EdgeCertificates::default();
    assert!(set.is_empty());
    set.add(Some("x.example"), [&one]);
    set.add(Some("x.example"), [&two]);
    assert_eq!(found(&set, &all, Some("x.example")), Some("a/one"));
    assert!(!set.is_empty());
}

#[test]
fn errors_name_the_secret_and_what_is_wrong_but_never_the_key() {
    let (good, key) = pem_pair(&["x.example"]);
    let (_, other_key) = pem_pair(&["x.example"]);
    let secret_part = key.lines().nth(1).unwrap();
    let damaged = key.replace("PRIVATE KEY", "PRIVATE KEX");
    let cut: String = key.lines().take(2).map(|line| format!("{line}\n")).collect();
    let garbage = format!("-----BEGIN PRIVATE KEY-----\n{secret_part}\n-----END PRIVATE KEY-----\n");
    let many = good.repeat(MAX_CERTIFICATES + 1);
    let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificate, key, reason) in [
        ("", &*key, "tls.crt holds 0 certificates"),
        (&many, &key, "tls.crt holds 17 certificates"),
        ("-----BEGIN CERTIFICATE-----\n!", &key, "tls.crt is not well-formed PEM"),
        (not_x509, &key, "tls.crt: not a well-formed X.509"),
        (&good, "", "tls.key holds no private key"),
        (&good, &damaged, "tls.key holds no private key"),
        (&good, &cut, "tls.key holds no private key"),
        (&good, &garbage, "tls.key is of no supported kind"),
        (&good, &other_key, "tls.key does not belong to tls.crt"),
    ] {
        let error =
            EdgeCertificate::from_pem("shop/tls", certificate.as_bytes(), key.as_bytes()).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("secret shop/tls: ") && text.contains(reason), "{text}");
        assert!(!text.contains(secret_part), "{text}");
    }
    let certificate = EdgeCertificate::from_pem("shop/tls", good.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(
        format!("{certificate:?}"),
        r#"EdgeCertificate { secret: "shop/tls", names: ["x.example"], .. }"#
    );
}

#[test]
fn a_key_in_sec1_form_is_taken() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = CertificateParams::new(["x.example".to_string()]).unwrap().self_signed(&key).unwrap();
    // PKCS#8 wraps SEC 1 in an OCTET STRING, its last member.
    let pkcs8 = key.serialized_der();
    let inner = pkcs8.windows(4).position(|bytes| bytes == [0x04, 0x6d, 0x30, 0x6b]).unwrap() + 2;
    let mut sec1 = String::new();
    crate::identity::pem::write(&mut sec1, "EC PRIVATE KEY", &pkcs8[inner..]);
    let read = EdgeCertificate::from_pem("a/b", certificate.pem().as_bytes(), sec1.as_bytes()).unwrap();
    assert_eq!(read.names(), ["x.example"]);
}

fn browser(trusted: &str, protocol: &'static SupportedProtocolVersion, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[protocol]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

#[test]
fn a_response_goes_along_until_it_expires() {
    let certificate = certificate("a/b", &["x.example"]);
    let mut set = EdgeCertificates::default();
    set.add(None, [&certificate]);
    let served = || set.find(Some("x.example")).unwrap().ocsp.clone();
    assert_eq!(served(), None);
    let staple = |next_update| Staple { response: vec![1, 2, 3], this_update: 0, next_update };
    certificate.staple(Some(&staple(i64::MAX)));
    assert_eq!(served(), Some(vec![1, 2, 3]), "also in a set that was made before");
    certificate.staple(Some(&staple(1_700_000_000)));
    assert_eq!(served(), None, "its time is over");
    assert_eq!(certificate.stapled_until(1_700_000_000 - 1), Some(1_700_000_000));
    assert_eq!(certificate.stapled_until(1_700_000_000), None);
    certificate.staple(Some(&staple(i64::MAX)));
    certificate.staple(None);
    assert_eq!(served(), None);
}

#[tokio::test]
async fn a_public_client_is_served_by_either_version_and_protocol() {
    let (certificate, key) = pem_pair(&["shop.example"]);
    let served = EdgeCertificate::from_pem("shop/tls", certificate.as_bytes(), key.as_bytes()).unwrap();
    let mut set = EdgeCertificates::default();
    set.add(Some("shop.example"), [&served]);
    let server = edge_server(Arc::new(ArcSwap::from_pointee(set)), &["h2", "http/1.1"], None).unwrap();
    for (protocol, alpn, chosen) in [
        (&version::TLS13, &["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&version::TLS12, &["http/1.1"], Some(b"http/1.1")),
        (&version::TLS13, &[], None),
    ] {
        let outcome =
            named_handshake(browser(&certificate, protocol, alpn), Arc::clone(&server), "shop.example").await;
        assert!(outcome.client.is_ok(), "{outcome:?}");
        assert_eq!(outcome.alpn.as_deref(), chosen);
    }
    let unknown =
        named_handshake(browser(&certificate, &version::TLS13, &["h2"]), server, "other.example").await;
    assert!(unknown.client.is_err() && unknown.server.is_err());
}

#[tokio::test]
async fn a_swapped_certificate_is_served_at_once() {
    let (old, old_key) = pem_pair(&["shop.example"]);
    let (new, new_key) = pem_pair(&["shop.example"]);
    let set = |certificate: &str, key: &str| {
        let mut set = EdgeCertificates::default();
        let served = EdgeCertificate::from_pem("shop/tls", certificate.as_bytes(), key.as_bytes()).unwrap();
        set.add(None, [&served]);
        Arc::new(set)
    };
    let certificates = Arc::new(ArcSwap::new(set(&old, &old_key)));
    let server = edge_server(Arc::clone(&certificates), &["h2", "http/1.1"], None).unwrap();
    let visit = async |trusted: &str| {
        named_handshake(browser(trusted, &version::TLS13, &["h2"]), Arc::clone(&server), "shop.example").await
    };
    assert!(visit(&old).await.client.is_ok());
    assert!(visit(&new).await.client.is_err());
    certificates.store(set(&new, &new_key));
    assert!(visit(&new).await.client.is_ok());
    assert!(visit(&old).await.client.is_err());
}

#[tokio::test]
async fn public_sessions_resume() {
    let (certificate, key) = pem_pair(&["shop.example"]);
    let served = EdgeCertificate::from_pem("shop/tls", certificate.as_bytes(), key.as_bytes()).unwrap();
    let mut set = EdgeCertificates::default();
    set.add(None, [&served]);
    let server = edge_server(Arc::new(ArcSwap::from_pointee(set)), &["h2", "http/1.1"], None).unwrap();
    let client = browser(&certificate, &version::TLS13, &["h2"]);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        kinds.push(named_handshake(Arc::clone(&client), Arc::clone(&server), "shop.example").await.kind);
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
}
