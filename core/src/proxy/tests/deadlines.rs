//! How long callers wait, and faults on purpose.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::{clients::*, harness::*};
use crate::{
    decide::{Backend, Decision, Mirror, Timeouts},
    model::AppProtocol,
};

/// Takes connections and says nothing.
async fn silent() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            held.push(tcp);
        }
    });
    (address, held)
}

#[tokio::test]
async fn the_caller_says_how_long_it_waits() {
    let (address, _held) = silent().await;
    let long = Timeouts { request: Some(Duration::from_secs(60)), attempt: None };
    let proxy = Setup::default().forwards(Decision { timeouts: long, ..forward() }).with([plain(address)]);
    let listener = proxy.outbound();
    for header in ["x-tombolo-timeout", "grpc-timeout"] {
        let begun = Instant::now();
        let answer = get(listener.address(), &format!("{header}: 200m\r\n")).await;
        assert_eq!(status(&answer), 504, "{header}");
        assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < SOON, "{header}");
        assert_eq!(proxy.logged().await.reason, Some("upstream_timeout"));
    }
}

#[tokio::test]
async fn a_caller_whose_time_is_over_is_answered_at_once_and_nothing_is_sent() {
    let (app, copy) = (App::named("app").await, App::named("copy").await);
    let backend = Backend::Address { address: copy.address, protocol: AppProtocol::Http1 };
    let mirrors = [Mirror { backend, per_ten_thousand: 10_000 }].into();
    let proxy = Setup::default().forwards(Decision { mirrors, ..forward() }).with([plain(app.address)]);
    let listener = proxy.outbound();
    for header in ["x-tombolo-timeout: 0m", "x-tombolo-timeout: -20m", "grpc-timeout: 0n"] {
        let answer = get(listener.address(), &format!("{header}\r\n")).await;
        assert_eq!(status(&answer), 504, "{header}");
        assert_eq!(proxy.logged().await.reason, Some("request_timeout"), "{header}");
    }
    let call = get(listener.address(), "content-type: application/grpc\r\ngrpc-timeout: 0m\r\n").await;
    assert!(status(&call) == 200 && call.contains("grpc-status: 4"), "{call}");
    assert_eq!((app.seen().len(), copy.seen().len()), (0, 0));
    // One with time left, to the same.
    assert_eq!(status(&get(listener.address(), "x-tombolo-timeout: 9S\r\n").await), 200);
}

#[tokio::test]
async fn what_is_left_goes_on_to_the_application() {
    let app = App::named("app").await;
    let decision = to_address(app.address, AppProtocol::Http1);
    let proxy = Setup::default().forwards(decision);
    let listener = proxy.outbound();
    let left = |name: &str| {
        let seen = app.last();
        let text = seen.headers.get(name)?.to_str().unwrap().to_owned();
        Some(text.strip_suffix('m').unwrap().parse::<u64>().unwrap())
    };
    get(listener.address(), "x-tombolo-timeout: 9S\r\n").await;
    let millis = left("x-tombolo-timeout").unwrap();
    assert!((1..=9000).contains(&millis), "{millis}");
    assert_eq!(left("grpc-timeout"), None, "a caller that does not speak gRPC");
    get(listener.address(), "grpc-timeout: 9S\r\n").await;
    assert!((1..=9000).contains(&left("grpc-timeout").unwrap()));
    get(listener.address(), "").await;
    assert_eq!(left("x-tombolo-timeout"), None, "nobody said anything");
}

#[tokio::test]
async fn a_stranger_does_not_say_it_and_a_stranger_is_not_told() {
    let app = App::named("app").await;
    let bound = Timeouts { request: Some(Duration::from_secs(9)), attempt: None };
    let proxy =
        Setup::default().forwards(Decision { timeouts: bound, ..forward() }).with([plain(app.address)]);
    let answer = get(proxy.edge().address(), "x-tombolo-timeout: 0m\r\n").await;
    assert_eq!(status(&answer), 200, "clients of the edge are not believed");
    assert!(!app.last().headers.contains_key("x-tombolo-timeout"), "a backend outside of the mesh");
}

#[tokio::test]
async fn a_delay_on_purpose_is_part_of_the_requests_time() {
    let app = App::named("app").await;
    let delay = Some(Duration::from_millis(150));
    let proxy = Setup::default().forwards(Decision { delay, ..forward() }).with([plain(app.address)]);
    let begun = Instant::now();
    assert_eq!(status(&get(proxy.edge().address(), "").await), 200);
    assert!(begun.elapsed() >= Duration::from_millis(150));

    let delay = Some(Duration::from_secs(60));
    let timeouts = Timeouts { request: Some(Duration::from_millis(100)), attempt: None };
    let proxy =
        Setup::default().forwards(Decision { delay, timeouts, ..forward() }).with([plain(app.address)]);
    assert_eq!(status(&get(proxy.edge().address(), "").await), 504);
    assert_eq!(app.seen().len(), 1, "it was never sent");
}
