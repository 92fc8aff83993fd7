//! Status and attachment, from documents.

mod acme;
mod addresses;
mod auth;
mod backend_tls;
mod frontend;
mod gateways;
mod inbound;
mod proxied;
mod rivals;
mod rules;
mod sets;
mod streams;
mod traffic;
mod traffic_service;

use serde_json::Value;

use super::*;
use crate::resources::{ResourceSet, Source, parse};

/// Parses documents that have to be valid.
fn resources(yaml: &str) -> ResourceSet {
    let parsed = parse(&[Source { name: "test".into(), text: yaml.into() }]);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    parsed.resources
}

fn status(compiled: &Compiled, kind: &str, name: &str) -> Value {
    let found = compiled.status.iter().find(|s| s.kind == kind && s.metadata.name == name);
    found.unwrap_or_else(|| panic!("no status of {kind} {name}")).status.as_ref().clone()
}

/// `Type=Status/Reason` of each condition.
fn conditions(of: &Value) -> Vec<String> {
    let text = |condition: &Value, key: &str| condition[key].as_str().unwrap().to_string();
    let list = of["conditions"].as_array().unwrap();
    list.iter().map(|c| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"))).collect()
}

/// The conditions of a route at its only, or first, parent.
fn route(compiled: &Compiled, name: &str) -> Vec<String> {
    conditions(&status(compiled, "HTTPRoute", name)["parents"][0])
}

fn listener(compiled: &Compiled, gateway: &str, at: usize) -> Value {
    status(compiled, "Gateway", gateway)["listeners"][at].clone()
}

const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: tombolo }
spec: { controllerName: tombolo.dev/gateway-controller }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { ports: [{ name: http, port: 80 }, { port: 9, name: raw, appProtocol: mysql }] }
";

fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: {name}, namespace: shop }}
spec: {{ gatewayClassName: tombolo, listeners: [{listeners}] }}
"
    )
}

fn http_route(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ {spec} }}
"
    )
}

const HTTP: &str = "{ name: http, port: 80, protocol: HTTP }";
const TO_WEB: &str = "rules: [{ backendRefs: [{ name: web, port: 80 }] }]";

fn world(parts: &[String]) -> Compiled {
    compile(&resources(&format!("{CLASS}{}", parts.concat())))
}

