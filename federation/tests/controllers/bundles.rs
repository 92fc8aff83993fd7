//! Trust bundles over HTTPS: SPIFFE federation with who is linked by no token.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tombolo_core::{
    discovery::type_url,
    identity::{
        Credentials,
        testing::{FakeCa, Leaf},
    },
    model::{SpiffeId, TrustBundle},
    spiffe::Document,
    tls,
};
use tombolo_federation::{Bounds, BundleListener, Pace};
use tombolo_proto::v1;

use crate::kit::*;

/// Endpoints are asked again at once.
fn bounds() -> Bounds {
    let pace = Pace { least: Duration::from_millis(20), most: Duration::from_millis(100) };
    Bounds { bundles: pace, ..Bounds::default() }
}

fn print(bundle: &TrustBundle) -> String {
    Document { bundle: bundle.clone(), has_sequence: true, refresh_hint: None }.print()
}

/// A Peer document for `north`, whose bundle is served there.
fn peer(address: SocketAddr, rest: &str) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1\nkind: Peer\nmetadata: {{ name: north }}\nspec:\n  trustDomain: north.example\n  bundleEndpoint:\n    url: https://{address}/\n{rest}"
    )
}

const CONTROLLER: &str = "spiffe://north.example/ns/tombolo-system/sa/controller";

fn by_spiffe(address: SocketAddr, first: &TrustBundle) -> String {
    let bundle = print(first);
    peer(address, &format!("    profile: https_spiffe\n    spiffeId: {CONTROLLER}\n    bundle: '{bundle}'\n"))
}

fn by_web(address: SocketAddr, roots_pem: &str) -> String {
    let indented: String = roots_pem.lines().map(|line| format!("      {line}\n")).collect();
    peer(address, &format!("    profile: https_web\n    caCertificates: |\n{indented}"))
}

/// How many roots of north a proxy has; none: there is no bundle of it.
fn roots(held: &std::collections::BTreeMap<String, Vec<u8>>) -> Option<usize> {
    let bundle: v1::TrustBundle = prost::Message::decode(held.get("north.example")?.as_slice()).unwrap();
    Some(bundle.roots_der.len())
}

async fn until_bundle(cluster: &Cluster, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let last = ArcSwap::from_pointee(Value::Null);
    let waiting = async {
        loop {
            let bundle = cluster.status().await["bundles"][0].clone();
            if is(&bundle) {
                return bundle;
            }
            last.store(Arc::new(bundle));
            tokio::task::yield_now().await;
        }
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("{what}, but {}", last.load()),
    }
}

async fn fails_with(cluster: &Cluster, words: &str) {
    let fails = |b: &Value| b["error"].as_str().is_some_and(|error| error.contains(words));
    let bundle = until_bundle(cluster, words, fails).await;
    assert_eq!(
        (&bundle["state"], &bundle["roots"]),
        (&"failing".into(), &1.into()),
        "the last good one stays"
    );
}

async fn north(web: Option<(&Path, &Path)>) -> Cluster {
    let mut north = Cluster::start("north").await;
    north.stop().await;
    let web = web.map(|(chain, key)| (chain.to_owned(), key.to_owned()));
    north.options.bundle_endpoint = Some(BundleListener { listen: (Ipv4Addr::LOCALHOST, 0).into(), web });
    north.try_again().await.unwrap();
    north
}

