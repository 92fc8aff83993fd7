//! BackendTLSPolicy, what a Gateway shows to backends, and what it asks of clients.

use super::{
    certificates::Authority,
    client::{call, get},
    world::{INFRA, World},
};

fn policy(name: &str, service: &str, authority: &str, hostname: &str, more: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{ name: {name}, namespace: {INFRA} }}\n\
         spec:\n  targetRefs: [{{ group: '', kind: Service, name: {service} }}]\n  validation: {{ caCertificateRefs: [{{ group: \
         '', {authority} }}], hostname: {hostname}{more} }}\n"
    )
}

const CA: &str = "kind: ConfigMap, name: tls-checks-ca-certificate";

/// A route of `same-namespace` that sends `/NAME` to the Service of that name.
fn route(kind: &str, services: &[&str]) -> String {
    let rule = |service: &&str| {
        let matches = match kind {
            "GRPCRoute" => format!("{{ method: {{ service: {} }} }}", service.replace('-', "_")),
            _ => format!("{{ path: {{ type: Exact, value: /{service} }} }}"),
        };
        format!("{{ matches: [{matches}], backendRefs: [{{ name: {service}, port: 443 }}] }}")
    };
    let rules: Vec<String> = services.iter().map(rule).collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: to-tls, namespace: {INFRA} }}\n\
         spec: {{ parentRefs: [{{ name: same-namespace }}, {{ name: same-namespace-with-https-listener }}], hostnames: \
         [abc.example.com, https-listener.org], rules: [{}] }}\n",
        rules.join(", ")
    )
}

/// The stage with these Services over TLS, for `abc.example.com`.
async fn world(services: &[&str], documents: &[String]) -> World {
    let mut world = World::stage().await;
    for name in services {
        let issued = world.authority.issue(&["abc.example.com", "other.example.com"]);
        world.add_tls_service(INFRA, name, &issued).await;
    }
    world.write("authority", &world.authority.config_map(INFRA, "tls-checks-ca-certificate"));
    world.write("stranger", &Authority::new().config_map(INFRA, "mismatch-ca-certificate"));
    let malformed = format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: malformed, namespace: {INFRA} }}\ndata: {{ ca.crt: junk }}\n"
    );
    world.write("malformed", &malformed);
    world.write("scenario", &documents.concat());
    world.serve();
    world
}

