//! Gateways and their listeners.

use super::*;

#[test]
fn listeners_are_refused_for_the_reasons_of_the_specification() {
    let has = |listeners: &str, at: usize, expected: &str| {
        let compiled = world(&[gateway("edge", listeners)]);
        let found = conditions(&listener(&compiled, "edge", at));
        assert!(found.contains(&expected.to_string()), "{listeners} {at}: {found:?} has no {expected}");
        compiled
    };
    has("{ name: a, port: 1, protocol: UDP }", 0, "Accepted=False/UnsupportedProtocol");
    let two = format!("{HTTP}, {{ name: b, port: 80, protocol: HTTP }}");
    for at in 0..2 {
        let compiled = has(&two, at, "Conflicted=True/HostnameConflict");
        assert!(compiled.binds.is_empty(), "none of them may win");
        assert_eq!(conditions(&status(&compiled, "Gateway", "edge"))[0], "Accepted=False/ListenersNotValid");
    }
    let tls = "{ name: s, port: 80, protocol: HTTPS, hostname: x.example, tls: { certificateRefs: [{ name: c }] } }";
    has(&format!("{HTTP}, {tls}"), 0, "Conflicted=True/ProtocolConflict");
    has(
        "{ name: a, port: 1, protocol: HTTP, allowedRoutes: { kinds: [{ kind: TCPRoute }] } }",
        0,
        "ResolvedRefs=False/InvalidRouteKinds",
    );
    has(tls, 0, "ResolvedRefs=False/InvalidCertificateRef");
    let kept = has(tls, 0, "Programmed=False/Invalid");
    assert_eq!(
        kept.binds[0].listeners[0].certificates,
        ["shop/c".into()],
        "its certificate may come on its own"
    );
    let elsewhere = tls.replace("name: c", "name: c, namespace: bank");
    has(&elsewhere, 0, "ResolvedRefs=False/RefNotPermitted");
    has(&tls.replace("name: c", "name: c, kind: ConfigMap"), 0, "ResolvedRefs=False/InvalidCertificateRef");
}

pub(super) fn secret(certificate: &str, key: &str) -> String {
    let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "
---
apiVersion: v1
kind: Secret
metadata: {{ name: c, namespace: shop }}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
        indented(certificate),
        indented(key)
    )
}

#[test]
fn a_certificate_has_to_be_one() {
    let tls = "{ name: s, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: c }] } }";
    let made = rcgen::generate_simple_self_signed(vec!["x.example".into()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (secret, expected) in [
        (secret(&certificate, &key), "True/ResolvedRefs"),
        (secret("hello", &key), "False/InvalidCertificateRef"),
        (secret(&certificate, "world"), "False/InvalidCertificateRef"),
    ] {
        let compiled = world(&[gateway("edge", tls), secret]);
        let found = conditions(&listener(&compiled, "edge", 0));
        assert!(found.contains(&format!("ResolvedRefs={expected}")), "{found:?}");
    }
}

#[test]
fn gateways_of_others_are_left_alone_and_those_without_a_class_wait() {
    let other = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: other }
spec: { controllerName: example.com/other }
";
    let foreign = gateway("foreign", HTTP).replace("gatewayClassName: tombolo", "gatewayClassName: other");
    let lost = gateway("lost", HTTP).replace("gatewayClassName: tombolo", "gatewayClassName: none");
    let to = |gateway: &str| http_route(gateway, "shop", &format!("parentRefs: [{{ name: {gateway} }}]"));
    let compiled = world(&[other.into(), foreign, lost, to("foreign"), to("lost")]);
    assert!(compiled.binds.is_empty());
    assert_eq!(status(&compiled, "Gateway", "foreign"), serde_json::json!({}));
    assert_eq!(conditions(&status(&compiled, "Gateway", "lost"))[0], "Accepted=Unknown/Pending");
    assert_eq!(status(&compiled, "HTTPRoute", "foreign")["parents"], serde_json::json!([]));
    assert_eq!(route(&compiled, "lost")[0], "Accepted=False/NoMatchingParent");
}

#[test]
fn names_that_lead_to_two_certificates_are_pointed_out() {
    let https = |name: &str, port: u16, host: &str| {
        format!(
            "{{ name: {name}, port: {port}, protocol: HTTPS, hostname: '{host}', tls: {{ certificateRefs: [{{ name: c }}] }} }}"
        )
    };
    let listeners = [
        https("foo", 443, "foo.example.com"),
        https("bar", 443, "bar.bar.example.com"),
        https("wild", 443, "*.example.com"),
        https("apex", 443, "example.com"),
        https("elsewhere", 9443, "foo.example.com"),
    ];
    let compiled = world(&[gateway("edge", &listeners.join(", "))]);
    let overlapping = |at: usize| {
        let listener = listener(&compiled, "edge", at);
        conditions(&listener).contains(&"OverlappingTLSConfig=True/OverlappingHostnames".into())
    };
    assert_eq!((0..5).map(overlapping).collect::<Vec<_>>(), [true, true, true, false, false]);
}

#[test]
fn what_others_wrote_into_a_status_stays() {
    let theirs = "{ type: example.com/Scanned, status: \"True\", reason: Seeded, message: \"\", observedGeneration: 7, lastTransitionTime: \"2026-01-01T00:00:00Z\" }";
    let written = format!(
        "{}status: {{ conditions: [{theirs}, {{ type: Accepted, status: \"False\" }}], listeners: [{{ name: http, conditions: [{theirs}] }}] }}\n",
        gateway("edge", HTTP)
    );
    let compiled = world(&[written]);
    let edge = status(&compiled, "Gateway", "edge");
    assert_eq!(
        conditions(&edge),
        ["Accepted=True/Accepted", "Programmed=True/Programmed", "example.com/Scanned=True/Seeded"]
    );
    assert_eq!(edge["conditions"][2]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    assert!(conditions(&edge["listeners"][0]).contains(&"example.com/Scanned=True/Seeded".into()));
}

#[test]
fn a_gateway_says_what_it_cannot_do() {
    let with = |extra: &str| gateway("edge", HTTP).replace("listeners:", &format!("{extra}, listeners:"));
    let first = |extra: &str| conditions(&status(&world(&[with(extra)]), "Gateway", "edge"));
    let parameters = "infrastructure: { parametersRef: { group: x, kind: Y, name: z } }";
    assert_eq!(first(parameters), ["Accepted=False/InvalidParameters", "Programmed=False/Invalid"]);
    let labelled = "infrastructure: { labels: { a: b }, annotations: { c: d } }";
    assert_eq!(first(labelled), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    let unknown = "tls: { backend: { clientCertificateRef: { name: none } } }";
    assert_eq!(first(unknown)[2], "ResolvedRefs=False/InvalidClientCertificateRef");
    let elsewhere = "tls: { backend: { clientCertificateRef: { name: none, namespace: bank } } }";
    assert_eq!(first(elsewhere)[2], "ResolvedRefs=False/RefNotPermitted");
}
