//! External authorization over HTTP and gRPC, with servers that answer, deny, fail, and say nothing.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, Response, StatusCode};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;
use tombolo_proto::auth::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, QueryParameter, Status, check_response::HttpResponse,
};

use super::{clients::*, harness::*};
use crate::{
    decide::{AuthProtocol, Backend, Decision, EdgePolicy, ExternalAuth, Filters, Policies},
    model::AppProtocol,
};

fn names(names: &[&'static str]) -> Box<[HeaderName]> {
    names.iter().map(|name| HeaderName::from_static(name)).collect()
}

fn by_http(address: std::net::SocketAddr) -> ExternalAuth {
    ExternalAuth {
        backend: Some(Backend::Address { address, protocol: AppProtocol::Http1 }),
        protocol: AuthProtocol::Http {
            prefix: "/check".into(),
            headers: names(&["x-token"]),
            response_headers: names(&["x-user"]),
        },
        body_most: 0,
        timeout: Duration::from_secs(2),
        fail_open: false,
    }
}

fn by_grpc(address: std::net::SocketAddr) -> ExternalAuth {
    ExternalAuth {
        backend: Some(Backend::Address { address, protocol: AppProtocol::Http2 }),
        protocol: AuthProtocol::Grpc { headers: Box::default() },
        ..by_http(address)
    }
}

/// Under a policy and, as HTTPRoutes have it, by a filter.
fn asking(auth: ExternalAuth) -> [Decision; 2] {
    let auth = Some(Arc::new(auth));
    let policy = EdgePolicy { external_auth: auth.clone(), ..Default::default() };
    let filters = Arc::new(Filters { external_auth: auth, ..Default::default() });
    [Decision { policies: Policies::all(policy), ..forward() }, Decision { filters, ..forward() }]
}

/// Denies all but those whose token is `good`, and tells who they are and how much it read.
async fn http_server() -> App {
    App::answering(|request| async move {
        let good = request.headers.get("x-token").is_some_and(|token| token == "good");
        let response =
            Response::builder().header("x-user", "ann").header("x-size", request.body.len().to_string());
        if good {
            response.header("x-secret", "1").body(Full::default()).unwrap()
        } else {
            response.status(401).header("www-authenticate", "Basic").body("who are you?".into()).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_speaks_http_decides() {
    let (app, server) = (App::named("app").await, http_server().await);
    for decision in asking(by_http(server.address)) {
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.edge();
        let answer =
            get(listener.address(), "x-token: good\r\nx-user: mallory\r\nauthorization: b\r\nx-more: 1\r\n")
                .await;
        assert_eq!((status(&answer), body(&answer).as_str()), (200, "app"));
        let asked = server.last();
        assert_eq!(asked.target, "/check/a?b=c");
        assert_eq!(
            (&asked.headers["host"], &asked.headers["authorization"]),
            (&"Shop.example:80".parse().unwrap(), &"b".parse().unwrap())
        );
        assert!(!asked.headers.contains_key("x-more"), "{:?}", asked.headers);
        let users: Vec<_> = app.last().headers.get_all("x-user").iter().cloned().collect();
        assert_eq!(users, ["ann"], "what the client says of itself is gone");
        assert!(!app.last().headers.contains_key("x-secret"));

        let seen = app.seen().len();
        let answer = get(listener.address(), "x-token: bad\r\n").await.to_lowercase();
        assert_eq!((status(&answer), body(&answer).as_str()), (401, "who are you?"));
        assert!(answer.contains("www-authenticate: basic\r\n"), "{answer}");
        assert_eq!(proxy.logged().await.reason, Some("auth_denied"));
        assert_eq!(app.seen().len(), seen);
    }
    assert!(server.connections() <= 2, "connections are kept: {}", server.connections());
}

#[tokio::test]
async fn the_body_is_sent_along_within_bounds() {
    let (app, server) = (App::named("app").await, http_server().await);
    let auth = ExternalAuth { body_most: 100, ..by_http(server.address) };
    for protocol in [forward(), over_http2()] {
        let decision = Decision { filters: asking(auth.clone())[1].filters.clone(), ..protocol };
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.edge();
        let send = async |head: &str, body: &str| {
            let head =
                format!("POST / HTTP/1.1\r\nhost: x\r\nx-token: good\r\nconnection: close\r\n{head}\r\n\r\n");
            raw(listener.address(), &format!("{head}{body}")).await
        };
        assert_eq!(status(&send("content-length: 10", "0123456789").await), 200);
        assert_eq!((&server.last().body[..], &app.last().body[..]), (&b"0123456789"[..], &b"0123456789"[..]));
        let chunks = "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n";
        assert_eq!(status(&send("transfer-encoding: chunked", chunks).await), 200);
        assert_eq!((&server.last().body[..], &app.last().body[..]), (&b"0123456789"[..], &b"0123456789"[..]));
        let long = "x".repeat(200);
        let seen = (server.seen().len(), app.seen().len());
        assert_eq!(status(&send("content-length: 200", &long).await), 413);
        let chunk = format!("c8\r\n{long}\r\n0\r\n\r\n");
        assert_eq!(status(&send("transfer-encoding: chunked", &chunk).await), 413);
        assert_eq!((server.seen().len(), app.seen().len()), seen);
    }
    let withheld =
        Setup::default().forwards(asking(by_http(server.address))[1].clone()).with([plain(app.address)]);
    let head =
        "POST / HTTP/1.1\r\nhost: x\r\nx-token: good\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(status(&raw(withheld.edge().address(), head).await), 200);
    assert_eq!((&server.last().body[..], &app.last().body[..]), (&b""[..], &b"abc"[..]));
}

#[tokio::test]
async fn without_an_answer_nobody_gets_in_and_others_are_served() {
    let app = App::named("app").await;
    // One that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quick = |auth| ExternalAuth { timeout: Duration::from_millis(100), ..auth };
    let silent_at = silent.local_addr().unwrap();
    let failing =
        App::answering(|_| async { Response::builder().status(500).body(Full::default()).unwrap() }).await;
    for auth in [
        quick(by_http(silent_at)),
        quick(by_grpc(silent_at)),
        by_http(nobody().await),
        by_grpc(nobody().await),
        by_grpc(failing.address),
    ] {
        let open = asking(ExternalAuth { fail_open: true, ..auth.clone() })[0].clone();
        let closed = asking(auth)[0].clone();
        let proxy = Setup::default()
            .decides(move |head, _| {
                let decision = match head.headers.get("x-kind").map(http::HeaderValue::as_bytes) {
                    Some(b"open") => open.clone(),
                    Some(b"closed") => closed.clone(),
                    _ => forward(),
                };
                crate::decide::Outcome::Forward(Box::new(decision))
            })
            .with([plain(app.address)]);
        let listener = proxy.edge();
        let address = listener.address();
        let slow = tokio::spawn(async move { get(address, "x-kind: closed\r\n").await });
        assert_eq!(status(&get(address, "").await), 200);
        assert_eq!(status(&slow.await.unwrap()), 503);
        assert!(proxy.log.requests.lock().unwrap().iter().any(|r| r.reason == Some("auth_unavailable")));
        assert_eq!(status(&get(address, "x-kind: open\r\n").await), 200);
    }
    let nowhere = ExternalAuth { backend: None, ..by_http(app.address) };
    let proxy = Setup::default().forwards(asking(nowhere)[1].clone()).with([plain(app.address)]);
    assert_eq!(status(&get(proxy.edge().address(), "").await), 500);
    assert_eq!(proxy.logged().await.reason, Some("auth_not_found"));
}

/// A server of `envoy.service.auth.v3.Authorization`.
async fn grpc_server(judge: fn(CheckRequest) -> CheckResponse) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service =
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
            let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
            let answer = judge(CheckRequest::decode(body.slice(5..)).unwrap());
            let mut message = BytesMut::new();
            message.put_u8(0);
            message.put_u32(answer.encoded_len() as u32);
            answer.encode(&mut message).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let frames =
                [Ok::<_, hyper::Error>(Frame::data(message.freeze())), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures::stream::iter(frames));
            Ok::<_, hyper::Error>(
                Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
            )
        });
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(tcp), service));
        }
    });
    address
}

