//! Through the gateways of another cluster: which one is taken, and who is to blame when it does not work.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{clients::*, harness::*, mesh::World};
use crate::{
    decide::Decision,
    model::{AppProtocol, Endpoint, Reach, Transport},
    paths::{Gateway, Paths, Standing},
    proxy::*,
};

const PROTOCOLS: [(fn() -> Decision, AppProtocol); 2] =
    [(forward, AppProtocol::Http1), (over_http2, AppProtocol::Http2)];

/// A gateway that passes everything on to one address, until it freezes: then it takes connections, as kernels do, and does
/// nothing any more.
struct Freezer {
    address: SocketAddr,
    frozen: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl Freezer {
    async fn before(address: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (frozen, frozen_now) = watch::channel(false);
        let here = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut frozen = frozen_now.clone();
                tunnels.spawn(async move {
                    let mut far = TcpStream::connect(address).await.unwrap();
                    let freezes = async { drop(frozen.wait_for(|frozen| *frozen).await) };
                    let ended = tokio::select! {
                        biased;
                        () = freezes => false,
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => true,
                    };
                    if !ended {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address: here, frozen, _serving: serving }
    }
}

fn via(endpoint: Endpoint, gateways: &[SocketAddr]) -> Endpoint {
    Endpoint { reach: Reach::Via(gateways.into()), cluster: "west".into(), ..endpoint }
}

/// A real gateway that knows one name.
fn gateway(endpoint: &Endpoint, leads_to: SocketAddr) -> (Proxy, Serving) {
    let Transport::Mesh { sni, .. } = &endpoint.transport else { panic!("it is of the mesh") };
    let (known, leads_to): (Arc<str>, Arc<[SocketAddr]>) = (sni.clone(), Arc::from([leads_to]));
    let table: NameTable = Arc::new(move |name| (*name == *known).then(|| leads_to.clone()));
    let proxy = Setup::default().forwards(forward());
    let serving = proxy.listen(Arc::new(Passthrough::new(table)));
    (proxy, serving)
}

fn known(paths: &Arc<Paths>, address: SocketAddr) -> Arc<Gateway> {
    paths.gateway(address).unwrap()
}

#[tokio::test]
async fn a_gateway_answers_who_knocks_and_counts_that_apart() {
    let endpoint = meshed(nobody().await, World::new().caller_id());
    let (_proxy, serving) = gateway(&endpoint, nobody().await);
    let second = Duration::from_secs(1);
    for _ in 0..10 {
        let round_trip = knock(serving.address(), second).await.unwrap();
        assert!(round_trip < second);
    }
    assert_eq!(serving.stats().unknown_name.load(Ordering::Relaxed), 0);
    until("they are counted apart", || serving.stats().probes.load(Ordering::Relaxed) == 10).await;
    assert!(knock(nobody().await, second).await.is_err());
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let error = knock(frozen.local_addr().unwrap(), second / 10).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "the kernel takes it, nobody answers");
    assert!(begun.elapsed() < second);
    let balancer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (knocked, ()) = tokio::join!(knock(balancer.local_addr().unwrap(), second), async {
        balancer.accept().await.unwrap().0.set_zero_linger().unwrap();
    });
    assert_ne!(knocked.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "reset: its gateways are gone");
}

#[tokio::test]
async fn one_bad_endpoint_behind_a_gateway_is_to_blame_alone() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let good = world.endpoint(&inbound);
        // Another name behind the same gateway, where nobody listens.
        let bad = meshed(nobody().await, world.caller_id());
        let (Transport::Mesh { sni: good_name, .. }, Transport::Mesh { sni: bad_name, .. }) =
            (good.transport.clone(), bad.transport.clone())
        else {
            panic!("of the mesh");
        };
        let (to_good, to_bad): (Arc<[_]>, Arc<[_]>) =
            (Arc::from([inbound.address()]), Arc::from([nobody().await]));
        let table: NameTable = Arc::new(move |name| match name {
            name if *name == *good_name => Some(to_good.clone()),
            name if *name == *bad_name => Some(to_bad.clone()),
            _ => None,
        });
        let edge = Setup::default().forwards(forward());
        let serving = edge.listen(Arc::new(Passthrough::new(table)));
        let gateways = [serving.address()];
        let paths = Arc::new(Paths::new(Instant::now()));
        let gateway = known(&paths, serving.address());
        let bad_id = bad.id.to_string();
        let setup = Setup { paths: Some(paths.clone()), ..world.caller() };
        let caller = setup.forwards(decision()).with([via(bad, &gateways), via(good, &gateways)]);
        assert_eq!(status(&post(caller.outbound().address(), "x").await), 200);
        until("both ends are known", || caller.tried().len() == 2).await;
        assert_eq!(caller.tried()[0], (bad_id, TryResult::ConnectFailure));
        assert_eq!(caller.tried()[1].1, TryResult::Success);
        assert!(!gateway.is_down() && gateway.show(paths.nanos(Instant::now())).loss == 0.0);
    }
}