/// Also: backend_tls_policy_reencrypt, _san_validation, _invalid_ca_certificate_ref, _invalid_kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy() {
    let services =
        ["good", "host-mismatch", "ca-mismatch", "san", "san-mismatch", "nonexistent", "malformed", "kind"];
    let ca = |name: &str| format!("kind: ConfigMap, name: {name}");
    let san = |name: &str| format!(", subjectAltNames: [{{ type: Hostname, hostname: {name} }}]");
    let world = world(
        &services,
        &[
            route("HTTPRoute", &services),
            policy("good", "good", CA, "abc.example.com", ""),
            policy("host-mismatch", "host-mismatch", CA, "mismatch.example.com", ""),
            policy("ca-mismatch", "ca-mismatch", &ca("mismatch-ca-certificate"), "abc.example.com", ""),
            policy("san", "san", CA, "asked.example.com", &san("abc.example.com")),
            policy("san-mismatch", "san-mismatch", CA, "abc.example.com", &san("dce.example.com")),
            policy("nonexistent", "nonexistent", &ca("none"), "abc.example.com", ""),
            policy("malformed", "malformed", &ca("malformed"), "abc.example.com", ""),
            policy("kind", "kind", "kind: Secret, name: x", "abc.example.com", ""),
        ],
    )
    .await;
    let report = world.report();
    for name in services {
        let stanza = report.ancestor("BackendTLSPolicy", &format!("{INFRA}/{name}"), "same-namespace");
        match name {
            "nonexistent" | "malformed" => stanza.has("Accepted", "False", "NoValidCACertificate").has(
                "ResolvedRefs",
                "False",
                "InvalidCACertificateRef",
            ),
            "kind" => stanza.has("Accepted", "False", "NoValidCACertificate").has(
                "ResolvedRefs",
                "False",
                "InvalidKind",
            ),
            _ => stanza.has("Accepted", "True", "Accepted").has("ResolvedRefs", "True", "ResolvedRefs"),
        };
    }
    let to = world.address("same-namespace", 80);
    let ask = |name: &str| get("abc.example.com", &format!("/{name}"));
    for (name, sni) in [("good", "abc.example.com"), ("san", "asked.example.com")] {
        let echo = world.reaches(to, &ask(name), name).await.echo.unwrap();
        assert_eq!(echo.sni.as_deref(), Some(sni));
    }
    for name in ["host-mismatch", "ca-mismatch", "san-mismatch", "nonexistent", "malformed", "kind"] {
        let failed = |answer: &super::client::Answer| matches!(answer.status.as_u16(), 500 | 502 | 503);
        world.expect(to, &ask(name), "a 5xx", failed).await;
    }
    let secure = world.address("same-namespace-with-https-listener", 443);
    let again = get("https-listener.org", "/good").over_tls("https-listener.org");
    let echo = world.reaches(secure, &again, "good").await.echo.unwrap();
    assert_eq!(echo.sni.as_deref(), Some("abc.example.com"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_conflict_resolution() {
    let services = ["service"];
    let world = world(
        &services,
        &[
            route("HTTPRoute", &services),
            policy("conflicted-1", "service", CA, "other.example.com", ""),
            policy("conflicted-2", "service", CA, "abc.example.com", ""),
        ],
    )
    .await;
    let report = world.report();
    let of = |name: &str| report.ancestor("BackendTLSPolicy", &format!("{INFRA}/{name}"), "same-namespace");
    of("conflicted-1").has("Accepted", "True", "Accepted");
    of("conflicted-2").has("Accepted", "False", "Conflicted");
    let to = world.address("same-namespace", 80);
    let echo = world.reaches(to, &get("abc.example.com", "/service"), "service").await.echo.unwrap();
    assert_eq!(echo.sni.as_deref(), Some("other.example.com"));
}

/// A call fails where the backend is not who the policy wants, by a status that clients understand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_grpc_route() {
    let services = ["grpc-good", "grpc-host-mismatch", "grpc-ca-mismatch"];
    let documents = [
        route("GRPCRoute", &services),
        policy("good", "grpc-good", CA, "abc.example.com", ""),
        policy("host-mismatch", "grpc-host-mismatch", CA, "mismatch.example.com", ""),
        policy(
            "ca-mismatch",
            "grpc-ca-mismatch",
            "kind: ConfigMap, name: mismatch-ca-certificate",
            "abc.example.com",
            "",
        ),
    ];
    let world = world(&services, &documents).await;
    let report = world.report();
    for name in ["good", "host-mismatch", "ca-mismatch"] {
        let of = report.ancestor("BackendTLSPolicy", &format!("{INFRA}/{name}"), "same-namespace");
        of.has("Accepted", "True", "Accepted").has("ResolvedRefs", "True", "ResolvedRefs");
    }
    let to = world.address("same-namespace", 80);
    let ask = |service: &str| call("abc.example.com", &format!("/{}/Echo", service.replace('-', "_")));
    let answer = world.reaches(to, &ask("grpc-good"), "grpc-good").await;
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.echo.unwrap().sni.as_deref(), Some("abc.example.com"));
    for service in ["grpc-host-mismatch", "grpc-ca-mismatch"] {
        let answer = world.answers(to, &ask(service), 200).await;
        assert!(answer.headed, "{service}: the head is all there is");
        assert_eq!(answer.headers["grpc-status"], "14", "{service}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_tls_policy_observed_generation_bump() {
    let services = ["service"];
    let before = policy("bumped", "service", CA, "abc.example.com", "");
    let world = world(&services, &[route("HTTPRoute", &services), before.clone()]).await;
    let after = before
        .replace("name: bumped,", "name: bumped, generation: 2,")
        .replace("hostname: abc", "hostname: foo");
    world.write("scenario", &(route("HTTPRoute", &services) + &after));
    let stanza = world.report().ancestor("BackendTLSPolicy", &format!("{INFRA}/bumped"), "same-namespace");
    stanza.has_at("Accepted", "True", "Accepted", 2).has_at("ResolvedRefs", "True", "ResolvedRefs", 2);
}

/// A Gateway with `spec.tls`, and HTTP and HTTPS listeners.
fn gateway(name: &str, tls: &str, listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name}, namespace: {INFRA} }}\n\
         spec: {{ gatewayClassName: tombolo, tls: {{ {tls} }}, listeners: [{listeners}] }}\n"
    )
}