#[tokio::test]
async fn a_bundle_is_followed_by_the_controllers_own_certificate_and_outlives_restarts() {
    let mut north = north(None).await;
    let address = north.running().bundle_endpoint.unwrap();
    let first = north.member("bank", "ledger").await.identity.bundle;
    let mut east = Cluster::start_with("east", bounds(), Vec::new()).await;
    east.apply(&by_spiffe(address, &first)).await;
    let member = east.member("bank", "shop").await;
    let mut bundles = member.discover(type_url::TRUST_BUNDLE).await;
    bundles.until("north's bundle", |held| (roots(held) == Some(1)).then_some(())).await;
    until_bundle(&east, "it is asked", |b| b["fetched"].is_string() && b["state"] == "held").await;

    north.rotate(3600).await.unwrap();
    bundles.until("both roots", |held| (roots(held) == Some(2)).then_some(())).await;
    let shown = until_bundle(&east, "the new sequence", |b| b["sequence"] == 2).await;
    assert_eq!((&shown["peer"], &shown["profile"]), (&"north".into(), &"https_spiffe".into()));
    // Nobody of north is a peer: its controller gets nothing here.
    assert_eq!(east.status().await["peers"].as_array().unwrap().len(), 0);

    // Nobody is there to ask: what was kept is in force at once.
    north.stop().await;
    east.restart().await;
    let mut bundles = member.discover(type_url::TRUST_BUNDLE).await;
    bundles.until("what was kept", |held| (roots(held) == Some(2)).then_some(())).await;
    until_bundle(&east, "it says so", |b| b["state"] == "failing" && b["sequence"] == 2).await;
    // Without the document it is trusted no more, also after a restart.
    let request = v1::DeleteRequest {
        named: vec![v1::delete_request::Named {
            kind: "peer".into(),
            namespace: String::new(),
            name: "north".into(),
        }],
        author: "test".into(),
        ..Default::default()
    };
    let deleted = east.operator().await.delete(request).await.unwrap().into_inner();
    assert_eq!(deleted.errors, Vec::<String>::new());
    bundles.until("gone", |held| (roots(held).is_none()).then_some(())).await;
    east.restart().await;
    let mut bundles = member.discover(type_url::TRUST_BUNDLE).await;
    bundles.until("east's own", |held| (held.keys().eq(["east.example"])).then_some(())).await;
}

/// An endpoint that shows what it is told to show, and answers what it is told to answer.
#[derive(Clone)]
struct Fake {
    address: SocketAddr,
    shows: Arc<ArcSwap<Credentials>>,
    answers: Arc<ArcSwap<String>>,
}

impl Fake {
    async fn start(shows: Arc<Credentials>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            shows: Arc::new(ArcSwap::new(shows)),
            answers: Arc::default(),
        };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let config = tls::public_server(&serving.shows.load_full(), &["http/1.1"]).unwrap();
                let Ok(mut stream) = TlsAcceptor::from(config).accept(tcp).await else { continue };
                let answer = serving.answers.load_full();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _asked = stream.read(&mut head).await;
                    let _sent = stream.write_all(answer.as_bytes()).await;
                    let _ended = stream.shutdown().await;
                });
            }
        });
        fake
    }

    fn answers(&self, status: &str, body: &str) {
        let length = body.len();
        self.answers.store(Arc::new(format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nlocation: https://127.0.0.1:1/\r\nconnection: close\r\n\r\n{body}"
        )));
    }
}

#[tokio::test]
async fn what_is_not_good_enough_changes_nothing_and_is_shown() {
    let ca = FakeCa::new("north.example");
    let fake = Fake::start(ca.controller()).await;
    let sequence = |sequence| print(&TrustBundle { sequence, ..ca.bundle() });
    let east = Cluster::start_with("east", bounds(), Vec::new()).await;
    fake.answers("200 OK", &sequence(5));
    east.apply(&by_spiffe(fake.address, &ca.bundle())).await;
    let good = || until_bundle(&east, "it is held", |b| b["state"] == "held" && b["sequence"] == 5);
    good().await;

    let stranger = FakeCa::new("north.example");
    let id = SpiffeId::parse(CONTROLLER).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(86_400);
    let impostors = [
        (stranger.controller(), "invalid peer certificate"),
        (ca.credentials("tombolo-system", "gateway"), "NotValidForName"),
        (FakeCa::new("east.example").controller(), "invalid peer certificate"),
        (ca.issue(&Leaf::at(&id, long_ago, Duration::from_secs(3600))), "xpired"),
    ];
    for (shows, words) in impostors {
        fake.shows.store(shows);
        fails_with(&east, words).await;
        fake.shows.store(ca.controller());
        good().await;
    }
    let huge = format!("{{\"keys\":[{}]}}", " ".repeat(300 << 10));
    let other = print(&TrustBundle { sequence: 5, ..stranger.bundle() });
    let answers = [
        ("302 Found", String::new(), "redirects are not followed"),
        ("404 Not Found", String::new(), "404"),
        ("200 OK", huge, "has more than 262144 bytes"),
        ("200 OK", "<html>".into(), "no JWK Set"),
        ("200 OK", "{\"keys\":[]}".into(), "has 1 to 16 roots, not 0"),
        ("200 OK", sequence(4), "went back from 5 to 4"),
        ("200 OK", other, "still 5"),
    ];
    for (status, body, words) in answers {
        fake.answers(status, &body);
        fails_with(&east, words).await;
        fake.answers("200 OK", &sequence(5));
        good().await;
    }
}

