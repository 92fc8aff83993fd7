use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::{
    HandshakeKind,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::{
    identity::testing::{FakeCa, Leaf, trust},
    model::{SpiffeId, TrustBundle},
    tls::{
        check_bundle,
        testing::{accept, handshake},
    },
};

const ALPN: &[&str] = &["mesh-h2", "mesh-h1"];

/// East and west, who know each other; the server `ledger` is west's, the client `checkout` is east's.
struct World {
    east: FakeCa,
    west: FakeCa,
}

impl World {
    fn new() -> Self {
        Self { east: FakeCa::new("east.example"), west: FakeCa::new("west.example") }
    }

    fn trust(&self) -> Arc<TrustBundles> {
        trust(&[&self.east, &self.west])
    }

    fn server(&self) -> Arc<ServerConfig> {
        mesh_server(self.west.credentials("bank", "ledger"), self.trust(), ALPN).unwrap()
    }

    fn client(&self) -> Arc<ClientConfig> {
        let expected = self.west.id("bank", "ledger");
        mesh_client(self.east.credentials("shop", "checkout"), self.trust(), &expected, ALPN).unwrap()
    }

    /// What the server says to a client that shows this.
    async fn server_says(&self, own: &Arc<CertifiedKey>) -> Result<Option<SpiffeId>, String> {
        let expected = Expected::Id(self.west.id("bank", "ledger"));
        let client = client(own, &self.trust(), expected, ALPN).unwrap();
        handshake(client, self.server()).await.server
    }

    /// What a client that takes anybody says to a server that shows this.
    async fn client_says(&self, own: &Arc<CertifiedKey>) -> Result<Option<SpiffeId>, String> {
        let server = server(own, &self.trust(), ALPN, true).unwrap();
        let anyone = Expected::AnyOf(self.east.trust_domain().clone());
        let client =
            mesh_client(self.west.credentials("bank", "ledger"), self.trust(), anyone, ALPN).unwrap();
        handshake(client, server).await.client
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    Arc::new(CertifiedKey::new(chain, rustls::crypto::ring::sign::any_supported_type(&key).unwrap()))
}

fn issued(ca: &FakeCa, leaf: &Leaf) -> Arc<CertifiedKey> {
    let (certificate, key) = ca.issue_raw(leaf);
    certified(vec![certificate], &key)
}

#[tokio::test]
async fn two_workloads_of_two_trust_domains_know_each_other() {
    let world = World::new();
    let outcome = handshake(world.client(), world.server()).await;
    assert_eq!(outcome.client, Ok(Some(world.west.id("bank", "ledger"))));
    assert_eq!(outcome.server, Ok(Some(world.east.id("shop", "checkout"))));
    assert_eq!(outcome.alpn.as_deref(), Some(&b"mesh-h2"[..]));
}

const MINUTE: Duration = Duration::from_secs(60);

/// What is wrong, what is said of it, and how a good leaf becomes so.
type Wrong = (&'static str, &'static str, fn(&mut Leaf));

const WRONG: &[Wrong] = &[
    ("expired", "Expired", |leaf| leaf.not_after = SystemTime::now() - MINUTE),
    ("not yet valid", "NotValidYet", |leaf| leaf.not_before = SystemTime::now() + MINUTE),
    ("no URI", "UriCount(0)", |leaf| leaf.uris.clear()),
    ("a DNS name only", "UriCount(0)", |leaf| {
        leaf.uris.clear();
        leaf.dns.push("checkout.shop".into());
    }),
    ("two URIs", "UriCount(2)", |leaf| leaf.uris.push("spiffe://east.example/ns/a/sa/b".into())),
    ("the same URI twice", "UriCount(2)", |leaf| leaf.uris.push(leaf.uris[0].clone())),
    ("another scheme", "begin with spiffe", |leaf| leaf.uris = vec!["https://east.example/ns/a/sa/b".into()]),
    ("another path", "SPIFFE", |leaf| leaf.uris = vec!["spiffe://east.example/checkout".into()]),
    ("a CA", "Leaf(Ca)", |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    ("signs certificates", "KeyUsage", |leaf| leaf.usage.push(KeyUsagePurpose::KeyCertSign)),
    ("no key usage", "KeyUsage", |leaf| leaf.usage.clear()),
    ("no extended key usage", "InvalidPurpose", |leaf| leaf.extended.clear()),
    ("mail only", "InvalidPurpose", |leaf| leaf.extended = vec![ExtendedKeyUsagePurpose::EmailProtection]),
    ("servers only", "InvalidPurpose", |leaf| leaf.extended = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ("clients only", "InvalidPurpose", |leaf| leaf.extended = vec![ExtendedKeyUsagePurpose::ClientAuth]),
];

#[tokio::test]
async fn wrong_leaves_are_refused_on_both_sides() {
    let world = World::new();
    let id = world.east.id("shop", "checkout");
    for (name, reason, change) in WRONG {
        let mut leaf = Leaf::new(&id);
        change(&mut leaf);
        let own = issued(&world.east, &leaf);
        let refused = world.server_says(&own).await.expect_err(name);
        assert!(refused.contains(reason), "server, {name}: {refused}");
        let refused = world.client_says(&own).await.expect_err(name);
        assert!(refused.contains(reason), "client, {name}: {refused}");
    }
    // The very same way of asking takes what is right.
    let good = issued(&world.east, &Leaf::new(&id));
    assert_eq!(world.server_says(&good).await, Ok(Some(id.clone())));
    assert_eq!(world.client_says(&good).await, Ok(Some(id)));
}

#[tokio::test]
async fn only_the_roots_of_the_trust_domain_in_the_id_count() {
    let world = World::new();
    let impostor = FakeCa::new("east.example");
    let stranger = FakeCa::new("north.example");
    let claim = |ca: &FakeCa, uri: &str| {
        let mut leaf = Leaf::new(&ca.id("shop", "checkout"));
        leaf.uris = vec![uri.into()];
        issued(ca, &leaf)
    };
    // The impostor's root has the same name as ours, so that only its signature tells them apart.
    let cases = [
        ("a foreign root", "BadSignature", claim(&impostor, "spiffe://east.example/ns/shop/sa/checkout")),
        ("another's id", "UnknownIssuer", claim(&world.west, "spiffe://east.example/ns/shop/sa/checkout")),
        ("a stranger", "UnknownIssuer", claim(&stranger, "spiffe://north.example/ns/shop/sa/checkout")),
        ("an unknown id", "UnknownIssuer", claim(&world.east, "spiffe://north.example/ns/shop/sa/checkout")),
    ];
    for (name, reason, own) in &cases {
        let refused = world.server_says(own).await.expect_err(name);
        assert!(refused.contains(reason), "server, {name}: {refused}");
        let refused = world.client_says(own).await.expect_err(name);
        assert!(refused.contains(reason), "client, {name}: {refused}");
    }
}

#[tokio::test]
async fn a_root_that_is_sent_along_vouches_for_nobody() {
    let world = World::new();
    let impostor = FakeCa::new("east.example");
    let (leaf, key) = impostor.issue_raw(&Leaf::new(&impostor.id("shop", "checkout")));
    let own = certified(vec![leaf, impostor.root().clone()], &key);
    assert!(world.server_says(&own).await.unwrap_err().contains("BadSignature"));
    assert!(world.client_says(&own).await.unwrap_err().contains("BadSignature"));
}

#[tokio::test]
async fn chains_have_a_longest_length() {
    let world = World::new();
    let (leaf, key) = world.east.issue_raw(&Leaf::new(&world.east.id("shop", "checkout")));
    let of = |length: usize| {
        let mut chain = vec![leaf.clone()];
        chain.resize(length, world.east.root().clone());
        certified(chain, &key)
    };
    assert!(world.server_says(&of(crate::tls::MAX_CHAIN)).await.is_ok());
    let refused = world.server_says(&of(crate::tls::MAX_CHAIN + 1)).await.unwrap_err();
    assert!(refused.contains("ChainTooLong(6)"), "{refused}");
}

#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let world = World::new();
    let victim = world.east.credentials("shop", "checkout");
    let (_, key) = world.east.issue_raw(&Leaf::new(&world.east.id("shop", "thief")));
    let stolen = certified(victim.chain().to_vec(), &key);
    assert!(world.server_says(&stolen).await.unwrap_err().contains("BadSignature"));
    assert!(world.client_says(&stolen).await.unwrap_err().contains("BadSignature"));
}

#[tokio::test]
async fn the_server_must_be_the_expected_one() {
    let world = World::new();
    let ask = async |expected: Expected| {
        let own = world.east.credentials("shop", "checkout");
        let client = mesh_client(own, world.trust(), expected, ALPN).unwrap();
        handshake(client, world.server()).await
    };
    let (ledger, other) = (world.west.id("bank", "ledger"), world.west.id("bank", "audit"));
    let same_name_in_east = world.east.id("bank", "ledger");
    for allowed in [
        Expected::Id(ledger.clone()),
        Expected::OneOf([other.clone(), ledger.clone()].into()),
        Expected::AnyOf(world.west.trust_domain().clone()),
    ] {
        assert_eq!(ask(allowed).await.client, Ok(Some(ledger.clone())));
    }
    for refused in [
        Expected::Id(other.clone()),
        Expected::Id(same_name_in_east.clone()),
        Expected::OneOf([other, same_name_in_east].into()),
        Expected::OneOf([].into()),
        Expected::AnyOf(world.east.trust_domain().clone()),
    ] {
        let outcome = ask(refused.clone()).await;
        assert!(outcome.client.unwrap_err().contains("ApplicationVerificationFailure"), "{refused}");
        assert!(outcome.server.is_err(), "{refused}: the client hung up, and the server served it");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_taken_by_the_controller_only() {
    let world = World::new();
    let anonymous = || {
        let anyone = Expected::AnyOf(world.west.trust_domain().clone());
        let verifier = ServerVerifier::checked(Anchors::Bundles(Roots::of(&world.trust())), anyone);
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13]);
        let config = config.unwrap().dangerous().with_custom_certificate_verifier(verifier);
        Arc::new(config.with_no_client_auth())
    };
    let refused = handshake(anonymous(), world.server()).await.server.unwrap_err();
    assert!(refused.contains("NoCertificatesPresented"), "{refused}");

    let controller = controller_server(world.west.controller(), world.trust(), &["h2"]).unwrap();
    assert_eq!(handshake(anonymous(), Arc::clone(&controller)).await.server, Ok(None));

    // One that shows a certificate is not let in as if it had shown none.
    let impostor = FakeCa::new("east.example");
    let client = mesh_client(
        impostor.credentials("shop", "checkout"),
        world.trust(),
        Expected::AnyOf(world.west.trust_domain().clone()),
        &["h2"],
    );
    let refused = handshake(client.unwrap(), controller).await.server.unwrap_err();
    assert!(refused.contains("BadSignature"), "{refused}");
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let world = World::new();
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 64],
        &[0x16, 3, 1],
    ] {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(accept(world.server(), far).await.is_err());
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() <= 7, "an alert at most, not {answer:?}");
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let world = World::new();
    let anyone = Expected::AnyOf(world.west.trust_domain().clone());
    let verifier = ServerVerifier::checked(Anchors::Bundles(Roots::of(&world.trust())), anyone);
    let config =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS12]);
    let config = config.unwrap().dangerous().with_custom_certificate_verifier(verifier);
    let own = Own(Arc::clone(world.east.credentials("shop", "checkout").certified_key()));
    let outcome = handshake(Arc::new(config.with_client_cert_resolver(Arc::new(own))), world.server()).await;
    let refused = outcome.server.unwrap_err();
    assert!(refused.contains("Tls12NotOffered"), "{refused}");
    assert!(outcome.client.is_err());
}

