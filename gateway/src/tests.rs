//! A static gateway over real sockets.

mod backends;
mod clients;
mod ocsp;
mod streams;

use std::{fmt::Write as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tombolo_core::{
    decide::BindKey,
    lifecycle::{Drain, DrainTrigger},
    telemetry::{AccessLog, Telemetry},
};

use crate::{Options, Ports, Running, Source, build};

mod acme;
mod changes;
mod documents;

const SOON: Duration = Duration::from_secs(10);

/// A gateway, its configuration, and what is behind it.
struct World {
    gateway: Running,
    config: tempfile::TempDir,
    drain: DrainTrigger,
}

impl World {
    async fn new(documents: &str) -> Self {
        let config = tempfile::tempdir().unwrap();
        write(config.path(), documents);
        let (drain, drained) = DrainTrigger::new();
        let mut gateway = start(config.path(), drained).await;
        timeout(SOON, gateway.ready()).await.expect("ready");
        Self { gateway, config, drain }
    }

    fn address(&self, port: u16) -> Option<SocketAddr> {
        self.gateway.listeners().get(&BindKey { address: None, port }).copied()
    }

    /// Writes new documents and waits until they are served.
    async fn reload(&mut self, documents: &str) {
        let before = self.gateway.version();
        write(self.config.path(), documents);
        let reloading = async {
            while self.gateway.version() == before {
                self.gateway.changed().await;
            }
        };
        timeout(SOON, reloading).await.expect("the change is served");
    }

    async fn get(&self, port: u16, host: &str, path: &str) -> (StatusCode, String) {
        let request = request(host, path).body(Empty::new()).unwrap();
        send(self.address(port).expect("a listener"), request).await
    }
}

async fn start(config: &Path, drained: Drain) -> Running {
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
        ..Options::from_files(Vec::new(), telemetry)
    };
    build(options, drained).await.unwrap()
}

/// Replaces the file as editors and tools do: by rename.
fn write(dir: &Path, documents: &str) {
    let fresh = dir.join("all.fresh");
    std::fs::write(&fresh, documents).unwrap();
    std::fs::rename(fresh, dir.join("all.yaml")).unwrap();
}

fn request(host: &str, path: &str) -> http::request::Builder {
    Request::builder().uri(path).header("host", host)
}

async fn send(to: SocketAddr, request: Request<Empty<Bytes>>) -> (StatusCode, String) {
    let tcp = TcpStream::connect(to).await.unwrap();
    timeout(SOON, exchange(TokioIo::new(tcp), request)).await.expect("an answer")
}

async fn exchange<S>(stream: TokioIo<S>, request: Request<Empty<Bytes>>) -> (StatusCode, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = read(sender.send_request(request).await.unwrap()).await;
    connection.abort();
    answer
}

async fn read(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// What `/wait` waits for, and tells when it does.
#[derive(Default)]
struct Waiting {
    begun: Notify,
    go: Notify,
}

/// An application that says its name; `/wait` only when it is told.
async fn app(name: &'static str) -> (SocketAddr, Arc<Waiting>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, waiting) = (listener.local_addr().unwrap(), Arc::<Waiting>::default());
    let told = Arc::clone(&waiting);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let told = Arc::clone(&told);
            let answer = service_fn(move |request: Request<Incoming>| {
                let told = Arc::clone(&told);
                async move {
                    if request.uri().path() == "/wait" {
                        told.begun.notify_one();
                        told.go.notified().await;
                    }
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(name)))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), answer),
            );
        }
    });
    (address, waiting)
}

// --- Documents ---

/// A Gateway with listeners as in `spec.listeners`.
fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: tombolo}}
spec: {{controllerName: tombolo.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  gatewayClassName: tombolo
  listeners: [{listeners}]
---
"
    )
}

const HTTP: &str = "{name: web, protocol: HTTP, port: 80}";

/// A service with one static endpoint.
fn service(name: &str, address: SocketAddr) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [{ip}]}}]
---
",
        ip = address.ip(),
        port = address.port(),
    )
}

/// Everything of `shop.example` goes to this service.
fn route(service: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop, namespace: shop}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [shop.example]
  rules: [{{name: all, backendRefs: [{{name: {service}, port: 80}}]}}]
---
"
    )
}

