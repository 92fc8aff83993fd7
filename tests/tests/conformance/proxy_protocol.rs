//! The PROXY protocol towards backends, over HTTP, TLSRoutes and TCPRoutes.

use std::net::SocketAddr;

use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    wire::*,
    world::{INFRA, World},
};

/// Reads a header of either version and writes it as version 1 would.
async fn announced(tcp: &mut TcpStream) -> String {
    let mut begin = [0; 12];
    tcp.read_exact(&mut begin).await.unwrap();
    if begin != *b"\r\n\r\n\0\r\nQUIT\n" {
        return format!("v1 {}{}", String::from_utf8_lossy(&begin), hear(tcp, "\r\n").await.trim_end());
    }
    let mut rest = [0; 16];
    tcp.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest[..4], [0x21, 0x11, 0, 12], "a connection over IPv4");
    let ip = |at: usize| format!("{}.{}.{}.{}", rest[at], rest[at + 1], rest[at + 2], rest[at + 3]);
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    format!("v2 PROXY TCP4 {} {} {} {}", ip(4), ip(8), port(12), port(14))
}

/// An application behind the PROXY protocol, which answers with what its connection was told.
async fn told() -> SocketAddr {
    conversation(|mut tcp| async move {
        let told = announced(&mut tcp).await;
        serve(tcp, move |_| {
            let told = told.clone();
            async move { http::Response::new(whole(told)) }
        })
        .await;
    })
    .await
}

/// One that answers raw bytes with what its connection was told.
async fn told_raw() -> SocketAddr {
    conversation(|mut tcp| async move {
        let told = announced(&mut tcp).await;
        tcp.read_exact(&mut [0; 5]).await.unwrap();
        tcp.write_all(format!("{told}\n").as_bytes()).await.unwrap();
        // What was not read would turn the end into a reset.
        let _rest = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
    })
    .await
}

