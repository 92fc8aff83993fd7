//! TLSRoute, TCPRoute, BackendTLSPolicy, and `spec.tls` of a Gateway.

use super::{accepted, fields};

fn document(version: &str, kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{ name: a }}\nspec: {{ {spec} }}\n"
    )
}

const RULES: &str = "rules: [{ backendRefs: [{ name: a, port: 443 }] }]";

#[test]
fn stream_routes_of_form() {
    for (version, kind, spec, field) in [
        ("v1", "TLSRoute", RULES.to_owned(), "spec.hostnames"),
        ("v1alpha3", "TLSRoute", format!("hostnames: [A.example], {RULES}"), "spec.hostnames[0]"),
        ("v1", "TLSRoute", "hostnames: [a.example], rules: []".into(), "spec.rules"),
        ("v1", "TLSRoute", "hostnames: [a.example], rules: [{}]".into(), "spec.rules[0].backendRefs"),
        ("v1", "TLSRoute", format!("hostname: a.example, hostnames: [a.example], {RULES}"), "spec.hostname"),
        ("v1alpha2", "TCPRoute", "rules: [{ backendRefs: [{ name: a }] }]".into(), "spec.rules[0].backendRefs[0].port"),
        (
            "v1alpha2",
            "TCPRoute",
            "rules: [{ backendRefs: [{ name: a, port: 1, filters: [{ type: URLRewrite, urlRewrite: {} }] }] }]".into(),
            "spec.rules[0].backendRefs[0].filters",
        ),
        ("v1beta1", "TCPRoute", RULES.into(), "apiVersion"),
    ] {
        assert_eq!(fields(&document(version, kind, &spec)), [field], "{kind} {spec}");
    }
    accepted(&document("v1", "TLSRoute", &format!("hostnames: ['*.example.com'], {RULES}")));
    accepted(&document("v1alpha2", "TLSRoute", RULES));
    accepted(&document("v1", "TCPRoute", RULES));
}

#[test]
fn backend_tls_policies_of_form() {
    let targets = "targetRefs: [{ group: '', kind: Service, name: a }]";
    let ca = "caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }]";
    for (spec, field) in [
        (format!("targetRefs: [], validation: {{ {ca}, hostname: a.example }}"), "spec.targetRefs"),
        (format!("{targets}, validation: {{ hostname: a.example }}"), "spec.validation"),
        (
            format!(
                "{targets}, validation: {{ {ca}, wellKnownCACertificates: System, hostname: a.example }}"
            ),
            "spec.validation",
        ),
        (format!("{targets}, validation: {{ {ca}, hostname: '*.example' }}"), "spec.validation.hostname"),
        (format!("{targets}, validation: {{ {ca} }}"), "spec.validation.hostname"),
        (
            format!(
                "{targets}, validation: {{ {ca}, hostname: a.example, subjectAltNames: [{{ type: URI, hostname: a }}] }}"
            ),
            "spec.validation.subjectAltNames[0]",
        ),
        (
            format!(
                "{targets}, validation: {{ {ca}, hostname: a.example, subjectAltNames: [{{ type: URI, uri: nope }}] }}"
            ),
            "spec.validation.subjectAltNames[0].uri",
        ),
    ] {
        assert_eq!(fields(&document("v1", "BackendTLSPolicy", &spec)), [field], "{spec}");
    }
    let names =
        "subjectAltNames: [{ type: Hostname, hostname: '*.a.example' }, { type: URI, uri: 'spiffe://x/y' }]";
    let good = format!("{targets}, validation: {{ {ca}, hostname: a.example, {names} }}");
    accepted(&document("v1alpha3", "BackendTLSPolicy", &good));
}

#[test]
fn tls_of_gateways_of_form() {
    let gateway = |tls: &str| {
        let listener = "listeners: [{ name: h, port: 80, protocol: HTTP }]";
        document("v1", "Gateway", &format!("gatewayClassName: t, {listener}, tls: {{ {tls} }}"))
    };
    let ca = "{ group: '', kind: ConfigMap, name: ca }";
    let validation = format!("validation: {{ caCertificateRefs: [{ca}] }}");
    for (tls, field) in [
        ("frontend: {}".to_owned(), "spec.tls.frontend.default"),
        (
            "frontend: { default: { validation: { caCertificateRefs: [] } } }".into(),
            "spec.tls.frontend.default.validation.caCertificateRefs",
        ),
        (
            "frontend: { default: { validation: { caCertificateRefs: [{ name: ca, group: '' }] } } }".into(),
            "spec.tls.frontend.default.validation.caCertificateRefs[0]",
        ),
        (
            format!(
                "frontend: {{ default: {{}}, perPort: [{{ port: 1, tls: {{ {validation} }} }}, {{ port: 1, tls: {{}} }}] }}"
            ),
            "spec.tls.frontend.perPort",
        ),
    ] {
        assert_eq!(fields(&gateway(&tls)), [field], "{tls}");
    }
    let set = accepted(&gateway(&format!(
        "backend: {{ clientCertificateRef: {{ name: c }} }}, frontend: {{ default: {{ {validation} }} }}"
    )));
    assert_eq!(set.gateways.len(), 1);
}
