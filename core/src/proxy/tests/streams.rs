//! Upgrades, drains, and what goes on while it is drained.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use super::{clients::*, harness::*};
use crate::{
    decide::{Backend, Decision, Mirror, Timeouts},
    model::AppProtocol,
};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

/// An application that switches protocols and echoes.
pub async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = read_head(&mut tcp).await.to_lowercase();
                assert!(head.contains("upgrade: websocket"), "{head}");
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                              sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                tcp.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = tcp.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    address
}

/// Upgrades on a listener and checks that bytes come back.
pub async fn upgraded(address: std::net::SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await;
    assert_eq!(status(&head), 101, "{head}");
    echoes(&mut client).await;
    client
}

pub async fn echoes(client: &mut TcpStream) {
    for message in ["one", "two"] {
        client.write_all(message.as_bytes()).await.unwrap();
        let mut back = [0; 3];
        soon("an echo", client.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, message.as_bytes());
    }
}

#[tokio::test]
async fn websockets_pass() {
    let proxy = Setup::default().forwards(forward()).with([plain(echo().await)]);
    upgraded(proxy.edge().address()).await;
    let proxy = Setup::default().forwards(over_http2()).with([plain(echo().await)]);
    upgraded(proxy.edge().address()).await;
}

/// An application that takes no WebSockets, what reached it, and a word for each head that it has read. What else comes
/// before it answers is noted as `EARLY`.
async fn refuses_upgrades() -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
    let ((asked, asking), all) = (mpsc::unbounded_channel(), seen.clone());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (seen, asked) = (all.clone(), asked.clone());
            tokio::spawn(async move {
                let mut read = Vec::new();
                while let Ok(byte) = tcp.read_u8().await {
                    read.push(byte);
                    if !read.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    asked.send(()).unwrap();
                    let more = tcp.read_buf(&mut read);
                    let note = match tokio::time::timeout(Duration::from_millis(100), more).await {
                        Ok(Ok(1..)) => "EARLY ",
                        _ => "",
                    };
                    seen.lock().unwrap().push(format!("{note}{}", String::from_utf8_lossy(&read)));
                    read.clear();
                    let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
                    // Who asked may have been sent away.
                    let _gone = tcp.write_all(answer).await;
                }
            });
        }
    });
    (address, seen, asking)
}