fn gray(arm: &str) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{name: shop-v2, namespace: shop}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, sectionName: all}}]
  arms: [{{name: v2, backendRefs: [{{name: {arm}, port: 80}}]}}]
  rules:
    - {{arm: v2, headers: [{{name: x-gray, value: v2}}]}}
    - {{arm: v2, cookies: [{{name: gray, value: \"1\"}}]}}
---
"
    )
}

fn secret(name: &str, host: &str) -> (String, rcgen::CertifiedKey<rcgen::KeyPair>) {
    let made = rcgen::generate_simple_self_signed(vec![host.to_string()]).unwrap();
    let mut document = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\nstringData:\n"
    );
    for (key, pem) in [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())] {
        writeln!(document, "  {key}: |").unwrap();
        pem.lines().for_each(|line| writeln!(document, "    {line}").unwrap());
    }
    document.push_str("---\n");
    (document, made)
}

fn https(secret: &str) -> String {
    format!(
        "{{name: secure, protocol: HTTPS, port: 443, hostname: shop.example, tls: {{certificateRefs: [{{name: {secret}}}]}}}}"
    )
}

// --- Tests ---

#[tokio::test]
async fn routes_and_releases_gray() {
    let ((v1, _), (v2, _)) = (app("v1").await, app("v2").await);
    let all = [gateway(HTTP), service("v1", v1), service("v2", v2), route("v1"), gray("v2")].concat();
    let world = World::new(&all).await;
    assert_eq!(world.get(80, "shop.example", "/").await, (StatusCode::OK, "v1".into()));
    assert_eq!(world.get(80, "other.example", "/").await.0, StatusCode::NOT_FOUND);
    for (name, value, expected) in [
        ("x-gray", "v2", "v2"),
        ("cookie", "gray=1", "v2"),
        ("x-gray", "v3", "v1"),
        ("cookie", "gray=0", "v1"),
    ] {
        let request = request("shop.example", "/").header(name, value).body(Empty::new()).unwrap();
        let answer = send(world.address(80).unwrap(), request).await;
        assert_eq!(answer, (StatusCode::OK, expected.into()), "{name}: {value}");
    }
}

#[tokio::test]
async fn serves_https_and_swaps_certificates_live() {
    let (app, _) = app("v1").await;
    let (first, certified) = secret("cert", "shop.example");
    let rest = [gateway(&https("cert")), service("v1", app), route("v1")].concat();
    let mut world = World::new(&[first, rest.clone()].concat()).await;
    let address = world.address(443).unwrap();
    let mut kept = tls(address, &certified).await.expect("the first certificate");
    assert_eq!(kept.get().await, (StatusCode::OK, "v1".into()));

    let (second, renewed) = secret("cert", "shop.example");
    world.reload(&[second, rest].concat()).await;
    assert!(tls(address, &certified).await.is_none(), "the old one is not served any more");
    let mut fresh = tls(address, &renewed).await.expect("the new certificate");
    assert_eq!(fresh.get().await, (StatusCode::OK, "v1".into()));
    assert_eq!(kept.get().await, (StatusCode::OK, "v1".into()), "open connections go on");
}

/// A TLS connection that is kept.
struct Kept(http1::SendRequest<Empty<Bytes>>);

impl Kept {
    async fn get(&mut self) -> (StatusCode, String) {
        let request = request("shop.example", "/").body(Empty::new()).unwrap();
        let response = timeout(SOON, self.0.send_request(request)).await.expect("an answer").unwrap();
        read(response).await
    }
}

/// None: another certificate is served.
async fn tls(to: SocketAddr, trusted: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Option<Kept> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(tombolo_core::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("shop.example").unwrap();
    let stream =
        timeout(SOON, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap().ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Some(Kept(sender))
}

#[tokio::test]
async fn a_reload_under_load_fails_no_request() {
    let ((v1, _), (v2, _)) = (app("v1").await, app("v2").await);
    let with = |service_name: &str, address| {
        [gateway(HTTP), service(service_name, address), route(service_name)].concat()
    };
    let mut world = World::new(&with("v1", v1)).await;
    let address = world.address(80).unwrap();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut requests = 0;
                loop {
                    let request = request("shop.example", "/").body(Empty::new()).unwrap();
                    let (status, body) = send(address, request).await;
                    assert_eq!(status, StatusCode::OK, "request {requests}");
                    requests += 1;
                    match body.as_str() {
                        "v1" | "v2" => {}
                        // The last of the four states.
                        _ => return requests,
                    }
                }
            })
        })
        .collect();
    let (last, _) = app("last").await;
    // The old service is gone with each change.
    for (name, address) in [("v2", v2), ("v1", v1), ("v2", v2), ("last", last)] {
        world.reload(&with(name, address)).await;
        assert_eq!(world.get(80, "shop.example", "/").await.1, name);
    }
    for client in clients {
        assert!(timeout(SOON, client).await.expect("the last state is seen").unwrap() > 0);
    }
    assert_eq!(world.address(80), Some(address), "the socket was never closed");
}

