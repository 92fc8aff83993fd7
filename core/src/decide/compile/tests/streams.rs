//! Listeners for TLS and TCP, and their routes.

use super::*;
use crate::decide::{BindKey, ListenerProtocol, StreamDecision, decide_stream};

fn route(kind: &str, name: &str, spec: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/{version}
kind: {kind}
metadata: {{ name: {name}, namespace: shop }}
spec: {{ {spec} }}
"
    )
}

fn parent(compiled: &Compiled, kind: &str, name: &str) -> Vec<String> {
    conditions(&status(compiled, kind, name)["parents"][0])
}

const TO_RAW: &str = "rules: [{ backendRefs: [{ name: web, port: 9 }] }]";
const PASS: &str =
    "{ name: pass, port: 443, protocol: TLS, hostname: pass.example, tls: { mode: Passthrough } }";
const END: &str =
    "{ name: end, port: 443, protocol: TLS, hostname: end.example, tls: { certificateRefs: [{ name: c }] } }";
const HTTPS: &str = "{ name: https, port: 443, protocol: HTTPS, hostname: '*.example', tls: { certificateRefs: [{ name: c }] } }";
const TCP: &str = "{ name: tcp, port: 9, protocol: TCP }";

fn decide(
    compiled: Compiled,
    port: u16,
    sni: Option<&str>,
    terminated: bool,
) -> Result<StreamDecision, &'static str> {
    let snapshot = crate::model::Snapshot { config: compiled.into(), ..Default::default() };
    decide_stream(&snapshot, BindKey { address: None, port }, sni, terminated, 0)
}

