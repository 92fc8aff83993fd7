//! What decisions and routes cost: how often one allocates, what the other holds. How long a decision takes is measured by
//! `tombolo-bench decide`.
#![allow(clippy::unwrap_used)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Write,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method};
use tombolo_core::{
    decide::{Caller, Outcome, RequestHead, SnapshotAvailability, compile, decide_edge},
    model::Snapshot,
    proxy::{Observer, RequestEnd},
    resources::{Reader, Source, parse, static_services},
    telemetry::{AccessLog, Telemetry},
};

/// Counts the allocations of each thread, and the bytes that it holds.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

#[allow(unsafe_code)] // The only way to count what is allocated; each call is passed on as it is.
// SAFETY: what `System` guarantees holds here as well.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        HELD.set(HELD.get() + layout.size().cast_signed());
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BASE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: tombolo }
spec: { controllerName: tombolo.dev/gateway-controller }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: public, namespace: shop }
spec: { gatewayClassName: tombolo, listeners: [{ name: http, protocol: HTTP, port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: app, namespace: shop }
spec: { ports: [{ name: http, port: 80 }] }
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: { name: app, namespace: shop }
spec: { services: [app], address: 192.0.2.1, ports: [{ name: http, port: 80 }] }
";

/// So many routes, ten for each host.
fn documents(routes: usize) -> Source {
    let mut text = BASE.to_owned();
    for number in 0..routes {
        let (host, path) = target(number);
        write!(
            text,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: route-{number}, namespace: shop }}
spec:
  parentRefs: [{{ name: public }}]
  hostnames: [{host}]
  rules: [{{ matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: app, port: 80 }}] }}]
"
        )
        .unwrap();
    }
    Source { name: "test".into(), text }
}

fn world(routes: usize) -> Snapshot {
    let parsed = parse(&[documents(routes)]);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems.first());
    Snapshot {
        config: Arc::new(compile(&parsed.resources)),
        services: static_services(&parsed.resources, "east"),
        ..Snapshot::default()
    }
}

/// The host and the prefix of a route.
fn target(route: usize) -> (String, String) {
    (format!("h{}.example.test", route / 10), format!("/r{}", route % 10))
}

/// A request as a client of an API sends it.
struct Ask {
    host: String,
    path: String,
    headers: HeaderMap,
}

impl Ask {
    fn of(route: usize) -> Self {
        let (host, prefix) = target(route);
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("test/1.0"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("cookie", HeaderValue::from_static("uid=abcdef0123456789"));
        Self { host, path: format!("{prefix}/x"), headers }
    }

    fn decide(&self, snapshot: &Snapshot) -> Outcome {
        let head = RequestHead {
            scheme: "http",
            host: &self.host,
            method: &Method::GET,
            path: &self.path,
            query: None,
            headers: &self.headers,
        };
        let caller = Caller {
            address: [192, 0, 2, 1].into(),
            identity: None,
            sni: None,
            claimed_lane: None,
            random: 7,
            now: 0,
        };
        let bind = snapshot.config.binds[0].key;
        decide_edge(snapshot, bind, &head, &caller, &SnapshotAvailability(snapshot))
    }
}

#[test]
fn a_decision_allocates_nothing_but_itself_however_many_routes_there_are() {
    for routes in [1, 500] {
        let snapshot = world(routes);
        for route in [0, routes / 2, routes - 1] {
            let ask = Ask::of(route);
            // What is made once for the process is made now.
            ask.decide(&snapshot);
            let before = ALLOCATIONS.get();
            let outcome = ask.decide(&snapshot);
            let allocations = ALLOCATIONS.get() - before;
            assert!(
                matches!(&outcome, Outcome::Forward(decision) if *decision.route == *format!("httproute/shop/route-{route}"))
            );
            assert_eq!(allocations, 1, "{routes} routes: its own box alone");
        }
    }
}

#[test]
fn a_request_like_an_earlier_one_is_counted_without_allocating() {
    let snapshot = world(1);
    let ask = Ask::of(0);
    let Outcome::Forward(decision) = ask.decide(&snapshot) else { panic!("it is forwarded") };
    let telemetry = Telemetry::new(AccessLog::off());
    let end = |status| RequestEnd {
        arrival: None,
        method: &Method::GET,
        host: &ask.host,
        path: &ask.path,
        version: http::Version::HTTP_11,
        status,
        reason: None,
        decision: Some(&decision),
        route: None,
        endpoint: None,
        upstream: None,
        tries: 1,
        duration: Duration::from_millis(1),
        last_try: None,
        upstream_latency: None,
        received: 0,
        sent: 10,
        request_id: Some("id"),
        trace_id: None,
        span: None,
        grpc: None,
        user_agent: None,
        verdict: None,
        missed: None,
    };
    telemetry.request(&end(200));
    let before = ALLOCATIONS.get();
    telemetry.request(&end(200));
    assert_eq!(ALLOCATIONS.get() - before, 0);
    telemetry.request(&end(201));
    assert!(ALLOCATIONS.get() > before, "a new series is made");
}

/// What is kept of a route: its document, so that a change elsewhere does not parse it again, and what decides.
const ROUTE_BYTES: isize = 2_400;

#[test]
fn a_route_holds_no_more_memory_than_is_said() {
    let held = |routes: usize| {
        let source = documents(routes);
        let before = HELD.get();
        let mut reader = Reader::default();
        let parsed = reader.read(&[source]);
        let compiled = compile(&parsed.resources);
        assert!(compiled.status.len() > routes, "each has a status");
        HELD.get() - before
    };
    // What is made once for the process is made now.
    held(1);
    let each = (held(1_100) - held(100)) / 1_000;
    assert!(each < ROUTE_BYTES, "{each} bytes");
    assert!(each > ROUTE_BYTES / 2, "the bound is out of date: {each} bytes");
}