#[test]
fn what_is_right_is_accepted() {
    let compiled = world(&[
        gateway("edge", HTTP),
        http_route("web", "shop", &format!("parentRefs: [{{ name: edge }}], {TO_WEB}")),
    ]);
    let class = status(&compiled, "GatewayClass", "tombolo");
    let features: Vec<_> = class["supportedFeatures"].as_array().unwrap().iter().collect();
    assert!(features.contains(&&serde_json::json!({ "name": "HTTPRoute" })), "{features:?}");
    assert_eq!(conditions(&class), ["Accepted=True/Accepted", "SupportedVersion=True/SupportedVersion"]);
    let edge = status(&compiled, "Gateway", "edge");
    assert_eq!(conditions(&edge), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    let http = &edge["listeners"][0];
    assert_eq!(
        conditions(http),
        [
            "Accepted=True/Accepted",
            "Conflicted=False/NoConflicts",
            "ResolvedRefs=True/ResolvedRefs",
            "Programmed=True/Programmed"
        ]
    );
    assert_eq!(http["attachedRoutes"], 1);
    assert_eq!(http["supportedKinds"][0]["kind"], "HTTPRoute");
    assert_eq!(route(&compiled, "web"), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);
    let parent = &status(&compiled, "HTTPRoute", "web")["parents"][0];
    assert_eq!(parent["controllerName"], "tombolo.dev/gateway-controller");
    assert_eq!(parent["parentRef"]["kind"], "Gateway");
    assert_eq!(parent["parentRef"].get("sectionName"), None);
    assert_eq!(compiled.binds.len(), 1);
    assert_eq!(compiled.binds[0].listeners[0].hostname, None);
}

#[test]
fn a_tls_listener_without_certificates_says_so_and_leaves_the_others() {
    for protocol in ["HTTPS", "TLS"] {
        for tls in ["", ", tls: {}", ", tls: { mode: Terminate }"] {
            let bare = format!("{{ name: bare, port: 443, protocol: {protocol}{tls} }}");
            let compiled = world(&[gateway("edge", &format!("{HTTP}, {bare}"))]);
            let found = conditions(&listener(&compiled, "edge", 1));
            for expected in ["ResolvedRefs=False/InvalidCertificateRef", "Programmed=False/Invalid"] {
                assert!(found.contains(&expected.to_string()), "{bare}: {found:?}");
            }
            let edge = conditions(&status(&compiled, "Gateway", "edge"));
            assert_eq!(edge, ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"], "{bare}");
            assert!(
                conditions(&listener(&compiled, "edge", 0)).contains(&"Programmed=True/Programmed".into())
            );
        }
    }
}

#[test]
fn compiling_the_same_documents_gives_the_same() {
    let all = resources(&format!("{CLASS}{}", gateway("edge", HTTP)));
    assert_eq!(compile(&all).status, compile(&all).status);
}

#[test]
fn routes_are_refused_for_the_reasons_of_the_specification() {
    let edge = gateway(
        "edge",
        "{ name: http, port: 80, protocol: HTTP, hostname: \"*.shop.example\" },
         { name: all, port: 8080, protocol: HTTP, hostname: all.example, allowedRoutes: { namespaces: { from: All } } },
         { name: grpc, port: 8081, protocol: HTTP, allowedRoutes: { kinds: [{ kind: GRPCRoute }] } }",
    );
    for (namespace, parent, hosts, expected) in [
        ("shop", "name: edge", "a.shop.example", "Accepted=True/Accepted"),
        ("shop", "name: edge, sectionName: none", "a.shop.example", "Accepted=False/NoMatchingParent"),
        ("shop", "name: edge, port: 81", "a.shop.example", "Accepted=False/NoMatchingParent"),
        ("shop", "name: edge, port: 80", "b.shop.example", "Accepted=True/Accepted"),
        ("shop", "name: nowhere", "a.shop.example", "Accepted=False/NoMatchingParent"),
        ("shop", "name: edge", "shop.example", "Accepted=False/NoMatchingListenerHostname"),
        ("bank", "name: edge, namespace: shop", "all.example", "Accepted=True/Accepted"),
        (
            "bank",
            "name: edge, namespace: shop",
            "a.shop.example",
            "Accepted=False/NoMatchingListenerHostname",
        ),
        (
            "bank",
            "name: edge, namespace: shop, sectionName: http",
            "a.shop.example",
            "Accepted=False/NotAllowedByListeners",
        ),
        ("shop", "name: edge, sectionName: grpc", "a.shop.example", "Accepted=False/NotAllowedByListeners"),
    ] {
        let spec = format!("parentRefs: [{{ {parent} }}], hostnames: [{hosts}], rules: []");
        let compiled = world(&[edge.clone(), http_route("r", namespace, &spec)]);
        assert_eq!(route(&compiled, "r")[0], expected, "{namespace} {parent} {hosts}");
    }
}

#[test]
fn namespaces_are_selected_by_label() {
    let edge = gateway(
        "edge",
        "{ name: http, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: Selector,
           selector: { matchLabels: { team: pay } } } } },
         { name: byname, port: 81, protocol: HTTP, allowedRoutes: { namespaces: { from: Selector,
           selector: { matchExpressions: [{ key: kubernetes.io/metadata.name, operator: In, values: [bank] }] } } } }",
    );
    let namespace = "
---
apiVersion: v1
kind: Namespace
metadata: { name: pay, labels: { team: pay } }
";
    for (from, section, expected) in [
        ("pay", "http", "Accepted=True/Accepted"),
        ("bank", "http", "Accepted=False/NotAllowedByListeners"),
        ("bank", "byname", "Accepted=True/Accepted"),
    ] {
        let spec = format!("parentRefs: [{{ name: edge, namespace: shop, sectionName: {section} }}]");
        let compiled = world(&[edge.clone(), namespace.into(), http_route("r", from, &spec)]);
        assert_eq!(route(&compiled, "r")[0], expected, "{from} {section}");
    }
}