fn field(key: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: key.into(), value: value.into(), raw_value: Bytes::new() };
    HeaderValueOption { header: Some(header), ..Default::default() }
}

fn judge(request: CheckRequest) -> CheckResponse {
    let attributes = request.attributes.unwrap();
    let source = attributes.source.unwrap().address.unwrap();
    assert!(format!("{source:?}").contains("127.0.0.1"), "{source:?}");
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!((&*http.method, &*http.host, &*http.scheme), ("POST", "shop.example", "http"));
    let status = |code| Some(Status { code, message: String::new() });
    if http.path.starts_with("/allowed") {
        let ok = OkHttpResponse {
            headers: vec![field("X-User", "ann"), field("x-body", &http.body), field("host", "evil")],
            headers_to_remove: vec!["x-token".into()],
            response_headers_to_add: vec![field("x-checked", "yes")],
            query_parameters_to_set: vec![QueryParameter { key: "who".into(), value: "a b".into() }],
            query_parameters_to_remove: vec!["token".into()],
            ..Default::default()
        };
        return CheckResponse {
            status: status(0),
            http_response: Some(HttpResponse::OkResponse(ok)),
            ..Default::default()
        };
    }
    if http.path.starts_with("/silent") {
        return CheckResponse::default();
    }
    let code = if http.path.starts_with("/odd") { 200 } else { 418 };
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code }),
        headers: vec![field("x-why", &http.headers["x-token"])],
        body: "no".into(),
    };
    CheckResponse {
        status: status(7),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_server_that_speaks_grpc_decides() {
    let (app, server) = (App::named("app").await, grpc_server(judge).await);
    let auth = ExternalAuth { body_most: 10, ..by_grpc(server) };
    for decision in asking(auth) {
        let proxy = Setup::default().forwards(decision).with([plain(app.address)]);
        let listener = proxy.edge();
        let send = async |path: &str| {
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: shop.example\r\nx-user: mallory\r\nx-token: t\r\n");
            raw(listener.address(), &format!("{head}connection: close\r\ncontent-length: 3\r\n\r\nabc")).await
        };
        let answer = send("/allowed?a=1&token=t&who=me").await.to_lowercase();
        assert_eq!((status(&answer), body(&answer).as_str()), (200, "app"));
        assert!(answer.contains("x-checked: yes\r\n"), "{answer}");
        let seen = app.last();
        assert_eq!(seen.target, "/allowed?a=1&who=a%20b");
        assert_eq!(
            (&seen.headers["x-user"], &seen.headers["x-body"]),
            (&"ann".parse().unwrap(), &"abc".parse().unwrap())
        );
        assert_eq!(seen.headers["host"], "shop.example");
        assert!(!seen.headers.contains_key("x-token"));
        assert_eq!(&seen.body[..], b"abc");

        let asked = app.seen().len();
        for (path, code, text) in [("/denied", 418, "no"), ("/odd", 403, "no"), ("/silent", 403, "")] {
            let answer = send(path).await.to_lowercase();
            assert_eq!((status(&answer), body(&answer).as_str()), (code, text), "{path}");
            assert_eq!(answer.contains("x-why: t\r\n"), !text.is_empty());
        }
        assert_eq!(app.seen().len(), asked);
        let long = format!(
            "POST /allowed HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 11\r\n\r\n{}",
            "x".repeat(11)
        );
        assert_eq!(status(&raw(listener.address(), &long).await), StatusCode::PAYLOAD_TOO_LARGE.as_u16());
    }
}

#[tokio::test]
async fn a_body_over_http2_or_after_a_100_is_sent_along_too() {
    let (app, server) = (App::named("app").await, http_server().await);
    let auth = ExternalAuth { body_most: 100, ..by_http(server.address) };
    let proxy = Setup::default().forwards(asking(auth)[1].clone()).with([plain(app.address)]);
    let listener = proxy.edge();
    let tcp = || tokio::net::TcpStream::connect(listener.address());
    let mut h2c = http2(tcp().await.unwrap()).await;
    for (length, expected) in [(10, 200), (200, 413), (100, 200)] {
        let request = http::Request::post("http://x/").header("x-token", "good");
        let request = request.body(Full::from(Bytes::from("y".repeat(length)))).unwrap();
        let response = soon("an answer", h2c.send_request(request)).await.unwrap();
        assert_eq!(response.status(), expected, "{length}");
    }
    assert_eq!((server.last().body.len(), app.last().body.len()), (100, 100));

    let mut client = tcp().await.unwrap();
    let head =
        "POST / HTTP/1.1\r\nhost: x\r\nx-token: good\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut client, head.as_bytes()).await.unwrap();
    assert_eq!(status(&read_head(&mut client).await), 100);
    tokio::io::AsyncWriteExt::write_all(&mut client, b"abc").await.unwrap();
    assert_eq!(status(&read_head(&mut client).await), 200);
    assert_eq!((&server.last().body[..], &app.last().body[..]), (&b"abc"[..], &b"abc"[..]));
}
