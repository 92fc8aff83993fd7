//! OCSP responses, made and looked at by OpenSSL.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SerialNumber,
};
use serde_json::Value;
use tombolo_core::ocsp::Times;

use super::*;
use crate::OcspOptions;

/// Tried again at once.
const QUICK: Times = Times { first: Duration::from_millis(50), most: Duration::from_millis(200) };

/// What the responder answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Good,
    Revoked,
    /// Status 500.
    Broken,
    /// Elsewhere.
    Moved,
}

/// An authority with a certificate for `shop.example`, and its responder.
struct Authority {
    dir: tempfile::TempDir,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
    moved: Arc<AtomicUsize>,
    chain: String,
    key: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// An extension that names the responder.
fn access(url: &str) -> CustomExtension {
    let wrap = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let method = wrap(6, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01]);
    let description = wrap(0x30, &[method, wrap(0x86, url.as_bytes())].concat());
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], wrap(0x30, &description))
}

impl Authority {
    async fn new(must_staple: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut ca = params("ca.example");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let mut leaf = params("shop.example");
        leaf.serial_number = Some(SerialNumber::from(vec![0x10, 0x01]));
        leaf.custom_extensions = vec![access(&format!("http://{}/ocsp", listener.local_addr().unwrap()))];
        if must_staple {
            let feature =
                CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
            leaf.custom_extensions.push(feature);
        }
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap().pem();
        let mut responder = params("responder.example");
        responder.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        let responder_key = KeyPair::generate().unwrap();
        let responder = responder.signed_by(&responder_key, &issuer).unwrap().pem();
        for (name, text) in [
            ("ca.pem", &ca_pem),
            ("responder.pem", &responder),
            ("responder.key", &responder_key.serialize_pem()),
            ("good", &"V\t491231235959Z\t\t1001\tunknown\t/CN=shop.example\n".to_owned()),
            ("revoked", &"R\t491231235959Z\t250101000000Z\t1001\tunknown\t/CN=shop.example\n".to_owned()),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let authority = Self {
            dir,
            mode: Arc::new(Mutex::new(Mode::Good)),
            asked: Arc::default(),
            moved: Arc::default(),
            chain: leaf + &ca_pem,
            key: key.serialize_pem(),
        };
        authority.serve(listener);
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self, listener: TcpListener) {
        let (dir, mode) = (self.dir.path().to_owned(), Arc::clone(&self.mode));
        let (asked, moved) = (Arc::clone(&self.asked), Arc::clone(&self.moved));
        let answer = move |request: Request<Incoming>| {
            let (dir, mode) = (dir.clone(), *mode.lock().unwrap());
            let is_moved = request.uri().path() != "/ocsp";
            let counter = if is_moved { &moved } else { &asked };
            counter.fetch_add(1, SeqCst);
            async move {
                let request = request.into_body().collect().await.unwrap().to_bytes();
                let response = Response::builder();
                let response = match mode {
                    Mode::Broken => response.status(500).body(Full::<Bytes>::default()),
                    Mode::Moved if !is_moved => {
                        response.status(302).header("location", "/elsewhere").body(Full::<Bytes>::default())
                    }
                    Mode::Moved | Mode::Good => response.body(Full::from(respond(&dir, "good", &request))),
                    Mode::Revoked => response.body(Full::from(respond(&dir, "revoked", &request))),
                };
                Ok::<_, std::convert::Infallible>(response.unwrap())
            }
        };
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service_fn(answer.clone()));
                tokio::spawn(connection);
            }
        });
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    /// The Secret `cert`, with more of its metadata and data.
    fn secret(&self, metadata: &str, data: &str) -> String {
        let mut document = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: shop{metadata}}}\ntype: kubernetes.io/tls\n{data}stringData:\n"
        );
        for (key, pem) in [("tls.crt", &self.chain), ("tls.key", &self.key)] {
            writeln!(document, "  {key}: |").unwrap();
            pem.lines().for_each(|line| writeln!(document, "    {line}").unwrap());
        }
        document + "---\n"
    }

    /// What OpenSSL says of a handshake that asks for a response.
    async fn handshake(&self, to: SocketAddr, version: &str) -> String {
        let root = self.path("ca.pem");
        let (to, version) = (to.to_string(), version.to_owned());
        let client = move || {
            Command::new("openssl")
                .args(["s_client", "-connect", &to, "-servername", "shop.example", "-status", &version])
                .arg("-CAfile")
                .arg(root)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output()
                .expect("openssl is not installed: apt-get install openssl")
        };
        let output = tokio::task::spawn_blocking(client).await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The answer to a request, good for an hour.
fn respond(dir: &Path, index: &str, request: &[u8]) -> Vec<u8> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, SeqCst);
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (asked, answered) = (at(&format!("{number}.req")), at(&format!("{number}.resp")));
    std::fs::write(&asked, request).unwrap();
    let output = Command::new("openssl")
        .args(["ocsp", "-index", &at(index), "-CA", &at("ca.pem")])
        .args(["-rsigner", &at("responder.pem"), "-rkey", &at("responder.key")])
        .args(["-reqin", &asked, "-respout", &answered, "-nmin", "60"])
        .output()
        .expect("openssl is not installed: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(answered).unwrap()
}

