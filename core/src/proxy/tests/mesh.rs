//! From sidecar to sidecar over mutual TLS.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::net::{TcpListener, TcpStream};

use super::{
    clients::*,
    harness::*,
    retries::rude,
    streams::{echo, upgraded},
};
use crate::{
    decide::{Backend, Decision, EdgePolicy, LocalAnswer, Outcome, Policies, RequestLimits, Timeouts},
    identity::testing::{FakeCa, trust},
    model::{AppProtocol, Snapshot, SpiffeId, TrustBundles},
    proxy::*,
};

/// Two clusters that trust each other.
pub(super) struct World {
    east: FakeCa,
    west: FakeCa,
    trust: Arc<TrustBundles>,
}

impl World {
    pub fn new() -> Self {
        let (east, west) = (FakeCa::new("east.example"), FakeCa::new("west.example"));
        let trust = trust(&[&east, &west]);
        Self { east, west, trust }
    }

    pub fn caller_id(&self) -> SpiffeId {
        self.east.id("shop", "front")
    }

    pub fn caller(&self) -> Setup {
        Setup {
            identity: Some(self.east.credentials("shop", "front")),
            trust: self.trust.clone(),
            ..Setup::default()
        }
    }

    pub fn called(&self) -> Setup {
        Setup {
            identity: Some(self.west.credentials("bank", "ledger")),
            trust: self.trust.clone(),
            tcp: None,
            ..Setup::default()
        }
    }

    /// The sidecar in west beside an application.
    pub fn beside(&self, address: std::net::SocketAddr, protocol: AppProtocol) -> Proxy {
        self.called().forwards(to_address(address, protocol))
    }

    /// Where a listener of west's sidecar can be reached, as east knows it.
    pub fn endpoint(&self, listener: &Serving) -> crate::model::Endpoint {
        meshed(listener.address(), self.west.id("bank", "ledger"))
    }
}

const PROTOCOLS: [(fn() -> Decision, AppProtocol); 2] =
    [(forward, AppProtocol::Http1), (over_http2, AppProtocol::Http2)];

#[tokio::test]
async fn a_call_is_served_across_clusters_and_the_application_learns_who_called() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let caller = world.caller().forwards(decision()).with([world.endpoint(&inbound)]);
        let outbound = caller.outbound();

        let lie = "x-forwarded-client-cert: URI=spiffe://east.example/ns/shop/sa/admin\r\n";
        let answer = get(outbound.address(), lie).await;
        assert_eq!((status(&answer), body(&answer).as_str()), (200, "ledger"));
        let seen = app.last();
        let by = "By=spiffe://west.example/ns/bank/sa/ledger;URI=spiffe://east.example/ns/shop/sa/front";
        assert_eq!(seen.headers["x-forwarded-client-cert"], by);
        assert_eq!(seen.headers.get_all("x-forwarded-client-cert").iter().count(), 1);

        let mut h2 = http2(TcpStream::connect(outbound.address()).await.unwrap()).await;
        assert_eq!(http2_get(&mut h2, "http://ledger.bank/x").await, (200, "ledger".into()));
        assert_eq!(app.last().target.rsplit_once('/').unwrap().1, "x");
        assert_eq!(inbound.stats().accepted.load(Ordering::Relaxed), 1, "one connection for both");
    }
}

#[tokio::test]
async fn many_requests_at_once_share_one_connection_of_a_cold_pool() {
    let world = World::new();
    let app = App::named("ledger").await;
    let called = world.beside(app.address, AppProtocol::Http2);
    let inbound = called.inbound();
    let caller = world.caller().forwards(over_http2()).with([world.endpoint(&inbound)]);
    let outbound = caller.outbound();
    let requests = (0..32).map(|_| get(outbound.address(), ""));
    for answer in futures::future::join_all(requests).await {
        assert_eq!(status(&answer), 200);
    }
    assert_eq!(inbound.stats().accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn another_identity_than_expected_gets_nothing() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let other = meshed(inbound.address(), world.west.id("bank", "vault"));
        let caller = world.caller().forwards(decision()).with([other]);
        assert_eq!(status(&get(caller.outbound().address(), "").await), 502);
        assert_eq!(caller.logged().await.reason, Some("upstream_not_trusted"));
        assert!(app.seen().is_empty());
    }
}

