//! TLS passed on by server name, never decrypted.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{clients::*, harness::*};
use crate::{
    identity::testing::{FakeCa, trust},
    model::{AppProtocol, Endpoint, Reach, Transport},
    proxy::*,
};

/// A gateway's mesh listener that knows one name.
fn gateway(proxy: &Proxy, name: &str, addresses: &[SocketAddr]) -> Serving {
    let (name, addresses): (String, Arc<[SocketAddr]>) = (name.into(), addresses.into());
    let table: NameTable = Arc::new(move |asked| (asked == name).then(|| addresses.clone()));
    proxy.listen(Arc::new(Passthrough::new(table)))
}

#[tokio::test]
async fn tls_is_passed_on_by_name() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let site = Site::new("shop.example");
    let acceptor = Acceptor::Tls(Arc::new(ArcSwap::new(site.server.clone())));
    let secure = proxy.listen(proxy.engine.http(acceptor, edge()));
    let gateway = gateway(&proxy, "shop.example", &[nobody().await, secure.address()]);

    let tls = site.connect(gateway.address(), "shop.example", "h2").await.unwrap();
    assert_eq!(http2_get(&mut http2(tls).await, "https://shop.example/").await, (200, "app".into()));

    let unknown = || gateway.stats().unknown_name.load(Ordering::Relaxed);
    assert!(site.connect(gateway.address(), "other.example", "h2").await.is_err());
    assert_eq!(unknown(), 1);
    assert_eq!(get(gateway.address(), "").await, "", "not TLS");
    assert_eq!(unknown(), 2);
    // A record that promises more than a ClientHello may have.
    let mut tcp = TcpStream::connect(gateway.address()).await.unwrap();
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    record.resize(64 * 1024, 0);
    let _ = tcp.write_all(&record).await;
    let _ = soon("it is closed", tcp.read(&mut [0; 1])).await;
    assert_eq!(unknown(), 3);
}

#[tokio::test]
async fn a_client_hello_in_pieces_is_put_together() {
    let app = App::named("app").await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let site = Site::new("shop.example");
    let acceptor = Acceptor::Tls(Arc::new(ArcSwap::new(site.server.clone())));
    let secure = proxy.listen(proxy.engine.http(acceptor, edge()));
    let gateway = gateway(&proxy, "shop.example", &[secure.address()]);
    // A relay that hands the first 64 bytes on one by one.
    let relay = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, target) = (relay.local_addr().unwrap(), gateway.address());
    tokio::spawn(async move {
        let (mut near, _) = relay.accept().await.unwrap();
        let mut far = TcpStream::connect(target).await.unwrap();
        far.set_nodelay(true).unwrap();
        for _ in 0..64 {
            let byte = near.read_u8().await.unwrap();
            far.write_u8(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
    });
    let tls = site.connect(address, "shop.example", "h2").await.unwrap();
    assert_eq!(http2_get(&mut http2(tls).await, "https://shop.example/").await, (200, "app".into()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_closed() {
    let proxy = Setup::default().forwards(forward());
    let gateway = gateway(&proxy, "x", &[]);
    let mut tcp = TcpStream::connect(gateway.address()).await.unwrap();
    let mut all = Vec::new();
    tcp.read_to_end(&mut all).await.unwrap();
    assert!(all.is_empty());
    assert_eq!(gateway.stats().unknown_name.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_call_goes_through_a_gateway_that_cannot_read_it() {
    let (east, west) = (FakeCa::new("east.example"), FakeCa::new("west.example"));
    let trusted = trust(&[&east, &west]);
    let setup = |identity| Setup { identity: Some(identity), trust: trusted.clone(), ..Setup::default() };
    for (decision, protocol) in [(forward(), AppProtocol::Http1), (over_http2(), AppProtocol::Http2)] {
        let app = App::named("ledger").await;
        let called = setup(west.credentials("bank", "ledger")).forwards(to_address(app.address, protocol));
        let inbound = called.inbound();
        let name = "0123456789abcdef0123456789abcdef.t";
        let gateway = gateway(&called, name, &[inbound.address()]);
        let via = |sni: &str| Endpoint {
            id: sni.into(),
            reach: Reach::Via(Arc::from([gateway.address()])),
            transport: Transport::Mesh { identity: west.id("bank", "ledger"), sni: sni.into() },
            ..plain(inbound.address())
        };
        let caller = setup(east.credentials("shop", "front")).forwards(decision.clone()).with([via(name)]);
        assert_eq!(status(&get(caller.outbound().address(), "").await), 200);
        let by = "By=spiffe://west.example/ns/bank/sa/ledger;URI=spiffe://east.example/ns/shop/sa/front";
        assert_eq!(app.last().headers["x-forwarded-client-cert"], by);

        let lost = via("ffffffffffffffffffffffffffffffff.t");
        let caller = setup(east.credentials("shop", "front")).forwards(decision).with([lost, via(name)]);
        assert_eq!(status(&get(caller.outbound().address(), "").await), 200);
        assert_eq!(caller.logged().await.tries, 2, "an endpoint unknown at its gateway is left for another");
    }
}