/// A gateway that asks at once again where it fails.
async fn world(documents: &str) -> World {
    world_with(documents, None).await
}

/// One that keeps responses.
async fn world_with(documents: &str, kept: Option<&Path>) -> World {
    let config = tempfile::tempdir().unwrap();
    write(config.path(), documents);
    let (drain, drained) = DrainTrigger::new();
    let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
    let source = Source::Static {
        paths: vec![config.path().to_owned()],
        poll: Duration::from_millis(5),
        cookies: None,
    };
    let options = Options {
        source,
        address: Some([127, 0, 0, 1].into()),
        ports: Ports::Free,
        admin: Some(([127, 0, 0, 1], 0).into()),
        ocsp: OcspOptions { times: QUICK, dir: kept.map(Path::to_owned) },
        ..Options::from_files(Vec::new(), telemetry)
    };
    let mut gateway = build(options, drained).await.unwrap();
    timeout(SOON, gateway.ready()).await.expect("ready");
    World { gateway, config, drain }
}

impl World {
    async fn page(&self, path: &str) -> String {
        send(self.gateway.admin().unwrap(), request("admin", path).body(Empty::new()).unwrap()).await.1
    }

    /// The condition of the listener, once it is as wanted.
    async fn staple(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let until = async {
            loop {
                let page: Value = serde_json::from_str(&self.page("/config").await).unwrap();
                let objects = page["objects"].as_array().unwrap();
                let gateway = objects.iter().find(|object| object["kind"] == "Gateway").unwrap();
                let conditions = gateway["status"]["listeners"][0]["conditions"].as_array().unwrap();
                let found = conditions.iter().find(|c| c["type"] == "tombolo.dev/OCSPStapled");
                last = found.cloned().unwrap_or_default();
                if holds(&last) {
                    return last.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = timeout(SOON, until).await;
        found.unwrap_or_else(|_| panic!("{last:#}"))
    }
}

fn is(reason: &str) -> impl Fn(&Value) -> bool {
    move |condition| condition["reason"] == reason
}

const NONE: &str = "OCSP response: no response sent";

#[tokio::test]
async fn a_certificate_that_demands_a_response_gets_one_and_keeps_it() {
    let authority = Authority::new(true).await;
    let (app, _) = app("v1").await;
    let rest = [gateway(&https("cert")), service("v1", app), route("v1")].concat();
    let mut world = world(&[authority.secret("", ""), rest.clone()].concat()).await;
    let stapled = world.staple(is("Stapled")).await;
    assert_eq!(stapled["status"], "True");
    let address = world.address(443).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let seen = authority.handshake(address, version).await;
        assert!(
            seen.contains("OCSP Response Status: successful") && seen.contains("Cert Status: good"),
            "{seen}"
        );
        assert!(seen.contains("Verify return code: 0 (ok)"), "{seen}");
    }
    let metrics = world.page("/metrics").await;
    assert!(metrics.contains("tombolo_ocsp_staple_missing{secret=\"shop/cert\"} 0"), "{metrics}");
    assert!(metrics.contains("tombolo_ocsp_staple_expires_seconds{secret=\"shop/cert\"}"), "{metrics}");
    assert!(metrics.contains("tombolo_ocsp_fetches_total{result=\"good\"} 1"), "{metrics}");

    // The Secret is made anew, with the same certificate, while the responder is down.
    authority.set(Mode::Broken);
    world.reload(&[authority.secret(", labels: {a: b}", ""), rest].concat()).await;
    world.staple(is("Stapled")).await;
    assert!(authority.handshake(address, "-tls1_3").await.contains("Cert Status: good"));
    assert_eq!(authority.asked(), 1, "the next is due at half of its time");
}

#[tokio::test]
async fn a_demanded_response_that_cannot_be_had_is_told_and_tried_again() {
    let authority = Authority::new(true).await;
    authority.set(Mode::Broken);
    let (app, _) = app("v1").await;
    let all = [authority.secret("", ""), gateway(&https("cert")), service("v1", app), route("v1")].concat();
    let world = world(&all).await;
    let address = world.address(443).unwrap();
    let message = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
    let told = world.staple(|c| is("StapleMissing")(c) && message(c).contains("500")).await;
    assert!(message(&told).contains("shop/cert: the OCSP responder 127.0.0.1:"), "{told}");
    assert!(authority.handshake(address, "-tls1_3").await.contains(NONE));
    let metrics = world.page("/metrics").await;
    assert!(metrics.contains("tombolo_ocsp_staple_missing{secret=\"shop/cert\"} 1"), "{metrics}");

    authority.set(Mode::Moved);
    world.staple(|condition| message(condition).contains("302")).await;
    assert_eq!(authority.moved.load(SeqCst), 0, "a redirect is not followed");

    authority.set(Mode::Revoked);
    world.staple(|condition| message(condition).contains("revoked")).await;
    assert!(authority.handshake(address, "-tls1_3").await.contains(NONE));

    authority.set(Mode::Good);
    world.staple(is("Stapled")).await;
    assert!(authority.handshake(address, "-tls1_3").await.contains("Cert Status: good"));
}

#[tokio::test]
async fn others_get_one_where_their_secret_asks_or_holds_it() {
    let authority = Authority::new(false).await;
    let (app, _) = app("v1").await;
    let rest = [gateway(&https("cert")), service("v1", app), route("v1")].concat();
    let mut world = world(&[authority.secret("", ""), rest.clone()].concat()).await;
    let address = world.address(443).unwrap();
    assert!(authority.handshake(address, "-tls1_3").await.contains(NONE));
    assert_eq!(authority.asked(), 0, "nobody has asked for one");

    let asking = authority.secret(", annotations: {tombolo.dev/ocsp: fetch}", "");
    world.reload(&[asking, rest.clone()].concat()).await;
    world.staple(is("Stapled")).await;
    assert!(authority.handshake(address, "-tls1_3").await.contains("Cert Status: good"));
    assert_eq!(authority.asked(), 1);

    // The response that it got is put into the Secret, for a gateway that asks nobody.
    let response = std::fs::read_dir(authority.dir.path()).unwrap().filter_map(Result::ok);
    let response =
        response.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "resp"));
    let encoded =
        Command::new("openssl").args(["base64", "-A", "-in"]).arg(response.unwrap()).output().unwrap();
    let encoded = String::from_utf8(encoded.stdout).unwrap();
    let holding = authority.secret("", &format!("data: {{ocsp.der: {encoded}}}\n"));
    let mut second = self::world(&[holding, rest.clone()].concat()).await;
    second.staple(is("Stapled")).await;
    let address = second.address(443).unwrap();
    assert!(authority.handshake(address, "-tls1_3").await.contains("Cert Status: good"));
    assert_eq!(authority.asked(), 1);

