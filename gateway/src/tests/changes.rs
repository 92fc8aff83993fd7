//! Changes of everything that can change, under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// How often the configuration changes.
const CHANGES: usize = 1000;

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    done: AtomicBool,
}

impl Seen {
    fn count(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.done.load(Ordering::Relaxed)
    }
}

/// How a client reaches the gateway.
#[derive(Clone)]
enum Line {
    Plain(SocketAddr),
    /// By either of two certificates, as they take turns.
    Tls(SocketAddr, TlsConnector),
}

trait Bytestream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Bytestream for T {}

impl Line {
    fn tls<'a>(
        to: SocketAddr,
        trusted: impl Iterator<Item = &'a rcgen::CertifiedKey<rcgen::KeyPair>>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        trusted.for_each(|certified| roots.add(certified.cert.der().clone()).unwrap());
        let config = ClientConfig::builder_with_provider(tombolo_core::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self::Tls(to, TlsConnector::from(Arc::new(config)))
    }

    async fn connect(&self) -> Box<dyn Bytestream> {
        let (Self::Plain(to) | Self::Tls(to, _)) = self;
        let tcp = TcpStream::connect(*to).await.expect("a connection");
        let Self::Tls(_, connector) = self else { return Box::new(tcp) };
        let name = ServerName::try_from("shop.example").unwrap();
        Box::new(timeout(SOON, connector.connect(name, tcp)).await.expect("a handshake").unwrap())
    }
}

/// One connection, request after request; a new one only where the gateway says that it closes.
async fn keep_asking(line: Line, seen: Arc<Seen>) {
    loop {
        let (mut sender, connection) = http1::handshake(TokioIo::new(line.connect().await)).await.unwrap();
        tokio::spawn(connection);
        loop {
            let request = request("shop.example", "/").body(Empty::<Bytes>::new()).unwrap();
            let response = timeout(SOON, sender.send_request(request)).await.expect("an answer").unwrap();
            let closes = response.headers().get("connection").is_some_and(|value| value == "close");
            assert_eq!(read(response).await.0, StatusCode::OK);
            if seen.count() {
                return;
            }
            if closes {
                break;
            }
        }
    }
}

/// A connection for each request.
async fn ask_anew(line: Line, seen: Arc<Seen>) {
    loop {
        let request = request("shop.example", "/").body(Empty::new()).unwrap();
        let asked = exchange(TokioIo::new(line.connect().await), request);
        assert_eq!(timeout(SOON, asked).await.expect("an answer").0, StatusCode::OK);
        if seen.count() {
            return;
        }
    }
}

/// An application that takes WebSockets, and sends back what comes over them.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                head(&mut tcp).await;
                let switched =
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                tcp.write_all(switched.as_bytes()).await.unwrap();
                let (mut read, mut write) = tcp.split();
                // It ends with the test.
                let _ended = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.expect("a head").unwrap());
    }
    String::from_utf8(head).unwrap()
}

struct WebSocket(Box<dyn Bytestream>);

impl WebSocket {
    async fn open(line: &Line) -> Self {
        let mut stream = line.connect().await;
        let upgrade = "GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self(stream)
    }

    async fn echoes(&mut self, at: usize) {
        let said = format!("still there after {at} changes?");
        self.0.write_all(said.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
        let mut back = vec![0; said.len()];
        timeout(SOON, self.0.read_exact(&mut back)).await.expect("an echo").unwrap();
        assert_eq!(back, said.as_bytes());
    }
}

/// `/ws` of `shop.example`.
const SOCKETS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: sockets, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example]
  rules: [{matches: [{path: {value: /ws}}], backendRefs: [{name: echo, port: 80}]}]
---
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_fail_no_request_and_cut_no_stream_or_websocket() {
    let ((v1, held), (v2, _)) = (app("v1").await, app("v2").await);
    let echo = echo().await;
    let certified = [secret("cert", "shop.example"), secret("cert", "shop.example")];
    let listeners = [
        format!("{HTTP}, {}", https("cert")),
        format!("{HTTP}, {}, {{name: more, protocol: HTTP, port: 8080}}", https("cert")),
        format!(
            "{HTTP}, {}, {{name: other, protocol: HTTP, port: 80, hostname: other.example}}",
            https("cert")
        ),
    ];
    let documents = |at: usize| {
        let (now, spare) =
            if at.is_multiple_of(2) { (("v1", v1), ("v2", v2)) } else { (("v2", v2), ("v1", v1)) };
        let gray = if at.is_multiple_of(5) { gray(spare.0) } else { String::new() };
        [
            gateway(&listeners[at % 3]),
            certified[at / 2 % 2].0.clone(),
            service(now.0, now.1),
            // The service of the other state is there in every third only.
            if at.is_multiple_of(5) || at.is_multiple_of(3) {
                service(spare.0, spare.1)
            } else {
                String::new()
            },
            route(now.0),
            gray,
            // The sockets' route comes and goes; who is connected stays.
            if at % 7 < 4 { service("echo", echo) + SOCKETS } else { String::new() },
            format!("# {at}\n"),
        ]
        .concat()
    };
    let mut world = World::new(&documents(0)).await;
    let address = world.address(80).unwrap();
    let seen = Arc::<Seen>::default();
    let secure = world.address(443).unwrap();
    let lines = [Line::Plain(address), Line::tls(secure, certified.iter().map(|(_, certified)| certified))];
    let mut clients = Vec::new();
    for line in &lines {
        clients.extend((0..2).map(|_| tokio::spawn(keep_asking(line.clone(), seen.clone()))));
        clients.push(tokio::spawn(ask_anew(line.clone(), seen.clone())));
    }
    let mut sockets = [WebSocket::open(&lines[0]).await, WebSocket::open(&lines[1]).await];
    let waiting = request("shop.example", "/wait").body(Empty::new()).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let waiting = tokio::spawn(async move { exchange(TokioIo::new(tcp), waiting).await });
    timeout(SOON, held.begun.notified()).await.expect("the request is in flight");

    for at in 1..=CHANGES {
        world.reload(&documents(at)).await;
        for socket in &mut sockets {
            socket.echoes(at).await;
        }
    }

    held.go.notify_one();
    assert_eq!(timeout(SOON, waiting).await.unwrap().unwrap(), (StatusCode::OK, "v1".into()));
    seen.done.store(true, Ordering::Relaxed);
    for client in clients {
        timeout(SOON, client).await.expect("an end").unwrap();
    }
    assert!(seen.requests.load(Ordering::Relaxed) > u64::try_from(CHANGES).unwrap(), "there was load");
    assert_eq!(
        (world.address(80), world.address(443)),
        (Some(address), Some(secure)),
        "no socket was ever closed"
    );
}
