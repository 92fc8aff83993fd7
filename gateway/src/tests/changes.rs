//! Changes of everything that can change, under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

/// One connection, request after request; a new one only where the gateway says that it closes.
async fn keep_asking(to: SocketAddr, seen: Arc<Seen>) {
    loop {
        let tcp = TcpStream::connect(to).await.expect("a connection");
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
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
async fn ask_anew(to: SocketAddr, seen: Arc<Seen>) {
    loop {
        let request = request("shop.example", "/").body(Empty::new()).unwrap();
        assert_eq!(send(to, request).await.0, StatusCode::OK);
        if seen.count() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_fail_no_request_and_cut_no_stream() {
    let ((v1, held), (v2, _)) = (app("v1").await, app("v2").await);
    let secrets = [secret("cert", "shop.example").0, secret("cert", "shop.example").0];
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
            secrets[at / 2 % 2].clone(),
            service(now.0, now.1),
            // The service of the other state is there in every third only.
            if at.is_multiple_of(5) || at.is_multiple_of(3) {
                service(spare.0, spare.1)
            } else {
                String::new()
            },
            route(now.0),
            gray,
            format!("# {at}\n"),
        ]
        .concat()
    };
    let mut world = World::new(&documents(0)).await;
    let address = world.address(80).unwrap();
    let seen = Arc::<Seen>::default();
    let mut clients: Vec<_> = (0..4).map(|_| tokio::spawn(keep_asking(address, seen.clone()))).collect();
    clients.extend((0..2).map(|_| tokio::spawn(ask_anew(address, seen.clone()))));
    let waiting = request("shop.example", "/wait").body(Empty::new()).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let waiting = tokio::spawn(async move { exchange(TokioIo::new(tcp), waiting).await });
    timeout(SOON, held.begun.notified()).await.expect("the request is in flight");

    for at in 1..=CHANGES {
        world.reload(&documents(at)).await;
    }

    held.go.notify_one();
    assert_eq!(timeout(SOON, waiting).await.unwrap().unwrap(), (StatusCode::OK, "v1".into()));
    seen.done.store(true, Ordering::Relaxed);
    for client in clients {
        timeout(SOON, client).await.expect("an end").unwrap();
    }
    assert!(seen.requests.load(Ordering::Relaxed) > u64::try_from(CHANGES).unwrap(), "there was load");
    assert_eq!(world.address(80), Some(address), "the socket was never closed");
}
