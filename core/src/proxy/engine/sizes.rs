//! What a connection and a request hold, in bytes. These futures are moved, and so copied, as a whole when they are
//! made: what grows one of them costs every request. Where a bound is passed, box what is needed seldom.

use pingora_core::{apps::HttpServerApp, upstreams::peer::HttpPeer};
use pingora_proxy::{ProxyHttp, Session};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::proxy::{
    clients::Clients,
    tests::harness::{SOON, Setup, edge, forward},
};

async fn accepted() -> Accepted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, peer) = listener.accept().await.unwrap();
    let stop = watch::channel(false).1;
    let place = Arc::new(Arc::<Clients>::default().enter(peer.ip(), 1).unwrap());
    Accepted { prefix: Default::default(), tcp, peer, stop, stats: Arc::default(), place }
}

async fn connection() -> (Box<Connection>, Arc<Arrival>) {
    let accepted = Acceptor::Plain.accept(accepted().await, Arc::new(edge()), SOON, &Arc::default()).await;
    let (connection, arrival, _) = accepted.unwrap();
    (Box::new(connection), arrival)
}

fn session(connection: Box<Connection>) -> ServerSession {
    ServerSession::new_http1(connection)
}

fn size<T>(future: BoxFuture<'_, T>) -> usize {
    size_of_val(&*future)
}

#[tokio::test]
async fn hot_futures_are_small() {
    let proxy = Setup::default().forwards(forward());
    let engine = &proxy.engine;
    let stop = watch::channel(false).1;
    let service = engine.http(Acceptor::Plain, edge());
    let of_connection = size_of_val(&*service.serve(accepted().await));
    let (one, arrival) = connection().await;
    let stats = ListenStats::default();
    let of_http1 = size_of_val(&engine.http1(one, &arrival, stop.clone(), &stats));
    let of_request = size_of_val(&*engine.proxy.process_new_http(session(connection().await.0), &stop));
    let relayed = engine.relay.serve(Session::new_h1(connection().await.0), &stop);
    assert!(size_of_val(&relayed) <= 5 * 1024, "{}", size_of_val(&relayed));
    assert!(of_connection <= 2048, "{of_connection}");
    assert!(of_http1 <= 1536, "{of_http1}");
    // Most of it is the engine's own.
    assert!(of_request <= 14 * 1024, "{of_request}");
}

/// Each of these is a box of its own, made for each request.
#[tokio::test]
async fn the_callbacks_of_a_request_are_small() {
    let gate = Setup::default().gate(forward());
    let mut context = gate.new_ctx();
    let mut session = Session::new_h1(connection().await.0);
    let peer = HttpPeer::new("127.0.0.1:1", false, String::new());
    let mut response = pingora_http::ResponseHeader::build(200, None).unwrap();
    let context = &mut context;
    let sizes = [
        ("early_request_filter", size(gate.early_request_filter(&mut session, context))),
        ("request_filter", size(gate.request_filter(&mut session, context))),
        ("upstream_peer", size(gate.upstream_peer(&mut session, context))),
        (
            "connected_to_upstream",
            size(gate.connected_to_upstream(&mut session, false, &peer, 0, None, context)),
        ),
        ("request_body_filter", size(gate.request_body_filter(&mut session, &mut None, true, context))),
        (
            "upstream_response_filter",
            size(gate.upstream_response_filter(&mut session, &mut response, context)),
        ),
        ("response_filter", size(gate.response_filter(&mut session, &mut response, context))),
        ("logging", size(gate.logging(&mut session, None, context))),
    ];
    for (name, size) in sizes {
        assert!(size <= 512, "{name}: {size} bytes");
    }
}
