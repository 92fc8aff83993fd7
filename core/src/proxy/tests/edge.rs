//! Public traffic to plaintext endpoints.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{clients::*, harness::*};
use crate::{
    decide::{Decision, Filters, HeaderEdits, LocalAnswer, Outcome, PathRewrite, Rewrite},
    model::Lane,
    proxy::*,
};

#[tokio::test]
async fn http1_http2_and_h2c_on_one_listener() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let plaintext = proxy.edge();

    let answer = get(plaintext.address(), "").await;
    assert_eq!((status(&answer), body(&answer).as_str()), (200, "app"));

    let tcp = TcpStream::connect(plaintext.address()).await.unwrap();
    let mut h2c = http2(tcp).await;
    for _ in 0..2 {
        assert_eq!(http2_get(&mut h2c, "http://shop.example/x").await, (200, "app".into()));
    }

    let site = Site::new("shop.example");
    let acceptor = Acceptor::Tls(Arc::new(ArcSwap::new(site.server.clone())));
    let secure = proxy.listen(proxy.engine.http(acceptor, edge()));
    let tls = site.connect(secure.address(), "shop.example", "h2").await.unwrap();
    assert_eq!(http2_get(&mut http2(tls).await, "https://shop.example/x").await, (200, "app".into()));
    let mut tls = site.connect(secure.address(), "shop.example", "http/1.1").await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);

    let last = app.last();
    assert_eq!(last.headers["x-forwarded-proto"], "https");
    assert_eq!(last.headers["host"], "shop.example");
}

#[tokio::test]
async fn an_http1_connection_is_kept_and_upstream_connections_are_reused() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
    for _ in 0..3 {
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut tcp).await), 200);
        soon("a body", tcp.read_exact(&mut [0; 3])).await.unwrap();
    }
    assert_eq!((app.seen().len(), app.connections()), (3, 1));
}

#[tokio::test]
async fn what_steers_the_mesh_is_not_believed_from_outside() {
    let app = App::named("app").await;
    let proxy = Setup::default()
        .decides(|head, _| {
            assert!(
                !head.headers.contains_key("x-forwarded-client-cert"),
                "also the decision does not see it"
            );
            Outcome::Forward(Box::new(forward()))
        })
        .with([plain(app.address)]);
    let listener = proxy.edge();
    let lies = "x-forwarded-client-cert: By=x;URI=spiffe://a/ns/b/sa/c\r\nx-forwarded-for: 6.6.6.6\r\n\
                x-forwarded-proto: https\r\nx-forwarded-host: evil\r\nx-forwarded-mine: 1\r\nforwarded: for=6.6.6.6\r\n\
                baggage: tombolo.lane=v2,user=ann\r\nx-request-id: bad id\r\n";
    assert_eq!(status(&get(listener.address(), lies).await), 200);
    let seen = app.last();
    let header = |name: &str| seen.headers.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(header("x-forwarded-client-cert"), None);
    assert_eq!(header("x-forwarded-mine"), None);
    assert_eq!(header("forwarded"), None);
    assert_eq!(header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header("x-forwarded-proto"), Some("http"));
    assert_eq!(header("x-forwarded-host"), Some("Shop.example:80"));
    assert_eq!(header("baggage"), Some("user=ann"));
    assert_eq!(header("x-request-id").map(str::len), Some(32));
    assert_eq!(header("traceparent").map(|t| &t[..3]), Some("00-"));
    assert_eq!(seen.target, "/a?b=c");
}

#[tokio::test]
async fn trace_and_request_id_of_the_client_are_passed_on() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = format!("traceparent: {trace}\r\nx-request-id: mine-1\r\n");
    let answer = get(proxy.edge().address(), &fields).await.to_lowercase();
    assert!(answer.contains("x-request-id: mine-1\r\n"), "the client gets it too: {answer}");
    assert_eq!(app.last().headers["traceparent"], trace);
    assert_eq!(app.last().headers["x-request-id"], "mine-1");
}

#[tokio::test]
async fn a_decision_changes_request_and_response() {
    let app = App::named("app").await;
    let edits = |name: &'static str| HeaderEdits {
        set: vec![(http::HeaderName::from_static(name), HeaderValue::from_static("set"))],
        add: vec![(http::HeaderName::from_static("x-add"), HeaderValue::from_static("2"))],
        remove: vec![http::HeaderName::from_static("x-gone"), http::header::DATE],
    };
    let rewrite =
        Rewrite { hostname: Some("inside.example".into()), path: Some(PathRewrite::Full("/new".into())) };
    let decision = Decision {
        lane: Some(Lane::parse("v2").unwrap()),
        set_cookie: Some(HeaderValue::from_static("uid=1; Path=/")),
        filters: Arc::new(Filters {
            request: edits("x-set"),
            response: edits("x-out"),
            rewrite,
            cors: None,
            external_auth: None,
        }),
        ..forward()
    };
    let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
    let answer = get(proxy.edge().address(), "x-add: 1\r\nx-gone: 1\r\n").await.to_lowercase();
    assert!(answer.contains("x-out: set\r\n"), "{answer}");
    assert!(answer.contains("x-add: 2\r\n"), "{answer}");
    assert!(answer.contains("set-cookie: uid=1; path=/\r\n"), "{answer}");
    let seen = app.last();
    assert_eq!(seen.target, "/new?b=c");
    assert_eq!(seen.headers["host"], "inside.example");
    assert_eq!(seen.headers["x-set"], "set");
    assert_eq!(seen.headers.get_all("x-add").iter().count(), 2);
    assert!(!seen.headers.contains_key("x-gone"));
    assert_eq!(seen.headers["baggage"], "tombolo.lane=v2");
    let logged = proxy.logged().await;
    assert_eq!((&*logged.host, &*logged.path), ("shop.example", "/a"), "as the client sent it");
}

