//! TLSRoute and TCPRoute. The suite's backends are echo servers for TCP; here HTTP servers do the same, over TLS where the
//! suite's do.

use std::net::SocketAddr;

use super::{
    client::{Ask, get},
    world::{INFRA, World},
};

/// A Gateway of the infra namespace with these listeners.
fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name}, namespace: {INFRA} }}\n\
         spec: {{ gatewayClassName: tombolo, listeners: [{listeners}] }}\n"
    )
}

fn listener(name: &str, port: u16, protocol: &str, hostname: &str, more: &str) -> String {
    let hostname = if hostname.is_empty() { String::new() } else { format!("hostname: '{hostname}', ") };
    format!("{{ name: {name}, port: {port}, protocol: {protocol}, {hostname}{more} }}")
}

fn route(kind: &str, name: &str, parent: &str, hosts: &str, backend: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    let hosts = if hosts.is_empty() { String::new() } else { format!("hostnames: [{hosts}], ") };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{ name: {name}, namespace: {INFRA} }}\n\
         spec: {{ parentRefs: [{{ {parent} }}], {hosts}rules: [{{ backendRefs: [{{ {backend} }}] }}] }}\n"
    )
}

const PASS: &str = "tls: { mode: Passthrough }";
const END: &str = "tls: { mode: Terminate, certificateRefs: [{ name: tls-terminate-checks-certificate }] }";
const TLS_ONLY: &str = "allowedRoutes: { namespaces: { from: Same }, kinds: [{ kind: TLSRoute }] }";
const TO_TLS: &str = "name: tls-backend, port: 443";
const TO_PLAIN: &str = "name: infra-backend-v1, port: 8080";

/// The stage with backends over TLS and a certificate for listeners that terminate, and these documents.
async fn world(documents: &[String]) -> World {
    let mut world = World::stage().await;
    let names = ["abc.example.com", "other.example.com", "tls.example.com"];
    for name in ["tls-backend", "tls-backend-2"] {
        let issued = world.authority.issue(&names);
        world.add_tls_service(INFRA, name, &issued).await;
    }
    let issued = world.authority.issue(&["tls.example.com"]);
    world.write("terminate", &issued.secret(INFRA, "tls-terminate-checks-certificate"));
    world.write("scenario", &documents.concat());
    world.serve();
    world
}

/// A request over TLS that only this name's certificate may answer.
fn secure(world: &World, name: &str) -> Ask {
    get(name, "/").trusting(name, &world.authority.certificate)
}

