//! Who the client is, where proxies stand in front.

use std::sync::{Arc, Mutex};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{clients::*, harness::*};
use crate::{
    decide::{Blocks, Cidr, Outcome, Proxied},
    proxy::*,
};

type Callers = Arc<Mutex<Vec<(String, String)>>>;

/// A proxy that notes each caller with its scheme.
fn noting(trusted_hops: u8, app: &App) -> (Proxy, Callers) {
    noting_by(TrustedField::XForwardedFor, trusted_hops, app)
}

fn noting_by(trusted_field: TrustedField, trusted_hops: u8, app: &App) -> (Proxy, Callers) {
    let callers: Callers = Arc::default();
    let noted = callers.clone();
    let limits = HttpLimits { trusted_hops, trusted_field, ..HttpLimits::default() };
    let proxy = Setup { limits, ..Setup::default() }
        .decides(move |head, caller| {
            noted.lock().unwrap().push((caller.address.to_string(), head.scheme.to_owned()));
            Outcome::Forward(Box::new(forward()))
        })
        .with([plain(app.address)]);
    (proxy, callers)
}

fn last(callers: &Callers) -> (String, String) {
    callers.lock().unwrap().last().cloned().unwrap()
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is_and_what_it_spoke() {
    let app = App::named("app").await;
    let (proxy, callers) = noting(1, &app);
    let listener = proxy.edge();
    let says = "x-forwarded-for: 6.6.6.6, 192.0.2.7\r\nx-forwarded-proto: https\r\nx-forwarded-mine: 1\r\n";
    assert_eq!(status(&get(listener.address(), says).await), 200);
    assert_eq!(last(&callers), ("192.0.2.7".into(), "https".into()));
    let seen = app.last();
    assert_eq!(seen.headers["x-forwarded-for"], "6.6.6.6, 192.0.2.7, 127.0.0.1");
    assert_eq!(seen.headers["x-forwarded-proto"], "https");
    assert!(!seen.headers.contains_key("x-forwarded-mine"));

    assert_eq!(status(&get(listener.address(), "").await), 200);
    assert_eq!(last(&callers), ("127.0.0.1".into(), "http".into()), "nobody said anything");
}

/// A trusted proxy adds to the one field, and passes on what the client wrote into the other.
#[tokio::test]
async fn a_client_cannot_speak_past_a_trusted_proxy_by_another_field() {
    let app = App::named("app").await;
    let forged_x =
        "x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: http\r\nx-forwarded-host: evil.example\r\n";
    let forged_forwarded = "forwarded: for=6.6.6.6;proto=http;host=evil.example\r\n";
    let x = "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: shop.example\r\n";
    let forwarded = "forwarded: for=5.5.5.5, for=192.0.2.7;proto=https;host=shop.example\r\n";
    for (field, told) in [
        (TrustedField::XForwardedFor, format!("{forged_forwarded}{x}")),
        (TrustedField::Forwarded, format!("{forged_x}{forwarded}")),
    ] {
        let (proxy, callers) = noting_by(field, 1, &app);
        assert_eq!(status(&get(proxy.edge().address(), &told).await), 200);
        assert_eq!(last(&callers), ("192.0.2.7".into(), "https".into()), "{field:?}");
        let headers = app.last().headers;
        let chain = headers["x-forwarded-for"].to_str().unwrap();
        assert!(chain.ends_with("192.0.2.7, 127.0.0.1") && !chain.contains("6.6.6.6"), "{chain}");
        assert_eq!(headers["x-forwarded-host"], "shop.example");
        assert!(!headers.contains_key("forwarded"));
    }
    for (field, forged) in
        [(TrustedField::XForwardedFor, forged_forwarded), (TrustedField::Forwarded, forged_x)]
    {
        let (proxy, callers) = noting_by(field, 1, &app);
        assert_eq!(status(&get(proxy.edge().address(), forged).await), 200);
        assert_eq!(last(&callers), ("127.0.0.1".into(), "http".into()), "{field:?}");
        assert_eq!(app.last().headers["x-forwarded-for"], "127.0.0.1");
    }
}

#[tokio::test]
async fn without_a_trusted_proxy_nobody_is_believed() {
    let app = App::named("app").await;
    let (proxy, callers) = noting(0, &app);
    let says = "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n";
    assert_eq!(status(&get(proxy.edge().address(), says).await), 200);
    assert_eq!(last(&callers), ("127.0.0.1".into(), "http".into()));
    assert_eq!(app.last().headers["x-forwarded-for"], "127.0.0.1");
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let app = App::named("app").await;
    let (proxy, callers) = noting(0, &app);
    let behind = |from: Option<&str>| {
        let from = from.map(|block| Blocks::new([Cidr::parse(block).unwrap()]));
        let proxied = Arc::new(Proxied { v1: true, v2: true, from });
        proxy.listen(Arc::new(Behind { proxied, service: proxy.engine.http(Acceptor::Plain, edge()) }))
    };
    let listener = behind(None);
    let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let told = format!("PROXY TCP4 192.0.2.9 10.0.0.2 5555 80\r\n{request}");
    assert_eq!(status(&raw(listener.address(), &told).await), 200);
    assert_eq!(last(&callers).0, "192.0.2.9");
    assert_eq!(app.last().headers["x-forwarded-for"], "192.0.2.9");

    let mut slow = TcpStream::connect(listener.address()).await.unwrap();
    for part in ["PROXY TCP6 ::1 2001", ":db8::1 5 6\r\nGET / HT", "TP/1.1\r\nhost: x\r\n\r\n"] {
        slow.write_all(part.as_bytes()).await.unwrap();
        slow.flush().await.unwrap();
    }
    assert_eq!(status(&read_head(&mut slow).await), 200);
    assert_eq!(last(&callers).0, "::1");

    let asked = app.seen().len();
    assert_eq!(raw(listener.address(), request).await, "", "without a header it is not served");
    assert_eq!(app.seen().len(), asked);

    // Who is not among those that send a header is a client itself, and cannot claim to be another.
    let apart = behind(Some("192.0.2.0/24"));
    assert_eq!(status(&raw(apart.address(), request).await), 200);
    assert_eq!(last(&callers).0, "127.0.0.1");
    assert_ne!(status(&raw(apart.address(), &told).await), 200);
}

/// A balancer has as many connections as its clients may have, and none of its clients takes those of the others.
#[tokio::test]
async fn connections_through_a_balancer_count_as_their_clients() {
    let app = App::named("app").await;
    let (proxy, _) = noting(0, &app);
    let from = Some(Blocks::new([Cidr::parse("127.0.0.1/32").unwrap()]));
    let proxied = Arc::new(Proxied { v1: true, v2: true, from });
    let service = Arc::new(Behind { proxied, service: proxy.engine.http(Acceptor::Plain, edge()) });
    let listener = proxy.listen_within(service, ListenLimits { connections: 100, per_client: 2 });
    let request =
        |client: &str| format!("PROXY TCP4 {client} 10.0.0.2 5555 80\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut held = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let mut tcp = TcpStream::connect(listener.address()).await.unwrap();
        tcp.write_all(request(client).as_bytes()).await.unwrap();
        assert_eq!(status(&read_head(&mut tcp).await), 200, "{client}");
        held.push(tcp);
    }
    let refused = || listener.stats().refused.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(refused(), 0);
    assert_eq!(raw(listener.address(), &request("192.0.2.1")).await, "", "its third");
    assert_eq!(refused(), 1);
    // Who is no balancer is one client, whatever it says.
    for n in 0..3 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut tcp = socket.connect(listener.address()).await.unwrap();
        if n == 2 {
            until("its third is refused", || refused() == 2).await;
            break;
        }
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut tcp).await), 200);
        held.push(tcp);
    }
    held.clear();
    until("the places are free again", || listener.open() == 0).await;
    let again = request("192.0.2.1").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    assert_eq!(status(&raw(listener.address(), &again).await), 200);
}
