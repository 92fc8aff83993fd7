//! Failures: what is tried again, where, and what the client gets.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{clients::*, harness::*};
use crate::{
    decide::{Decision, Retry, Timeouts},
    model::Reach,
    proxy::*,
};

/// An application that reads a request's head and hangs up.
pub async fn rude() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_head(&mut tcp).await;
                // All of it is read, so that the end is a FIN and not a reset.
                let _ = tokio::time::timeout(Duration::from_millis(50), tcp.read(&mut [0; 1024])).await;
            });
        }
    });
    address
}

fn answers(code: u16) -> impl Fn(Seen) -> std::future::Ready<Response<Full<Bytes>>> + Clone + Send + Sync {
    move |_| std::future::ready(Response::builder().status(code).body(Full::from("x")).unwrap())
}

#[tokio::test]
async fn another_endpoint_is_tried_when_the_first_refuses_the_connection() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(nobody().await), plain(app.address)]);
    let listener = proxy.edge();
    assert_eq!(status(&get(listener.address(), "").await), 200);
    assert_eq!(status(&post(listener.address(), "body").await), 200, "nothing was sent, so POST too");
    assert_eq!(app.last().body, "body");
    assert_eq!(proxy.logged().await.tries, 2);
    let results: Vec<_> = proxy.tried().into_iter().map(|(_, result)| result).collect();
    use TryResult::*;
    assert_eq!(results, [ConnectFailure, Success, ConnectFailure, Success]);
}

/// Two requests on a connection, the second after the answer to the first; all that came back.
async fn two(address: std::net::SocketAddr) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answers = read_head(&mut tcp).await;
    // It may be closed by now.
    let _ = tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let _ = soon("the end", tcp.read_to_string(&mut answers)).await;
    answers.to_lowercase()
}

#[tokio::test]
async fn an_answer_made_here_says_whether_the_connection_goes_on() {
    let nobody_there = Setup::default().forwards(forward()).with([]);
    let said = two(nobody_there.edge().address()).await;
    assert_eq!(said.matches("http/1.1 503").count(), 2, "it goes on: {said}");
    assert!(said.contains("connection: keep-alive\r\n"), "{said}");

    let nowhere = Setup::default().forwards(forward()).with([plain(nobody().await)]);
    let said = two(nowhere.edge().address()).await;
    assert_eq!(said.matches("http/1.1 503").count(), 1, "{said}");
    assert!(said.contains("connection: close\r\n"), "{said}");
}

#[tokio::test]
async fn tries_are_counted() {
    let nowhere =
        [plain(nobody().await), plain(nobody().await), plain(nobody().await), plain(nobody().await)];
    let proxy = Setup::default().forwards(forward()).with(nowhere.clone());
    let answer = get(proxy.edge().address(), "").await;
    assert_eq!(status(&answer), 503);
    let logged = proxy.logged().await;
    assert_eq!((logged.tries, logged.reason), (3, Some("connect_failed")), "two besides the first");

    let never =
        Decision { retry: Retry { attempts: 0, codes: Arc::from([]), ..Retry::default() }, ..forward() };
    let proxy = Setup::default().forwards(never).with(nowhere);
    assert_eq!(status(&get(proxy.edge().address(), "").await), 503);
    assert_eq!(proxy.logged().await.tries, 1);
}

#[tokio::test]
async fn a_probe_of_an_ejected_endpoint_costs_no_try() {
    let app = App::named("app").await;
    let ejected = |mut endpoint: crate::model::Endpoint| {
        endpoint.labels.insert("ejected".into(), "".into());
        endpoint
    };
    let list =
        [ejected(plain(nobody().await)), plain(nobody().await), plain(nobody().await), plain(app.address)];
    let proxy = Setup::default().forwards(forward()).with(list);
    assert_eq!(status(&get(proxy.edge().address(), "").await), 200);
    assert_eq!(proxy.logged().await.tries, 4);

    let many = [
        ejected(plain(nobody().await)),
        ejected(plain(nobody().await)),
        plain(nobody().await),
        plain(nobody().await),
        plain(app.address),
    ];
    let proxy = Setup::default().forwards(forward()).with(many);
    assert_eq!(status(&get(proxy.edge().address(), "").await), 503, "but one at most");
}

#[tokio::test]
async fn a_broken_exchange_is_tried_again_only_if_idempotent() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(rude().await), plain(app.address)]);
    let listener = proxy.edge();
    assert_eq!(status(&get(listener.address(), "").await), 200);
    assert_eq!(proxy.logged().await.tries, 2);
    let answer = post(listener.address(), "once").await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert_eq!(app.seen().len(), 1, "the POST did not come a second time");
}

#[tokio::test]
async fn listed_statuses_are_tried_again_only_if_idempotent() {
    let busy = App::answering(answers(503)).await;
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(busy.address), plain(app.address)]);
    let listener = proxy.edge();
    let answer = get(listener.address(), "").await;
    assert_eq!((status(&answer), body(&answer).as_str()), (200, "app"));
    assert_eq!(status(&post(listener.address(), "once").await), 503);

    let broken = App::answering(answers(500)).await;
    let proxy = Setup::default().forwards(forward()).with([plain(broken.address), plain(app.address)]);
    assert_eq!(status(&get(proxy.edge().address(), "").await), 500, "500 is not listed");

    let both = Setup::default().forwards(forward()).with([plain(busy.address)]);
    let answer = get(both.edge().address(), "").await;
    assert_eq!((status(&answer), body(&answer).as_str()), (503, "x"), "the last answer is passed on");
    assert_eq!(both.logged().await.tries, 3);
}

