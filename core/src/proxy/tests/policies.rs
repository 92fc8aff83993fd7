//! TrafficPolicies, carried out.

use std::{io::Read, sync::Arc, time::Duration};

use http::HeaderName;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{clients::*, harness::*};
use crate::decide::{
    Caller, Coding, Compression, CountLimit, Decision, EdgePolicy, LocalAnswer, Outcome, Policies, RateKey,
    RateLimit, RequestHead, RequestLimits, SharedLimit,
};

fn under(policy: EdgePolicy) -> Decision {
    Decision { policies: Policies::all(policy), ..forward() }
}

fn rate(requests: u32, per: u64, key: RateKey) -> EdgePolicy {
    let per = Duration::from_secs(per);
    let limit = RateLimit { policy: "shop/p".into(), requests, per, burst: requests, key };
    EdgePolicy { rate: Some(Arc::new(limit)), ..Default::default() }
}

#[tokio::test]
async fn a_share_of_a_limit_is_kept_beside_ones_own() {
    let app = App::named("app").await;
    let shared =
        SharedLimit { policy: "shop/p".into(), requests: 2, per: Duration::from_secs(3600), burst: 2 };
    let policy = EdgePolicy { shared: Some(Arc::new(shared)), ..rate(5, 60, RateKey::Client) };
    let proxy = Setup::default().forwards(under(policy)).with([plain(app.address)]);
    let listener = proxy.edge();
    for left in [1, 0] {
        let answer = get(listener.address(), "").await.to_lowercase();
        assert_eq!(status(&answer), 200);
        assert!(answer.contains("ratelimit: \"default\";r="), "{answer}");
        assert!(answer.contains(&format!("ratelimit: \"shared\";r={left};t=")), "{answer}");
    }
    let answer = get(listener.address(), "").await.to_lowercase();
    assert_eq!(status(&answer), 429);
    assert!(answer.contains("retry-after: 1800\r\n") || answer.contains("retry-after: 1799\r\n"), "{answer}");
    assert!(answer.contains("ratelimit-policy: \"shared\";q=2;w=3600\r\n"), "{answer}");
    assert_eq!(app.seen().len(), 2);
    assert_eq!(proxy.logged().await.reason, Some("shared_rate_limited"));
}

fn at_most(bytes: u64) -> EdgePolicy {
    let limits = RequestLimits { body_bytes: Some(bytes), ..Default::default() };
    EdgePolicy { limits: Some(limits), ..Default::default() }
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let app = App::named("app").await;
    let key = RateKey::Header(HeaderName::from_static("x-user"));
    let proxy = Setup::default().forwards(under(rate(2, 3600, key))).with([plain(app.address)]);
    let listener = proxy.edge();
    for left in [1, 0] {
        let answer = get(listener.address(), "x-user: ann\r\n").await.to_lowercase();
        assert_eq!(status(&answer), 200);
        assert!(answer.contains(&format!("ratelimit: \"default\";r={left};t=")), "{answer}");
        assert!(answer.contains("ratelimit-policy: \"default\";q=2;w=3600\r\n"), "{answer}");
    }
    let answer = get(listener.address(), "x-user: ann\r\n").await.to_lowercase();
    assert_eq!((status(&answer), body(&answer).as_str()), (429, "429 too many requests\n"));
    assert!(answer.contains("retry-after: 1800\r\n") || answer.contains("retry-after: 1799\r\n"), "{answer}");
    assert!(answer.contains("ratelimit: \"default\";r=0;t="), "{answer}");
    assert_eq!(proxy.logged().await.reason, Some("rate_limited"));
    assert_eq!(status(&get(listener.address(), "x-user: ben\r\n").await), 200, "others are served");
    assert_eq!(app.seen().len(), 3);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_or_while_it_comes() {
    let app = App::named("app").await;
    for decision in [under(at_most(10)), Decision { policies: Policies::all(at_most(10)), ..over_http2() }] {
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.edge();
        assert_eq!(status(&post(listener.address(), "0123456789").await), 200);
        let seen = app.seen().len();
        assert_eq!(status(&post(listener.address(), "0123456789a").await), 413);
        assert_eq!(app.seen().len(), seen, "its length told it");
        let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let fits = format!("{head}5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n");
        assert_eq!(status(&raw(listener.address(), &fits).await), 200);
        let over = format!("{head}5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n");
        assert_eq!(status(&raw(listener.address(), &over).await), 413);
        assert_eq!(proxy.logged().await.reason, Some("body_too_large"));
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_while_others_are_served() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(under(at_most(1 << 20))).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let (mut reading, mut writing) = tcp.into_split();
    let endless = async { while writing.write_all(chunk.as_bytes()).await.is_ok() {} };
    let mut answer = vec![0; 16];
    soon("a refusal", async {
        tokio::select! {
            () = endless => {}
            read = reading.read(&mut answer) => { read.unwrap(); }
        }
    })
    .await;
    until("it is logged", || proxy.log.requests.lock().unwrap().iter().any(|r| r.status == 413)).await;
    assert_eq!(status(&get(listener.address(), "").await), 200);
}

#[tokio::test]
async fn connections_have_places() {
    let app = App::named("app").await;
    let limit = CountLimit { policy: "shop/p".into(), most: 1 };
    let policy = EdgePolicy { connections: Some(Arc::new(limit)), ..Default::default() };
    let proxy = Setup::default().forwards(under(policy)).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut first = TcpStream::connect(listener.address()).await.unwrap();
    for _ in 0..2 {
        first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut first).await), 200, "one connection, many requests");
        let mut body = [0; 3];
        first.read_exact(&mut body).await.unwrap();
    }
    let answer = raw(listener.address(), "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status(&answer), 503, "and closed");
    assert_eq!(proxy.logged().await.reason, Some("policy_connections"));
    drop(first);
    until("the place is free again", || listener.open() == 0).await;
    assert_eq!(status(&get(listener.address(), "").await), 200);
}

