//! Whole decisions, from documents to what is done with a request.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, Method};

use super::*;
use crate::{
    model::{AppProtocol, Lane, Scope, ServiceKey, Snapshot, SpiffeId},
    resources::{Source, parse, static_services},
};

mod authorization;
mod edge;
mod gray;
mod grpc;
mod mesh;
mod sessions;
mod traffic;

const BASE: &str = include_str!("tests/base.yaml");

/// A snapshot of the base documents and these.
fn world(yaml: &str) -> Snapshot {
    let sources = [BASE, yaml].map(|text| Source { name: "test".into(), text: text.into() });
    let parsed = parse(&sources);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    Snapshot {
        config: Arc::new(compile(&parsed.resources)),
        services: static_services(&parsed.resources, "east"),
        cookies: Some(CookieKey::derive(b"test")),
        ..Default::default()
    }
}

/// A request as a test writes it.
struct Ask<'a> {
    method: Method,
    scheme: &'a str,
    host: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    headers: HeaderMap,
    sni: Option<&'a str>,
    identity: Option<SpiffeId>,
    claims: Option<Lane>,
    random: u64,
    port: u16,
}

/// A GET of `http://HOST/PATH`.
fn get<'a>(host: &'a str, path: &'a str) -> Ask<'a> {
    Ask {
        method: Method::GET,
        scheme: "http",
        host,
        path,
        query: None,
        headers: HeaderMap::new(),
        sni: None,
        identity: None,
        claims: None,
        random: 0,
        port: 80,
    }
}

impl Ask<'_> {
    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        self
    }

    fn with<R>(&self, f: impl FnOnce(&RequestHead<'_>, &Caller<'_>) -> R) -> R {
        let head = RequestHead {
            scheme: self.scheme,
            host: self.host,
            method: &self.method,
            path: self.path,
            query: self.query,
            headers: &self.headers,
        };
        let address = IpAddr::from([192, 0, 2, 1]);
        let caller = Caller {
            address,
            identity: self.identity.as_ref(),
            sni: self.sni,
            claimed_lane: self.claims.as_ref(),
            random: self.random,
            now: 0,
        };
        f(&head, &caller)
    }

    /// What the edge does; checks on the way that `explain` says the same.
    fn edge(&self, snapshot: &Snapshot) -> Outcome {
        let bind = BindKey { address: None, port: self.port };
        self.with(|head, caller| {
            let avail = SnapshotAvailability(snapshot);
            let outcome = decide_edge(snapshot, bind, head, caller, &avail);
            let explained = explain_edge(snapshot, bind, head, caller, &avail);
            assert_eq!(explained.result, (&outcome).into());
            outcome
        })
    }

    /// What a sidecar does with a call of a service; checks on the way that `explain` says the same.
    fn mesh(&self, snapshot: &Snapshot, service: &str) -> Outcome {
        let service = ServiceKey::parse(service).unwrap();
        self.with(|head, caller| {
            let avail = SnapshotAvailability(snapshot);
            let outcome = decide_mesh(snapshot, &service, self.port, head, caller, &avail);
            let explained = explain_mesh(snapshot, &service, self.port, head, caller, &avail);
            assert_eq!(explained.result, (&outcome).into());
            outcome
        })
    }
}

#[track_caller]
fn forward(outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Forward(decision) => *decision,
        Outcome::Local(answer) => panic!("answered {} {}", answer.status, answer.reason),
    }
}

#[track_caller]
fn local(outcome: Outcome) -> (u16, &'static str) {
    match outcome {
        Outcome::Local(answer) => (answer.status.as_u16(), answer.reason),
        Outcome::Forward(decision) => panic!("sent to {:?}", decision.backend),
    }
}

/// `SCOPE/NAMESPACE/NAME:PORT`, with labels behind it.
fn to(decision: &Decision) -> String {
    let Backend::Service { service, port, labels, .. } = &decision.backend else { panic!("no service") };
    let labels: String = labels.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    format!("{service}:{port}{labels}")
}

fn lane(name: &str) -> Option<Lane> {
    Some(Lane::parse(name).unwrap())
}

#[test]
fn what_a_proxy_has_to_know_is_told() {
    let snapshot = world(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec: { parentRefs: [{ name: edge }], rules: [{ backendRefs: [{ name: web, port: 80 }, { name: checkout, port: 80 }] }] }
---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: { name: checkout, namespace: shop }
spec:
  targetRefs: [{ kind: Service, name: checkout }]
  arms: [{ name: v2, backendRefs: [{ name: canary, port: 80 }] }]
  whenUnavailable: otherCluster
",
    );
    let names = |services: std::collections::BTreeSet<ServiceKey>| -> Vec<String> {
        services.iter().map(ToString::to_string).collect()
    };
    let behind = ["cluster/shop/canary", "cluster/shop/checkout", "clusterset/shop/canary"];
    let checkout = ServiceKey::new(Scope::Cluster, "shop", "checkout").unwrap();
    assert_eq!(names(snapshot.config.services_behind(&checkout)), behind);
    let edge = names(snapshot.config.edge_services());
    assert_eq!(edge, [&behind[..2], &["cluster/shop/web"], &behind[2..]].concat());
}

#[test]
fn protocols_come_from_the_document_else_from_the_snapshot() {
    let mut snapshot = world("");
    let protocol = |snapshot: &Snapshot, service: &str, port| {
        let mut ask = get("any", "/");
        ask.port = port;
        match forward(ask.mesh(snapshot, service)).backend {
            Backend::Service { protocol, .. } => protocol,
            Backend::Address { .. } => panic!("no service"),
        }
    };
    assert_eq!(protocol(&snapshot, "cluster/shop/web", 80), AppProtocol::Http1);
    assert_eq!(protocol(&snapshot, "cluster/shop/web", 90), AppProtocol::Http2);
    assert_eq!(protocol(&snapshot, "clusterset/bank/ledger", 90), AppProtocol::Http1);
    let key = ServiceKey::parse("clusterset/bank/ledger").unwrap();
    let web = snapshot.services.get(&ServiceKey::parse("cluster/shop/web").unwrap()).unwrap().clone();
    snapshot.services.insert(key, web);
    assert_eq!(protocol(&snapshot, "clusterset/bank/ledger", 90), AppProtocol::Http2);
}