#[tokio::test]
async fn strangers_are_refused_at_the_inbound() {
    let world = World::new();
    let app = App::named("ledger").await;
    let called = world.beside(app.address, AppProtocol::Http1);
    let inbound = called.inbound();
    assert_eq!(status(&get(inbound.address(), "").await), 0, "plaintext");

    let foreign = FakeCa::new("east.example");
    let setup = Setup { identity: Some(foreign.credentials("shop", "front")), ..world.caller() };
    let stranger = setup.forwards(forward()).with([world.endpoint(&inbound)]);
    assert_eq!(status(&get(stranger.outbound().address(), "").await), 502, "of a foreign authority");

    let nobody = Setup { identity: None, ..world.caller() };
    let nobody = nobody.forwards(forward()).with([world.endpoint(&inbound)]);
    assert_eq!(status(&get(nobody.outbound().address(), "").await), 503);
    assert_eq!(nobody.logged().await.reason, Some("no_identity"));

    until("both are counted", || inbound.stats().handshake_failed.load(Ordering::Relaxed) >= 2).await;
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn the_inbound_decides_by_the_verified_caller() {
    let world = World::new();
    let app = App::named("ledger").await;
    let address = app.address;
    let called = world.called().decides(move |_, caller| {
        assert!(caller.sni.is_some_and(|sni| sni.ends_with(".t")));
        if caller.identity.is_some_and(|id| id.account() == "front") {
            return Outcome::Forward(Box::new(to_address(address, AppProtocol::Http1)));
        }
        let status = http::StatusCode::FORBIDDEN;
        Outcome::Local(LocalAnswer {
            status,
            headers: Vec::new(),
            reason: "rbac_denied",
            route: None,
            policies: Default::default(),
            verdict: None,
            missed: None,
        })
    });
    let inbound = called.inbound();
    for (account, expected) in [("front", 200), ("back", 403)] {
        let identity = Some(world.east.credentials("shop", account));
        let caller =
            Setup { identity, ..world.caller() }.forwards(forward()).with([world.endpoint(&inbound)]);
        assert_eq!(status(&get(caller.outbound().address(), "").await), expected);
    }
    assert_eq!(called.logged().await.reason, Some("rbac_denied"));
}

#[tokio::test]
async fn new_credentials_or_trust_make_new_connections() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let caller = world.caller().forwards(decision()).with([world.endpoint(&inbound)]);
        let outbound = caller.outbound();
        let ask = async |connections| {
            for _ in 0..2 {
                assert_eq!(status(&get(outbound.address(), "").await), 200);
            }
            assert_eq!(inbound.stats().accepted.load(Ordering::Relaxed), connections);
        };
        ask(1).await;
        caller.identity.as_ref().unwrap().send_replace(world.east.credentials("shop", "front"));
        ask(2).await;
        let same = Snapshot { version: 2, trust: Arc::new((*world.trust).clone()), ..Snapshot::default() };
        caller.snapshot.store(Arc::new(same));
        ask(2).await;
        let mut trust = (*world.trust).clone();
        trust.insert(FakeCa::new("north.example").bundle());
        caller.snapshot.store(Arc::new(Snapshot {
            version: 3,
            trust: Arc::new(trust),
            ..Snapshot::default()
        }));
        ask(3).await;
    }
}

#[tokio::test]
async fn a_trust_domain_that_is_no_longer_trusted_is_not_reached_over_old_connections() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let caller = world.caller().forwards(decision()).with([world.endpoint(&inbound)]);
        let outbound = caller.outbound();
        assert_eq!(status(&get(outbound.address(), "").await), 200);
        let snapshot = Snapshot { version: 2, trust: trust(&[&world.east]), ..Snapshot::default() };
        caller.snapshot.store(Arc::new(snapshot));
        assert_eq!(status(&get(outbound.address(), "").await), 502);
        assert_eq!(app.seen().len(), 1);
    }
}

#[tokio::test]
async fn websockets_go_over_http1_whatever_the_service_speaks() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let called = world.beside(echo().await, protocol);
        let inbound = called.inbound();
        let caller = world.caller().forwards(decision()).with([world.endpoint(&inbound)]);
        upgraded(caller.outbound().address()).await;
    }
}

#[tokio::test]
async fn another_sidecar_is_tried_when_one_is_away() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let gone = meshed(nobody().await, world.west.id("bank", "ledger"));
        let caller = world.caller().forwards(decision()).with([gone, world.endpoint(&inbound)]);
        assert_eq!(status(&post(caller.outbound().address(), "body").await), 200);
        assert_eq!(app.last().body, "body");
        assert_eq!(caller.logged().await.tries, 2);
    }
}