fn policy(service: &str, version: &str) -> String {
    format!(
        "---\napiVersion: tombolo.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: to-{service}, namespace: {INFRA} }}\n\
         spec: {{ targetRefs: [{{ kind: Service, name: {service} }}], proxyProtocol: {version} }}\n"
    )
}

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: http, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules:
    - { matches: [{ path: { value: /h1 } }], backendRefs: [{ name: told-h1, port: 8080 }] }
    - { matches: [{ path: { value: /h2 } }], backendRefs: [{ name: told-h2, port: 8080 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: raw, namespace: gateway-conformance-infra }
spec:
  gatewayClassName: tombolo
  addresses: [{ type: IPAddress, value: 127.0.0.31 }]
  listeners:
    - { name: tcp, port: 8090, protocol: TCP }
    - { name: tls, port: 8443, protocol: TLS, tls: { mode: Passthrough } }
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: { name: tcp, namespace: gateway-conformance-infra }
spec: { parentRefs: [{ name: raw, sectionName: tcp }], rules: [{ backendRefs: [{ name: told-raw, port: 8080 }] }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: { name: tls, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: raw, sectionName: tls }]
  hostnames: [abc.example.com]
  rules: [{ backendRefs: [{ name: told-raw, port: 8080 }] }]
";

async fn world(version: &str) -> World {
    let mut world = World::stage().await;
    let (http, raw) = (told().await, told_raw().await);
    world.add_backend(INFRA, "told-h1", "", http);
    world.add_backend(INFRA, "told-h2", "kubernetes.io/h2c", http);
    world.add_backend(INFRA, "told-raw", "", raw);
    let policies = ["told-h1", "told-h2", "told-raw"].map(|service| policy(service, version)).concat();
    world.write("scenario", &format!("{ROUTES}{policies}"));
    world.serve();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_are_told_who_the_client_is() {
    for version in ["v1", "v2"] {
        let world = world(version).await;
        let to = world.address("same-namespace", 80);
        let expected = |client: SocketAddr, to: SocketAddr| {
            format!("{version} PROXY TCP4 {} {} {} {}", client.ip(), to.ip(), client.port(), to.port())
        };
        for path in ["/h1", "/h2"] {
            // Several clients at a time, each on a connection of its own: nobody gets another one's connection.
            let mut clients = Vec::new();
            for _ in 0..4 {
                let tcp = TcpStream::connect(to).await.unwrap();
                let expected = expected(tcp.local_addr().unwrap(), to);
                clients.push((http2_over(tcp).await, expected));
            }
            for _ in 0..5 {
                for (client, expected) in &mut clients {
                    let ask = Request::get(format!("http://x{path}")).body(whole("")).unwrap();
                    let answer = soon("an answer", client.send_request(ask)).await.unwrap();
                    assert_eq!(answer.status(), 200);
                    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
                    assert_eq!(body, *expected, "{path}");
                }
            }
        }
        for (port, begin) in [(8090, &b"hello"[..]), (8443, &[])] {
            let to = world.address("raw", port);
            let mut tcp = soon("a connection", TcpStream::connect(to)).await.unwrap();
            let expected = expected(tcp.local_addr().unwrap(), to);
            let begin = if begin.is_empty() { client_hello("abc.example.com") } else { begin.to_vec() };
            tcp.write_all(&begin).await.unwrap();
            assert_eq!(hear(&mut tcp, "\n").await.trim_end(), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_none_is_refused_and_shown() {
    let world = world("v1").await;
    world.write("wrong", &policy("told-h1", "v3").replace("to-told-h1", "wrong"));
    let report = world.report();
    let errors = serde_json::to_string(&report.0["errors"]).unwrap();
    assert!(errors.contains("proxyProtocol") && errors.contains("v3"), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_connections_are_logged_and_counted() {
    let world = World::stage().await;
    world.add_backend(INFRA, "told-raw", "", told_raw().await);
    world.write("scenario", &format!("{ROUTES}{}", policy("told-raw", "v1")));
    let log = world.path().join("access");
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let _gateway = world.start(&["--access-log", log.to_str().unwrap(), "--admin", &admin]);
    for (port, begin) in [(8090, b"hello".to_vec()), (8443, client_hello("abc.example.com"))] {
        let mut tcp = TcpStream::connect(world.address("raw", port)).await.unwrap();
        tcp.write_all(&begin).await.unwrap();
        hear(&mut tcp, "\n").await;
    }
    let lines = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let find = |listener: &str| lines().into_iter().find(|line| line["listener"] == listener);
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let (tcp, tls) = loop {
        let both = (find("gateway-conformance-infra/raw/tcp"), find("gateway-conformance-infra/raw/tls"));
        if let (Some(tcp), Some(tls)) = both {
            break (tcp, tls);
        }
        assert!(tokio::time::Instant::now() < end, "{:#?}", lines());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(
        (&tcp["route"], &tcp["bytes_in"]),
        (&"tcproute/gateway-conformance-infra/tcp".into(), &5.into())
    );
    assert_eq!(
        (&tls["route"], &tls["sni"]),
        (&"tlsroute/gateway-conformance-infra/tls".into(), &"abc.example.com".into())
    );
    for line in [tcp, tls] {
        assert!(line["bytes_out"].as_u64().unwrap() > 20 && line["duration_ms"].is_number(), "{line}");
        assert_eq!(
            (&line["service"], &line["protocol"]),
            (&"cluster/gateway-conformance-infra/told-raw".into(), &"TCP".into())
        );
        assert_eq!((&line["rule"], &line["reason"]), (&"0".into(), &serde_json::Value::Null));
    }
    let mut page = TcpStream::connect(&admin).await.unwrap();
    say(&mut page, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut text = String::new();
    page.read_to_string(&mut text).await.unwrap();
    let count = "tombolo_tcp_connections_total{direction=\"edge\",service=\"cluster/gateway-conformance-infra/told-raw\",\
                 route=\"tcproute/gateway-conformance-infra/tcp\"} 1";
    assert!(text.contains(count), "{text}");
    assert!(text.contains("tombolo_tcp_connection_duration_seconds_bucket"), "{text}");
}

/// What a client of TLS says first.
fn client_hello(name: &str) -> Vec<u8> {
    let config = super::client::Tls { sni: name.into(), roots: None, client: None }.config(false);
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
