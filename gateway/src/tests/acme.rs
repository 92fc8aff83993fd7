//! Certificates by ACME, against a real authority.

mod front;
mod pebble;

use front::Front;
pub(super) use pebble::Anything;
use pebble::{Pebble, Setup, Zone};
use rustls::pki_types::CertificateDer;
use tombolo_core::acme::Patience;

use super::*;

/// Orders fail now and then, by pebble's faults: they are tried again at once.
const QUICK: Patience = Patience {
    first: Duration::from_millis(100),
    challenge: Duration::from_millis(200),
    limited: Duration::from_millis(200),
    most: Duration::from_millis(500),
};
const LONG: Duration = Duration::from_secs(60);

/// A gateway that orders certificates, and the authority that it orders them from.
struct Town {
    world: World,
    pebble: Pebble,
    zone: Zone,
    dns: SocketAddr,
    state: tempfile::TempDir,
}

const SECURE: &str = "{name: secure, protocol: HTTPS, port: 443, hostname: shop.example, tls: {certificateRefs: [{name: shop-tls}]}}";

fn acme_gateway(listeners: &str) -> String {
    gateway(listeners).replace(
        "name: edge, namespace: shop",
        "name: edge, namespace: shop, annotations: {tombolo.dev/acme-issuer: pebble}",
    )
}

async fn acme_start(
    config: &Path,
    state: &Path,
    hook: Option<std::path::PathBuf>,
) -> (Running, DrainTrigger) {
    let (drain, drained) = DrainTrigger::new();
    let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
    let options = Options {
        source: Source::Static {
            paths: vec![config.to_owned()],
            poll: Duration::from_millis(5),
            cookies: None,
        },
        address: Some([127, 0, 0, 1].into()),
        ports: Ports::Free,
        admin: Some(([127, 0, 0, 1], 0).into()),
        acme: crate::AcmeOptions { state_dir: state.to_owned(), dns_hook: hook, patience: QUICK },
        ..Options::from_files(Vec::new(), telemetry)
    };
    (build(options, drained).await.unwrap(), drain)
}

impl Town {
    /// A gateway without an issuer so far: its ports are what pebble has to be told.
    async fn new(validity: u32, external: Option<(&'static str, &'static str)>) -> Self {
        let (config, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(config.path(), &gateway(&format!("{HTTP}, {SECURE}")));
        let hook = state.path().join("hook");
        let (mut gateway, drain) = acme_start(config.path(), state.path(), Some(hook)).await;
        timeout(SOON, gateway.ready()).await.expect("ready");
        let world = World { gateway, config, drain };
        let ports = (world.address(80).unwrap().port(), world.address(443).unwrap().port());
        let zone = Zone::default();
        let dns = zone.serve().await;
        let pebble = Pebble::start(Setup { ports, dns, validity, external }).await;
        Self { world, pebble, zone, dns, state }
    }

    async fn reload(&mut self, issuer: &str, listeners: &str) {
        let documents = [acme_gateway(listeners), self.pebble.issuer(issuer)].concat();
        self.world.reload(&documents).await;
    }

    /// What the AcmeIssuer's status says.
    async fn status(&self) -> serde_json::Value {
        let (_, page) = admin(&self.world.gateway, "/config").await;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let objects = page["objects"].as_array().unwrap();
        objects
            .iter()
            .find(|object| object["kind"] == "AcmeIssuer")
            .map(|o| o["status"].clone())
            .unwrap_or_default()
    }

    /// Waits for a state of the AcmeIssuer.
    async fn until(&mut self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let begun = tokio::time::Instant::now();
        loop {
            let status = self.status().await;
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < LONG, "not {what}: {status:#}\n{}", self.pebble.log());
            let _waited = timeout(Duration::from_millis(200), self.world.gateway.changed()).await;
        }
    }

    async fn until_issued(&mut self) {
        self.until("issued", |status| ready(status) == "True").await;
    }

    async fn metrics(&self) -> String {
        admin(&self.world.gateway, "/metrics").await.1
    }
}