#[tokio::test]
async fn requests_in_flight_have_places() {
    let (go, held) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (waits, tells) = (Arc::clone(&go), Arc::clone(&held));
    let app = App::answering(move |_| {
        let (waits, tells) = (Arc::clone(&waits), Arc::clone(&tells));
        async move {
            tells.notify_one();
            waits.notified().await;
            http::Response::new("app".into())
        }
    })
    .await;
    let limit = CountLimit { policy: "shop/p".into(), most: 1 };
    let policy = EdgePolicy { requests: Some(Arc::new(limit)), ..Default::default() };
    let proxy = Setup::default().forwards(under(policy)).with([plain(app.address)]);
    let listener = proxy.edge();
    let address = listener.address();
    let first = tokio::spawn(async move { get(address, "").await });
    soon("the first is in flight", held.notified()).await;
    assert_eq!(status(&get(address, "").await), 503, "at once");
    assert_eq!(proxy.logged().await.reason, Some("policy_requests"));
    go.notify_one();
    assert_eq!(status(&first.await.unwrap()), 200);
    go.notify_one();
    let free = async { while status(&get(address, "").await) != 200 {} };
    soon("the place is free again", free).await;
}

fn compressed() -> EdgePolicy {
    let compression = Compression {
        algorithms: [Coding::Zstd, Coding::Brotli, Coding::Gzip].into(),
        content_types: ["text/".into()].into(),
        min_bytes: 100,
    };
    EdgePolicy { compression: Some(Arc::new(compression)), ..Default::default() }
}

/// An application with a page of 1,000 letters.
async fn page() -> App {
    App::answering(|_| async {
        http::Response::builder()
            .header("content-type", "text/html")
            .body("page ".repeat(200).into())
            .unwrap()
    })
    .await
}

