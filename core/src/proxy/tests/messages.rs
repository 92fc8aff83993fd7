//! One reading of every message, from the client's bytes to the application's.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{clients::*, harness::*};
use crate::proxy::{
    connection::{Replay, Wire},
    *,
};

/// An application behind an edge.
async fn world() -> (App, Proxy, Serving) {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    (app, proxy, listener)
}

/// What the application saw of each request: method is not kept, so target and body.
fn seen(app: &App) -> Vec<(String, String)> {
    app.seen()
        .iter()
        .map(|seen| (seen.target.clone(), String::from_utf8_lossy(&seen.body).into_owned()))
        .collect()
}

fn pair(target: &str, body: &str) -> (String, String) {
    (target.into(), body.into())
}

#[tokio::test]
async fn a_refused_head_says_little_to_the_client_and_enough_to_the_operator() {
    let (_app, proxy, listener) = world().await;
    let head = "POST /in?secret HTTP/1.1\r\nhost: Shop.example\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer =
        raw(listener.address(), &format!("{head}0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\nserver: tombolo\r\n"), "{answer}");
    assert!(answer.ends_with("connection: close\r\n\r\n400 Bad Request\n"), "{answer}");
    let logged = proxy.logged().await;
    assert_eq!((logged.status, logged.reason), (400, Some("length_and_coding")));
    assert_eq!((&*logged.host, &*logged.path), ("Shop.example", "/in"));
}

#[tokio::test]
async fn a_head_in_many_pieces_is_one_head() {
    let (app, _proxy, listener) = world().await;
    let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    for byte in b"\r\nPOST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi" {
        tcp.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&read_head(&mut tcp).await), 200);
    assert_eq!(seen(&app), [pair("/a", "hi")]);
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_one_after_another() {
    let (app, _proxy, listener) = world().await;
    let chunked =
        "POST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: v\r\n\r\n";
    let all = format!(
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nGET /{chunked}\
         GET /c HTTP/1.1\r\nhost: x\r\n\r\nGET /d HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\nrest"
    );
    let answers = raw(listener.address(), &all).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 4, "{answers}");
    assert_eq!(seen(&app), [pair("/a", "GET /"), pair("/b", "abc"), pair("/c", ""), pair("/d", "")]);
}

#[tokio::test]
async fn one_refused_request_ends_what_was_sent_after_it() {
    let (app, _proxy, listener) = world().await;
    let all = "GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost : x\r\n\r\nGET /c HTTP/1.1\r\nhost: x\r\n\r\n";
    let answers = raw(listener.address(), all).await;
    assert_eq!(
        (answers.matches(" 200 OK").count(), answers.matches(" 400 Bad").count()),
        (1, 1),
        "{answers}"
    );
    assert_eq!(seen(&app), [pair("/a", "")]);
}

#[tokio::test]
async fn a_body_without_one_reading_is_refused() {
    let (app, proxy, listener) = world().await;
    let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5;\n\r\nhello\r\n0\r\n\r\n",
        "x\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "0\r\nbad\r\n\r\n",
    ] {
        proxy.log.requests.lock().unwrap().clear();
        let answer = raw(listener.address(), &format!("{head}{body}")).await;
        assert_eq!(status(&answer), 400, "{body:?} -> {answer:?}");
        assert_eq!(proxy.logged().await.reason, Some("bad_chunk"), "{body:?}");
    }
    // An application that reads to the end never sees one; ours records even what broke off.
    assert!(app.seen().iter().all(|seen| seen.body.is_empty()), "{:?}", app.seen());
}

#[tokio::test]
async fn an_absolute_target_is_read_as_its_host_and_path() {
    let (app, proxy, listener) = world().await;
    let answer = raw(
        listener.address(),
        "GET http://shop.example/a?b HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(app.last().target.ends_with("/a?b"), "{}", app.last().target);
    assert_eq!(app.last().headers["host"], "shop.example");
    let logged = proxy.logged().await;
    assert_eq!((&*logged.host, &*logged.path), ("shop.example", "/a"));
}

#[tokio::test]
async fn what_connection_names_is_not_passed_on() {
    let (app, _proxy, listener) = world().await;
    let answer =
        get(listener.address(), "Connection: X-Internal\r\nx-internal: 1\r\nkeep-alive: 5\r\nx-kept: 2\r\n")
            .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let headers = app.last().headers;
    assert!(headers.contains_key("x-kept"));
    for gone in ["x-internal", "keep-alive", "connection"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert_eq!(status(&get(listener.address(), "Connection: Host\r\n").await), 400);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn what_an_application_says_of_its_connection_is_not_passed_on() {
    let app = App::answering(|_| async {
        let response =
            http::Response::builder().header("connection", "x-hop").header("x-hop", "1").header("x-end", "2");
        response.header("keep-alive", "timeout=1").body("app".into()).unwrap()
    })
    .await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let answer = get(proxy.edge().address(), "").await.to_lowercase();
    assert!(answer.contains("x-end: 2"), "{answer}");
    assert!(!answer.contains("x-hop") && !answer.contains("keep-alive"), "{answer}");
}

#[tokio::test]
async fn an_upgrade_that_is_not_meant_opens_no_tunnel() {
    let (app, _proxy, listener) = world().await;
    for upgrade in [
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        "upgrade: websocket\r\n",
        "connection: upgrade\r\nupgrade: tls/1.2\r\n",
    ] {
        let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
        let first = format!("GET /first HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n");
        tcp.write_all(first.as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tcp).await), 200, "{upgrade}");
        soon("a body", tcp.read_exact(&mut [0; 3])).await.unwrap();
        assert!(!app.last().headers.contains_key("upgrade"), "{upgrade}");
        // The connection goes on as HTTP/1.1, request by request.
        tcp.write_all(b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut tcp).await), 200, "{upgrade}");
        assert_eq!(app.last().target, "/second");
    }
}