#[tokio::test]
async fn other_protocols_are_refused() {
    let world = World::new();
    let expected = world.west.id("bank", "ledger");
    let client =
        mesh_client(world.east.credentials("shop", "checkout"), world.trust(), &expected, &["mesh-tcp"])
            .unwrap();
    let outcome = handshake(client, world.server()).await;
    assert!(outcome.client.unwrap_err().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn no_session_is_resumed_so_that_each_connection_is_verified() {
    let world = World::new();
    let (client, server) = (world.client(), world.server());
    for _ in 0..3 {
        let outcome = handshake(Arc::clone(&client), Arc::clone(&server)).await;
        assert_eq!(outcome.kind, Some(HandshakeKind::Full));
    }
    // West forgets east: the same client with its old configuration is out at once.
    let alone = mesh_server(world.west.credentials("bank", "ledger"), trust(&[&world.west]), ALPN).unwrap();
    assert!(handshake(client, alone).await.server.unwrap_err().contains("UnknownIssuer"));
}

#[tokio::test]
async fn one_unusable_bundle_leaves_the_others_in_force() {
    let world = World::new();
    let mut bundles = (*world.trust()).clone();
    let north = crate::model::TrustDomain::parse("north.example").unwrap();
    bundles.insert(TrustBundle::new(north, vec![Arc::from(&b"rubbish"[..])], 1).unwrap());
    let stranger = FakeCa::new("north.example").credentials("shop", "checkout");
    let server = mesh_server(world.west.credentials("bank", "ledger"), Arc::new(bundles), ALPN).unwrap();
    assert!(handshake(world.client(), Arc::clone(&server)).await.server.is_ok());
    let anyone = Expected::AnyOf(world.west.trust_domain().clone());
    let client = mesh_client(stranger, world.trust(), anyone, ALPN).unwrap();
    let refused = handshake(client, server).await.server.unwrap_err();
    assert!(refused.contains("root 0"), "{refused}");
}

#[test]
fn bundles_of_what_is_no_root_are_refused() {
    let ca = FakeCa::new("east.example");
    let bundle = |root: &[u8]| TrustBundle::new(ca.trust_domain().clone(), vec![Arc::from(root)], 1).unwrap();
    assert_eq!(check_bundle(&ca.bundle()), Ok(()));
    let leaf = ca.credentials("shop", "checkout");
    let trailing = [ca.root().as_ref(), &[0]].concat();
    for (root, reason) in
        [(&b""[..], "not an X.509"), (&leaf.chain()[0], "not a CA"), (&trailing, "bytes after")]
    {
        let error = check_bundle(&bundle(root)).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("east.example: root 0"), "{error}");
    }
}

#[test]
fn roots_are_parsed_once_for_one_set_of_bundles() {
    let ca = FakeCa::new("east.example");
    let (one, other) = (trust(&[&ca]), trust(&[&ca]));
    assert!(Arc::ptr_eq(&Roots::of(&one), &Roots::of(&one)));
    assert!(!Arc::ptr_eq(&Roots::of(&one), &Roots::of(&other)));
}
