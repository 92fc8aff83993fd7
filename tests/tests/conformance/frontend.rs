//! What a Gateway asks of clients: `spec.tls.frontend`.

use super::{
    certificates::Authority,
    client::get,
    world::{INFRA, World},
};

const LISTENERS: [(&str, u16); 2] = [("default", 443), ("per-port", 8443)];

/// A Gateway with [`LISTENERS`] that end TLS and one that does not, and a route of it to `infra-backend-v1`.
fn gateway(name: &str, frontend: &str) -> String {
    let listeners = LISTENERS.map(|(name, port)| {
        format!(
            "{{ name: {name}, port: {port}, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: \
             tls-validity-checks-certificate }}] }} }}"
        )
    });
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name}, namespace: {INFRA} }}\n\
         spec: {{ gatewayClassName: tombolo, tls: {{ frontend: {{ {frontend} }} }}, listeners: [{{ name: http, port: 80, \
         protocol: HTTP }}, {}] }}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: {INFRA} }}\n\
         spec: {{ parentRefs: [{{ name: {name} }}], rules: [{{ backendRefs: [{{ name: infra-backend-v1, port: 8080 }}] }}] }}\n",
        listeners.join(", ")
    )
}

fn validation(authority: &str, mode: &str) -> String {
    format!(
        "{{ validation: {{ caCertificateRefs: [{{ group: '', kind: ConfigMap, name: {authority} }}], mode: {mode} }} }}"
    )
}

/// Also: gateway_frontend_client_certificate_validation_insecure_fallback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_frontend_client_certificate_validation() {
    let frontend = |mode: &str| {
        let (default, own) = (validation("default-ca", mode), validation("per-port-ca", mode));
        format!("default: {default}, perPort: [{{ port: 8443, tls: {own} }}]")
    };
    let (default, own) = (Authority::new(), Authority::new());
    let documents = [
        gateway("strict", &frontend("AllowValidOnly")),
        gateway("lenient", &frontend("AllowInsecureFallback")),
        default.config_map(INFRA, "default-ca"),
        own.config_map(INFRA, "per-port-ca"),
    ];
    let world = World::with(&documents.concat()).await;
    let report = world.report();
    let lenient = report.object("Gateway", &format!("{INFRA}/lenient"));
    lenient.has("InsecureFrontendValidationMode", "True", "ConfigurationChanged");
    let names = &["client.example"];
    for (port, ours, theirs) in [(443, &default, &own), (8443, &own, &default)] {
        let ask = || get("example.org", "/").over_tls("example.org");
        let good = ask().with_certificate(&ours.issue(names));
        let bad = [
            ("no certificate", ask()),
            ("one of the other port's authority", ask().with_certificate(&theirs.issue(names))),
            ("one that has expired", ask().with_certificate(&ours.issue_expired(names))),
        ];
        let strict = world.address("strict", port);
        world.reaches(strict, &good, "infra-backend-v1").await;
        for (what, ask) in &bad {
            assert!(ask.send(strict).await.is_err(), "port {port} takes {what}");
        }
        let lenient = world.address("lenient", port);
        for ask in bad.iter().map(|(_, ask)| ask).chain([&good]) {
            world.reaches(lenient, ask, "infra-backend-v1").await;
        }
    }
}

/// Where no authority can be used, nobody gets in, and no other Gateway answers in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_frontend_invalid_default_client_certificate_validation() {
    let world =
        World::with(&gateway("g", &format!("default: {}", validation("none", "AllowValidOnly")))).await;
    let report = world.report();
    let of = |listener: &str| report.listener("Gateway", &format!("{INFRA}/g"), listener);
    of("http").has("Accepted", "True", "Accepted").has("Programmed", "True", "Programmed");
    let refused = of("default");
    refused.has("Accepted", "False", "NoValidCACertificate").has("Programmed", "False", "Invalid");
    refused.has("ResolvedRefs", "False", "InvalidCACertificateRef");
    world.reaches(world.address("g", 80), &get("example.org", "/"), "infra-backend-v1").await;
    let ask = get("example.org", "/").over_tls("example.org");
    // Another Gateway without an address has that port.
    let other = world.address("same-namespace-with-https-listener", 443);
    world.answers(other, &ask, 404).await;
    let answer = ask.send(world.address("g", 443)).await;
    assert!(answer.is_err(), "{answer:?}");
}
