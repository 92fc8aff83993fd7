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

fn secret(certificate: &str, key: &str) -> String {
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
fn gateways_that_share_a_socket_share_its_listeners_but_not_its_protocol() {
    let tls = "{ name: s, port: 80, protocol: HTTPS, tls: { certificateRefs: [{ name: c }] } }";
    let compiled = world(&[gateway("a", HTTP), gateway("b", HTTP), gateway("c", tls)]);
    assert_eq!(compiled.binds.len(), 1);
    let names: Vec<_> = compiled.binds[0].listeners.iter().map(|l| &*l.gateway).collect();
    assert_eq!(names, ["shop/a", "shop/b"]);
    assert!(conditions(&listener(&compiled, "c", 0)).contains(&"Conflicted=True/ProtocolConflict".into()));
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
fn addresses_make_sockets() {
    let with = |addresses: &str| {
        gateway("edge", HTTP).replace("listeners:", &format!("addresses: [{addresses}], listeners:"))
    };
    let compiled = world(&[with("{ value: 127.0.0.1 }, { type: IPAddress, value: \"::1\" }")]);
    let keys: Vec<_> = compiled.binds.iter().map(|bind| bind.key.address.unwrap().to_string()).collect();
    assert_eq!(keys, ["127.0.0.1", "::1"]);
    assert!(compiled.binds.iter().all(|bind| compiled.bind(bind.key).is_some()));
    let named = world(&[with("{ type: Hostname, value: x.example }")]);
    assert_eq!(conditions(&status(&named, "Gateway", "edge"))[0], "Accepted=False/UnsupportedAddress");
    assert!(named.binds.is_empty());
}
