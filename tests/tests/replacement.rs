//! A new process takes the place of the old one under load, ten times, and nobody who calls notices.
#![allow(clippy::unwrap_used)]
// Of the conformance scenarios' stage, this uses a part.
#![allow(dead_code)]

#[path = "conformance/backend.rs"]
mod backend;
#[path = "conformance/certificates.rs"]
mod certificates;
#[path = "conformance/client.rs"]
mod client;
#[path = "conformance/report.rs"]
mod report;
#[path = "conformance/wire.rs"]
mod wire;
#[path = "conformance/world.rs"]
mod world;

use std::{
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use tombolo_tests::Running;

use client::get;
use wire::{Wire, connect};
use world::World;

const SOON: Duration = Duration::from_secs(20);
const REPLACEMENTS: usize = 10;

const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: first, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }, { name: same-namespace-with-https-listener }]
  rules:
    - matches: [{ path: { value: /ws } }]
      backendRefs: [{ name: infra-backend-v1, port: 8082 }]
    - backendRefs: [{ name: infra-backend-v1, port: 8080 }]
"#;

/// The host of every request, which the certificate of the TLS listener is for.
const HOST: &str = "second-example.org";

/// How a client comes: to a listener of plain HTTP, or over TLS with this server name.
type Way = (SocketAddr, Option<&'static str>);

fn ways(world: &World) -> [Way; 2] {
    let plain = world.address("same-namespace", 80);
    [(plain, None), (world.address("same-namespace-with-https-listener", 443), Some(HOST))]
}

#[derive(Default)]
struct Load {
    answered: AtomicU64,
    done: AtomicBool,
}

impl Load {
    fn ends(&self) -> bool {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.done.load(Ordering::Relaxed)
    }
}

/// Request after request on one connection, for as long as the gateway keeps it.
async fn keep_asking((to, sni): Way, load: Arc<Load>) {
    loop {
        let wire = connect(to, sni, false).await;
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await.unwrap();
        tokio::spawn(connection);
        loop {
            let request = Request::get("/").header("host", HOST).body(Empty::<Bytes>::new()).unwrap();
            let response = timeout(SOON, sender.send_request(request)).await.expect("an answer").unwrap();
            let closes = response.headers().get("connection").is_some_and(|value| value == "close");
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
            if load.ends() {
                return;
            }
            if closes {
                break;
            }
        }
    }
}

/// The same over HTTP/2, until it is told to go away.
async fn keep_asking_http2((to, sni): Way, load: Arc<Load>) {
    loop {
        let wire = connect(to, sni, true).await;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(wire)).await.unwrap();
        tokio::spawn(connection);
        while sender.ready().await.is_ok() {
            let url = format!("{}://{HOST}/", if sni.is_some() { "https" } else { "http" });
            let request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
            match timeout(SOON, sender.send_request(request)).await.expect("an answer") {
                Ok(response) => {
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.unwrap();
                }
                // The client was told to go away with its request on the way: it was not processed, and every client
                // sends it again (RFC 9113 section 6.8).
                Err(error) => {
                    let told = format!("{error:?}").contains("GoAway(b\"\", NO_ERROR, Remote)");
                    assert!(told || error.is_canceled() || error.is_closed(), "{error:?}");
                }
            }
            if load.ends() {
                return;
            }
        }
    }
}

/// A connection for each request.
async fn ask_anew((to, sni): Way, load: Arc<Load>) {
    let ask = get(HOST, "/");
    let ask = if sni.is_some() { ask.over_tls(HOST) } else { ask };
    loop {
        let answer = timeout(SOON, ask.send(to)).await.expect("an answer").unwrap();
        assert_eq!(answer.status, 200);
        if load.ends() {
            return;
        }
    }
}

/// A WebSocket whose bytes come back.
struct WebSocket(Box<dyn Wire>);

