//! TrafficPolicies, carried out.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{clients::*, harness::*};
use crate::decide::{ConnectionLimit, Decision, EdgePolicy, Policies, RateKey, RateLimit, RequestLimits};

fn under(policy: EdgePolicy) -> Decision {
    Decision { policies: Policies::all(policy), ..forward() }
}

fn rate(requests: u32, per: u64, key: RateKey) -> EdgePolicy {
    let per = Duration::from_secs(per);
    let limit = RateLimit { policy: "shop/p".into(), requests, per, burst: requests, key };
    EdgePolicy { rate: Some(Arc::new(limit)), ..Default::default() }
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
    let limit = ConnectionLimit { policy: "shop/p".into(), most: 1 };
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
