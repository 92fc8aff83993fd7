//! The gateway process under what wears proxies out: huge bodies, thousands of idle connections, slow readers. Its memory
//! is looked at from outside, and other clients are served all the while.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_stream::StreamExt;
use tombolo_core::lifecycle::raise_file_limit;
use tombolo_tests::{Running, command, wait_until};

/// Nothing may take longer, however busy the machine is.
const LONG: Duration = Duration::from_secs(120);
const GIGABYTE: u64 = 1 << 30;
const PIECE: usize = 64 * 1024;

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LONG, work).await.unwrap_or_else(|_| panic!("{what}: not within {LONG:?}"))
}

/// Reads to the end of a head; none, where the connection ends before.
async fn read_head(tcp: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

fn length_in(head: &str) -> u64 {
    let length = |line: &str| line.to_lowercase().strip_prefix("content-length:").map(str::to_owned);
    head.lines().find_map(length).map_or(0, |length| length.trim().parse().unwrap())
}

/// False: the connection ended before so many bytes came.
async fn discard(tcp: &mut TcpStream, mut left: u64) -> bool {
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
        match tcp.read(&mut piece[..most]).await {
            Ok(read @ 1..) => left -= read as u64,
            Ok(0) | Err(_) => return false,
        }
    }
    true
}

/// False: the other side takes no more.
async fn send(tcp: &mut TcpStream, mut left: u64) -> bool {
    let piece = vec![b'x'; PIECE];
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
        if tcp.write_all(&piece[..most]).await.is_err() {
            return false;
        }
        left -= most as u64;
    }
    true
}

