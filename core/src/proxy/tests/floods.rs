//! HTTP/2 that breaks its rules, or overdoes it. Other clients are served all the while.
//!
//! Where a client still sends, the kernel may reset the connection before its GOAWAY is read: none is as good as one.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    clients::{get as http1_get, status},
    frames::*,
    harness::*,
};
use crate::proxy::*;

async fn world(limits: HttpLimits) -> (App, Proxy, Serving) {
    let app = App::named("app").await;
    let proxy = Setup { limits, ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    (app, proxy, listener)
}

/// Another client, on a connection of its own.
async fn others_are_served(address: SocketAddr) {
    assert_eq!(status(&http1_get(address, "").await), 200, "others are served");
}

fn reasons(proxy: &Proxy) -> Vec<&'static str> {
    proxy.log.requests.lock().unwrap().iter().filter_map(|end| end.reason).collect()
}

async fn logged(proxy: &Proxy, reason: &str) {
    until(reason, || reasons(proxy).contains(&reason)).await;
    let requests = proxy.log.requests.lock().unwrap();
    let logged = requests.iter().find(|request| request.reason == Some(reason)).unwrap();
    assert_eq!(logged.version, http::Version::HTTP_2);
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_connection_goes_on() {
    let (app, _proxy, listener) = world(HttpLimits::default()).await;
    let mut client = RawH2::connect(listener.address()).await;
    let good = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")];
    let with = |more: &[(&'static str, &'static str)]| block(&[&good[..], more].concat());
    let mut stream = 1;
    for (what, head) in [
        ("a field before a pseudo-header", block(&[good[0], good[1], ("a", "b"), good[2], good[3]])),
        ("an unknown pseudo-header", with(&[(":what", "x")])),
        ("a pseudo-header of responses", with(&[(":status", "200")])),
        ("two methods", with(&[(":method", "GET")])),
        ("two paths", with(&[(":path", "/b")])),
        ("no method", block(&good[1..])),
        ("no scheme", block(&[good[0], good[2], good[3]])),
        ("no path", block(&good[..3])),
        ("no authority and no host", block(&[good[0], good[1], good[3]])),
        ("an empty path", block(&[good[0], good[1], good[2], (":path", "")])),
        ("a path that is none", block(&[good[0], good[1], good[2], (":path", "a")])),
        ("a whole URL as path", block(&[good[0], good[1], good[2], (":path", "http://y/")])),
        ("a space in the path", block(&[good[0], good[1], good[2], (":path", "/ HTTP/1.1")])),
        ("a line end in the path", block(&[good[0], good[1], good[2], (":path", "/\r\na: b")])),
        ("a space in the method", block(&[(":method", "GET /"), good[1], good[2], good[3]])),
        ("upper case", with(&[("A", "b")])),
        ("a space in a name", with(&[("a ", "b")])),
        ("a colon in a name", with(&[("a:b", "c")])),
        ("an empty name", with(&[("", "c")])),
        ("a line end in a value", with(&[("a", "b\r\nc: d")])),
        ("a NUL in a value", with(&[("a", "b\0c")])),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("keep-alive", with(&[("keep-alive", "5")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te that is not trailers", with(&[("te", "gzip")])),
        ("host against authority", with(&[("host", "y")])),
        ("several hosts", with(&[("host", "x"), ("host", "x")])),
        ("user information", block(&[good[0], good[1], (":authority", "a@x"), good[3]])),
        ("a length that is none", with(&[("content-length", "a")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "1")])),
        ("more body announced than sent", with(&[("content-length", "5")])),
    ] {
        assert!(client.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)).await, "{what}");
        let answer = client.answer(stream).await;
        match answer.kind {
            HEADERS => assert_eq!(status_of(&answer), 400, "{what}"),
            _ => assert_eq!(answer.code(), PROTOCOL_ERROR, "{what}"),
        }
        stream += 2;
        // Some errors are the connection's, and all together have a bound.
        if answer.kind == GOAWAY || stream > 20 {
            others_are_served(listener.address()).await;
            client = RawH2::connect(listener.address()).await;
            stream = 1;
        }
    }
    assert!(app.seen().iter().all(|seen| seen.target == "/a?b=c"), "{:?}", app.seen());
    assert!(client.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/good"))).await);
    assert_eq!(status_of(&client.answer(stream).await), 200);
}

#[tokio::test]
async fn a_body_longer_than_announced_is_refused() {
    let (app, _proxy, listener) = world(HttpLimits::default()).await;
    let mut client = RawH2::connect(listener.address()).await;
    let head = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/"),
        ("content-length", "3"),
    ]);
    client.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
    client.send(&frame(DATA, END_STREAM, 1, b"GET /smuggled")).await;
    let answer = client.answer(1).await;
    assert_eq!((answer.kind, answer.code()), (RST_STREAM, PROTOCOL_ERROR));
    others_are_served(listener.address()).await;
    assert!(app.seen().iter().all(|seen| seen.body.is_empty()));
}