#[tokio::test]
async fn requests_that_must_be_refused_are_refused() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        ("CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n", 405),
        ("GET / HTTP/1.1\nhost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\nx-a: 1\nx-b: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
    ] {
        let answer = raw(listener.address(), request).await;
        assert_eq!(status(&answer), expected, "{request:?} -> {answer:?}");
    }
    assert!(app.seen().is_empty());
    let logged = || proxy.log.requests.lock().unwrap().clone();
    until("all are in the access log", || logged().len() == 11).await;
    assert!(logged().iter().all(|end| end.status >= 400 && end.reason.is_some() && end.tries == 0));
    assert_eq!(logged()[3].reason, Some("several_hosts"));
    assert_eq!(listener.stats().bad_heads.load(std::sync::atomic::Ordering::Relaxed), 11);
}

#[tokio::test]
async fn answers_made_here_are_short_and_say_nothing() {
    let proxy = Setup::default().decides(|_, _| {
        let location = (http::header::LOCATION, HeaderValue::from_static("https://x/"));
        Outcome::Local(LocalAnswer {
            status: StatusCode::FOUND,
            headers: vec![location],
            reason: "redirect",
            route: Some("r".into()),
            policies: Default::default(),
            verdict: None,
            missed: None,
        })
    });
    let answer = get(proxy.edge().address(), "").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 302") && answer.contains("location: https://x/\r\n"), "{answer}");
    assert!(answer.contains("server: tombolo\r\n"), "{answer}");
    assert_eq!(proxy.logged().await.reason, Some("redirect"));

    let empty = Setup::default().forwards(forward()).with([]);
    let answer = get(empty.edge().address(), "").await;
    assert_eq!((status(&answer), body(&answer).as_str()), (503, "503 Service Unavailable\n"));
    assert_eq!(empty.logged().await.reason, Some("no_endpoint"));
}

#[tokio::test]
async fn cookie_crumbs_of_http2_become_one_field() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let mut client = http2(TcpStream::connect(proxy.edge().address()).await.unwrap()).await;
    let request = http::Request::get("http://x/").header("cookie", "a=1").header("cookie", "b=2");
    let request = request.body(Default::default()).unwrap();
    assert_eq!(soon("an answer", client.send_request(request)).await.unwrap().status(), 200);
    assert_eq!(app.last().headers["cookie"], "a=1; b=2");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_takes_too_long_is_closed() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
    let mut end = tokio::time::interval(Duration::from_secs(2));
    let begun = tokio::time::Instant::now();
    // One more byte every two seconds, for as long as it is taken.
    for byte in b"GET / HTTP/1.1\r\nhost: x\r\nx-a: bbbbbbbbbbbbbbbbbbbbbbbb" {
        end.tick().await;
        if tcp.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    let rest = String::from_utf8_lossy(&rest);
    // Where the kernel resets the connection for what came after, the answer is lost.
    assert!(rest.is_empty() || status(&rest) == 408, "{rest}");
    assert!(begun.elapsed() < Duration::from_secs(300));
    assert_eq!(proxy.logged().await.reason, Some("head_too_slow"));
    assert_eq!(listener.stats().head_timeouts.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let limits = ListenLimits { connections: 1, ..ListenLimits::default() };
    let listener = proxy.listen_within(proxy.engine.http(Acceptor::Plain, edge()), limits);
    let mut first = TcpStream::connect(listener.address()).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut first).await), 200);
    assert_eq!(get(listener.address(), "").await, "");
    assert_eq!(listener.stats().refused.load(std::sync::atomic::Ordering::Relaxed), 1);
    drop(first);
    until("the place is free again", || listener.open() == 0).await;
    assert_eq!(status(&get(listener.address(), "").await), 200);
}

#[tokio::test]
async fn one_client_cannot_take_all_places() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let limits = ListenLimits { connections: 100, per_client: 3 };
    let listener = proxy.listen_within(proxy.engine.http(Acceptor::Plain, edge()), limits);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut tcp).await), 200);
        held.push(tcp);
    }
    assert_eq!(get(listener.address(), "").await, "", "one more is closed");
    assert_eq!(listener.stats().refused.load(std::sync::atomic::Ordering::Relaxed), 1);
    // Another client is served.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(listener.address()).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut other).await), 200);
    held.clear();
    until("the places are free again", || listener.open() == 1).await;
    assert_eq!(status(&get(listener.address(), "").await), 200);
}

#[tokio::test]
async fn a_certificate_is_swapped_without_cutting_connections() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let (old, new) = (Site::new("old.example"), Site::new("new.example"));
    let config = Arc::new(ArcSwap::new(old.server.clone()));
    let listener = proxy.listen(proxy.engine.http(Acceptor::Tls(config.clone()), edge()));
    let before = old.connect(listener.address(), "old.example", "h2").await.unwrap();
    let mut before = http2(before).await;
    assert_eq!(http2_get(&mut before, "https://old.example/").await.0, 200);
    config.store(new.server.clone());
    let after = new.connect(listener.address(), "new.example", "h2").await.unwrap();
    assert_eq!(http2_get(&mut http2(after).await, "https://new.example/").await.0, 200);
    assert_eq!(http2_get(&mut before, "https://old.example/").await.0, 200, "the old connection goes on");
    assert!(old.connect(listener.address(), "old.example", "h2").await.is_err());
    until("it is counted", || {
        listener.stats().handshake_failed.load(std::sync::atomic::Ordering::Relaxed) == 1
    })
    .await;
}