#[tokio::test]
async fn what_breaks_stays_as_it_was() {
    let (app, _) = app("v1").await;
    let all = [gateway(HTTP), service("v1", app), route("v1")].concat();
    let mut world = World::new(&all).await;
    world.reload(&all.replace("hostnames", "hostnamez")).await;
    assert_eq!(world.get(80, "shop.example", "/").await, (StatusCode::OK, "v1".into()));
    world.reload("kind: [").await;
    assert_eq!(world.get(80, "shop.example", "/").await, (StatusCode::OK, "v1".into()));
    let admin = world.gateway.admin().unwrap();
    let page = |path: &str| send(admin, request("admin", path).body(Empty::new()).unwrap());
    let (_, config) = page("/config").await;
    assert!(config.contains("/HTTPRoute/shop/shop"), "kept as it was: {config}");
    let (_, metrics) = page("/metrics").await;
    assert!(metrics.contains("tombolo_bad_input_total{kind=\"document\"} 2"), "{metrics}");
}

#[tokio::test]
async fn listeners_come_and_go() {
    let (app, _) = app("v1").await;
    let more = "{name: web, protocol: HTTP, port: 80}, {name: more, protocol: HTTP, port: 8080}";
    let with = |listeners: &str| [gateway(listeners), service("v1", app), route("v1")].concat();
    let mut world = World::new(&with(HTTP)).await;
    assert_eq!(world.address(8080), None);
    world.reload(&with(more)).await;
    assert_eq!(world.get(8080, "shop.example", "/").await.1, "v1");
    let gone = world.address(8080).unwrap();
    world.reload(&with(HTTP)).await;
    assert_eq!(world.address(8080), None);
    timeout(SOON, async { while TcpStream::connect(gone).await.is_ok() {} }).await.expect("closed");
    assert_eq!(world.get(80, "shop.example", "/").await.1, "v1");
}

#[tokio::test]
async fn tells_what_it_serves_and_why() {
    let ((v1, _), (v2, _)) = (app("v1").await, app("v2").await);
    let all = [gateway(HTTP), service("v1", v1), service("v2", v2), route("v1"), gray("v2")].concat();
    let world = World::new(&all).await;
    let admin = world.gateway.admin().unwrap();
    let page = |path: &str| send(admin, request("admin", path).body(Empty::new()).unwrap());
    assert_eq!(page("/ready").await.0, StatusCode::OK);
    let explain = "/explain?url=http://shop.example/cart&header=x-gray:%20v2";
    let (status, explained) = page(explain).await;
    assert_eq!(status, StatusCode::OK, "{explained}");
    assert!(explained.contains("\"arm\": \"v2\"") && explained.contains("gray rule 0"), "{explained}");
    assert_eq!(page("/explain?url=http://shop.example:81/").await.0, StatusCode::NOT_FOUND);
    assert_eq!(page("/explain?url=nothing").await.0, StatusCode::BAD_REQUEST);
    let (_, config) = page("/config").await;
    assert!(config.contains("\"cluster/shop/v1\"") && config.contains("\"Programmed\""), "{config}");
}

#[tokio::test]
async fn draining_finishes_what_runs() {
    let (app, held) = app("v1").await;
    let world = World::new(&[gateway(HTTP), service("v1", app), route("v1")].concat()).await;
    let address = world.address(80).unwrap();
    let waiting = request("shop.example", "/wait").body(Empty::new()).unwrap();
    let waiting = tokio::spawn(send(address, waiting));
    timeout(SOON, held.begun.notified()).await.expect("the request is in flight");
    world.drain.drain();
    timeout(SOON, async { while TcpStream::connect(address).await.is_ok() {} }).await.expect("closed");
    assert!(!waiting.is_finished());
    held.go.notify_one();
    assert_eq!(timeout(SOON, waiting).await.unwrap().unwrap(), (StatusCode::OK, "v1".into()));
    timeout(SOON, world.gateway.finished()).await.expect("the end").unwrap();
}

#[tokio::test]
async fn a_path_that_is_not_there_is_an_error() {
    let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
    let (_trigger, drain) = DrainTrigger::new();
    let error = build(Options::from_files(vec!["/nothing/here".into()], telemetry), drain).await.unwrap_err();
    assert!(error.to_string().contains("/nothing/here"), "{error}");
}