/// An authority of the web, and a certificate of it for this machine in files.
fn web(directory: &Path) -> String {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = root.self_signed(&root_key).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let issuer = Issuer::new(root, root_key);
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.join("chain.pem"), leaf.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    authority.pem()
}

#[tokio::test]
async fn a_bundle_is_followed_by_the_authorities_of_the_web() {
    let directory = tempfile::tempdir().unwrap();
    let roots_pem = web(directory.path());
    let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
    let north = north(Some((&chain, &key))).await;
    let address = north.running().bundle_endpoint.unwrap();
    let east = Cluster::start_with("east", bounds(), Vec::new()).await;
    // The machine's own authorities do not vouch for it.
    east.apply(&peer(address, "    profile: https_web\n")).await;
    let refused = until_bundle(&east, "it is refused", |b| b["error"].is_string()).await;
    assert_eq!((&refused["state"], &refused["roots"]), (&"missing".into(), &0.into()));
    east.apply(&by_web(address, &roots_pem)).await;
    until_bundle(&east, "it is held", |b| b["state"] == "held" && b["sequence"] == 1).await;
    let mut bundles = east.member("bank", "shop").await.discover(type_url::TRUST_BUNDLE).await;
    bundles.until("north's bundle", |held| (roots(held) == Some(1)).then_some(())).await;
    // Another certificate, of another authority: by the files of now.
    let renewed = web(directory.path());
    fails_with(&east, "invalid peer certificate").await;
    east.apply(&by_web(address, &renewed)).await;
    until_bundle(&east, "it is held", |b| b["state"] == "held").await;
}

#[tokio::test]
async fn a_link_counts_before_an_endpoint_and_documents_that_cannot_work_are_refused() {
    let (east, west) =
        (Cluster::start_with("east", bounds(), Vec::new()).await, Cluster::start("west").await);
    linked(&east, &west).await;
    let west_bundle = west.member("bank", "ledger").await.identity.bundle;
    let forged = FakeCa::new("west.example").bundle();
    let document = by_spiffe(([127, 0, 0, 1], 9).into(), &forged).replace("north", "west");
    east.apply(&document).await;
    until_bundle(&east, "it is asked", |b| b["error"].is_string()).await;
    let mut bundles = east.member("bank", "shop").await.discover(type_url::TRUST_BUNDLE).await;
    let held = bundles.until("both", |held| (held.len() == 2).then(|| held["west.example"].clone())).await;
    let held: v1::TrustBundle = prost::Message::decode(held.as_slice()).unwrap();
    assert_eq!(held.roots_der[0].as_ref(), &*west_bundle.roots[0], "that of the link");

    for (rest, words) in [
        ("    profile: https_spiffe\n", "https_spiffe needs it"),
        (&*format!("    profile: https_spiffe\n    spiffeId: {CONTROLLER}\n"), "bundle: is missing"),
        ("    profile: https_web\n    spiffeId: spiffe://a/b\n", "https_web has none"),
        ("    profile: https_web\n    bundle: '{}'\n", "no JWK Set"),
        ("    profile: ftp\n", "profile"),
    ] {
        let errors = east.try_apply(&peer(([127, 0, 0, 1], 9).into(), rest)).await.errors;
        assert!(errors.iter().any(|error| error.contains(words)), "{words}: {errors:?}");
    }
    let plain = peer(([127, 0, 0, 1], 9).into(), "    profile: https_web\n").replace("https:", "http:");
    let errors = east.try_apply(&plain).await.errors;
    assert!(errors.iter().any(|error| error.contains("not an https URL")), "{errors:?}");
}