/// An application: takes whatever body there is, and answers with as many bytes as the path's number says.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.set_nodelay(true).unwrap();
                while let Some(head) = read_head(&mut tcp).await {
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let answer: u64 = path.trim_start_matches('/').parse().unwrap_or(2);
                    let whole = discard(&mut tcp, length_in(&head)).await;
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {answer}\r\n\r\n");
                    if !whole
                        || tcp.write_all(head.as_bytes()).await.is_err()
                        || !send(&mut tcp, answer).await
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

struct World {
    address: SocketAddr,
    process: u32,
    // Both end with the test.
    _gateway: Running,
    _config: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        raise_file_limit();
        let application = application().await;
        // Free now, and no other test takes ports of this address.
        let address = std::net::TcpListener::bind("127.0.0.41:0").unwrap().local_addr().unwrap();
        let config = tempfile::tempdir().unwrap();
        fs::write(config.path().join("all.yaml"), documents(address, application)).unwrap();
        let mut gateway =
            Running::start(command(["gateway", "--log", "warn", "--config"]).arg(config.path()));
        let process = gateway.child().id();
        wait_until("the gateway serves", Duration::from_secs(20), || {
            std::net::TcpStream::connect(address).is_ok()
        });
        let world = Self { address, process, _gateway: gateway, _config: config };
        world.others_are_served().await;
        world
    }

    /// Kilobytes of memory as the kernel counts them: `VmRSS` is now, `VmHWM` the most so far.
    fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn others_are_served(&self) {
        ask(&mut self.connect().await).await;
    }

    /// Serves others for as long as this takes, and gives how many kilobytes of memory more there ever were.
    async fn meanwhile(&self, what: &str, work: impl Future<Output = ()>) -> u64 {
        let (before, begun) = (self.memory("VmRSS"), Instant::now());
        let others = async {
            loop {
                self.others_are_served().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = soon(what, work) => {}
            () = others => {}
        }
        let more = self.memory("VmHWM").saturating_sub(before);
        println!("{what}: {:?}, {more} kB more at most", begun.elapsed());
        more
    }
}

/// One small request on a connection, which stays open.
async fn ask(tcp: &mut TcpStream) {
    soon("a small answer", async {
        tcp.write_all(b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let head = read_head(tcp).await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(discard(tcp, length_in(&head)).await);
    })
    .await;
}

fn documents(gateway: SocketAddr, application: SocketAddr) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{ name: tombolo }}
spec: {{ controllerName: tombolo.dev/gateway-controller }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge, namespace: shop }}
spec:
  gatewayClassName: tombolo
  addresses: [{{ type: IPAddress, value: {ip} }}]
  listeners: [{{ name: http, port: {port}, protocol: HTTP }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: all, namespace: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  rules: [{{ backendRefs: [{{ name: app, port: 80 }}] }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: app, namespace: shop }}
spec: {{ ports: [{{ name: http, port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: app, namespace: shop, labels: {{ kubernetes.io/service-name: app }} }}
addressType: IPv4
ports: [{{ name: http, port: {app_port} }}]
endpoints: [{{ addresses: [{app_ip}] }}]
"#,
        ip = gateway.ip(),
        port = gateway.port(),
        app_ip = application.ip(),
        app_port = application.port(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gigabytes_pass_both_ways_in_flat_memory() {
    let world = World::new().await;
    let up = world.meanwhile("1 GB up", async {
        let mut tcp = world.connect().await;
        let head = format!("POST /2 HTTP/1.1\r\nhost: x\r\ncontent-length: {GIGABYTE}\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        assert!(send(&mut tcp, GIGABYTE).await);
        assert!(read_head(&mut tcp).await.unwrap().starts_with("HTTP/1.1 200"));
    });
    let up = up.await;
    assert!(up < 32 * 1024, "{up} kB");
    let down = world.meanwhile("1 GB down", async {
        let mut tcp = world.connect().await;
        tcp.write_all(format!("GET /{GIGABYTE} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut tcp).await.unwrap();
        assert_eq!(length_in(&head), GIGABYTE);
        assert!(discard(&mut tcp, GIGABYTE).await);
    });
    let down = down.await;
    assert!(down < 32 * 1024, "{down} kB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_over_http2_pass_in_flat_memory() {
    // Frame by frame it costs more than in one stream of bytes.
    const SIZE: u64 = GIGABYTE / 4;
    let world = World::new().await;
    let more = world.meanwhile("256 MB up and down over HTTP/2", async {
        let io = TokioIo::new(world.connect().await);
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let piece = BytesMut::zeroed(PIECE).freeze();
        let pieces =
            (0..SIZE / PIECE as u64).map(move |_| Ok::<_, std::io::Error>(Frame::data(piece.clone())));
        let request = Request::post(format!("http://x/{SIZE}")).header("content-length", SIZE);
        let request = request.body(StreamBody::new(tokio_stream::iter(pieces))).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut parts = response.into_body().into_data_stream();
        let mut read = 0;
        while let Some(part) = parts.next().await {
            read += part.map(|part: Bytes| part.len() as u64).unwrap();
        }
        assert_eq!(read, SIZE);
    });
    let more = more.await;
    assert!(more < 48 * 1024, "{more} kB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_fill_no_memory() {
    let world = World::new().await;
    let more = world.meanwhile("20 slow readers of 1 GB", async {
        let mut slow = Vec::new();
        for _ in 0..20 {
            let mut tcp = world.connect().await;
            tcp.write_all(format!("GET /{GIGABYTE} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
            assert!(read_head(&mut tcp).await.is_some());
            slow.push(tcp);
        }
        for tcp in &mut slow {
            assert!(discard(tcp, 1 << 20).await);
        }
    });
    let more = more.await;
    // What the engine has read of each and cannot pass on, and no more.
    assert!(more < 64 * 1024, "{more} kB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_idle_connections_cost_little() {
    const CONNECTIONS: usize = 5_000;
    let world = World::new().await;
    let (before, begun) = (world.memory("VmRSS"), Instant::now());
    let mut idle = Vec::with_capacity(CONNECTIONS);
    while idle.len() < CONNECTIONS {
        let mut tcp = world.connect().await;
        // Half of them have served a request, half never said a word.
        if idle.len() % 2 == 0 {
            ask(&mut tcp).await;
        }
        idle.push(tcp);
    }
    let each = world.memory("VmRSS").saturating_sub(before) / CONNECTIONS as u64;
    println!("{CONNECTIONS} connections: {:?}, {each} kB each", begun.elapsed());
    assert!(each < 16, "{each} kB each");
    world.others_are_served().await;
    for tcp in idle.iter_mut().step_by(50) {
        ask(tcp).await;
    }
    drop(idle);
    world.others_are_served().await;
}
