//! BackendTLSPolicies, and what Gateways show to backends.

use super::*;

fn policy(name: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: {name}, namespace: shop }}
spec: {{ {spec} }}
"
    )
}

fn ca() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["x.example".into()]).unwrap();
    let pem: String = made.cert.pem().lines().map(|line| format!("    {line}\n")).collect();
    let map = |name: &str, text: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name}, namespace: shop }}\ndata:\n{text}"
        )
    };
    [
        map("ca", &format!("  ca.crt: |\n{pem}")),
        map("junk", "  ca.crt: hello\n"),
        map("empty", "  other: x\n"),
    ]
    .concat()
}

const TARGET: &str = "targetRefs: [{ group: '', kind: Service, name: web }]";

fn trusting(kind: &str, name: &str) -> String {
    format!(
        "validation: {{ caCertificateRefs: [{{ group: '', kind: {kind}, name: {name} }}], hostname: web.example }}"
    )
}

fn ancestor(compiled: &Compiled, policy: &str) -> Vec<String> {
    conditions(&status(compiled, "BackendTLSPolicy", policy)["ancestors"][0])
}

fn stage(more: &[String]) -> Compiled {
    let route = http_route("web", "shop", &format!("parentRefs: [{{ name: edge }}], {TO_WEB}"));
    world(
        &[&[gateway("edge", HTTP), gateway("unused", &HTTP.replace("80", "81")), route, ca()], more].concat(),
    )
}

fn found(compiled: &Compiled, port: u16) -> Result<Option<String>, crate::decide::backend_tls::InvalidTls> {
    let service = crate::model::ServiceKey::parse("cluster/shop/web").unwrap();
    let backend = crate::decide::Backend::Service {
        service,
        port,
        labels: Default::default(),
        protocol: Default::default(),
    };
    let tls = compiled.backend_tls.of(&backend, &Default::default())?;
    Ok(tls.policy.map(|policy| policy.hostname.to_string()))
}

#[test]
fn a_policy_is_told_of_at_each_gateway_that_sends_to_its_service() {
    let compiled = stage(&[policy("p", &format!("{TARGET}, {}", trusting("ConfigMap", "ca")))]);
    let ancestors = &status(&compiled, "BackendTLSPolicy", "p")["ancestors"];
    assert_eq!(ancestors.as_array().unwrap().len(), 1, "not at a Gateway without a route to it");
    assert_eq!(
        ancestors[0]["ancestorRef"],
        serde_json::json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": "edge" })
    );
    assert_eq!(ancestors[0]["controllerName"], "tombolo.dev/gateway-controller");
    assert_eq!(ancestor(&compiled, "p"), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);
    assert_eq!(found(&compiled, 80).unwrap().as_deref(), Some("web.example"));
    assert_eq!(found(&compiled, 9).unwrap().as_deref(), Some("web.example"), "every port");
}

#[test]
fn a_policy_that_cannot_be_carried_out_closes_its_service() {
    for (kind, name, resolved) in [
        ("ConfigMap", "none", "ResolvedRefs=False/InvalidCACertificateRef"),
        ("ConfigMap", "junk", "ResolvedRefs=False/InvalidCACertificateRef"),
        ("ConfigMap", "empty", "ResolvedRefs=False/InvalidCACertificateRef"),
        ("Secret", "ca", "ResolvedRefs=False/InvalidKind"),
    ] {
        let compiled = stage(&[policy("p", &format!("{TARGET}, {}", trusting(kind, name)))]);
        assert_eq!(
            ancestor(&compiled, "p"),
            ["Accepted=False/NoValidCACertificate", resolved],
            "{kind} {name}"
        );
        assert!(found(&compiled, 80).is_err());
    }
    let two = trusting("ConfigMap", "ca")
        .replace("caCertificateRefs: [", "caCertificateRefs: [{ group: '', kind: ConfigMap, name: none }, ");
    let compiled = stage(&[policy("p", &format!("{TARGET}, {two}"))]);
    assert_eq!(
        ancestor(&compiled, "p"),
        ["Accepted=True/Accepted", "ResolvedRefs=False/InvalidCACertificateRef"]
    );
    assert!(found(&compiled, 80).is_ok(), "one that can be used is enough");
    let unknown = "validation: { wellKnownCACertificates: example.com/own, hostname: web.example }";
    let compiled = stage(&[policy("p", &format!("{TARGET}, {unknown}"))]);
    assert_eq!(ancestor(&compiled, "p")[0], "Accepted=False/Invalid");
}

#[test]
fn of_policies_for_the_same_section_the_oldest_holds() {
    let section = |port: &str| TARGET.replace("name: web", &format!("name: web, sectionName: {port}"));
    let named = |hostname: &str| trusting("ConfigMap", "ca").replace("web.example", hostname);
    let aged = |name: &str, hostname: &str, year: u16, target: &str| {
        policy(name, &format!("{target}, {}", named(hostname))).replace(
            "namespace: shop }",
            &format!("namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z' }}"),
        )
    };
    let compiled = stage(&[
        aged("a-young", "young.example", 2025, TARGET),
        aged("b-old", "old.example", 2020, TARGET),
        aged("c-http", "http.example", 2026, &section("http")),
        policy("d-http", &format!("{}, {}", section("http"), named("late.example"))),
    ]);
    assert_eq!(ancestor(&compiled, "a-young")[0], "Accepted=False/Conflicted");
    assert_eq!(ancestor(&compiled, "b-old")[0], "Accepted=True/Accepted");
    assert_eq!(ancestor(&compiled, "c-http")[0], "Accepted=True/Accepted");
    assert_eq!(ancestor(&compiled, "d-http")[0], "Accepted=False/Conflicted");
    assert_eq!(found(&compiled, 80).unwrap().as_deref(), Some("http.example"), "a section goes before all");
    assert_eq!(found(&compiled, 9).unwrap().as_deref(), Some("old.example"));
}

#[test]
fn a_gateways_certificate_for_backends_has_to_be_one() {
    let with = |reference: &str| {
        let tls = format!("tls: {{ backend: {{ clientCertificateRef: {{ {reference} }} }} }}, listeners:");
        world(&[gateway("edge", HTTP).replace("listeners:", &tls)])
    };
    for (reference, expected) in [
        ("name: none", "ResolvedRefs=False/InvalidClientCertificateRef"),
        ("name: none, kind: ConfigMap", "ResolvedRefs=False/InvalidClientCertificateRef"),
        ("name: none, group: example.com", "ResolvedRefs=False/InvalidClientCertificateRef"),
        ("name: none, namespace: bank", "ResolvedRefs=False/RefNotPermitted"),
    ] {
        let found = conditions(&status(&with(reference), "Gateway", "edge"));
        assert!(found.contains(&expected.into()), "{reference}: {found:?}");
        assert!(found.contains(&"Accepted=True/Accepted".into()), "{reference}: {found:?}");
    }
}