fn unzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn responses_are_compressed_for_clients_that_want_it() {
    let app = page().await;
    for decision in [under(compressed()), Decision { policies: Policies::all(compressed()), ..over_http2() }]
    {
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.edge();
        let mut h2c = http2(TcpStream::connect(listener.address()).await.unwrap()).await;
        for (accept, coding) in
            [("gzip", Some("gzip")), ("br", Some("br")), ("gzip, zstd", Some("zstd")), ("identity", None)]
        {
            let request = http::Request::get("http://x/").header("accept-encoding", accept);
            let request = request.body(Default::default()).unwrap();
            let response = soon("an answer", h2c.send_request(request)).await.unwrap();
            assert_eq!(response.headers().get("content-encoding").map(|v| v.to_str().unwrap()), coding);
            assert_eq!(response.headers()["vary"], "accept-encoding");
            let body = soon("a body", response.into_body().collect()).await.unwrap().to_bytes();
            match coding {
                Some("gzip") => assert_eq!(unzip(&body), "page ".repeat(200)),
                Some(_) => assert!((1..200).contains(&body.len()), "{}", body.len()),
                None => assert_eq!(body.len(), 1000),
            }
        }
        let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let head = read_head(&mut tcp).await.to_lowercase();
        assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
        let mut chunks = Vec::new();
        soon("the rest", tcp.read_to_end(&mut chunks)).await.unwrap();
        assert!(chunks.ends_with(b"\r\n0\r\n\r\n"));
        let mut rest = chunks.as_slice();
        let mut whole = Vec::new();
        while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
            whole.extend(&rest[at + 2..at + 2 + size]);
            rest = &rest[at + 4 + size..];
        }
        assert_eq!(unzip(&whole), "page ".repeat(200));
        let head = "HEAD / HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
        let answer = raw(listener.address(), head).await.to_lowercase();
        assert!(answer.contains("vary: accept-encoding") && !answer.contains("content-encoding"), "{answer}");
    }
}

#[tokio::test]
async fn a_compressed_stream_arrives_part_by_part() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (go, told) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
        tcp.write_all(format!("{head}5\r\nfirst\r\n").as_bytes()).await.unwrap();
        told.await.unwrap();
        tcp.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
        tcp.shutdown().await.unwrap();
    });
    let proxy = Setup::default().forwards(under(compressed())).with([plain(address)]);
    let mut h2c = http2(TcpStream::connect(proxy.edge().address()).await.unwrap()).await;
    let request =
        http::Request::get("http://x/").header("accept-encoding", "gzip").body(Default::default()).unwrap();
    let response = soon("an answer", h2c.send_request(request)).await.unwrap();
    let mut body = response.into_body();
    let mut read = soon("the first part", body.frame()).await.unwrap().unwrap().into_data().unwrap().to_vec();
    let mut first = [0; 5];
    flate2::read::GzDecoder::new(read.as_slice()).read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first");
    go.send(()).unwrap();
    read.extend(soon("the rest", body.collect()).await.unwrap().to_bytes());
    assert_eq!(unzip(&read), "firstsecond");
}

#[tokio::test]
async fn answers_made_here_are_bounded_too() {
    let redirect = |policy: &EdgePolicy| {
        let policies = Policies::all(policy.clone());
        move |_: &RequestHead<'_>, _: &Caller<'_>| {
            Outcome::Local(LocalAnswer {
                status: http::StatusCode::FOUND,
                headers: vec![(http::header::LOCATION, "http://x/".parse().unwrap())],
                reason: "redirect",
                route: None,
                policies: policies.clone(),
                verdict: None,
                missed: None,
            })
        }
    };
    let proxy = Setup::default().decides(redirect(&rate(2, 3600, RateKey::Client)));
    let listener = proxy.edge();
    for left in [1, 0] {
        let answer = get(listener.address(), "").await.to_lowercase();
        assert_eq!(status(&answer), 302);
        assert!(answer.contains("location: http://x/\r\n"), "{answer}");
        assert!(answer.contains(&format!("ratelimit: \"default\";r={left};t=")), "{answer}");
    }
    let answer = get(listener.address(), "").await.to_lowercase();
    assert_eq!(status(&answer), 429);
    assert!(answer.contains("retry-after: ") && !answer.contains("location"), "{answer}");
    assert_eq!(proxy.logged().await.reason, Some("rate_limited"));

    let limit = CountLimit { policy: "shop/p".into(), most: 1 };
    let policy = EdgePolicy { connections: Some(Arc::new(limit)), ..Default::default() };
    let proxy = Setup::default().decides(redirect(&policy));
    let listener = proxy.edge();
    let mut first = TcpStream::connect(listener.address()).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut first).await), 302);
    assert_eq!(status(&get(listener.address(), "").await), 503);
    drop(first);
    soon("its place is free again", async { while status(&get(listener.address(), "").await) != 302 {} })
        .await;
}