impl WebSocket {
    async fn open((to, sni): Way) -> Self {
        let mut wire = connect(to, sni, false).await;
        let upgrade = format!(
            "GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        wire::say(&mut wire, &upgrade).await;
        let head = wire::head(&mut wire).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        Self(wire)
    }

    async fn echoes(&mut self) {
        wire::say(&mut self.0, "still there?").await;
        assert_eq!(wire::hear(&mut self.0, "there?").await, "still there?");
    }
}

fn has_ended(process: &mut Running) -> bool {
    process.child().try_wait().unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn ten_replacements_lose_no_request_and_cut_no_websocket() {
    let world = World::stage().await;
    world.write("scenario", ROUTE);
    let handover = world.path().join("handover");
    let arguments = ["--handover", handover.to_str().unwrap(), "--drain-time", "120"];
    let mut processes = vec![world.start(&arguments)];
    let ways = ways(&world);
    let load = Arc::<Load>::default();
    let (mut clients, mut sockets) = (Vec::new(), Vec::new());
    for way in ways {
        clients.extend((0..2).map(|_| tokio::spawn(keep_asking(way, load.clone()))));
        clients.push(tokio::spawn(keep_asking_http2(way, load.clone())));
        clients.push(tokio::spawn(ask_anew(way, load.clone())));
        sockets.push(WebSocket::open(way).await);
    }

    for _ in 0..REPLACEMENTS {
        processes.push(world.start(&arguments));
        let before = load.answered.load(Ordering::Relaxed);
        let end = Instant::now() + SOON;
        while load.answered.load(Ordering::Relaxed) < before + 200 {
            assert!(Instant::now() < end, "requests are answered");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for way in ways {
            sockets.push(WebSocket::open(way).await);
        }
        for socket in &mut sockets {
            socket.echoes().await;
        }
    }

    load.done.store(true, Ordering::Relaxed);
    for client in clients {
        timeout(SOON, client).await.expect("an end").unwrap();
    }
    assert!(processes.iter_mut().all(|process| !has_ended(process)), "each still serves its WebSocket");
    drop(sockets);
    let last = processes.pop().unwrap();
    let end = Instant::now() + SOON;
    while !processes.iter_mut().all(has_ended) {
        assert!(Instant::now() < end, "the processes that were replaced end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(HOST, "/").send(ways[0].0).await.unwrap().status, 200, "the last one serves on");
    drop(last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_replaces_the_process_and_a_new_one_that_fails_changes_nothing() {
    let world = World::stage().await;
    world.write("scenario", ROUTE);
    let handover = world.path().join("handover");
    let arguments = ["--handover", handover.to_str().unwrap(), "--drain-time", "5"];
    let mut first = world.start(&arguments);
    let to = world.address("same-namespace", 80);
    let place = std::fs::metadata(&handover).unwrap().ino();
    // One that dies before it is ready, in the middle of the exchange.
    drop(std::os::unix::net::UnixStream::connect(&handover).unwrap());
    world.reaches(to, &get("x", "/"), "infra-backend-v1").await;
    let pid = first.child().id().to_string();
    let killed = std::process::Command::new("kill").args(["-USR2", &pid]).status().unwrap();
    assert!(killed.success());
    let end = Instant::now() + SOON;
    while !has_ended(&mut first) {
        assert!(Instant::now() < end, "the first process ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.reaches(to, &get("x", "/"), "infra-backend-v1").await;
    assert_ne!(std::fs::metadata(&handover).unwrap().ino(), place, "the next one can be replaced as well");
    // The process that was started by the first one is not our child: whoever replaces it is.
    let mut third = world.start(&arguments);
    world.reaches(to, &get("x", "/"), "infra-backend-v1").await;
    assert!(!has_ended(&mut third));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_websocket_ends_as_soon_as_it_has_begun() {
    let mut world = World::stage().await;
    world.write("scenario", ROUTE);
    world.serve();
    let to = world.address("same-namespace", 80);
    for _ in 0..500 {
        WebSocket::open((to, None)).await.echoes().await;
    }
}
