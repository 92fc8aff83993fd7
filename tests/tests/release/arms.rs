//! Arms whose endpoints die, or that have none: what `whenUnavailable` says holds within a second.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    client::get,
    release,
    stage::{App, EDGE, Stage, route},
};

/// What a request is answered that a rule sends to the arm: status and body.
async fn forced(edge: SocketAddr) -> (u16, String) {
    let answer = get("shop.example", "/").header("x-gray", "v2").send(edge).await.unwrap();
    (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
}

/// From `since`, all requests have this answer within a second, and keep it.
#[track_caller]
fn assert_in_time(since: Instant, took: Duration, what: &str) {
    assert!(took < Duration::from_secs(1), "{what}: {took:?}, of {:?} in all", since.elapsed());
}

/// Asks until 50 requests in a row are answered so: how long it took until the first of them was sent.
async fn settles(edge: SocketAddr, wanted: (u16, &str)) -> (Instant, Duration) {
    let since = Instant::now();
    let (mut row, mut first) = (0, Duration::ZERO);
    while row < 50 && since.elapsed() < Duration::from_secs(20) {
        let begun = since.elapsed();
        let (status, body) = forced(edge).await;
        if (status, body.trim()) == wanted {
            first = if row == 0 { begun } else { first };
            row += 1;
        } else {
            row = 0;
        }
    }
    assert_eq!(row, 50, "never {wanted:?}");
    (since, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arm_that_dies_or_has_no_endpoint_is_replaced_within_a_second() {
    let stable = App::start("stable").await;
    let rules = "  rules: [{ arm: v2, headers: [{ name: x-gray, value: v2 }] }]\n";
    for (more, wanted) in
        [("", (200, "stable")), ("  whenUnavailable: fail\n", (503, "503 Service Unavailable"))]
    {
        let canary = App::start("canary").await;
        let release = release(&(rules.to_owned() + more));
        let documents =
            [EDGE, &stable.documents(), &canary.documents(), &route(&[("/", "stable")]), &release].concat();
        let stage = Stage::start(&documents).await;
        let edge = stage.address(80);
        assert_eq!(forced(edge).await, (200, "canary".into()));
        // It is killed, with its connections.
        let documents = canary.documents();
        drop(canary);
        let (since, took) = settles(edge, wanted).await;
        assert_in_time(since, took, "it died");

        // Another takes its place, and is taken out by a document.
        let canary = App::start("canary").await;
        stage.apply(&canary.documents());
        settles(edge, (200, "canary")).await;
        stage.apply(&documents.replace("endpoints: [{", "endpoints: [] #"));
        let (since, took) = settles(edge, wanted).await;
        assert_in_time(since, took, "it has no endpoint");
    }
}