#[tokio::test]
async fn a_dead_gateway_is_to_blame_and_no_endpoint_behind_it() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let endpoint = world.endpoint(&inbound);
        let (_proxy, alive) = gateway(&endpoint, inbound.address());
        let dead = nobody().await;
        let paths = Arc::new(Paths::new(Instant::now()));
        let (dead_one, other) = (known(&paths, dead), known(&paths, alive.address()));
        let setup = Setup { paths: Some(paths.clone()), ..world.caller() };
        let caller = setup.forwards(decision()).with([via(endpoint.clone(), &[dead, alive.address()])]);
        let outbound = caller.outbound();
        for _ in 0..40 {
            assert_eq!(status(&post(outbound.address(), "x").await), 200);
        }
        until("all ends are known", || caller.tried().len() == 40).await;
        assert!(caller.tried().iter().all(|(_, result)| *result == TryResult::Success));
        assert!(!other.is_down());
        // One failure and it is tried last: whether it is down, probes find out.
        let seen = dead_one.show(paths.nanos(Instant::now()));
        assert!(seen.loss == 0.0 || seen.standing == Standing::Suspect, "{seen:?}");

        // No gateway is left.
        let setup = Setup { paths: Some(paths.clone()), ..world.caller() };
        let lost = setup.forwards(decision()).with([via(endpoint, &[dead])]);
        assert_eq!(status(&get(lost.outbound().address(), "").await), 503);
        until("its end is known", || !lost.tried().is_empty()).await;
        assert!(lost.tried().iter().all(|(_, result)| *result == TryResult::Unreached), "{:?}", lost.tried());
        assert!(dead_one.is_down());
    }
}

/// Requests wait on connections through a gateway that has stopped. As soon as probes have found that out, they are tried
/// again through another one.
#[tokio::test]
async fn what_waits_behind_a_frozen_gateway_is_tried_through_another() {
    let world = World::new();
    for (decision, protocol) in PROTOCOLS {
        let app = App::named("ledger").await;
        let called = world.beside(app.address, protocol);
        let inbound = called.inbound();
        let frozen = Freezer::before(inbound.address()).await;
        let paths = Arc::new(Paths::new(Instant::now()));
        let first = known(&paths, frozen.address);
        let endpoint = world.endpoint(&inbound);
        let setup = Setup { paths: Some(paths.clone()), ..world.caller() };
        let caller = setup.forwards(decision()).with([via(endpoint.clone(), &[frozen.address])]);
        let outbound = caller.outbound();
        let mut kept = TcpStream::connect(outbound.address()).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        kept.write_all(ask).await.unwrap();
        assert_eq!(status(&read_head(&mut kept).await), 200);
        soon("a body", kept.read_exact(&mut [0; 6])).await.unwrap();

        frozen.frozen.send_replace(true);
        let other = Freezer::before(inbound.address()).await;
        let both = via(endpoint, &[frozen.address, other.address]);
        caller.picker.endpoints.lock().unwrap().insert(service("app"), vec![Arc::new(both)]);
        kept.write_all(ask).await.unwrap();
        // As the prober does.
        for minute in 1..=2 {
            let now = paths.nanos(Instant::now() + Duration::from_secs(60 * minute));
            let probe = first.due(now, 0.0).unwrap();
            assert!(knock(frozen.address, Duration::from_millis(50)).await.is_err());
            if probe.finish(None, now) == Some(false) {
                caller.upstream.cut(frozen.address);
            }
        }
        assert_eq!(status(&read_head(&mut kept).await), 200);
        let blamed = |result: TryResult| caller.tried().iter().filter(|(_, seen)| *seen == result).count();
        until("its end is known", || blamed(TryResult::Success) == 2).await;
        assert_eq!(blamed(TryResult::Failure) + blamed(TryResult::ConnectFailure), 0, "{:?}", caller.tried());
    }
}
