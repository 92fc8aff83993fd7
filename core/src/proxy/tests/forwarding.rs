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
    let callers: Callers = Arc::default();
    let noted = callers.clone();
    let limits = HttpLimits { trusted_hops, ..HttpLimits::default() };
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