#[test]
fn each_protocol_takes_its_own_kinds_of_routes() {
    let compiled = world(&[gateway("edge", &format!("{PASS}, {END}, {HTTPS}, {TCP}"))]);
    let kinds = |at: usize| {
        let listener = listener(&compiled, "edge", at);
        let kinds = listener["supportedKinds"].as_array().unwrap().clone();
        kinds.iter().map(|kind| kind["kind"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(0), ["TLSRoute"]);
    assert_eq!(kinds(1), ["TLSRoute", "TCPRoute"]);
    assert_eq!(kinds(3), ["TCPRoute"]);
    for at in 0..4 {
        let all = conditions(&listener(&compiled, "edge", at));
        assert!(all.contains(&"Accepted=True/Accepted".into()), "{at}: {all:?}");
        assert!(all.contains(&"Conflicted=False/NoConflicts".into()), "{at}: {all:?}");
    }
    let wrong = "allowedRoutes: { kinds: [{ kind: TCPRoute }, { kind: TLSRoute }] }";
    let compiled = world(&[gateway("edge", &PASS.replace("tls:", &format!("{wrong}, tls:")))]);
    let pass = listener(&compiled, "edge", 0);
    assert!(conditions(&pass).contains(&"ResolvedRefs=False/InvalidRouteKinds".into()));
    assert_eq!(pass["supportedKinds"].as_array().unwrap().len(), 1);
}

#[test]
fn listeners_that_begin_with_tls_share_a_port_by_their_names_only() {
    for (one, two, expected) in [
        (PASS.to_owned(), HTTPS.to_owned(), "Conflicted=False/NoConflicts"),
        (PASS.to_owned(), HTTPS.replace("'*.example'", "pass.example"), "Conflicted=True/ProtocolConflict"),
        (PASS.to_owned(), PASS.replace("{ name: pass", "{ name: other"), "Conflicted=True/HostnameConflict"),
        (PASS.to_owned(), HTTP.replace("80", "443"), "Conflicted=True/ProtocolConflict"),
        (PASS.to_owned(), TCP.replace("port: 9", "port: 443"), "Conflicted=True/ProtocolConflict"),
        (TCP.to_owned(), TCP.replace("name: tcp", "name: other"), "Conflicted=True/HostnameConflict"),
    ] {
        let compiled = world(&[gateway("edge", &format!("{one}, {two}"))]);
        for at in 0..2 {
            let found = conditions(&listener(&compiled, "edge", at));
            assert!(found.contains(&expected.into()), "{one} {two} {at}: {found:?}");
        }
    }
}

#[test]
fn routes_say_what_is_wrong_with_them() {
    let edge = gateway("edge", &format!("{PASS}, {END}, {HTTPS}, {TCP}, {HTTP}"));
    let missing = "rules: [{ backendRefs: [{ name: none, port: 1 }] }]";
    let foreign = "rules: [{ backendRefs: [{ name: web, namespace: bank, port: 1 }] }]";
    let unknown = "rules: [{ backendRefs: [{ name: web, kind: Pod }] }]";
    for (kind, spec, expected) in [
        (
            "TLSRoute",
            format!("parentRefs: [{{ name: edge }}], hostnames: [pass.example], {TO_RAW}"),
            "Accepted=True/Accepted",
        ),
        (
            "TLSRoute",
            format!("parentRefs: [{{ name: edge }}], hostnames: [x.test], {TO_RAW}"),
            "Accepted=False/NoMatchingListenerHostname",
        ),
        (
            "TLSRoute",
            format!("parentRefs: [{{ name: edge, sectionName: http }}], hostnames: [x.test], {TO_RAW}"),
            "Accepted=False/NotAllowedByListeners",
        ),
        (
            "TLSRoute",
            format!("parentRefs: [{{ name: edge, sectionName: https }}], hostnames: [x.test], {TO_RAW}"),
            "Accepted=False/NotAllowedByListeners",
        ),
        (
            "TLSRoute",
            format!("parentRefs: [{{ name: edge, sectionName: none }}], hostnames: [x.test], {TO_RAW}"),
            "Accepted=False/NoMatchingParent",
        ),
        (
            "TCPRoute",
            format!("parentRefs: [{{ name: edge, sectionName: end }}], {TO_RAW}"),
            "Accepted=True/Accepted",
        ),
        (
            "TCPRoute",
            format!("parentRefs: [{{ name: edge, sectionName: pass }}], {TO_RAW}"),
            "Accepted=False/NotAllowedByListeners",
        ),
        (
            "TCPRoute",
            format!("parentRefs: [{{ name: web, group: '', kind: Service }}], {TO_RAW}"),
            "Accepted=False/NoMatchingParent",
        ),
        (
            "TLSRoute",
            format!("parentRefs: [{{ name: edge }}], hostnames: [pass.example], {missing}"),
            "ResolvedRefs=False/BackendNotFound",
        ),
        (
            "TLSRoute",
            format!("parentRefs: [{{ name: edge }}], hostnames: [pass.example], {foreign}"),
            "ResolvedRefs=False/RefNotPermitted",
        ),
        (
            "TCPRoute",
            format!("parentRefs: [{{ name: edge, port: 9 }}], {unknown}"),
            "ResolvedRefs=False/InvalidKind",
        ),
        (
            "TCPRoute",
            format!("parentRefs: [{{ name: edge, port: 9 }}], {TO_RAW}"),
            "ResolvedRefs=True/ResolvedRefs",
        ),
    ] {
        let compiled = world(&[edge.clone(), self::route(kind, "r", &spec)]);
        let found = parent(&compiled, kind, "r");
        assert!(found.contains(&expected.into()), "{kind} {spec}: {found:?}");
    }
}

#[test]
fn the_most_specific_name_wins_over_age() {
    let wide = PASS.replace("pass.example", "'*.example'");
    let world = || {
        world(&[
            gateway("edge", &format!("{wide}, {END}, {TCP}")),
            self::route(
                "TLSRoute",
                "a-wide",
                &format!("parentRefs: [{{ name: edge }}], hostnames: ['*.example'], {TO_RAW}"),
            ),
            self::route(
                "TLSRoute",
                "b-exact",
                &format!("parentRefs: [{{ name: edge }}], hostnames: [a.example], {TO_RAW}"),
            ),
            self::route(
                "TLSRoute",
                "c-end",
                &format!(
                    "parentRefs: [{{ name: edge, sectionName: end }}], hostnames: [end.example], {TO_RAW}"
                ),
            ),
            self::route("TCPRoute", "d-tcp", &format!("parentRefs: [{{ name: edge }}], {TO_RAW}")),
        ])
    };
    let route = |port, sni, terminated| decide(world(), port, sni, terminated).map(|d| d.route.to_string());
    assert_eq!(route(443, Some("a.example"), false), Ok("tlsroute/shop/b-exact".into()));
    assert_eq!(route(443, Some("A.Example."), false), Ok("tlsroute/shop/b-exact".into()));
    assert_eq!(route(443, Some("b.c.example"), false), Ok("tlsroute/shop/a-wide".into()));
    assert_eq!(route(443, Some("example"), false), Err("no_listener"));
    assert_eq!(route(443, None, false), Err("no_listener"));
    assert_eq!(route(443, Some("end.example"), true), Ok("tlsroute/shop/c-end".into()));
    assert_eq!(route(443, Some("end.example"), false), Err("no_route"), "ciphertext is not for this route");
    assert_eq!(route(443, Some("a.example"), true), Err("no_route"), "nor plaintext for that one");
    assert_eq!(route(9, None, false), Ok("tcproute/shop/d-tcp".into()));
    let compiled = world();
    let bind = compiled.bind(BindKey { address: None, port: 443 }).unwrap();
    assert_eq!(bind.tls_listener(Some("end.example")).unwrap().protocol, ListenerProtocol::TlsTerminate);
    assert_eq!(bind.tls_listener(Some("x.example")).unwrap().protocol, ListenerProtocol::TlsPassthrough);
    assert!(bind.tls_listener(None).is_none());
    assert_eq!(compiled.edge_services().len(), 1);
}

#[test]
fn attached_routes_are_counted_per_listener() {
    let compiled = world(&[
        gateway("edge", &format!("{TCP}, {{ name: tcp2, port: 10, protocol: TCP }}")),
        self::route("TCPRoute", "all", &format!("parentRefs: [{{ name: edge }}], {TO_RAW}")),
        self::route("TCPRoute", "one", &format!("parentRefs: [{{ name: edge, port: 10 }}], {TO_RAW}")),
    ]);
    let count = |at| listener(&compiled, "edge", at)["attachedRoutes"].as_u64().unwrap();
    assert_eq!((count(0), count(1)), (1, 2));
}