/// Asserts that no TLS connection comes about.
async fn is_refused(world: &World, to: SocketAddr, name: &str) {
    let error = secure(world, name).send(to).await.expect_err("a connection");
    assert!(error.starts_with("handshake") || error.starts_with("connect"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_simple_same_namespace() {
    let pass = listener("tls", 443, "TLS", "*.example.com", &format!("{PASS}, {TLS_ONLY}"));
    let world = world(&[
        gateway("gateway-tlsroute", &pass),
        route(
            "TLSRoute",
            "gateway-conformance-infra-test",
            "name: gateway-tlsroute",
            "abc.example.com",
            TO_TLS,
        ),
    ])
    .await;
    world
        .report()
        .parent("TLSRoute", &format!("{INFRA}/gateway-conformance-infra-test"), "gateway-tlsroute")
        .has("Accepted", "True", "Accepted")
        .has("ResolvedRefs", "True", "ResolvedRefs");
    let to = world.address("gateway-tlsroute", 443);
    let answer = world.reaches(to, &secure(&world, "abc.example.com"), "tls-backend").await;
    assert_eq!(answer.echo.unwrap().sni.as_deref(), Some("abc.example.com"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_hostname_intersection() {
    let pass = |host: &str| listener("tls", 443, "TLS", host, &format!("{PASS}, {TLS_ONLY}"));
    let second = TO_TLS.replace("tls-backend", "tls-backend-2");
    let world = world(&[
        gateway("exact", &pass("abc.example.com")),
        gateway("narrow", &pass("*.example.com")),
        gateway("wide", &pass("*.com")),
        gateway("every", &pass("")),
        route("TLSRoute", "to-exact", "name: exact", "'*.example.com'", TO_TLS),
        route("TLSRoute", "to-narrow-1", "name: narrow", "abc.example.com", TO_TLS),
        route("TLSRoute", "to-narrow-2", "name: narrow", "'*.com'", &second),
        route("TLSRoute", "to-wide-1", "name: wide", "abc.example.com", TO_TLS),
        route("TLSRoute", "to-wide-2", "name: wide", "'*.example.com'", &second),
        route("TLSRoute", "to-every-1", "name: every", "abc.example.com", TO_TLS),
        route("TLSRoute", "to-every-2", "name: every", "'*.com'", &second),
    ])
    .await;
    for (gateway, unknown) in [
        ("exact", "non.matching.com"),
        ("narrow", "non.matching.com"),
        ("wide", "non.matching.com"),
        ("every", "non.matching.org"),
    ] {
        let to = world.address(gateway, 443);
        world.reaches(to, &secure(&world, "abc.example.com"), "tls-backend-0").await;
        if gateway != "exact" {
            world.reaches(to, &secure(&world, "other.example.com"), "tls-backend-2").await;
        }
        is_refused(&world, to, unknown).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_multiple_routes_attachment_same_hostname_intersection() {
    let pass = |host: &str| listener("tls", 443, "TLS", host, &format!("{PASS}, {TLS_ONLY}"));
    let second = TO_TLS.replace("tls-backend", "tls-backend-2");
    let aged = |route: String, year: u16| {
        route.replacen(" }\nspec", &format!(", creationTimestamp: '{year}-01-01T00:00:00Z' }}\nspec"), 1)
    };
    let world = world(&[
        gateway("exact", &pass("abc.example.com")),
        gateway("wild", &pass("*.example.com")),
        aged(route("TLSRoute", "older-1", "name: exact", "'*.example.com'", TO_TLS), 2020),
        aged(route("TLSRoute", "newer-1", "name: exact", "abc.example.com", &second), 2021),
        aged(route("TLSRoute", "older-2", "name: wild", "'*.com'", TO_TLS), 2020),
        aged(route("TLSRoute", "newer-2", "name: wild", "'*.example.com'", &second), 2021),
    ])
    .await;
    for gateway in ["exact", "wild"] {
        let to = world.address(gateway, 443);
        world.reaches(to, &secure(&world, "abc.example.com"), "tls-backend-2").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_terminate_and_mixed_termination() {
    let listeners = [
        listener("tls-terminate", 8443, "TLS", "tls.example.com", &format!("{END}, {TLS_ONLY}")),
        listener("tls-passthrough", 8443, "TLS", "abc.example.com", &format!("{PASS}, {TLS_ONLY}")),
    ];
    let world = world(&[
        gateway("gateway-tlsroute-mixed", &listeners.join(", ")),
        route("TLSRoute", "passthrough", "name: gateway-tlsroute-mixed", "abc.example.com", TO_TLS),
        route("TLSRoute", "terminate", "name: gateway-tlsroute-mixed", "tls.example.com", TO_PLAIN),
    ])
    .await;
    let key = format!("{INFRA}/gateway-tlsroute-mixed");
    for name in ["tls-terminate", "tls-passthrough"] {
        let report = world.report();
        let stanza = report.listener("Gateway", &key, name);
        stanza.has("Accepted", "True", "Accepted").attached(1).supports(&["TLSRoute"]);
    }
    let to = world.address("gateway-tlsroute-mixed", 8443);
    let ended = world.reaches(to, &secure(&world, "tls.example.com"), "infra-backend-v1").await;
    assert_eq!(ended.echo.unwrap().sni, None, "plaintext behind the gateway");
    let passed = world.reaches(to, &secure(&world, "abc.example.com"), "tls-backend").await;
    assert_eq!(passed.echo.unwrap().sni.as_deref(), Some("abc.example.com"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_https_and_tls_passthrough_same_port() {
    let https =
        "tls: { certificateRefs: [{ name: shared }] }, allowedRoutes: { kinds: [{ kind: HTTPRoute }] }";
    let listeners = [
        listener("https-terminate", 8443, "HTTPS", "*.example.com", https),
        listener("tls-passthrough", 8443, "TLS", "abc.example.com", &format!("{PASS}, {TLS_ONLY}")),
    ];
    let http_route = route("HTTPRoute", "web", "name: shared, sectionName: https-terminate", "", TO_PLAIN);
    let world = world(&[
        gateway("shared", &listeners.join(", ")),
        http_route,
        route("TLSRoute", "raw", "name: shared, sectionName: tls-passthrough", "abc.example.com", TO_TLS),
    ])
    .await;
    let issued = world.authority.issue(&["abc.example.com", "other.example.com"]);
    world.write("shared-certificate", &issued.secret(INFRA, "shared"));
    let key = format!("{INFRA}/shared");
    let report = world.report();
    let has = |name: &str, kind: &str| {
        let stanza = report.listener("Gateway", &key, name);
        stanza.has("Accepted", "True", "Accepted").attached(1).supports(&[kind]);
    };
    has("https-terminate", "HTTPRoute");
    has("tls-passthrough", "TLSRoute");
    let to = world.address("shared", 8443);
    world.reaches(to, &secure(&world, "other.example.com"), "infra-backend-v1").await;
    world.reaches(to, &secure(&world, "abc.example.com"), "tls-backend").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_listener_protocol_and_route_kind_conflicts() {
    let https = "tls: { certificateRefs: [{ name: tls-validity-checks-certificate }] }";
    let listeners = [
        listener("tls", 443, "TLS", "abc.example.com", &format!("{PASS}, {TLS_ONLY}")),
        listener("conflicted-https", 8443, "HTTPS", "", https),
        listener("conflicted-tls", 8443, "TLS", "", &format!("{PASS}, {TLS_ONLY}")),
    ];
    let world = world(&[
        gateway("tlsroutes-only", &listeners.join(", ")),
        route("HTTPRoute", "disallowed-kind", "name: tlsroutes-only, sectionName: tls", "", TO_PLAIN),
        route("TLSRoute", "control", "name: tlsroutes-only, sectionName: tls", "abc.example.com", TO_TLS),
    ])
    .await;
    let (report, key) = (world.report(), format!("{INFRA}/tlsroutes-only"));
    let route = report.parent("HTTPRoute", &format!("{INFRA}/disallowed-kind"), "tlsroutes-only#tls");
    route.has("Accepted", "False", "NotAllowedByListeners").has("ResolvedRefs", "True", "ResolvedRefs");
    for name in ["conflicted-https", "conflicted-tls"] {
        let stanza = report.listener("Gateway", &key, name);
        stanza.has("Conflicted", "True", "ProtocolConflict").has("Accepted", "False", "Invalid").attached(0);
        stanza.lacks("Programmed", "False");
    }
    report.listener("Gateway", &key, "tls").attached(1);
    let to = world.address("tlsroutes-only", 443);
    world.reaches(to, &secure(&world, "abc.example.com"), "tls-backend").await;
    let conflicted = world.address("tlsroutes-only", 8443);
    is_refused(&world, conflicted, "abc.example.com").await;
}

/// Also: tls_route_invalid_no_matching_listener_hostname, tls_route_invalid_backend_ref_*, tls_route_invalid_reference_grant,
/// tls_route_listener_*_supported_kinds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_route_invalid_no_matching_listener() {
    let kinds = "allowedRoutes: { kinds: [{ kind: TLSRoute }] }";
    let https = format!("tls: {{ certificateRefs: [{{ name: tls-validity-checks-certificate }}] }}, {kinds}");
    let both = "allowedRoutes: { kinds: [{ kind: TCPRoute }, { kind: TLSRoute }] }";
    let pass = |name: &str, host: &str| gateway(name, &listener("tls", 443, "TLS", host, PASS));
    let to = |name: &str, parent: &str, host: &str, backend: &str| {
        route("TLSRoute", name, &format!("name: {parent}"), host, backend)
    };
    let world = world(&[
        gateway("gateway-http-only", &listener("http", 80, "HTTP", "", kinds)),
        gateway("gateway-httproute-only", &listener("http", 80, "HTTP", "", &kinds.replace("TLS", "HTTP"))),
        gateway("gateway-https-only", &listener("https", 443, "HTTPS", "", &https)),
        pass("pass", "www.example.com"),
        pass("pass-wild", "*.example.com"),
        gateway("passthrough-kinds", &listener("tls", 443, "TLS", "", &format!("{PASS}, {both}"))),
        gateway(
            "terminate-kinds",
            &listener("tls", 443, "TLS", "tls.example.com", &format!("{END}, {both}")),
        ),
        to("on-http", "gateway-http-only", "tls.example.com", TO_TLS),
        to("not-allowed", "gateway-httproute-only", "tls.example.com", TO_TLS),
        to("on-https", "gateway-https-only", "tls.example.com", TO_TLS),
        route("TLSRoute", "no-section", "name: pass, sectionName: none", "www.example.com", TO_TLS),
        to("other-host", "pass", "www.example1.com", TO_TLS),
        to("apex", "pass-wild", "example.com", TO_TLS),
        to("nonexistent", "pass", "www.example.com", "name: nonexistent, port: 443"),
        to(
            "unknown-kind",
            "pass",
            "www.example.com",
            "group: example.com, kind: Nothing, name: x, port: 443",
        ),
        to(
            "no-grant",
            "pass",
            "www.example.com",
            "name: web-backend, namespace: gateway-conformance-web-backend, port: 8080",
        ),
    ])
    .await;
    let report = world.report();
    for (name, parent, r#type, reason) in [
        ("on-http", "gateway-http-only", "Accepted", "NotAllowedByListeners"),
        ("not-allowed", "gateway-httproute-only", "Accepted", "NotAllowedByListeners"),
        ("on-https", "gateway-https-only", "Accepted", "NotAllowedByListeners"),
        ("no-section", "pass#none", "Accepted", "NoMatchingParent"),
        ("other-host", "pass", "Accepted", "NoMatchingListenerHostname"),
        ("apex", "pass-wild", "Accepted", "NoMatchingListenerHostname"),
        ("nonexistent", "pass", "ResolvedRefs", "BackendNotFound"),
        ("unknown-kind", "pass", "ResolvedRefs", "InvalidKind"),
        ("no-grant", "pass", "ResolvedRefs", "RefNotPermitted"),
    ] {
        let stanza = report.parent("TLSRoute", &format!("{INFRA}/{name}"), parent);
        stanza.has(r#type, "False", reason);
        if r#type == "ResolvedRefs" {
            stanza.has("Accepted", "True", "Accepted");
        }
    }
    for (name, listener) in [
        ("gateway-http-only", "http"),
        ("gateway-httproute-only", "http"),
        ("gateway-https-only", "https"),
        ("pass-wild", "tls"),
    ] {
        report.listener("Gateway", &format!("{INFRA}/{name}"), listener).attached(0);
    }
    let passing = report.listener("Gateway", &format!("{INFRA}/passthrough-kinds"), "tls");
    passing.has("ResolvedRefs", "False", "InvalidRouteKinds").supports(&["TLSRoute"]).attached(0);
    let ending = report.listener("Gateway", &format!("{INFRA}/terminate-kinds"), "tls");
    ending.has("Accepted", "True", "Accepted").supports(&["TCPRoute", "TLSRoute"]).attached(0);
}

/// Also: tcp_route_parent_ref_attach_all, tcp_route_weighted_routing, tcp_route_reference_grant, tcp_route_on_tls_terminate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_route_parent_ref_port_and_section_name() {
    let tcp = |name: &str, port: u16| {
        listener(name, port, "TCP", "", "allowedRoutes: { kinds: [{ kind: TCPRoute }] }")
    };
    let listeners = [tcp("one", 8080), tcp("two", 8081), tcp("three", 8090), tcp("four", 9443)];
    let to = |name: &str| format!("name: {name}, port: 8080");
    let weighted = "rules: [{ backendRefs: [{ name: infra-backend-v1, port: 8080, weight: 3 }, { name: infra-backend-v2, \
                    port: 8080, weight: 1 }, { name: infra-backend-v3, port: 8080, weight: 0 }] }]";
    let only = |name: &str, port: u16| gateway(name, &tcp("tcp", port));
    let grant = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{ name: g, namespace: \
         gateway-conformance-web-backend }}\nspec: {{ from: [{{ group: gateway.networking.k8s.io, kind: TCPRoute, namespace: \
         {INFRA} }}], to: [{{ group: '', kind: Service, name: web-backend }}] }}\n"
    );
    let world = world(&[
        gateway("multi", &listeners.join(", ")),
        only("weighted", 90),
        only("granted", 8443),
        gateway("ending", &listener("tls", 443, "TLS", "tls.example.com", END)),
        route("TCPRoute", "by-port", "name: multi, port: 8080", "", &to("infra-backend-v1")),
        route("TCPRoute", "by-section", "name: multi, sectionName: two", "", &to("infra-backend-v2")),
        route(
            "TCPRoute",
            "by-both",
            "name: multi, sectionName: three, port: 8090",
            "",
            &to("infra-backend-v3"),
        ),
        route("TCPRoute", "z-attach-all", "name: multi", "", &to("infra-backend-v1")),
        route("TCPRoute", "weights", "name: weighted", "", &to("infra-backend-v1"))
            .replace("rules: [{ backendRefs: [{ name: infra-backend-v1, port: 8080 }] }]", weighted),
        route(
            "TCPRoute",
            "elsewhere",
            "name: granted",
            "",
            "name: web-backend, namespace: gateway-conformance-web-backend, port: 8080",
        ),
        grant,
        route("TCPRoute", "decrypted", "name: ending, sectionName: tls", "", TO_PLAIN),
    ])
    .await;
    let report = world.report();
    for (name, parent) in [
        ("by-port", "multi"),
        ("by-section", "multi#two"),
        ("by-both", "multi#three"),
        ("z-attach-all", "multi"),
    ] {
        report.parent("TCPRoute", &format!("{INFRA}/{name}"), parent).has("Accepted", "True", "Accepted");
    }
    report.listener("Gateway", &format!("{INFRA}/multi"), "one").attached(2).supports(&["TCPRoute"]);
    report.listener("Gateway", &format!("{INFRA}/multi"), "four").attached(1);
    let ask = get("any.example", "/");
    for (port, service) in [
        (8080, "infra-backend-v1"),
        (8081, "infra-backend-v2"),
        (8090, "infra-backend-v3"),
        (9443, "infra-backend-v1"),
    ] {
        world.reaches(world.address("multi", port), &ask, service).await;
    }
    world.reaches(world.address("granted", 8443), &ask, "web-backend").await;
    world.reaches(world.address("ending", 443), &secure(&world, "tls.example.com"), "infra-backend-v1").await;
    let (to, mut first) = (world.address("weighted", 90), 0);
    for _ in 0..200 {
        let pod = ask.send(to).await.unwrap().echo.unwrap().pod;
        assert!(!pod.starts_with("infra-backend-v3"), "its weight is 0");
        first += u32::from(pod.starts_with("infra-backend-v1"));
    }
    // Of 200 connections, three in four: 150, plus or minus four standard deviations.
    assert!((126..=174).contains(&first), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_route_invalid() {
    let udp = "allowedRoutes: { kinds: [{ kind: UDPRoute }] }";
    let world = world(&[
        gateway(
            "mixed",
            &[listener("udp", 8081, "UDP", "", udp), listener("tcp", 8080, "TCP", "", "allowedRoutes: {}")]
                .join(", "),
        ),
        route("TCPRoute", "on-udp", "name: mixed, sectionName: udp", "", TO_PLAIN),
        route("TCPRoute", "nonexistent", "name: mixed, sectionName: tcp", "", "name: nonexistent, port: 1"),
        route(
            "TCPRoute",
            "no-grant",
            "name: mixed, sectionName: tcp",
            "",
            "name: web-backend, namespace: gateway-conformance-web-backend, port: 8080",
        ),
    ])
    .await;
    let report = world.report();
    for (name, parent, r#type, reason) in [
        ("on-udp", "mixed#udp", "Accepted", "NotAllowedByListeners"),
        ("nonexistent", "mixed#tcp", "ResolvedRefs", "BackendNotFound"),
        ("no-grant", "mixed#tcp", "ResolvedRefs", "RefNotPermitted"),
    ] {
        report.parent("TCPRoute", &format!("{INFRA}/{name}"), parent).has(r#type, "False", reason);
    }
}