    let broken = authority.secret("", "data: {ocsp.der: MAMKAQA=}\n");
    let other = Authority::new(false).await;
    let others = other.secret("", &format!("data: {{ocsp.der: {encoded}}}\n"));
    for (secret, authority) in [(broken, None), (others, Some(&other))] {
        second.reload(&[secret, rest.clone()].concat()).await;
        match authority {
            // The one that it had before is good for this certificate still.
            None => drop(second.staple(is("Stapled")).await),
            Some(other) => {
                second.staple(is("NotStapled")).await;
                assert!(other.handshake(address, "-tls1_3").await.contains(NONE));
            }
        }
    }
}

#[tokio::test]
async fn a_response_outlives_its_process_and_is_verified_again() {
    let authority = Authority::new(true).await;
    let (app, _) = app("v1").await;
    let rest = [gateway(&https("cert")), service("v1", app), route("v1")].concat();
    let all = [authority.secret("", ""), rest.clone()].concat();
    let state = tempfile::tempdir().unwrap();
    let first = world_with(&all, Some(state.path())).await;
    first.staple(is("Stapled")).await;
    let file = state.path().join("shop_cert.der");
    timeout(SOON, async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is kept");
    first.drain.drain();
    first.gateway.finished().await.unwrap();

    authority.set(Mode::Broken);
    let second = world_with(&all, Some(state.path())).await;
    let address = second.address(443).unwrap();
    second.staple(is("Stapled")).await;
    assert!(authority.handshake(address, "-tls1_3").await.contains("Cert Status: good"));
    assert_eq!(authority.asked(), 1, "the responder was not needed");

    // Another certificate in the same Secret does not get it, nor one that somebody wrote over.
    let other = Authority::new(true).await;
    other.set(Mode::Broken);
    let others = [other.secret("", ""), rest].concat();
    world_with(&others, Some(state.path())).await.staple(is("StapleMissing")).await;
    std::fs::write(&file, b"nonsense").unwrap();
    world_with(&all, Some(state.path())).await.staple(is("StapleMissing")).await;
}