#[test]
fn backends_are_resolved_or_the_reason_is_told() {
    let grant = |to: &str| {
        format!(
            "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{ name: g, namespace: shop }}
spec: {{ from: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bank }}], to: [{to}] }}
"
        )
    };
    let any = grant("{ group: \"\", kind: Service }");
    let named = grant("{ group: \"\", kind: Service, name: other }");
    for (namespace, backend, grant, expected) in [
        ("shop", "name: web, port: 80", "", "True/ResolvedRefs"),
        ("shop", "name: none, port: 80", "", "False/BackendNotFound"),
        ("shop", "name: web, port: 81", "", "False/BackendNotFound"),
        ("shop", "name: web, port: 9", "", "False/UnsupportedProtocol"),
        ("shop", "name: web, port: 80, kind: Bucket, group: s3.example", "", "False/InvalidKind"),
        ("bank", "name: web, namespace: shop, port: 80", "", "False/RefNotPermitted"),
        ("bank", "name: web, namespace: shop, port: 80", &any, "True/ResolvedRefs"),
        ("bank", "name: web, namespace: shop, port: 80", &named, "False/RefNotPermitted"),
        ("bank", "name: none, namespace: shop, port: 80", "", "False/RefNotPermitted"),
        (
            "shop",
            "name: far, port: 80, kind: ServiceImport, group: multicluster.x-k8s.io",
            "",
            "True/ResolvedRefs",
        ),
    ] {
        let edge = gateway(
            "edge",
            "{ name: a, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }",
        );
        let spec = format!(
            "parentRefs: [{{ name: edge, namespace: shop }}], rules: [{{ backendRefs: [{{ {backend} }}] }}]"
        );
        let compiled = world(&[edge, grant.into(), http_route("r", namespace, &spec)]);
        let found = route(&compiled, "r");
        assert_eq!(found[0], "Accepted=True/Accepted", "{backend}");
        assert_eq!(found[1], format!("ResolvedRefs={expected}"), "{namespace} {backend}");
    }
}

#[test]
fn one_bad_object_does_not_touch_the_others() {
    let bad = http_route(
        "bad",
        "shop",
        "parentRefs: [{ name: edge }], rules: [{ backendRefs: [{ name: x, port: 1 }] }]",
    );
    let good = http_route("good", "shop", &format!("parentRefs: [{{ name: edge }}], {TO_WEB}"));
    let with = world(&[
        gateway("edge", HTTP),
        good.clone(),
        bad,
        gateway("odd", "{ name: u, port: 1, protocol: UDP }"),
    ]);
    let without = world(&[gateway("edge", HTTP), good]);
    assert_eq!(route(&with, "good"), route(&without, "good"));
    assert_eq!(conditions(&listener(&with, "edge", 0)), conditions(&listener(&without, "edge", 0)));
}

#[test]
fn a_route_that_names_a_listener_twice_is_attached_once() {
    let spec = format!("parentRefs: [{{ name: edge }}, {{ name: edge, sectionName: http }}], {TO_WEB}");
    let compiled = world(&[gateway("edge", HTTP), http_route("web", "shop", &spec)]);
    assert_eq!(listener(&compiled, "edge", 0)["attachedRoutes"], 1);
    assert_eq!(compiled.binds[0].listeners[0].routes.rules().count(), 1);
}

#[test]
fn every_filter_is_carried_out() {
    let spec = "parentRefs: [{ name: edge }], rules: [{ filters: [{ type: CORS, cors: { allowOrigins: [\"*\"] } }] }]";
    let compiled = world(&[gateway("edge", HTTP), http_route("web", "shop", spec)]);
    assert!(route(&compiled, "web").iter().all(|condition| !condition.starts_with("PartiallyInvalid")));
}

