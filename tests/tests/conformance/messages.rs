//! Messages in all their forms, between clients and backends of either version.

use http::{Method, Request};
use http_body_util::BodyExt;

use super::{
    client::get,
    wire::*,
    world::{INFRA, World},
};

/// The application at this address, and the stage's own under `/echo-h1` and `/echo-h2`.
async fn world(address: std::net::SocketAddr) -> World {
    let mut world = World::stage().await;
    world.add_backend(INFRA, "custom-h1", "", address);
    world.add_backend(INFRA, "custom-h2", "kubernetes.io/h2c", address);
    world.write(
        "scenario",
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: messages, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }, { name: same-namespace-with-https-listener }]
  rules:
    - { matches: [{ path: { value: /h1 } }], backendRefs: [{ name: custom-h1, port: 8080 }] }
    - { matches: [{ path: { value: /h2 } }], backendRefs: [{ name: custom-h2, port: 8080 }] }
    - { matches: [{ path: { value: /echo-h1 } }], backendRefs: [{ name: infra-backend-v1, port: 8080 }] }
    - { matches: [{ path: { value: /echo-h2 } }], backendRefs: [{ name: infra-backend-v1, port: 8081 }] }
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: compressed, namespace: gateway-conformance-infra }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: messages }]
  compression: { minBytes: 0 }
",
    );
    world.serve();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_backend_protocol_h2c_and_clients_of_either_version() {
    let world = world(conversation(|_| async {}).await).await;
    let plain = world.address("same-namespace", 80);
    let secure = world.address("same-namespace-with-https-listener", 443);
    for (path, proto) in [("/echo-h1", "HTTP/1.1"), ("/echo-h2", "HTTP/2.0")] {
        let ask = get("second-example.org", path).method(Method::POST);
        let ask = super::client::Ask { body: vec![b'x'; 100_000].into(), ..ask };
        for (to, ask) in [
            (plain, ask.clone()),
            (plain, ask.clone().over_http2()),
            (secure, ask.clone().over_tls("second-example.org")),
            (secure, ask.over_tls("second-example.org").over_http2()),
        ] {
            let answer = world.reaches(to, &ask, "infra-backend-v1").await;
            assert_eq!(answer.echo.unwrap().proto, proto, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_body_end_with_their_head() {
    let address = application(|request: Request<hyper::body::Incoming>| async move {
        let path = request.uri().path().to_owned();
        let builder = http::Response::builder().header("content-type", "text/plain").header("etag", "\"a\"");
        let (builder, text) = match path.rsplit('/').next() {
            Some("204") => (builder.status(204), ""),
            Some("304") => (builder.status(304), ""),
            // Ends with its head where HTTP/2 is spoken.
            Some("empty") => (builder, ""),
            _ => (
                builder.header("content-length", "4"),
                if request.method() == Method::HEAD { "" } else { "text" },
            ),
        };
        builder.body(whole(text)).unwrap()
    })
    .await;
    let world = world(address).await;
    let to = world.address("same-namespace", 80);
    for path in ["/h1", "/h2"] {
        let mut wire = connect(to, None, false).await;
        let mut http2 = http2(to, None).await;
        for _ in 0..2 {
            for (method, end, status) in
                [("HEAD", "", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("HEAD", "/204", 204)]
            {
                let what = format!("{method} {path}{end}");
                let ask = format!("{what} HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n");
                say(&mut wire, &ask).await;
                let answer = head(&mut wire).await;
                assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{what}: {answer}");
                for field in ["transfer-encoding", "content-encoding"] {
                    assert!(!answer.contains(field), "{what}: {answer}");
                }
                let ask = Request::builder().method(method).uri(format!("http://x{path}{end}"));
                let ask = ask.header("accept-encoding", "gzip").body(whole("")).unwrap();
                let answer = soon("an answer", http2.send_request(ask)).await.unwrap();
                assert_eq!(answer.status(), status, "{what} over HTTP/2");
                assert!(!answer.headers().contains_key("content-encoding"), "{what}: {answer:?}");
                let body = soon("its end", answer.into_body().collect()).await;
                let body = body.unwrap_or_else(|error| panic!("{what} over HTTP/2: {error}"));
                assert_eq!(body.to_bytes(), "", "{what} over HTTP/2");
            }
            let ask = format!("GET {path}/empty HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n");
            say(&mut wire, &ask).await;
            let answer = head(&mut wire).await;
            assert!(answer.starts_with("http/1.1 200 "), "{path}: {answer}");
            assert!(!answer.contains("content-encoding"), "{path}: {answer}");
            if answer.contains("chunked") {
                hear(&mut wire, "0\r\n\r\n").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_hints_come_before_the_answer() {
    let address = conversation(|mut tcp| async move {
        while tcp.peek(&mut [0]).await.is_ok_and(|read| read > 0) {
            head(&mut tcp).await;
            say(&mut tcp, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n").await;
            say(&mut tcp, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let world = world(address).await;
    let to = world.address("same-namespace", 80);
    let mut wire = connect(to, None, false).await;
    for _ in 0..3 {
        say(&mut wire, "GET /h1 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let hints = head(&mut wire).await;
        assert!(hints.starts_with("http/1.1 103 ") && hints.contains("</a.css>"), "{hints}");
        assert!(head(&mut wire).await.starts_with("http/1.1 200 "));
        hear(&mut wire, "ok").await;
    }
    let answer = get("x", "/h1").over_http2().send(to).await.unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"ok"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_in_chunks_with_trailers_are_whole_and_the_next_message_begins_after_them() {
    let address = conversation(|mut tcp| async move {
        while tcp.peek(&mut [0]).await.is_ok_and(|read| read > 0) {
            let asked = head(&mut tcp).await;
            if asked.starts_with("post") {
                hear(&mut tcp, "0\r\n").await;
                trailer_section(&mut tcp).await;
            }
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                          3\r\none\r\n3\r\ntwo\r\n0\r\nx-sum: 7\r\n\r\n";
            say(&mut tcp, answer).await;
        }
    })
    .await;
    let world = world(address).await;
    let to = world.address("same-namespace", 80);
    let mut wire = connect(to, None, false).await;
    for _ in 0..3 {
        let post = "POST /h1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-a: b\r\n\r\n";
        say(&mut wire, post).await;
        let answer = head(&mut wire).await;
        assert!(answer.starts_with("http/1.1 200 ") && answer.contains("chunked"), "{answer}");
        let body = hear(&mut wire, "0\r\n").await;
        let text: String = body.split("\r\n").skip(1).step_by(2).collect();
        assert_eq!(text, "onetwo", "{body:?}");
        trailer_section(&mut wire).await;
    }
    let mut client = http2(to, None).await;
    for _ in 0..3 {
        let ask = Request::get("http://x/h1").body(whole("")).unwrap();
        let answer = soon("an answer", client.send_request(ask)).await.unwrap();
        assert_eq!(soon("a body", answer.into_body().collect()).await.unwrap().to_bytes(), "onetwo");
    }
}