/// What a client sends behind its handshake is no part of a tunnel while there is none: it never reaches an application that
/// may refuse, and does not become somebody's next request there.
#[tokio::test]
async fn what_is_sent_ahead_of_a_refused_upgrade_is_not_passed_on() {
    let (address, seen, mut asking) = refuses_upgrades().await;
    let proxy = Setup::default().forwards(forward()).with([plain(address)]);
    let edge = proxy.edge();
    let request = "GET /smuggled HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";
    for (ahead, at_once) in [(request, true), (request, false), ("no HTTP", true), ("no HTTP", false)] {
        let mut client = TcpStream::connect(edge.address()).await.unwrap();
        let first = if at_once { format!("{HANDSHAKE}{ahead}") } else { HANDSHAKE.into() };
        client.write_all(first.as_bytes()).await.unwrap();
        soon("the handshake", asking.recv()).await.unwrap();
        if !at_once {
            client.write_all(ahead.as_bytes()).await.unwrap();
        }
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = soon("an end", client.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        // The gateway does not wait for the application's.
        assert!(matches!(status(&answer), 400 | 403) && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
        assert_eq!(status(&get(edge.address(), "").await), 403, "others are served");
        soon("the other's request", asking.recv()).await.unwrap();
    }
    let heads = seen.lock().unwrap().clone();
    let mut targets: Vec<&str> = heads.iter().filter_map(|head| head.split(' ').nth(1)).collect();
    targets.sort_unstable();
    assert_eq!(targets, [["/a?b=c"; 4], ["/chat"; 4]].concat(), "{heads:?}");
    for head in &heads {
        assert!(
            head.starts_with("GET ") && head.ends_with("\r\n\r\n") && !head.contains("6.6.6.6"),
            "{head}"
        );
        assert_eq!(head.matches("\r\n\r\n").count(), 1, "{head}");
    }
}

#[tokio::test]
async fn a_websocket_outlives_the_timeouts_of_its_request() {
    let short = Some(Duration::from_millis(50));
    let timeouts = Timeouts { request: short, attempt: short };
    let proxy = Setup::default().forwards(Decision { timeouts, ..forward() }).with([plain(echo().await)]);
    let mut client = upgraded(proxy.edge().address()).await;
    let silence = tokio::time::timeout(Duration::from_millis(200), client.read(&mut [0; 1])).await;
    assert!(silence.is_err(), "nothing came, not even the end");
    echoes(&mut client).await;
}

/// Also on a connection that has carried a request before, which never waits for its client.
#[tokio::test]
async fn a_tunnel_is_written_to_no_faster_than_its_client_reads() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (wrote, mut writes) = watch::channel(0_usize);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let wrote = wrote.clone();
            tokio::spawn(async move {
                while !read_head(&mut tcp).await.to_lowercase().contains("upgrade: websocket") {
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
                let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                tcp.write_all(head.as_bytes()).await.unwrap();
                while tcp.write_all(&[b'x'; 1 << 16]).await.is_ok() {
                    wrote.send_modify(|parts| *parts += 1);
                }
            });
        }
    });
    let proxy = Setup::default().forwards(forward()).with([plain(address)]);
    let mut client = TcpStream::connect(proxy.edge().address()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut client).await), 200);
    client.read_exact(&mut [0; 2]).await.unwrap();
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut client).await), 101);
    // 64 MiB are more than all buffers of the kernel's take.
    let flood = tokio::time::timeout(Duration::from_secs(1), writes.wait_for(|parts| *parts > 1 << 10));
    assert!(flood.await.is_err(), "what the client does not read is kept in memory");
    let before = *writes.borrow();
    for _ in 0..before {
        client.read_exact(&mut [0; 1 << 16]).await.unwrap();
    }
    soon("it goes on", writes.wait_for(|parts| *parts > before)).await.unwrap();
}

#[tokio::test]
async fn mirrors_get_copies_and_never_hurt() {
    let (app, copy) = (App::named("app").await, App::named("copy").await);
    let broken = nobody().await;
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let mirror =
            |address| Mirror { backend: Backend::Address { address, protocol }, per_ten_thousand: 10_000 };
        let never = Mirror { per_ten_thousand: 0, ..mirror(copy.address) };
        let mirrors = [mirror(copy.address), mirror(broken), never];
        let decision = Decision { mirrors: mirrors.into(), ..forward() };
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.edge();
        let before = copy.seen().len();
        assert_eq!(body(&get(listener.address(), "x-a: 1\r\n").await), "app");
        until("the copy comes", || copy.seen().len() == before + 1).await;
        assert_eq!(copy.last().headers["x-a"], "1");
        assert!(copy.last().target.ends_with("/a?b=c"), "{}", copy.last().target);
        let sent = "x".repeat(40_000);
        assert_eq!(body(&post(listener.address(), &sent).await), "app");
        until("the copy comes", || copy.seen().len() == before + 2).await;
        assert_eq!(copy.last().body, sent);
        let mut client = http2(TcpStream::connect(listener.address()).await.unwrap()).await;
        assert_eq!(http2_get(&mut client, "http://shop.example/h2").await, (200, "app".into()));
        until("the copy comes", || copy.seen().len() == before + 3).await;
        assert!(copy.last().target.ends_with("/h2"));
    }
}