#[tokio::test]
async fn heads_are_bounded() {
    let (app, proxy, listener) = world().await;
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let long = "a".repeat(70_000);
    for (request, expected, reason) in [
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", fields(200)), 431, "too_many_fields"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"), 431, "head_too_large"),
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), 414, "target_too_long"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", fields(128)), 431, "too_many_fields"),
    ] {
        proxy.log.requests.lock().unwrap().clear();
        let answer = raw(listener.address(), &request).await;
        assert_eq!(status(&answer), expected, "{reason}: {answer}");
        assert_eq!(proxy.logged().await.reason, Some(reason));
    }
    assert!(app.seen().is_empty());
    assert_eq!(status(&get(listener.address(), &fields(80)).await), 200);
}

/// The same over HTTP/2, on one connection, which goes on.
#[tokio::test]
async fn heads_are_bounded_over_http2_and_the_connection_goes_on() {
    let (app, proxy, listener) = world().await;
    let mut client = http2(TcpStream::connect(listener.address()).await.unwrap()).await;
    let long = |length: usize| "a".repeat(length);
    let with = |fields: usize, value: &str| {
        let all = (0..fields).map(|n| (format!("x-{n}"), value.to_owned()));
        all.fold(Request::get("http://x/"), |request, (name, value)| request.header(name, value))
    };
    for (request, expected, reason) in [
        (with(200, "1"), 431, Some("too_many_fields")),
        (Request::get(format!("http://x/{}", long(20_000))), 414, Some("target_too_long")),
        // Past the bound of all, HTTP/2 itself refuses, before there is a request to be logged.
        (with(1, &long(70_000)), 431, None),
        (Request::get(format!("http://x/{}", long(65_000))).header("x", long(1_000)), 431, None),
    ] {
        proxy.log.requests.lock().unwrap().clear();
        let request = request.body(Full::default()).unwrap();
        let answer = soon("an answer", client.send_request(request)).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{reason:?}");
        if let Some(reason) = reason {
            assert_eq!(proxy.logged().await.reason, Some(reason));
        }
        assert_eq!(status(&get(listener.address(), "").await), 200, "others are served");
        assert_eq!(http2_get(&mut client, "http://x/good").await.0, 200);
    }
    let targets: Vec<String> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert!(targets.iter().all(|target| ["/a?b=c", "/good"].contains(&target.as_str())), "{targets:?}");
}

/// Of a body of known length, parts come with pauses, and the engine does not flush them. What did not fit into the socket
/// goes out when there is room, and not only with the next part.
#[tokio::test]
async fn over_tls_what_did_not_fit_goes_out_while_nothing_more_is_written() {
    let site = Site::new("shop.example");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (tcp, peer) = listener.accept().await.unwrap();
        socket2::SockRef::from(&tcp).set_send_buffer_size(16 * 1024).unwrap();
        let tls = TlsAcceptor::from(site.server.clone()).accept(Replay::new(Bytes::new(), tcp)).await;
        Connection::upstream(Wire::Tls(Box::new(tls.unwrap().into())), peer, address)
    };
    let (mut near, far) = tokio::join!(accepting, site.connect(address, "shop.example", "http/1.1"));
    let mut far = far.unwrap();
    let (body, mut read) = (vec![b'x'; 4 << 20], 0);
    {
        // The other side takes only so much that everything was written once.
        let mut writing = std::pin::pin!(near.write_all(&body));
        let mut part = [0; 1024];
        loop {
            tokio::select! {
                biased;
                written = &mut writing => break written.unwrap(),
                got = far.read(&mut part) => read += got.unwrap(),
            }
        }
    }
    let reading = async {
        let mut rest = vec![0; body.len() - read];
        soon("the rest", far.read_exact(&mut rest)).await.unwrap();
    };
    let mut nothing = [0; 9];
    tokio::select! {
        biased;
        got = near.read(&mut nothing) => panic!("nothing was sent: {got:?}"),
        () = reading => {}
    }
}