fn ready(status: &serde_json::Value) -> &str {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == "Ready");
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

async fn admin(gateway: &Running, path: &str) -> (StatusCode, String) {
    send(gateway.admin().unwrap(), request("admin", path).body(Empty::new()).unwrap()).await
}

/// The certificate that is served for a name, whoever issued it.
async fn served(to: SocketAddr, name: &str) -> Option<CertificateDer<'static>> {
    let config = ClientConfig::builder_with_provider(tombolo_core::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from(name.to_string()).unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    tls.get_ref().1.peer_certificates()?.first().cloned()
}

#[tokio::test]
async fn a_certificate_is_ordered_by_http_served_and_kept_over_a_restart() {
    let mut town = Town::new(3600, None).await;
    town.reload("", &format!("{HTTP}, {SECURE}")).await;
    town.until_issued().await;
    let address = town.world.address(443).unwrap();
    let first = served(address, "shop.example").await.expect("a certificate");
    assert_eq!(town.pebble.issued(), 1);
    let metrics = town.metrics().await;
    assert!(
        metrics.contains("tombolo_acme_certificate_expires_seconds{secret=\"shop/shop-tls\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("tombolo_acme_orders_total{result=\"issued\"} 1"), "{metrics}");
    let (status, _) = town.world.get(80, "shop.example", "/.well-known/acme-challenge/none").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "a token that is not open is a request like any other");

    town.pebble.stop();
    let Town { world, state, .. } = &town;
    let (mut again, _drain) = acme_start(world.config.path(), state.path(), None).await;
    timeout(SOON, again.ready()).await.expect("ready");
    let address = again.listeners()[&BindKey { address: None, port: 443 }];
    assert_eq!(served(address, "shop.example").await, Some(first), "the one that was kept");
}