#[tokio::test]
async fn a_body_of_many_sizes_comes_through_both_ways() {
    let app = App::answering(|seen| async move { Response::new(Full::from(seen.body)) }).await;
    for decision in [forward(), over_http2()] {
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.edge();
        for size in [0, 1, 16_383, 16_384, 100_000, 3_000_000] {
            let sent = "x".repeat(size);
            let answer = post(listener.address(), &sent).await;
            assert_eq!(status(&answer), 200);
            assert_eq!(body(&answer).len(), size);
        }
        let mut client = http2(TcpStream::connect(listener.address()).await.unwrap()).await;
        let request = http::Request::post("http://x/").body(Full::from(vec![7; 3_000_000])).unwrap();
        let answer = soon("an answer", client.send_request(request)).await.unwrap();
        let bytes =
            soon("a body", http_body_util::BodyExt::collect(answer.into_body())).await.unwrap().to_bytes();
        assert_eq!(bytes.len(), 3_000_000);
    }
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_begins_nothing() {
    let (go, gate) = watch::channel(false);
    let app = App::answering(move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Response::new(Full::<Bytes>::from("done"))
        }
    })
    .await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let address = listener.address();

    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut one = TcpStream::connect(address).await.unwrap();
    one.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut two = http2(TcpStream::connect(address).await.unwrap()).await;
    let running = tokio::spawn(async move { http2_get(&mut two, "http://x/").await });
    until("both run", || app.seen().len() == 2).await;

    proxy.drain.send_replace(true);
    assert_eq!(soon("the idle one is closed", idle.read(&mut [0; 1])).await.unwrap(), 0);
    soon("nothing is accepted any more", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert!(!listener.drained(Duration::from_millis(20)).await, "two requests run");
    go.send_replace(true);
    let mut answer = String::new();
    soon("the answer and the end", one.read_to_string(&mut answer)).await.unwrap();
    assert_eq!((status(&answer), body(&answer).as_str()), (200, "done"));
    assert_eq!(running.await.unwrap(), (200, "done".into()));
    assert!(listener.drained(SOON).await);
}

#[tokio::test]
async fn one_listener_stops_while_the_other_goes_on() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let (first, second) = (proxy.edge(), proxy.edge());
    first.stop();
    assert!(first.drained(SOON).await);
    assert_eq!(status(&get(second.address(), "").await), 200);
    until("it takes no more", || std::net::TcpStream::connect(first.address()).is_err()).await;
}

#[tokio::test]
async fn an_idle_connection_of_a_draining_listener_still_takes_one_request() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut idle = TcpStream::connect(listener.address()).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    idle.write_all(request).await.unwrap();
    read_head(&mut idle).await;
    soon("a body", idle.read_exact(&mut [0; 3])).await.unwrap();
    listener.stop();
    soon("it no longer listens", async { while TcpStream::connect(listener.address()).await.is_ok() {} })
        .await;
    idle.write_all(request).await.unwrap();
    let answer = read_head(&mut idle).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert!(listener.drained(SOON).await);
}

#[tokio::test]
async fn a_connection_that_a_draining_listener_has_taken_still_upgrades() {
    let proxy = Setup::default().forwards(forward()).with([plain(echo().await)]);
    let listener = proxy.edge();
    let mut early = TcpStream::connect(listener.address()).await.unwrap();
    soon("it is taken", async {
        while listener.open() == 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    listener.stop();
    soon("it no longer listens", async { while TcpStream::connect(listener.address()).await.is_ok() {} })
        .await;
    early.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let head = read_head(&mut early).await;
    assert_eq!(status(&head), 101, "{head}");
    echoes(&mut early).await;
}

#[tokio::test]
async fn a_connection_is_kept_where_its_client_waited_to_be_told_to_go_on() {
    let app = App::named("app").await;
    for decision in [forward(), over_http2()] {
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let mut client = TcpStream::connect(proxy.edge().address()).await.unwrap();
        for last in [false, false, true] {
            let close = if last { "connection: close\r\n" } else { "" };
            let ask = format!(
                "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n{close}content-length: 4\r\n\r\n"
            );
            client.write_all(ask.as_bytes()).await.unwrap();
            assert_eq!(status(&read_head(&mut client).await), 100);
            client.write_all(b"body").await.unwrap();
            let head = read_head(&mut client).await.to_lowercase();
            assert_eq!((status(&head), head.contains("connection: close")), (200, last), "{head}");
            soon("the body", client.read_exact(&mut [0; 3])).await.unwrap();
        }
        assert_eq!(soon("the end", client.read(&mut [0])).await.unwrap(), 0);
    }
}
