//! Who gets a host that several routes want.

use http::{HeaderMap, Method};

use super::*;
use crate::decide::{BindKey, RequestHead, trace::Untraced};

fn named(kind: &str, name: &str, created: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: {name}, namespace: shop, creationTimestamp: '2026-01-01T00:00:{created}Z' }}
spec: {{ parentRefs: [{{ name: edge }}], {spec} }}
"
    )
}

fn accepted(compiled: &Compiled, kind: &str, name: &str) -> String {
    conditions(&status(compiled, kind, name)["parents"][0])[0].clone()
}

/// The route that answers a GET on the edge's only port.
fn answers(compiled: &Compiled, host: &str, path: &str) -> Option<String> {
    let bind = compiled.bind(BindKey { address: None, port: 80 }).unwrap();
    let (method, headers) = (Method::GET, HeaderMap::new());
    let head = RequestHead { scheme: "http", host, method: &method, path, query: None, headers: &headers };
    let listeners = bind.listeners_for(host, &mut Untraced)?;
    let found = listeners.iter().find_map(|l| l.routes.find(host, &head, &mut Untraced))?;
    Some(found.rule.origin.route.to_string())
}

#[test]
fn of_routes_of_two_kinds_the_older_one_keeps_the_host() {
    let hosts = |hosts: &str| format!("hostnames: [{hosts}]");
    let yes = "Accepted=True/Accepted";
    let no = "Accepted=False/HostnameConflict";
    for (http, grpc, expected) in [
        // Seconds of creation, name, hostnames.
        (("01", "b", "a.example"), ("02", "a", "a.example"), (yes, no)),
        (("02", "a", "a.example"), ("01", "b", "a.example"), (no, yes)),
        (("01", "b", "a.example"), ("01", "a", "a.example"), (no, yes)),
        (("01", "a", "a.example"), ("01", "a", "a.example"), (yes, no)),
        (("01", "a", ""), ("02", "a", "a.example"), (yes, no)),
        (("01", "a", "a.example"), ("02", "a", ""), (yes, no)),
        (("01", "a", "'*.example'"), ("02", "a", "b.example, a.b.example"), (yes, no)),
        (("01", "a", "a.b.example, a.org"), ("02", "a", "'*.b.example'"), (yes, no)),
        (("01", "a", "a.example"), ("02", "a", "b.example"), (yes, yes)),
        (("01", "a", "'*.example'"), ("02", "a", "example"), (yes, yes)),
    ] {
        let compiled = world(&[
            gateway("edge", HTTP),
            named("HTTPRoute", http.1, http.0, &format!("{}, {TO_WEB}", hosts(http.2))),
            named("GRPCRoute", grpc.1, grpc.0, &format!("{}, {TO_WEB}", hosts(grpc.2))),
        ]);
        let found = (accepted(&compiled, "HTTPRoute", http.1), accepted(&compiled, "GRPCRoute", grpc.1));
        assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{http:?} {grpc:?}");
        let both = u64::from(expected == (yes, yes)) + 1;
        assert_eq!(listener(&compiled, "edge", 0)["attachedRoutes"], both, "{http:?} {grpc:?}");
    }
}

#[test]
fn a_route_that_lost_at_one_listener_is_accepted_by_another() {
    let compiled = world(&[
        gateway("edge", &format!("{HTTP}, {{ name: calls, port: 81, protocol: HTTP }}")),
        http_route("web", "shop", &format!("parentRefs: [{{ name: edge, port: 80 }}], {TO_WEB}")),
        named("GRPCRoute", "x", "01", TO_WEB).replace("name: edge", "name: edge, port: 81"),
        named("GRPCRoute", "y", "02", TO_WEB),
    ]);
    assert_eq!(
        route(&compiled, "web")[0],
        "Accepted=False/HostnameConflict",
        "without an age it is the youngest"
    );
    assert_eq!(accepted(&compiled, "GRPCRoute", "x"), "Accepted=True/Accepted");
    assert_eq!(accepted(&compiled, "GRPCRoute", "y"), "Accepted=True/Accepted");
}

#[test]
fn of_two_routes_the_one_that_names_more_of_the_host_wins() {
    let route = |name, created, hosts: &str, path: &str| {
        let rule = format!(
            "rules: [{{ matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: web, port: 80 }}] }}]"
        );
        named("HTTPRoute", name, created, &format!("{hosts}, {rule}"))
    };
    for (pattern, host, wide, narrow) in [
        ("a.b.example", "a.b.example", "hostnames: ['*.b.example']", "hostnames: [a.b.example]"),
        ("a.b.example", "a.b.example", "hostnames: ['*.example']", "hostnames: ['*.b.example']"),
        ("'*.b.example'", "a.b.example", "hostnames: ['*.example']", "hostnames: ['*.b.example']"),
        ("'*.b.example'", "a.b.example", "hostnames: []", "hostnames: ['*.example', '*.b.example']"),
    ] {
        let edge =
            gateway("edge", &format!("{{ name: http, port: 80, protocol: HTTP, hostname: {pattern} }}"));
        let compiled =
            world(&[edge, route("wide", "01", wide, "/only/wide"), route("narrow", "02", narrow, "/only")]);
        let both = [accepted(&compiled, "HTTPRoute", "wide"), accepted(&compiled, "HTTPRoute", "narrow")];
        assert_eq!(both, ["Accepted=True/Accepted"; 2], "{pattern} {wide}");
        let found = answers(&compiled, host, "/only/wide");
        assert_eq!(found.as_deref(), Some("httproute/shop/narrow"), "{pattern} {wide} {narrow}");
        let compiled = world(&[
            gateway("edge", &format!("{{ name: http, port: 80, protocol: HTTP, hostname: {pattern} }}")),
            route("wide", "01", wide, "/"),
            route("narrow", "02", narrow, "/other"),
        ]);
        let found = answers(&compiled, host, "/any");
        assert_eq!(found.as_deref(), Some("httproute/shop/wide"), "a preference, not a fence");
    }
}