/// The authority has asked for proof in the account that it knows, and takes it for good there alone.
#[tokio::test]
async fn an_account_outlives_its_process() {
    let mut town = Town::new(3600, None).await;
    town.reload("", &format!("{HTTP}, {SECURE}")).await;
    town.until_issued().await;
    let Town { world: World { gateway, config, drain }, pebble, state, .. } = town;
    let accounts = || pebble.log().matches("accounts in memory").count();
    assert_eq!((accounts(), pebble.issued()), (1, 1), "{}", pebble.log());
    drain.drain();
    timeout(SOON, gateway.finished()).await.expect("an end").unwrap();
    for file in std::fs::read_dir(state.path().join("acme")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("certificate-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    // Its ports are others, where the authority does not look: a new account could prove nothing.
    let (mut again, _drain) = acme_start(config.path(), state.path(), None).await;
    timeout(SOON, again.ready()).await.expect("ready");
    let address = again.listeners()[&BindKey { address: None, port: 443 }];
    let issued = async {
        while served(address, "shop.example").await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, issued).await.unwrap_or_else(|_| panic!("not issued: {}", pebble.log()));
    assert_eq!(accounts(), 1, "{}", pebble.log());
    // It rejects one nonce in seven: where three in a row keep us from fetching a certificate, another is ordered.
    assert!(pebble.issued() > 1, "{}", pebble.log());
}

#[tokio::test]
async fn a_certificate_is_renewed_and_the_old_one_stays_where_it_cannot_be() {
    let mut town = Town::new(12, None).await;
    town.reload("", &format!("{HTTP}, {SECURE}")).await;
    town.until_issued().await;
    let address = town.world.address(443).unwrap();
    let first = served(address, "shop.example").await.expect("a certificate");
    let begun = tokio::time::Instant::now();
    let second = loop {
        let now = served(address, "shop.example").await.expect("a certificate at all times");
        if now != first {
            break now;
        }
        assert!(begun.elapsed() < LONG, "not renewed: {}", town.pebble.log());
        let _waited = timeout(Duration::from_millis(100), town.world.gateway.changed()).await;
    };
    town.pebble.stop();
    let told = |reason: &'static str| {
        move |status: &serde_json::Value| status["conditions"].to_string().contains(reason)
    };
    let failing =
        town.until("failing", |status| told("RenewalFailing")(status) || told("NearExpiry")(status)).await;
    let message = failing["conditions"].to_string();
    assert!(
        message.contains("cannot connect to 127.0.0.1") && message.contains("is good until"),
        "{message}"
    );
    assert_eq!(served(address, "shop.example").await, Some(second), "the old one stays in use");
    let metrics = town.metrics().await;
    let failures =
        metrics.lines().find(|line| line.starts_with("tombolo_acme_certificate_failures{")).unwrap();
    assert!(!failures.ends_with(" 0"), "{failures}");

    town.until("near its end", told("NearExpiry")).await;
    town.until("expired", told("\"Expired\"")).await;
    let metrics = town.metrics().await;
    let urgency = "tombolo_acme_certificate_urgency{secret=\"shop/shop-tls\"} 3";
    assert!(metrics.contains(urgency), "{metrics}");

    // It comes back without our account: there is a new one.
    town.pebble.restart().await;
    town.until_issued().await;
}

#[tokio::test]
async fn a_renewal_in_the_authoritys_window_says_what_it_replaces() {
    let mut town = Town::new(120, None).await;
    let front = Front::before(&town.pebble).await;
    let documents = [acme_gateway(&format!("{HTTP}, {SECURE}")), front.issuer()].concat();
    town.world.reload(&documents).await;
    let begun = tokio::time::Instant::now();
    let seen = async {
        loop {
            let (asked, replaced) = {
                let seen = front.seen.lock().unwrap();
                (seen.asked.clone(), seen.replaced.clone())
            };
            if let (Some(replaced), [first, second, ..]) = (replaced.first(), asked.as_slice()) {
                assert_eq!(replaced, first);
                assert_ne!(first, second, "the new one has a window of its own");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, seen).await.unwrap_or_else(|_| panic!("not renewed: {}", town.pebble.log()));
    assert!(begun.elapsed() < Duration::from_secs(70), "two thirds of its life would be 80 s");
    assert_eq!(town.pebble.issued(), 2, "the second one's window is far away");
}

const MORE: &str = "{name: more, protocol: HTTPS, port: 443, hostname: more.example, tls: {certificateRefs: [{name: more-tls}]}}";

#[tokio::test]
async fn of_two_processes_with_one_state_directory_one_orders_and_leaves_it_when_it_drains() {
    let mut town = Town::new(3600, None).await;
    let (app, held) = app("v1").await;
    let rest = [service("v1", app), route("v1"), town.pebble.issuer("")].concat();
    town.world.reload(&[acme_gateway(&format!("{HTTP}, {SECURE}")), rest.clone()].concat()).await;
    town.until_issued().await;
    let (mut next, _drain) = acme_start(town.world.config.path(), town.state.path(), None).await;
    timeout(SOON, next.ready()).await.expect("ready");
    let second = next.listeners()[&BindKey { address: None, port: 443 }];
    let first = town.world.address(443).unwrap();
    assert_eq!(served(second, "shop.example").await, served(first, "shop.example").await);

    // Both want one more; the first orders it, the second takes it over.
    town.world.reload(&[acme_gateway(&format!("{HTTP}, {SECURE}, {MORE}")), rest].concat()).await;
    let both = async {
        loop {
            let pair = (served(first, "more.example").await, served(second, "more.example").await);
            if let (Some(one), Some(other)) = pair {
                assert_eq!(one, other);
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, both).await.unwrap_or_else(|_| panic!("not both: {}", town.pebble.log()));
    assert_eq!(town.pebble.issued(), 2);

    // A request is under way: the first one drains, and leaves the ordering to others before it ends.
    let lock = std::fs::File::open(town.state.path().join("acme/lock")).unwrap();
    assert!(lock.try_lock().is_err());
    let waiting = request("shop.example", "/wait").body(Empty::new()).unwrap();
    let waiting = tokio::spawn(send(town.world.address(80).unwrap(), waiting));
    timeout(SOON, held.begun.notified()).await.expect("the request is in flight");
    town.world.drain.drain();
    let left = async {
        while lock.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, left).await.expect("the lock is left");
    assert!(!waiting.is_finished());
    held.go.notify_one();
    assert_eq!(timeout(SOON, waiting).await.unwrap().unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn a_failed_challenge_is_told_and_tried_again() {
    let mut town = Town::new(3600, None).await;
    town.zone.set_address("shop.example", [127, 99, 99, 99]);
    town.reload("", &format!("{HTTP}, {SECURE}")).await;
    let failing =
        town.until("failing", |status| status["conditions"].to_string().contains("OrderFailing")).await;
    let entry = &failing["certificates"][0];
    assert!(entry["failure"].as_str().unwrap().contains("shop.example"), "{entry}");
    assert!(served(town.world.address(443).unwrap(), "shop.example").await.is_none());
    town.zone.set_address("shop.example", [127, 0, 0, 1]);
    town.until_issued().await;
    assert!(served(town.world.address(443).unwrap(), "shop.example").await.is_some());
}

#[tokio::test]
async fn a_certificate_is_ordered_by_tls_alpn() {
    let mut town = Town::new(3600, None).await;
    town.reload("challenge: tls-alpn-01", &format!("{HTTP}, {SECURE}")).await;
    town.until_issued().await;
    assert!(served(town.world.address(443).unwrap(), "shop.example").await.is_some());
}

const WILD: &str = "{name: wild, protocol: HTTPS, port: 443, hostname: '*.shop.example', tls: {certificateRefs: [{name: shop-tls}]}}";

#[tokio::test]
async fn a_wildcard_is_ordered_by_dns_updates_that_are_removed_again() {
    let mut town = Town::new(3600, None).await;
    let server = town.dns;
    let spec = format!("challenge: dns-01\n  dns: {{rfc2136: {{server: '{server}', zone: shop.example}}}}");
    town.reload(&spec, &format!("{HTTP}, {SECURE}, {WILD}")).await;
    town.until_issued().await;
    for name in ["shop.example", "a.shop.example"] {
        assert!(served(town.world.address(443).unwrap(), name).await.is_some(), "{name}");
    }
    let (there, written) = town.zone.texts();
    assert!(there == 0 && written >= 2, "{there} of {written} records are there");
}

#[tokio::test]
async fn the_command_is_asked_to_write_records() {
    use std::os::unix::fs::PermissionsExt;
    let mut town = Town::new(3600, None).await;
    let (hook, log) = (town.state.path().join("hook"), town.pebble.file("records"));
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", log.display());
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    // What the command wrote gets into the zone, once it is there.
    let zone = town.zone.clone();
    let moving = tokio::spawn(async move {
        let mut known = 0;
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            for line in text.lines().skip(known) {
                known += 1;
                let [verb, name, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                if verb == "add" {
                    zone.add_text(&format!("{name}."), value);
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    town.reload("challenge: dns-01\n  dns: {propagation: 500ms}", &format!("{HTTP}, {WILD}")).await;
    town.until_issued().await;
    moving.abort();
    assert!(served(town.world.address(443).unwrap(), "a.shop.example").await.is_some());
}

#[tokio::test]
async fn an_account_is_bound_to_another_one_where_the_authority_asks_for_it() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let mut town = Town::new(3600, Some(("kid-1", key))).await;
    town.reload("", &format!("{HTTP}, {SECURE}")).await;
    let refused =
        town.until("refused", |status| status["conditions"].to_string().contains("OrderFailing")).await;
    assert!(refused.to_string().contains("xternal"), "{refused}");
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: eab, namespace: shop}}\nstringData: {{hmac: {key}}}\n---\n"
    );
    let issuer = town.pebble.issuer("externalAccount: {keyId: kid-1, secretRef: {name: eab}}");
    town.world.reload(&[acme_gateway(&format!("{HTTP}, {SECURE}")), issuer, secret].concat()).await;
    town.until_issued().await;
}
