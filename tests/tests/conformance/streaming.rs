//! What must not wait for its end: server-sent events, long polls, gRPC streams, bodies that wait to be asked for.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::{
    wire::*,
    world::{INFRA, World},
};

/// Routes `/h1` and `/h2` to an application at this address, spoken to by HTTP/1.1 and by h2c.
async fn world(address: std::net::SocketAddr) -> World {
    let mut world = World::stage().await;
    world.add_backend(INFRA, "custom-h1", "", address);
    world.add_backend(INFRA, "custom-h2", "kubernetes.io/h2c", address);
    world.write(
        "scenario",
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: streaming, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }, { name: same-namespace-with-https-listener }]
  rules:
    - { matches: [{ path: { value: /h1 } }], backendRefs: [{ name: custom-h1, port: 8080 }] }
    - { matches: [{ path: { value: /h2 } }], backendRefs: [{ name: custom-h2, port: 8080 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: calls, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: all-namespaces }]
  rules: [{ backendRefs: [{ name: custom-h2, port: 8080 }] }]
",
    );
    world.serve();
    world
}

/// Sends a GET and gives the body of its answer, over each protocol that a client may speak.
async fn bodies(world: &World, path: &str) -> Vec<Incoming> {
    let plain = world.address("same-namespace", 80);
    let secure = world.address("same-namespace-with-https-listener", 443);
    let mut out = Vec::new();
    for (to, sni) in [(plain, None), (secure, Some("second-example.org"))] {
        let mut client = http2(to, sni).await;
        let scheme = if sni.is_some() { "https" } else { "http" };
        let ask = Request::get(format!("{scheme}://second-example.org{path}")).body(whole("")).unwrap();
        out.push(soon("a head", client.send_request(ask)).await.unwrap().into_body());
        let io = TokioIo::new(connect(to, sni, false).await);
        let shaken = hyper::client::conn::http1::handshake(io);
        let (mut client, connection) = soon("a connection", shaken).await.unwrap();
        tokio::spawn(connection);
        let ask = Request::get(path).header("host", "second-example.org").body(whole("")).unwrap();
        out.push(soon("a head", client.send_request(ask)).await.unwrap().into_body());
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_arrive_one_by_one() {
    let senders = Arc::new(Mutex::new(Vec::new()));
    let kept = senders.clone();
    let address = application(move |_| {
        let (sender, body) = parts();
        kept.lock().unwrap().push(sender);
        async move { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
    })
    .await;
    let world = world(address).await;
    for path in ["/h1", "/h2"] {
        for (at, mut body) in bodies(&world, path).await.into_iter().enumerate() {
            let sender = senders.lock().unwrap().remove(0);
            for n in 0..5 {
                let event = format!("data: {n}\n\n");
                soon("the gateway takes it", sender.send(part(event.clone()))).await.unwrap();
                assert_eq!(next(&mut body).await.unwrap(), event, "{path}, client {at}");
            }
            drop(sender);
            assert!(next(&mut body).await.is_none(), "the end");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_wait_and_hold_nobody_up() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let address = application(move |request: Request<Incoming>| {
        let mut gate = gate.clone();
        async move {
            if request.uri().path().ends_with("/poll") {
                gate.wait_for(|open| *open).await.unwrap();
            }
            Response::new(whole("news"))
        }
    })
    .await;
    let world = world(address).await;
    let to = world.address("same-namespace", 80);
    let mut polls = Vec::new();
    for path in ["/h1/poll", "/h2/poll"] {
        for _ in 0..50 {
            let mut client = http2(to, None).await;
            let ask = Request::get(format!("http://x{path}")).body(whole("")).unwrap();
            polls.push(tokio::spawn(async move { client.send_request(ask).await.unwrap().status() }));
        }
    }
    for path in ["/h1", "/h2"] {
        let ask = super::client::get("x", path);
        assert_eq!(soon("meanwhile", ask.send(to)).await.unwrap().body, "news");
    }
    assert!(polls.iter().all(|poll| !poll.is_finished()));
    go.send_replace(true);
    for poll in polls {
        assert_eq!(soon("the news", poll).await.unwrap(), 200);
    }
}

/// A gRPC application: `/stream` sends back each part as it comes, `/cancel` says when its caller has gone.
async fn grpc(gone: mpsc::UnboundedSender<()>) -> std::net::SocketAddr {
    application(move |request: Request<Incoming>| {
        let gone = gone.clone();
        let (sender, body) = parts();
        tokio::spawn(async move {
            let mut asked = request.into_body();
            loop {
                match asked.frame().await {
                    Some(Ok(frame)) => {
                        // A caller that has gone is told of below.
                        let _taken = sender.send(frame).await;
                    }
                    Some(Err(_)) => return gone.send(()).unwrap(),
                    None => break,
                }
            }
            let _taken = sender.send(grpc_status("0")).await;
        });
        async move { Response::builder().header("content-type", "application/grpc").body(body).unwrap() }
    })
    .await
}

fn call() -> (mpsc::Sender<hyper::body::Frame<Bytes>>, Request<Body>) {
    let (sender, body) = parts();
    let ask = Request::post("http://x/shop.Cart/Stream").header("content-type", "application/grpc");
    (sender, ask.header("te", "trailers").body(body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_streams_run_both_ways_with_their_trailers() {
    let (gone, _) = mpsc::unbounded_channel();
    let world = world(grpc(gone).await).await;
    let to = world.address("all-namespaces", 80);
    let mut client = http2(to, None).await;
    for round in 0..20 {
        let (sender, ask) = call();
        let answer = soon("a head", client.send_request(ask)).await.unwrap();
        let mut body = answer.into_body();
        for n in 0..10 {
            let message = format!("\0\0\0\0\x01{n}");
            soon("room", sender.send(part(message.clone()))).await.unwrap();
            assert_eq!(next(&mut body).await.unwrap(), message, "round {round}");
        }
        drop(sender);
        assert_eq!(trailers(&mut body).await["grpc-status"], "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_hears_of_calls_that_are_cancelled() {
    let (gone, mut seen_gone) = mpsc::unbounded_channel();
    let world = world(grpc(gone).await).await;
    let to = world.address("all-namespaces", 80);
    let (mut client, connection) = h2::client::handshake(connect(to, None, true).await).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..20 {
        let ask = Request::post("http://x/shop.Cart/Stream").header("content-type", "application/grpc");
        let (answer, mut sending) = client.send_request(ask.body(()).unwrap(), false).unwrap();
        sending.send_data("\0\0\0\0\x01x".into(), false).unwrap();
        let mut body = soon("a head", answer).await.unwrap().into_body();
        soon("a part", body.data()).await.unwrap().unwrap();
        sending.send_reset(h2::Reason::CANCEL);
        soon("the application hears of it", seen_gone.recv()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_sent_when_the_application_asks_for_it() {
    let address = application(|request: Request<Incoming>| async move {
        if request.uri().path().ends_with("/refuse") {
            return Response::builder().status(417).body(whole("no")).unwrap();
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(whole(body))
    })
    .await;
    let world = world(address).await;
    let to = world.address("same-namespace", 80);
    for path in ["/h1", "/h2"] {
        let mut wire = connect(to, None, false).await;
        let ask = |path: &str| {
            format!("POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        };
        for _ in 0..2 {
            say(&mut wire, &ask(path)).await;
            assert!(head(&mut wire).await.starts_with("http/1.1 100 "), "{path}");
            say(&mut wire, "body").await;
            let answer = head(&mut wire).await;
            assert!(answer.starts_with("http/1.1 200 "), "{path}: {answer}");
            let chunked = answer.contains("chunked");
            hear(&mut wire, if chunked { "4\r\nbody\r\n0\r\n\r\n" } else { "body" }).await;
        }
        // The application wants no body, and gets none.
        let mut wire = connect(to, None, false).await;
        say(&mut wire, &ask(&format!("{path}/refuse"))).await;
        let mut answer = head(&mut wire).await;
        if path == "/h2" && answer.starts_with("http/1.1 100 ") {
            // What stands between is told by the gateway where the application is spoken to by HTTP/2.
            answer = head(&mut wire).await;
        }
        assert!(answer.starts_with("http/1.1 417 "), "{path}: {answer}");

        let mut client = http2(to, None).await;
        for (path, status) in [(path.to_owned(), 200), (format!("{path}/refuse"), 417)] {
            let ask = Request::post(format!("http://x{path}")).header("expect", "100-continue");
            let ask = ask.body(whole("body")).unwrap();
            let answer = soon("an answer", client.send_request(ask)).await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
        }
    }
}