/// The application died with a request in hand: its sidecar says 502, and a request that may be repeated is, elsewhere.
#[tokio::test]
async fn what_an_application_broke_off_is_tried_at_another_sidecar() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let (app, dying) = (App::named("ledger").await, rude().await);
        let (good, bad) = (world.beside(app.address, protocol), world.beside(dying, protocol));
        let (good, bad) = (good.inbound(), bad.inbound());
        let endpoints = [world.endpoint(&bad), world.endpoint(&good)];
        let caller = world.caller().forwards(decision()).with(endpoints.clone());
        assert_eq!(status(&get(caller.outbound().address(), "").await), 200);
        assert_eq!(caller.logged().await.tries, 2);
        let caller = world.caller().forwards(decision()).with(endpoints);
        assert_eq!(status(&post(caller.outbound().address(), "body").await), 502);
        assert_eq!(caller.logged().await.tries, 1);
    }
}

#[tokio::test]
async fn draining_a_sidecar_fails_no_request() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let (first, second) = (world.beside(app.address, protocol), world.beside(app.address, protocol));
        let (one, two) = (first.inbound(), second.inbound());
        let endpoints = [world.endpoint(&one), world.endpoint(&two)];
        let caller = world.caller().forwards(decision()).with(endpoints);
        let outbound = caller.outbound();
        let address = outbound.address();
        let load = tokio::spawn(async move {
            let mut statuses = Vec::new();
            for number in 0..200 {
                // A POST is tried again only where it was certainly not begun.
                let answer =
                    if number % 2 == 0 { get(address, "").await } else { post(address, "once").await };
                statuses.push(status(&answer));
            }
            statuses
        });
        until("it runs", || app.seen().len() > 20).await;
        first.drain.send_replace(true);
        let statuses = soon("the load", load).await.unwrap();
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        assert!(one.drained(SOON).await);
        assert!(second.log.requests.lock().unwrap().len() > 20);
    }
}

#[tokio::test]
async fn bodies_of_many_sizes_come_through_both_ways() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::answering(|seen| async move { Response::new(Full::from(seen.body)) }).await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let caller = world.caller().forwards(decision()).with([world.endpoint(&inbound)]);
        let outbound = caller.outbound();
        for size in [0, 1, 16_384, 100_000, 3_000_000] {
            let answer = post(outbound.address(), &"x".repeat(size)).await;
            assert_eq!((status(&answer), body(&answer).len()), (200, size));
        }
    }
}

#[tokio::test]
async fn a_slow_answer_is_a_504() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::answering(|_| async {
            std::future::pending::<()>().await;
            Response::new(Full::default())
        })
        .await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let timeouts = Timeouts { request: Some(Duration::from_millis(200)), attempt: None };
        let decision = Decision { timeouts, ..decision() };
        let caller = world.caller().forwards(decision).with([world.endpoint(&inbound)]);
        assert_eq!(status(&get(caller.outbound().address(), "").await), 504);
        // The deadline goes on with the request: the other side is told, or has ended it by itself.
        until("it is over at the other side", || {
            called.log.requests.lock().unwrap().iter().any(|logged| matches!(logged.status, 499 | 504))
        })
        .await;
    }
}

/// A gRPC-like application: answers with what it read of the request's trailers as a trailer of its own.
async fn grpc() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
                let body = request.into_body().collect().await.unwrap();
                let asked = body.trailers().and_then(|t| t.get("x-asked").cloned());
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("5"));
                trailers.insert("x-asked", asked.unwrap_or(HeaderValue::from_static("none")));
                let frames = [Frame::data(body.to_bytes()), Frame::trailers(trailers)];
                let frames = frames.map(Ok::<_, std::convert::Infallible>);
                Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(futures::stream::iter(
                    frames,
                ))))
            });
            let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(server.serve_connection(hyper_util::rt::TokioIo::new(tcp), service));
        }
    });
    address
}

#[tokio::test]
async fn trailers_come_through() {
    let world = World::new();
    let called = world.beside(grpc().await, AppProtocol::Http2);
    let inbound = called.inbound();
    let caller = world.caller().forwards(over_http2()).with([world.endpoint(&inbound)]);
    let tcp = TcpStream::connect(caller.outbound().address()).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(tcp),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    for with_trailers in [false, true] {
        let mut frames = vec![Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from("message")))];
        if with_trailers {
            let trailers =
                HeaderMap::from_iter([("x-asked".parse().unwrap(), HeaderValue::from_static("yes"))]);
            frames.push(Ok(Frame::trailers(trailers)));
        }
        let body = StreamBody::new(futures::stream::iter(frames));
        let request = Request::post("http://x/pkg.Service/Call").header("te", "trailers");
        let request = request.header("content-type", "application/grpc").body(body).unwrap();
        let response = soon("an answer", client.send_request(request)).await.unwrap();
        let answer = soon("a body", response.into_body().collect()).await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "5");
        assert_eq!(answer.to_bytes(), "message");
    }
    for proxy in [&caller, &called] {
        assert_eq!(proxy.logged().await.grpc, Some(Some(5)), "told of the call");
    }
}