#[tokio::test]
async fn trace_and_connect_are_refused_and_logged() {
    let (app, proxy, listener) = world(HttpLimits::default()).await;
    let trace = block(&[(":method", "TRACE"), (":scheme", "http"), (":authority", "x"), (":path", "/")]);
    let connect = block(&[(":method", "CONNECT"), (":authority", "x:443")]);
    for head in [trace, connect] {
        let mut client = RawH2::connect(listener.address()).await;
        client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await;
        let answer = client.answer(1).await;
        assert_eq!(status_of(&answer), 405, "{answer:?}");
    }
    until("both are logged", || reasons(&proxy) == ["method_refused"; 2]).await;
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn too_many_malformed_requests_end_the_connection() {
    let (_app, proxy, listener) = world(HttpLimits::default()).await;
    let bad = block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a@x"), (":path", "/")]);
    let client = RawH2::connect(listener.address()).await;
    let (sent, code) =
        client.flood(10_000, |n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &bad)).await;
    assert!(sent < 10_000 && matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?} after {sent}");
    logged(&proxy, "http2_malformed").await;
    assert!(reasons(&proxy).len() < 100);
    others_are_served(listener.address()).await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let (app, proxy, listener) = world(HttpLimits::default()).await;
    let client = RawH2::connect(listener.address()).await;
    let address = listener.address();
    let meanwhile = tokio::spawn(async move {
        for _ in 0..10 {
            others_are_served(address).await;
        }
    });
    let (sent, code) = client
        .flood(1_000_000, |n| {
            let stream = 2 * n + 1;
            let begin = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/reset"));
            [begin, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        })
        .await;
    assert!(sent < 1_000_000, "it ends");
    assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?}");
    soon("the others", meanwhile).await.unwrap();
    others_are_served(address).await;
    // Much of it never becomes work.
    assert!(app.seen().len() < 2_000, "{}", app.seen().len());
    let failed = proxy.tried().iter().filter(|(_, result)| *result == TryResult::Failure).count();
    assert_eq!(failed, 0, "endpoints are not blamed for their clients");
}

#[tokio::test]
async fn streams_that_are_reset_one_by_one_are_counted() {
    let limits = HttpLimits { cancelled: 20, ..HttpLimits::default() };
    let app = App::answering(|seen| async move {
        if seen.target == "/never" {
            std::future::pending::<()>().await;
        }
        http::Response::new("app".into())
    })
    .await;
    let proxy = Setup { limits, ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut client = RawH2::connect(listener.address()).await;
    let mut stream = 1;
    let mut ended = false;
    for _ in 0..30 {
        let seen = app.seen().len();
        if !client.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/never"))).await {
            ended = true;
            break;
        }
        // Each is accepted and under way before it is reset: HTTP/2's own bound is for those that are not.
        let under_way =
            tokio::time::timeout(SOON / 5, until("it is under way", || app.seen().len() > seen)).await;
        if under_way.is_err() {
            ended = true;
            break;
        }
        client.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await;
        stream += 2;
    }
    assert!(ended);
    assert_eq!(client.ends().await, Some(ENHANCE_YOUR_CALM));
    logged(&proxy, "http2_rapid_reset").await;
    others_are_served(listener.address()).await;
}

#[tokio::test]
async fn resets_that_a_client_provokes_end_the_connection() {
    // MadeYouReset: the server resets each stream for an error of the client's, and its work goes on.
    let (_app, _proxy, listener) = world(HttpLimits::default()).await;
    let client = RawH2::connect(listener.address()).await;
    let (sent, code) = client
        .flood(100_000, |n| {
            let stream = 2 * n + 1;
            let begin = frame(HEADERS, END_HEADERS, stream, &get("/made"));
            [begin, frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes())].concat()
        })
        .await;
    assert!(sent < 100_000);
    assert!(code.is_some_and(|code| code != 0), "{code:?} after {sent}");
    others_are_served(listener.address()).await;
}

#[tokio::test]
async fn floods_of_frames_that_carry_nothing_end_the_connection() {
    let (app, proxy, listener) = world(HttpLimits::default()).await;
    let floods: [(&str, Vec<u8>); 6] = [
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("window updates", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("unknown frames", frame(200, 0, 0, b"x")),
        ("settings acknowledged", frame(SETTINGS, 1, 0, &[])),
    ];
    for (what, flood) in floods {
        let client = RawH2::connect(listener.address()).await;
        let (sent, code) = client.flood(1_000_000, |_| flood.clone()).await;
        assert!(sent < 1_000_000, "{what} end");
        assert!(
            matches!(code, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR) | None),
            "{what}: {code:?} after {sent}"
        );
        others_are_served(listener.address()).await;
    }
    logged(&proxy, "http2_flood").await;
    assert!(app.seen().len() == 6);
}