const HTTP: &str = "{ name: http, port: 80, protocol: HTTP }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_tls_backend_client_certificate() {
    let services = ["service"];
    let shown = "backend: { clientCertificateRef: { name: tls-checks-client-certificate } }";
    let to_showing =
        route("HTTPRoute", &services).replace("{ name: same-namespace }, ", "{ name: showing }, ");
    let world = world(
        &services,
        &[
            gateway("showing", shown, HTTP),
            to_showing,
            policy("service", "service", CA, "abc.example.com", ""),
        ],
    )
    .await;
    let issued = world.authority.issue(&["client.example.com"]);
    world.write("client", &issued.secret(INFRA, "tls-checks-client-certificate"));
    let report = world.report();
    report.object("Gateway", &format!("{INFRA}/showing")).has("ResolvedRefs", "True", "ResolvedRefs");
    let to = world.address("showing", 80);
    let echo = world.reaches(to, &get("abc.example.com", "/service"), "service").await.echo.unwrap();
    assert!(issued.certificate.replace('\n', "").contains(&echo.client_certificate.expect("one was shown")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_invalid_tls_backend_configuration() {
    let shown = |reference: &str| format!("backend: {{ clientCertificateRef: {{ {reference} }} }}");
    let cases = [
        ("nonexistent", "name: none", "InvalidClientCertificateRef"),
        ("group", "name: x, group: wrong.example", "InvalidClientCertificateRef"),
        ("kind", "name: x, kind: WrongKind", "InvalidClientCertificateRef"),
        ("malformed", "name: malformed-secret", "InvalidClientCertificateRef"),
        ("grant", "name: x, namespace: gateway-conformance-web-backend", "RefNotPermitted"),
    ];
    let mut documents: Vec<String> =
        cases.iter().map(|(name, reference, _)| gateway(name, &shown(reference), HTTP)).collect();
    documents.push(format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: malformed-secret, namespace: {INFRA} }}\ntype: \
         kubernetes.io/tls\nstringData: {{ tls.crt: Hello, tls.key: world }}\n"
    ));
    let world = world(&[], &documents).await;
    let report = world.report();
    for (name, _, reason) in cases {
        let gateway = report.object("Gateway", &format!("{INFRA}/{name}"));
        gateway.has("ResolvedRefs", "False", reason).has("Accepted", "True", "Accepted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_https_listener_detect_misdirected_requests() {
    let routes = |name: &str, section: &str, hosts: &str, service: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: {INFRA} \
             }}\nspec: {{ parentRefs: [{{ name: same-namespace-with-https-listener{section} }}], {hosts}rules: [{{ backendRefs: \
             [{{ name: {service}, port: 8080 }}] }}] }}\n"
        )
    };
    let world = world(
        &[],
        &[
            routes("one", "", "hostnames: [example.org], ", "infra-backend-v1"),
            routes("two", ", sectionName: https-with-hostname", "", "infra-backend-v2"),
        ],
    )
    .await;
    let to = world.address("same-namespace-with-https-listener", 443);
    for (sni, host, status) in [
        ("example.org", "example.org", 200),
        ("example.org", "second-example.org", 421),
        ("example.org", "unknown-example.org", 404),
        ("second-example.org", "second-example.org", 200),
        ("second-example.org", "example.org", 421),
        ("second-example.org", "unknown-example.org", 421),
        ("unknown-example.org", "example.org", 200),
        ("unknown-example.org", "unknown-example.org", 404),
    ] {
        world.answers(to, &get(host, "/").over_tls(sni), status).await;
        world.answers(to, &get(host, "/").over_tls(sni).over_http2(), status).await;
    }
}