#[tokio::test]
async fn raw_tcp_keeps_half_closes() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // Reads to the end, and only then answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = String::new();
                tcp.read_to_string(&mut all).await.unwrap();
                tcp.write_all(all.to_uppercase().as_bytes()).await.unwrap();
            });
        }
    });
    let world = World::new();
    let backend = Backend::Address { address, protocol: AppProtocol::Tcp };
    let called = Setup { tcp: Some(backend), ..world.called() }.forwards(forward());
    let inbound = called.inbound();
    let labels = Arc::default();
    let wanted = Backend::Service { service: service("app"), port: 80, labels, protocol: AppProtocol::Tcp };
    let gone = meshed(nobody().await, world.west.id("bank", "ledger"));
    let caller = Setup { tcp: Some(wanted), ..world.caller() }
        .forwards(forward())
        .with([gone, world.endpoint(&inbound)]);
    let outbound = caller.listen(caller.engine.tcp(Acceptor::Plain, outbound()));

    let mut client = TcpStream::connect(outbound.address()).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "QUESTION");
    for proxy in [&caller, &called] {
        until("it is logged", || !proxy.log.tunnels.lock().unwrap().is_empty()).await;
        assert_eq!(*proxy.log.tunnels.lock().unwrap(), [(Some((8, 8)), None)]);
    }
    assert_eq!(
        caller.tried().iter().map(|(_, r)| *r).collect::<Vec<_>>(),
        [TryResult::ConnectFailure, TryResult::Success]
    );

    let refusing = world.called().forwards(forward());
    let refused = refusing.listen(refusing.engine.tcp(Acceptor::Plain, Entry::Inbound));
    assert_eq!(raw(refused.address(), "x").await, "");
    until("it is logged", || *refusing.log.tunnels.lock().unwrap() == [(None, Some("refused"))]).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_ends_its_call_to_another_sidecar() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let limits = RequestLimits { body_bytes: Some(10), ..Default::default() };
        let policies = Policies::all(EdgePolicy { limits: Some(limits), ..Default::default() });
        let caller = world.caller().forwards(Decision { policies, ..decision() });
        let caller = caller.with([world.endpoint(&inbound)]);
        let outbound = caller.outbound();
        // PUT may be tried again, which this must not be.
        let head = "PUT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let over = format!("{head}5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n");
        assert_eq!(status(&raw(outbound.address(), &over).await), 413, "{protocol:?}");
        assert_eq!(caller.logged().await.reason, Some("body_too_large"));
        assert_eq!(status(&post(outbound.address(), "0123456789").await), 200, "the next one is served");
        let blamed = caller.tried().iter().any(|(_, result)| *result == TryResult::Failure);
        assert!(!blamed, "{:?}", caller.tried());
    }
}

/// Everything that is open between two clusters ends when either side trusts the other no more.
#[tokio::test]
async fn what_is_open_with_a_peer_ends_with_the_trust_in_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for revoked_by_caller in [false, true] {
        let world = World::new();
        // Echoes whatever comes, for as long as it comes.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = tcp.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let backend = Backend::Address { address, protocol: AppProtocol::Tcp };
        let called = Setup { tcp: Some(backend), ..world.called() }.forwards(forward());
        let inbound = called.inbound();
        let wanted = Backend::Service {
            service: service("app"),
            port: 80,
            labels: Default::default(),
            protocol: AppProtocol::Tcp,
        };
        let caller = Setup { tcp: Some(wanted), ..world.caller() }
            .forwards(forward())
            .with([world.endpoint(&inbound)]);
        let outbound = caller.listen(caller.engine.tcp(Acceptor::Plain, outbound()));
        let mut tunnel = TcpStream::connect(outbound.address()).await.unwrap();
        let echo = async |tunnel: &mut TcpStream| {
            tunnel.write_all(b"x").await?;
            tunnel.read_exact(&mut [0]).await
        };
        soon("an echo", echo(&mut tunnel)).await.unwrap();

        let (side, own) = match revoked_by_caller {
            true => (&caller, &world.east),
            false => (&called, &world.west),
        };
        side.snapshot.store(Arc::new(Snapshot { trust: trust(&[own]), ..Snapshot::default() }));
        // Nobody says anything: it ends by itself.
        let ended = soon("its end", tunnel.read(&mut [0])).await;
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        until("nothing is left", || inbound.open() == 0).await;
    }
}