#[tokio::test]
async fn a_flood_of_empty_data_ends_the_connection() {
    let (_app, _proxy, listener) = world(HttpLimits::default()).await;
    let mut client = RawH2::connect(listener.address()).await;
    let head = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/")]);
    client.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
    let (sent, code) = client.flood(1_000_000, |_| frame(DATA, 0, 1, &[])).await;
    assert!(sent < 1_000_000 && matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{code:?} after {sent}");
    others_are_served(listener.address()).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let (_app, _proxy, listener) = world(HttpLimits::default()).await;
    let mut client = RawH2::connect(listener.address()).await;
    client.send(&frame(HEADERS, END_STREAM, 1, &get("/"))).await;
    let (sent, code) = client.flood(1_000_000, |_| frame(CONTINUATION, 0, 1, &block(&[("a", "b")]))).await;
    assert!(sent < 1_000_000, "{sent}");
    assert!(matches!(code, Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR) | None), "{code:?}");
    others_are_served(listener.address()).await;

    let mut client = RawH2::connect(listener.address()).await;
    client.send(&frame(HEADERS, END_STREAM, 1, &get("/"))).await;
    let (sent, _) = client.flood(1_000_000, |_| frame(CONTINUATION, 0, 1, &[])).await;
    assert!(sent < 1_000_000, "also where they are empty");
}

#[tokio::test]
async fn a_slow_head_is_cut() {
    let limits = HttpLimits { head_time: Duration::from_millis(100), ..HttpLimits::default() };
    let (_app, proxy, listener) = world(limits).await;
    let mut client = RawH2::connect(listener.address()).await;
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/"))).await;
    assert_eq!(status_of(&client.answer(1).await), 200);
    client.send(&frame(HEADERS, END_STREAM, 3, &get("/"))).await;
    assert_eq!(client.ends().await, Some(ENHANCE_YOUR_CALM));
    logged(&proxy, "head_too_slow").await;
    others_are_served(listener.address()).await;
}

#[tokio::test]
async fn a_small_head_that_unfolds_to_a_large_one_is_refused() {
    let (app, _proxy, listener) = world(HttpLimits::default()).await;
    let mut client = RawH2::connect(listener.address()).await;
    // One field of nearly the table's size (RFC 7541: literal with indexing), then thousands of references to it.
    let mut bomb = get("/");
    bomb.extend([0x40, 1, b'a', 0x7f]);
    let (mut length, value) = (4000 - 127, vec![b'b'; 4000]);
    while length >= 128 {
        bomb.push((length % 128) as u8 | 0x80);
        length /= 128;
    }
    bomb.push(length as u8);
    bomb.extend(value);
    bomb.extend(vec![0xbe; 12_000]);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await;
    let first = loop {
        match client.next().await {
            Some(frame) if matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY) => break Some(frame),
            Some(_) => {}
            None => break None,
        }
    };
    let refused = first.is_none_or(|frame| match frame.kind {
        HEADERS => status_of(&frame) == 431,
        _ => frame.code() != 0,
    });
    assert!(refused);
    others_are_served(listener.address()).await;
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_never_become_work() {
    let limits = HttpLimits { streams: 3, ..HttpLimits::default() };
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = held.clone();
    let app = App::answering(move |seen| {
        let gate = gate.clone();
        async move {
            if seen.target == "/held" {
                gate.acquire().await.unwrap().forget();
            }
            http::Response::new("app".into())
        }
    })
    .await;
    let proxy = Setup { limits, ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut client = RawH2::connect(listener.address()).await;
    let all: Vec<u8> =
        (0..50).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &get("/held"))).collect();
    client.send(&all).await;
    let mut refused = 0;
    while refused < 47 {
        let frame = client.next().await.expect("the connection goes on");
        assert_ne!(frame.kind, HEADERS, "nothing is answered yet");
        if frame.kind == RST_STREAM {
            // REFUSED_STREAM: nothing was done, it can be tried again.
            assert!(frame.code() == 7 && frame.stream > 5, "{frame:?}");
            refused += 1;
        }
    }
    until("the first three are under way", || app.seen().len() == 3).await;
    others_are_served(listener.address()).await;
    held.add_permits(3);
    let mut answered = Vec::new();
    while answered.len() < 3 {
        let frame = client.next().await.expect("the connection goes on");
        if frame.kind == HEADERS {
            answered.push(frame.stream);
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 3, 5]);
    // With its places free again, the connection takes another.
    held.add_permits(1);
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 101, &get("/held"))).await;
    assert_eq!(status_of(&client.answer(101).await), 200);
    assert_eq!(app.seen().len(), 5, "three, another client's, and one more");
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    let limits = HttpLimits { body_idle: Duration::from_millis(100), ..HttpLimits::default() };
    let (_app, proxy, listener) = world(limits).await;
    let mut client = RawH2::connect(listener.address()).await;
    let head = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/slow")]);
    client.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
    client.send(&frame(DATA, 0, 1, b"begin")).await;
    assert_eq!(client.answer(1).await.kind, RST_STREAM);
    logged(&proxy, "client_too_slow").await;
    until("the place on the endpoint is given back", || proxy.tried().is_empty()).await;
    // The connection goes on.
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &get("/"))).await;
    assert_eq!(status_of(&client.answer(3).await), 200);
    others_are_served(listener.address()).await;
}