fn release(name: &str, targets: &str, backend: &str) -> String {
    format!(
        "
---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{ name: {name}, namespace: shop }}
spec: {{ targetRefs: [{targets}], arms: [{{ name: v2, backendRefs: [{{ {backend} }}] }}] }}
"
    )
}

#[test]
fn releases_say_what_became_of_them() {
    let rule = "{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: buy }";
    let whole = rule.replace(", sectionName: buy", "");
    let ok = "name: web, port: 80";
    let named = "parentRefs: [{ name: edge }], rules: [{ name: buy }, { name: look }]";
    let web = http_route("web", "shop", named);
    let service = |name: &str| format!("{{ kind: Service, name: {name} }}");
    let of = |releases: &[String], name: &str| {
        let compiled = world(&[gateway("edge", HTTP), web.clone(), releases.concat()]);
        conditions(&status(&compiled, "GrayRelease", name))
    };
    let fine = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"];
    assert_eq!(of(&[release("a", rule, ok)], "a"), fine);
    assert_eq!(of(&[release("a", &service("web"), ok)], "a"), fine);
    assert_eq!(of(&[release("a", &service("none"), ok)], "a")[0], "Accepted=False/TargetNotFound");
    let wrong = rule.replace("buy", "sell");
    assert_eq!(of(&[release("a", &wrong, ok)], "a")[0], "Accepted=False/TargetNotFound");
    assert_eq!(
        of(&[release("a", rule, "name: none, port: 80")], "a")[1],
        "ResolvedRefs=False/BackendNotFound"
    );
    let half = format!("{rule}, {}", service("none"));
    assert_eq!(
        of(&[release("a", &half, ok)], "a")[..],
        ["Accepted=True/Accepted", "ResolvedRefs=False/TargetNotFound"]
    );
    // The name breaks the tie of their ages.
    let two = [release("a", rule, ok), release("b", rule, ok)];
    assert_eq!(of(&two, "a"), fine);
    assert_eq!(of(&two, "b")[0], "Accepted=False/Conflicted");
    // One for a single rule goes before one for all of them, and that is no conflict.
    let two = [release("a", &whole, ok), release("b", rule, ok)];
    assert_eq!(of(&two, "a"), fine);
    assert_eq!(of(&two, "b"), fine);
}

#[test]
fn kinds_that_are_only_checked_have_a_status_too() {
    let own = |kind: &str, name: &str, spec: &str| {
        let (group, namespace) = match kind {
            "ServiceExport" => ("multicluster.x-k8s.io", ", namespace: shop"),
            "Peer" => ("tombolo.dev", ""),
            _ => ("tombolo.dev", ", namespace: shop"),
        };
        format!(
            "\n---\napiVersion: {group}/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name}{namespace} }}\nspec: {{ {spec} }}\n"
        )
    };
    let compiled = world(&[
        own("ServiceExport", "web", ""),
        own("ServiceExport", "none", ""),
        own("Workload", "vm", "address: 10.0.0.1, ports: [{ port: 80 }], services: [web]"),
        own("Workload", "lost", "address: 10.0.0.1, ports: [{ port: 80 }], services: [none]"),
        own("Peer", "west", "trustDomain: west.example"),
        own("AuthorizationPolicy", "p", "action: DENY"),
    ]);
    let first = |kind, name| conditions(&status(&compiled, kind, name))[0].clone();
    assert_eq!(first("ServiceExport", "web"), "Accepted=True/Accepted");
    assert_eq!(first("ServiceExport", "none"), "Accepted=False/NoService");
    assert_eq!(first("Workload", "vm"), "Accepted=True/Accepted");
    assert_eq!(first("Workload", "lost"), "Accepted=False/TargetNotFound");
    assert_eq!(first("Peer", "west"), "Accepted=True/Accepted");
    assert_eq!(first("AuthorizationPolicy", "p"), "Accepted=True/Accepted");
}
