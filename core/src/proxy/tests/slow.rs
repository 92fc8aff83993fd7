//! Clients that are slow on purpose, or go away. Other clients are served all the while.

use std::time::Duration;

use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    clients::*,
    frames::{self, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RawH2, status_of},
    harness::*,
};
use crate::proxy::*;

const SHORT: Duration = Duration::from_millis(100);

async fn world(limits: HttpLimits) -> (App, Proxy, Serving) {
    let app = App::named("app").await;
    let proxy = Setup { limits, ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    (app, proxy, listener)
}

async fn connect(listener: &Serving, begin: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
    tcp.write_all(begin.as_bytes()).await.unwrap();
    tcp
}

async fn rest(mut tcp: TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = soon("the end", tcp.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn hundreds_of_slow_heads_hold_nobody_up() {
    let (app, proxy, listener) = world(HttpLimits { head_time: 5 * SHORT, ..HttpLimits::default() }).await;
    let mut slow = Vec::new();
    for n in 0..300 {
        let begin = ["G", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\nx-a: b"][n % 3];
        slow.push(connect(&listener, begin).await);
    }
    assert_eq!(status(&get(listener.address(), "").await), 200, "served meanwhile");
    for tcp in slow {
        let answer = rest(tcp).await;
        assert_eq!(status(&answer), 408, "{answer:?}");
    }
    until("all are gone", || listener.open() == 0).await;
    assert_eq!(app.seen().len(), 1);
    let log = proxy.log.requests.lock().unwrap();
    assert_eq!(log.iter().filter(|end| end.reason == Some("head_too_slow")).count(), 300);
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    let (_app, proxy, listener) = world(HttpLimits { body_idle: SHORT, ..HttpLimits::default() }).await;
    let posts = [
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nbegin",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbeg",
    ];
    let slow: Vec<TcpStream> =
        [connect(&listener, posts[0]).await, connect(&listener, posts[1]).await].into_iter().collect();
    assert_eq!(status(&get(listener.address(), "").await), 200, "served meanwhile");
    for tcp in slow {
        let answer = rest(tcp).await;
        assert_eq!((status(&answer), body(&answer).as_str()), (408, "408 Request Timeout\n"), "{answer:?}");
    }
    let slow = || {
        proxy.log.requests.lock().unwrap().iter().filter(|end| end.reason == Some("client_too_slow")).count()
    };
    until("both are logged", || slow() == 2).await;
    assert!(proxy.tried().iter().all(|(_, result)| *result != TryResult::Failure), "{:?}", proxy.tried());
}

/// The grace is over in no time, and then a body needs 1000 bytes a second.
fn hurried() -> HttpLimits {
    HttpLimits { body_grace: 3 * SHORT, body_rate: 1000, ..HttpLimits::default() }
}

#[tokio::test]
async fn hundreds_of_bodies_that_come_in_drops_hold_nobody_up() {
    let (_app, proxy, listener) = world(hurried()).await;
    let posts = [
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nbegin",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffff\r\nbeg",
    ];
    let mut slow = Vec::new();
    for n in 0..100 {
        let mut tcp = connect(&listener, posts[n % 2]).await;
        slow.push(tokio::spawn(async move {
            let (mut read, mut write) = tcp.split();
            let dripping = async {
                let mut clock = tokio::time::interval(SHORT / 4);
                loop {
                    clock.tick().await;
                    if write.write_all(b"x").await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let mut answer = Vec::new();
            tokio::select! { _ = read.read_to_end(&mut answer) => {}, () = dripping => {} }
            String::from_utf8_lossy(&answer).into_owned()
        }));
    }
    assert_eq!(status(&get(listener.address(), "").await), 200, "served meanwhile");
    for answer in slow {
        let answer = soon("the end", answer).await.unwrap();
        assert_eq!(status(&answer), 408, "{answer:?}");
    }
    until("all are gone", || listener.open() == 0).await;
    let log = proxy.log.requests.lock().unwrap();
    assert_eq!(log.iter().filter(|end| end.reason == Some("client_too_slow")).count(), 100);
    drop(log);
    assert!(proxy.tried().iter().all(|(_, result)| *result != TryResult::Failure), "{:?}", proxy.tried());
}

#[tokio::test]
async fn streams_that_come_in_drops_are_reset_and_others_are_served() {
    let (_app, proxy, listener) = world(hurried()).await;
    let tcp = TcpStream::connect(listener.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut slow = Vec::new();
    for _ in 0..50 {
        let ask = http::Request::post("http://x/slow").body(()).unwrap();
        client = soon("room", client.ready()).await.unwrap();
        let (answer, mut body) = client.send_request(ask, false).unwrap();
        slow.push(tokio::spawn(async move {
            let dripping = async {
                let mut clock = tokio::time::interval(SHORT / 4);
                while body.send_data("x".into(), false).is_ok() {
                    clock.tick().await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! { answer = answer => answer.map(|answer| answer.status()), () = dripping => unreachable!() }
        }));
    }
    // On the same connection.
    let ask = http::Request::get("http://x/quick").body(()).unwrap();
    client = soon("room", client.ready()).await.unwrap();
    let (answer, _) = client.send_request(ask, true).unwrap();
    assert_eq!(soon("served meanwhile", answer).await.unwrap().status(), 200);
    for answer in slow {
        let error = soon("the end", answer).await.unwrap().unwrap_err();
        assert!(error.is_reset(), "{error}");
    }
    let slow = || proxy.log.requests.lock().unwrap().iter().filter(|end| end.status == 408).count();
    until("all are logged", || slow() == 50).await;
}

#[tokio::test]
async fn calls_of_grpc_may_be_quiet_for_long_but_not_for_ever() {
    let limits = HttpLimits { body_idle: SHORT, stream_idle: 5 * SHORT, ..hurried() };
    let (_app, proxy, listener) = world(limits).await;
    let tcp = TcpStream::connect(listener.address()).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let ask = http::Request::post("http://x/a.B/C").header("content-type", "application/grpc");
    let mut client = soon("room", client.ready()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let (answer, body) = client.send_request(ask.body(()).unwrap(), false).unwrap();
    assert!(soon("the end", answer).await.unwrap_err().is_reset());
    assert!(begun.elapsed() >= 5 * SHORT, "{:?}", begun.elapsed());
    drop(body);
    assert_eq!(proxy.logged().await.reason, Some("client_too_slow"));
}

#[tokio::test]
async fn a_slow_application_is_not_its_clients_fault() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_head(&mut tcp).await;
                // For longer than any client would be waited for, it takes nothing.
                tokio::time::sleep(10 * SHORT).await;
                let mut left = 20 << 20;
                let mut space = vec![0; 1 << 20];
                while left > 0 {
                    left -= tcp.read(&mut space).await.unwrap();
                }
                tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            });
        }
    });
    let limits = HttpLimits { body_idle: 5 * SHORT, body_grace: 3 * SHORT, body_rate: u32::MAX, ..hurried() };
    let proxy = Setup { limits, ..Setup::default() }.forwards(forward()).with([plain(address)]);
    let edge = proxy.edge();
    let body = "x".repeat(20 << 20);
    assert_eq!(status(&post(edge.address(), &body).await), 200);
    let mut client = http2(TcpStream::connect(edge.address()).await.unwrap()).await;
    let ask = http::Request::post("http://x/").body(Full::from(body)).unwrap();
    assert_eq!(soon("an answer", client.send_request(ask)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn slow_handshakes_end_in_all_and_hold_nobody_up() {
    let app = App::named("app").await;
    let limits = HttpLimits { handshake: 3 * SHORT, ..HttpLimits::default() };
    let proxy = Setup { limits, ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let site = Site::new("shop.example");
    let config = std::sync::Arc::new(arc_swap::ArcSwap::new(site.server.clone()));
    let listener = proxy.listen(proxy.engine.http(Acceptor::Tls(config), edge()));
    // The begin of a ClientHello, then a byte at a time: each one comes soon after the one before.
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
        tcp.write_all(&[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3]).await.unwrap();
        slow.push(tokio::spawn(async move {
            let mut clock = tokio::time::interval(SHORT / 4);
            while tcp.write_all(&[7]).await.is_ok() {
                clock.tick().await;
            }
        }));
    }
    let tls = site.connect(listener.address(), "shop.example", "h2").await.unwrap();
    assert_eq!(http2_get(&mut http2(tls).await, "https://shop.example/").await.0, 200, "served meanwhile");
    for slow in slow {
        soon("the end", slow).await.unwrap();
    }
    let failed = || listener.stats().handshake_failed.load(std::sync::atomic::Ordering::Relaxed);
    until("all are counted", || failed() == 100).await;
}

#[tokio::test]
async fn a_body_that_goes_on_may_take_its_time() {
    let (app, _proxy, listener) = world(HttpLimits { body_idle: 5 * SHORT, ..HttpLimits::default() }).await;
    let mut tcp = connect(&listener, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n").await;
    let mut clock = tokio::time::interval(SHORT / 2);
    for _ in 0..20 {
        clock.tick().await;
        tcp.write_all(b"x").await.unwrap();
    }
    assert_eq!(status(&read_head(&mut tcp).await), 200);
    assert_eq!(app.last().body.len(), 20);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let app = App::answering(|_| async { http::Response::new(Full::from(vec![b'x'; 64 << 20])) }).await;
    let limits = HttpLimits { write_stall: SHORT, ..HttpLimits::default() };
    let proxy = Setup { limits, ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let tcp = connect(&listener, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let logged = proxy.logged().await;
    assert_eq!(logged.reason, Some("client_closed"));
    until("its connection is closed", || listener.open() == 0).await;
    assert!(proxy.tried().iter().all(|(_, result)| *result == TryResult::Abandoned), "{:?}", proxy.tried());
    drop(tcp);
}

#[tokio::test]
async fn endpoints_are_not_blamed_for_clients_that_go_away() {
    let app = App::answering(|seen| async move {
        if seen.target == "/never" {
            std::future::pending::<()>().await;
        }
        http::Response::new("app".into())
    })
    .await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    for n in 0..5 {
        let post = connect(&listener, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await;
        let never = connect(&listener, "GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
        until("it is under way", || {
            app.seen().iter().filter(|seen| seen.target == "/never").count() == n + 1
        })
        .await;
        drop((post, never));
    }
    until("all have ended", || proxy.tried().len() == 10).await;
    assert!(proxy.tried().iter().all(|(_, result)| *result == TryResult::Abandoned), "{:?}", proxy.tried());
    assert_eq!(status(&get(listener.address(), "").await), 200);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let proxy = Setup::default().decides(|_, _| {
        let status = http::StatusCode::FORBIDDEN;
        crate::decide::Outcome::Local(crate::decide::LocalAnswer {
            status,
            headers: Vec::new(),
            reason: "denied",
            route: None,
            policies: Default::default(),
            verdict: None,
            missed: None,
        })
    });
    let listener = proxy.edge();
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n";
    for _ in 0..20 {
        let mut tcp = connect(&listener, head).await;
        let _ = tcp.write_all(&[b'x'; 100_000]).await;
        assert_eq!(status(&rest(tcp).await), 403);
    }
}

/// Of HTTP/2, a client is told before its idle connection closes, so that no request of its gets lost.
#[tokio::test]
async fn an_idle_connection_says_goodbye_before_it_closes() {
    let (app, _proxy, listener) = world(HttpLimits { idle: 10 * SHORT, ..HttpLimits::default() }).await;
    let head = |stream| frames::frame(HEADERS, END_STREAM | END_HEADERS, stream, &frames::get("/"));
    for takes_note in [true, false] {
        let mut client = RawH2::connect(listener.address()).await;
        client.send(&head(1)).await;
        assert_eq!(status_of(&client.answer(1).await), 200);
        let (told, ping) = (client.until(GOAWAY).await, client.until(PING).await);
        assert_eq!(
            (told.code(), told.last_stream()),
            (0, 0x7fff_ffff),
            "all that is on its way is still taken"
        );
        client.send(&head(3)).await;
        assert_eq!(status_of(&client.answer(3).await), 200);
        if takes_note {
            client.send(&frames::frame(PING, 1, 0, &ping.payload)).await;
            let last = client.until(GOAWAY).await;
            assert_eq!((last.code(), last.last_stream()), (0, 3));
        }
        assert!(matches!(client.ends().await, None | Some(0)), "and it closes");
    }
    until("all are gone", || listener.open() == 0).await;
    assert_eq!(app.seen().len(), 4);
}

#[tokio::test]
async fn nothing_is_kept_of_connections_that_came_and_went() {
    let (_app, _proxy, listener) = world(HttpLimits::default()).await;
    for begin in ["", "G", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n"] {
        for _ in 0..50 {
            drop(connect(&listener, begin).await);
        }
    }
    until("all are gone", || listener.open() == 0).await;
    assert_eq!(status(&get(listener.address(), "").await), 200);
}

#[tokio::test]
async fn a_post_does_not_meet_a_connection_that_its_application_has_closed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, mut closings) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        // It says that the connection is kept, and closes it.
        while let Ok((mut tcp, _)) = listener.accept().await {
            read_head(&mut tcp).await;
            soon("a body", tcp.read_exact(&mut [0; 4])).await.unwrap();
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            drop(tcp);
            closed.send(()).unwrap();
        }
    });
    let proxy = Setup::default().forwards(forward()).with([plain(address)]);
    let edge = proxy.edge();
    for n in 0..30 {
        assert_eq!(status(&post(edge.address(), "body").await), 200, "POST number {n}");
        soon("the close", closings.recv()).await.unwrap();
    }
    assert!(proxy.tried().iter().all(|(_, result)| *result == TryResult::Success), "{:?}", proxy.tried());
}