#[tokio::test]
async fn a_slow_answer_is_a_504() {
    let app = App::answering(|_| async {
        std::future::pending::<()>().await;
        Response::new(Full::default())
    })
    .await;
    for (timeouts, tries, reason) in [
        (Timeouts { request: None, attempt: Some(Duration::from_millis(100)) }, 3, "upstream_timeout"),
        (Timeouts { request: Some(Duration::from_millis(100)), attempt: None }, 1, "upstream_timeout"),
    ] {
        for decision in [forward(), over_http2()] {
            let proxy =
                Setup::default().forwards(Decision { timeouts, ..decision }).with([plain(app.address)]);
            let answer = get(proxy.edge().address(), "").await;
            assert_eq!((status(&answer), body(&answer).as_str()), (504, "504 Gateway Timeout\n"));
            let logged = proxy.logged().await;
            assert_eq!((logged.tries, logged.reason), (tries, Some(reason)));
        }
    }
}

#[tokio::test]
async fn a_response_that_trickles_beyond_its_time_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
        while tcp.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let timeouts = Timeouts { request: Some(Duration::from_millis(200)), attempt: None };
    let proxy = Setup::default().forwards(Decision { timeouts, ..forward() }).with([plain(address)]);
    let answer = get(proxy.edge().address(), "").await;
    assert_eq!(status(&answer), 200);
    assert!((1..1000).contains(&body(&answer).len()), "cut short");
    assert_eq!(proxy.logged().await.reason, Some("request_timeout"));
}

#[tokio::test]
async fn a_gateway_that_is_away_is_passed_by() {
    let app = App::named("app").await;
    let gateways = Reach::Via(Arc::from([nobody().await, app.address]));
    let endpoint = crate::model::Endpoint { reach: gateways, ..plain(app.address) };
    let proxy = Setup::default().forwards(forward()).with([endpoint]);
    let listener = proxy.edge();
    for _ in 0..8 {
        assert_eq!(status(&get(listener.address(), "").await), 200);
    }
    let tries: u8 = proxy.log.requests.lock().unwrap().iter().map(|logged| logged.tries).sum();
    assert!(tries <= 9, "it is tried once and then last: {tries}");
    assert!(
        proxy.tried().iter().all(|(_, result)| *result == TryResult::Success),
        "not the endpoint's fault"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_request() {
    let (told, mut gone) = tokio::sync::mpsc::channel::<()>(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await;
        told.send(()).await.unwrap();
        assert_eq!(tcp.read(&mut [0; 1]).await.unwrap_or(0), 0);
        told.send(()).await.unwrap();
    });
    let proxy = Setup::default().forwards(forward()).with([plain(address)]);
    let mut client = TcpStream::connect(proxy.edge().address()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    soon("the request arrives", gone.recv()).await.unwrap();
    drop(client);
    soon("it is cancelled upstream", gone.recv()).await.unwrap();
    assert_eq!(proxy.logged().await.status, 499);
}

#[tokio::test]
async fn a_further_try_waits_as_long_as_its_route_says() {
    let backoff = Some(Duration::from_millis(80));
    let retry = Retry { backoff, ..Retry::default() };
    let bad = App::answering(answers(503)).await;
    let proxy = Setup::default().forwards(Decision { retry, ..forward() }).with([plain(bad.address)]);
    let listener = proxy.edge();
    let begun = std::time::Instant::now();
    assert_eq!(status(&get(listener.address(), "").await), 503);
    // 80 ms before the second try, 160 ms before the third.
    assert!(begun.elapsed() >= Duration::from_millis(240), "{:?}", begun.elapsed());
    assert_eq!(bad.seen().len(), 3);
}

#[tokio::test]
async fn a_wait_does_not_outlast_the_request() {
    let retry = Retry { backoff: Some(Duration::from_secs(60)), ..Retry::default() };
    let timeouts = Timeouts { request: Some(Duration::from_millis(150)), attempt: None };
    let bad = App::answering(answers(503)).await;
    let proxy =
        Setup::default().forwards(Decision { retry, timeouts, ..forward() }).with([plain(bad.address)]);
    assert_eq!(status(&get(proxy.edge().address(), "").await), 504);
    assert_eq!(proxy.logged().await.reason, Some("request_timeout"));
}

#[tokio::test]
async fn a_service_in_trouble_is_not_buried_in_tries() {
    let bad = App::answering(answers(503)).await;
    let proxy = Setup::default().forwards(forward()).with([plain(bad.address)]);
    let listener = proxy.edge();
    let asks = (0..400).map(|_| async { status(&get(listener.address(), "").await) });
    assert!(futures::future::join_all(asks).await.into_iter().all(|status| status == 503));
    // 800 would be wanted; two windows may have been touched.
    let tries = bad.seen().len() - 400;
    assert!((300..=600).contains(&tries), "{tries}");
}
