//! HTTPRoutes: what their status says, and which listeners and rules take their requests.

use super::{
    client::get,
    report::Stanza,
    world::{APPS, INFRA, WEB, World},
};

const TO_V1: &str = "rules: [{ backendRefs: [{ name: infra-backend-v1, port: 8080 }] }]";

fn route(name: &str, spec: &str) -> String {
    route_in(INFRA, name, spec)
}

fn route_in(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: \
         {namespace} }}\nspec: {{ {spec} }}\n"
    )
}

fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name}, namespace: {INFRA} \
         }}\nspec: {{ gatewayClassName: tombolo, listeners: [{listeners}] }}\n"
    )
}

fn grant(namespace: &str, from: &str, to: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{ name: g-{namespace}, \
         namespace: {namespace} }}\nspec: {{ from: [{{ {from} }}], to: [{{ {to} }}] }}\n"
    )
}

/// What one route says of its first parent, without a gateway process.
async fn status(documents: &str, route: &str, parent: &str) -> Stanza {
    let world = World::stage().await;
    world.write("scenario", documents);
    world.report().parent("HTTPRoute", route, parent)
}

fn key(name: &str) -> String {
    format!("{INFRA}/{name}")
}

#[tokio::test]
async fn http_route_invalid_backend_refs() {
    let parent = "parentRefs: [{ name: same-namespace }]";
    for (reference, reason) in [
        ("name: nonexistent, port: 8080", "BackendNotFound"),
        (
            "group: unknownkind.example.com, kind: NonExistent, name: infra-backend-v1, port: 8080",
            "InvalidKind",
        ),
        ("name: web-backend, namespace: gateway-conformance-web-backend, port: 8080", "RefNotPermitted"),
    ] {
        let spec = format!("{parent}, rules: [{{ backendRefs: [{{ {reference} }}] }}]");
        let found = status(&route("r", &spec), &key("r"), "same-namespace").await;
        found.has("Accepted", "True", "Accepted").has("ResolvedRefs", "False", reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_partially_invalid_via_invalid_reference_grant() {
    let from = format!("group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {INFRA}");
    let documents = route(
        "r",
        &format!(
            "parentRefs: [{{ name: same-namespace }}], rules: [\
             {{ matches: [{{ path: {{ type: PathPrefix, value: /v2 }} }}], backendRefs: [{{ name: app-backend-v2, namespace: {APPS}, port: 8080 }}] }}, \
             {{ backendRefs: [{{ name: app-backend-v1, namespace: {APPS}, port: 8080 }}] }}]"
        ),
    ) + &grant(APPS, &from, "group: \"\", kind: Service, name: app-backend-v1");
    let world = World::with(&documents).await;
    let found = world.report().parent("HTTPRoute", &key("r"), "same-namespace");
    found.has("Accepted", "True", "Accepted").has("ResolvedRefs", "False", "RefNotPermitted");
    let to = world.address("same-namespace", 80);
    world.answers(to, &get("example.org", "/v2"), 500).await;
    world.reaches(to, &get("example.org", "/"), "app-backend-v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_cross_namespace_and_its_parents() {
    let documents = [
        route_in(
            WEB,
            "cross",
            &format!(
                "parentRefs: [{{ name: backend-namespaces, namespace: {INFRA} }}], rules: [{{ backendRefs: [{{ name: web-backend, port: 8080 }}] }}]"
            ),
        ),
        route_in(
            WEB,
            "refused",
            &format!(
                "parentRefs: [{{ name: same-namespace, namespace: {INFRA} }}], rules: [{{ backendRefs: [{{ name: web-backend, port: 8080 }}] }}]"
            ),
        ),
        route(
            "shared",
            "parentRefs: [{ name: same-namespace }, { name: all-namespaces }], rules: [{ matches: [{ path: { value: /shared } }], backendRefs: [{ name: infra-backend-v1, port: 8080 }] }]",
        ),
        route(
            "dedicated",
            "parentRefs: [{ name: same-namespace }], rules: [{ backendRefs: [{ name: infra-backend-v2, port: 8080 }] }]",
        ),
    ];
    let world = World::with(&documents.concat()).await;
    let report = world.report();
    let cross = report.parent("HTTPRoute", &format!("{WEB}/cross"), "backend-namespaces");
    cross.has("Accepted", "True", "Accepted");
    assert_eq!(cross.value["parentRef"]["namespace"], INFRA);
    let refused = report.parent("HTTPRoute", &format!("{WEB}/refused"), "same-namespace");
    refused.has("Accepted", "False", "NotAllowedByListeners");
    report.listener("Gateway", &key("same-namespace"), "http").attached(2);
    let parents = report.object("HTTPRoute", &key("shared")).value["parents"].clone();
    let names: Vec<_> = parents.as_array().unwrap().iter().map(|p| p["parentRef"]["name"].clone()).collect();
    assert_eq!(names, ["same-namespace", "all-namespaces"]);
    world.reaches(world.address("backend-namespaces", 80), &get("a.org", "/"), "web-backend").await;
    let same = world.address("same-namespace", 80);
    world.reaches(same, &get("a.org", "/shared/x"), "infra-backend-v1").await;
    world.reaches(same, &get("a.org", "/sharedx"), "infra-backend-v2").await;
    let all = world.address("all-namespaces", 80);
    world.reaches(all, &get("a.org", "/shared"), "infra-backend-v1").await;
    world.answers(all, &get("a.org", "/"), 404).await;
}

#[tokio::test]
async fn http_route_invalid_parent_refs() {
    let edge =
        gateway("edge", "{ name: a, port: 80, protocol: HTTP }, { name: b, port: 81, protocol: HTTP }");
    for (parent, shown) in [
        ("name: edge, port: 82", "edge"),
        ("name: edge, sectionName: c", "edge#c"),
        ("name: edge, sectionName: a, port: 81", "edge#a"),
    ] {
        let spec = format!("parentRefs: [{{ {parent} }}], {TO_V1}");
        let found = status(&(edge.clone() + &route("r", &spec)), &key("r"), shown).await;
        found.has("Accepted", "False", "NoMatchingParent");
    }
}

#[tokio::test]
async fn http_route_observed_generation_bump_and_foreign_status() {
    let world = World::stage().await;
    let theirs = "{ controllerName: example.com/other, parentRef: { name: same-namespace }, conditions: [{ type: \
                  Accepted, status: \"True\", reason: Accepted, message: \"\", observedGeneration: 1, \
                  lastTransitionTime: \"2026-01-01T00:00:00Z\" }] }";
    for generation in [1, 2] {
        let document = route("r", &format!("parentRefs: [{{ name: same-namespace }}], {TO_V1}"))
            .replace("name: r,", &format!("name: r, generation: {generation},"));
        world.write("scenario", &format!("{document}status: {{ parents: [{theirs}] }}\n"));
        let report = world.report();
        let found = report.parent("HTTPRoute", &key("r"), "same-namespace");
        found.has_at("Accepted", "True", "Accepted", generation);
        found.has_at("ResolvedRefs", "True", "ResolvedRefs", generation);
        let parents = report.object("HTTPRoute", &key("r")).value["parents"].clone();
        assert_eq!(parents[1]["controllerName"], "example.com/other");
        assert_eq!(parents[1]["conditions"][0]["observedGeneration"], 1);
        assert_eq!(parents.as_array().unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_hostname_intersection_and_listener_isolation() {
    let listener = |name: &str, host: &str| {
        format!("{{ name: {name}, port: 80, protocol: HTTP, hostname: \"{host}\" }}")
    };
    let listeners = [
        listener("specific", "very.specific.com"),
        listener("wild", "*.wildcard.io"),
        listener("deep", "*.deep.wildcard.io"),
        "{ name: any, port: 80, protocol: HTTP }".into(),
    ];
    let to = |n: u8| format!("rules: [{{ backendRefs: [{{ name: infra-backend-v{n}, port: 8080 }}] }}]");
    let documents = [
        gateway("edge", &listeners.join(", ")),
        route(
            "specific",
            &format!(
                "parentRefs: [{{ name: edge, sectionName: specific }}], hostnames: [non.matching.com, \"*.specific.com\"], {}",
                to(1)
            ),
        ),
        route(
            "wild",
            &format!(
                "parentRefs: [{{ name: edge, sectionName: wild }}], hostnames: [very.specific.com, \"*.wildcard.io\", wildcard.io], {}",
                to(2)
            ),
        ),
        route(
            "deep",
            &format!(
                "parentRefs: [{{ name: edge, sectionName: deep }}], hostnames: [one.deep.wildcard.io], {}",
                to(3)
            ),
        ),
        route(
            "none",
            &format!(
                "parentRefs: [{{ name: edge, sectionName: specific }}], hostnames: [specific.but.wrong.com, wildcard.io], {}",
                to(3)
            ),
        ),
    ];
    let world = World::with(&documents.concat()).await;
    let report = world.report();
    for name in ["specific", "wild", "deep"] {
        let found = report.parent("HTTPRoute", &key(name), &format!("edge#{name}"));
        found.has("Accepted", "True", "Accepted");
        report.listener("Gateway", &key("edge"), name).attached(1);
    }
    let none = report.parent("HTTPRoute", &key("none"), "edge#specific");
    none.has("Accepted", "False", "NoMatchingListenerHostname");
    let at = world.address("edge", 80);
    for (host, service) in [
        ("very.specific.com", "infra-backend-v1"),
        ("very.specific.com:1234", "infra-backend-v1"),
        ("foo.wildcard.io", "infra-backend-v2"),
        ("foo.bar.wildcard.io", "infra-backend-v2"),
        ("one.deep.wildcard.io", "infra-backend-v3"),
    ] {
        world.reaches(at, &get(host, "/"), service).await;
    }
    for host in ["wildcard.io", "non.matching.com", "other.specific.com", "two.deep.wildcard.io"] {
        world.answers(at, &get(host, "/"), 404).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_weights_of_zero_and_ties() {
    let aged = |document: String, year: u16| {
        document
            .replace("metadata: {", &format!("metadata: {{ creationTimestamp: \"{year}-01-01T00:00:00Z\","))
    };
    let rule = |path: &str, n: u8| {
        format!(
            "{{ matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: infra-backend-v{n}, port: 8080 }}] }}"
        )
    };
    let parent = "parentRefs: [{ name: same-namespace }]";
    let documents = [
        route(
            "zero",
            &format!(
                "{parent}, rules: [{{ name: zero, matches: [{{ path: {{ value: /zero }} }}], backendRefs: [{{ name: infra-backend-v1, port: 8080, weight: 0 }}, {{ name: infra-backend-v2, port: 8080, weight: 0 }}] }}, {{ matches: [{{ path: {{ value: /nobody }} }}] }}]"
            ),
        ),
        aged(route("a", &format!("{parent}, rules: [{}]", rule("/tie", 1))), 2024),
        aged(route("b", &format!("{parent}, rules: [{}, {}]", rule("/tie", 2), rule("/own", 2))), 2023),
        route("c", &format!("{parent}, rules: [{}, {}]", rule("/same", 3), rule("/same", 1))),
        route(
            "d",
            &format!(
                "{parent}, rules: [{{ matches: [{{ path: {{ type: RegularExpression, value: \"/re/[0-9]+\" }} }}], backendRefs: [{{ name: infra-backend-v3, port: 8080 }}] }}]"
            ),
        ),
    ];
    let world = World::with(&documents.concat()).await;
    let at = world.address("same-namespace", 80);
    world.answers(at, &get("a.org", "/zero"), 500).await;
    world.answers(at, &get("a.org", "/nobody"), 500).await;
    world.reaches(at, &get("a.org", "/tie"), "infra-backend-v2").await;
    world.reaches(at, &get("a.org", "/same"), "infra-backend-v3").await;
    world.reaches(at, &get("a.org", "/re/42"), "infra-backend-v3").await;
    world.answers(at, &get("a.org", "/re/x"), 404).await;
}
