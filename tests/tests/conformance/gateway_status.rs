//! Gateways, GatewayClasses and their listeners: what their status says.

use super::{
    client::get,
    report::Report,
    world::{INFRA, World},
};

const HTTP: &str = "{ name: http, port: 80, protocol: HTTP }";
const SECRET: &str = "tls-validity-checks-certificate";

fn gateway(name: &str, listeners: &str) -> String {
    with(name, "", listeners)
}

fn with(name: &str, extra: &str, listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name}, namespace: {INFRA} \
         }}\nspec: {{ gatewayClassName: tombolo, {extra} listeners: [{listeners}] }}\n"
    )
}

fn route(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: {INFRA} \
         }}\nspec: {{ {spec}, rules: [{{ backendRefs: [{{ name: infra-backend-v1, port: 8080 }}] }}] }}\n"
    )
}

fn https(name: &str, port: u16, extra: &str, certificate: &str) -> String {
    format!(
        "{{ name: {name}, port: {port}, protocol: HTTPS, {extra} tls: {{ certificateRefs: [{{ {certificate} }}] }} }}"
    )
}

fn key(name: &str) -> String {
    format!("{INFRA}/{name}")
}

async fn report(documents: &[String]) -> Report {
    let world = World::stage().await;
    world.write("scenario", &documents.concat());
    world.report()
}

#[tokio::test]
async fn gateway_class_observed_generation_bump() {
    let world = World::stage().await;
    let class = |generation: i64| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{ name: bumped, generation: \
             {generation} }}\nspec: {{ controllerName: tombolo.dev/gateway-controller, description: \"{generation}\" }}\n"
        )
    };
    for generation in [1, 2] {
        world.write("class", &class(generation));
        world.report().object("GatewayClass", "bumped").has_at("Accepted", "True", "Accepted", generation);
    }
}

#[tokio::test]
async fn gateway_observed_generation_bump_and_modify_listeners() {
    let world = World::stage().await;
    let at = |generation: i64, listeners: &str| {
        gateway("changed", listeners)
            .replace("name: changed", &format!("name: changed, generation: {generation}"))
    };
    let more =
        format!("{HTTP}, {}", https("https", 443, "hostname: data.test.com,", &format!("name: {SECRET}")));
    for (generation, listeners, count) in [(1, HTTP, 1), (2, more.as_str(), 2), (3, HTTP, 1)] {
        world.write("gateway", &at(generation, listeners));
        let report = world.report();
        let changed = report.object("Gateway", &key("changed"));
        changed.has_at("Accepted", "True", "Accepted", generation);
        changed.has_at("Programmed", "True", "Programmed", generation);
        assert_eq!(changed.value["listeners"].as_array().unwrap().len(), count);
        report
            .listener("Gateway", &key("changed"), "http")
            .attached(0)
            .has_at("Accepted", "True", "Accepted", generation);
    }
}

#[tokio::test]
async fn gateway_invalid_route_kind() {
    let kinds = |kinds: &str| {
        format!("{{ name: http, port: 80, protocol: HTTP, allowedRoutes: {{ kinds: [{kinds}] }} }}")
    };
    let report = report(&[
        gateway("only-invalid", &kinds("{ kind: InvalidRoute }")),
        gateway("both", &kinds("{ kind: InvalidRoute }, { kind: HTTPRoute }")),
    ])
    .await;
    for (name, supported) in [("only-invalid", vec![]), ("both", vec!["HTTPRoute"])] {
        let listener = report.listener("Gateway", &key(name), "http");
        listener.supports(&supported).has("ResolvedRefs", "False", "InvalidRouteKinds");
    }
}

#[tokio::test]
async fn gateway_listener_unsupported_protocol() {
    let invalid = "{ name: invalid, port: 1111, protocol: INVALID }";
    let report = report(&[gateway("only", invalid), gateway("some", &format!("{HTTP}, {invalid}"))]).await;
    report.object("Gateway", &key("only")).has("Accepted", "False", "ListenersNotValid");
    report.object("Gateway", &key("some")).has("Accepted", "True", "ListenersNotValid");
    for name in ["only", "some"] {
        let listener = report.listener("Gateway", &key(name), "invalid");
        listener.supports(&[]).attached(0).has("Accepted", "False", "UnsupportedProtocol");
    }
    report.listener("Gateway", &key("some"), "http").has("Accepted", "True", "Accepted");
}

#[tokio::test]
async fn gateway_invalid_tls_configuration() {
    let malformed = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: malformed, namespace: {INFRA} }}\ntype: \
         kubernetes.io/tls\ndata: {{ tls.crt: SGVsbG8gd29ybGQK, tls.key: SGVsbG8gd29ybGQK }}\n"
    );
    for (reference, reason) in [
        ("name: nonexistent", "InvalidCertificateRef"),
        ("name: x, group: wrong.group.company.io, kind: Secret", "InvalidCertificateRef"),
        ("name: x, kind: WrongKind", "InvalidCertificateRef"),
        ("name: malformed", "InvalidCertificateRef"),
    ] {
        let report = report(&[malformed.clone(), gateway("g", &https("https", 443, "", reference))]).await;
        let listener = report.listener("Gateway", &key("g"), "https");
        listener.attached(0).has("ResolvedRefs", "False", reason).has("Programmed", "False", "Invalid");
        assert_eq!(listener.value["supportedKinds"][0]["kind"], "HTTPRoute", "{reference}");
    }
}

fn grant(from: &str, to: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{ name: g, namespace: \
         gateway-conformance-web-backend }}\nspec: {{ from: [{{ {from} }}], to: [{{ {to} }}] }}\n"
    )
}

#[tokio::test]
async fn gateway_secret_reference_grants() {
    let world = World::stage().await;
    let certificate = world.authority.issue(&["certificate.example"]);
    world.write("theirs", &certificate.secret("gateway-conformance-web-backend", "certificate"));
    let from = format!("group: gateway.networking.k8s.io, kind: Gateway, namespace: {INFRA}");
    let edge = gateway(
        "g",
        &https("https", 443, "", "name: certificate, namespace: gateway-conformance-web-backend"),
    );
    for (what, grant, permitted) in [
        ("missing", String::new(), false),
        ("specific", grant(&from, "group: \"\", kind: Secret, name: certificate"), true),
        ("all in namespace", grant(&from, "group: \"\", kind: Secret"), true),
        ("of another kind", grant(&from, "group: \"\", kind: Service"), false),
        ("of another name", grant(&from, "group: \"\", kind: Secret, name: other"), false),
        (
            "from another group",
            grant(&from.replace("gateway.networking.k8s.io", "x.io"), "group: \"\", kind: Secret"),
            false,
        ),
        ("from another namespace", grant(&from.replace(INFRA, "other"), "group: \"\", kind: Secret"), false),
    ] {
        world.write("scenario", &format!("{edge}{grant}"));
        let listener = world.report().listener("Gateway", &key("g"), "https");
        match permitted {
            true => {
                listener.has("ResolvedRefs", "True", "ResolvedRefs").has("Programmed", "True", "Programmed")
            }
            false => {
                listener.has("ResolvedRefs", "False", "RefNotPermitted").has("Programmed", "False", "Invalid")
            }
        };
        println!("{what} is right");
    }
}

#[tokio::test]
async fn gateway_with_attached_routes() {
    let selecting = "{ name: http, port: 80, protocol: HTTP, allowedRoutes: { kinds: [{ kind: HTTPRoute }], \
                     namespaces: { from: Selector, selector: { matchLabels: { kubernetes.io/metadata.name: \
                     gateway-conformance-infra } } } } }";
    let two = format!("{}, {HTTP}", selecting.replace("name: http,", "name: other,").replace("80", "8080"));
    let unresolved = https("tls", 443, "", "name: nonexistent");
    let report = report(&[
        gateway("one", selecting),
        gateway("two", &two),
        gateway("unresolved", &unresolved),
        route("a", "parentRefs: [{ name: one }]"),
        route("b", "parentRefs: [{ name: one, kind: Gateway }]"),
        route("c", "parentRefs: [{ name: two, sectionName: http }]"),
        route("d", "parentRefs: [{ name: unresolved }]").replace("infra-backend-v1", "nonexistent"),
    ])
    .await;
    let one = report.listener("Gateway", &key("one"), "http");
    one.attached(2).has("Accepted", "True", "Accepted").has("ResolvedRefs", "True", "ResolvedRefs");
    report.listener("Gateway", &key("two"), "other").attached(0);
    report.listener("Gateway", &key("two"), "http").attached(1);
    let tls = report.listener("Gateway", &key("unresolved"), "tls");
    tls.attached(1).has("ResolvedRefs", "False", "InvalidCertificateRef");
    let d = report.parent("HTTPRoute", &key("d"), "unresolved");
    d.has("Accepted", "True", "Accepted").has("ResolvedRefs", "False", "BackendNotFound");
}

#[tokio::test]
async fn gateway_static_addresses() {
    let world = World::stage().await;
    let write = |addresses: &str| {
        world.write("scenario", &with("g", &format!("addresses: [{addresses}],"), HTTP));
        world.report().object("Gateway", &key("g"))
    };
    let (invalid, unusable, usable) =
        ("{ type: test/fake-invalid-type, value: x }", "{ value: 192.0.2.77 }", "{ value: 127.0.0.77 }");
    write(&format!("{invalid}, {unusable}, {usable}")).has("Accepted", "False", "UnsupportedAddress");
    let partly = write(&format!("{unusable}, {usable}"));
    partly.has("Accepted", "True", "Accepted").has("Programmed", "False", "AddressNotUsable");
    let all = write(usable);
    all.has("Accepted", "True", "Accepted").has("Programmed", "True", "Programmed");
    assert_eq!(all.value["addresses"], serde_json::json!([{ "type": "IPAddress", "value": "127.0.0.77" }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_optional_address_value() {
    let hosts = |host: &str| format!("{{ name: http, port: 80, protocol: HTTP, hostname: {host} }}");
    let world = World::with(
        &[
            with("valueless", "addresses: [{ type: IPAddress }],", HTTP),
            gateway("none", HTTP),
            gateway("other", &hosts("other.example")),
            route("a", "parentRefs: [{ name: valueless }]"),
            route("b", "parentRefs: [{ name: none }]").replace("infra-backend-v1", "infra-backend-v2"),
            route("c", "parentRefs: [{ name: other }]").replace("infra-backend-v1", "infra-backend-v3"),
        ]
        .concat(),
    )
    .await;
    for (gateway, service) in
        [("valueless", "infra-backend-v1"), ("none", "infra-backend-v2"), ("other", "infra-backend-v3")]
    {
        world.report().object("Gateway", &key(gateway)).has("Programmed", "True", "Programmed");
        let to = world.address(gateway, 80);
        world.reaches(to, &get("other.example", "/"), service).await;
        if gateway == "other" {
            world.answers(to, &get("none.example", "/"), 404).await;
        }
    }
    // On the socket that all three share, the most specific hostname wins.
    let mut shared = world.address("none", 80);
    shared.set_ip([127, 0, 0, 99].into());
    world.reaches(shared, &get("other.example", "/"), "infra-backend-v3").await;
}

#[tokio::test]
async fn gateway_max_length_name() {
    let name = format!("g{}", "a".repeat(252));
    let report = report(&[gateway(&name, &HTTP.replace("80", "8080"))]).await;
    report.object("Gateway", &key(&name)).has("Accepted", "True", "Accepted");
}

#[tokio::test]
async fn gateway_infrastructure_propagation_is_read() {
    let labels = "infrastructure: { labels: { label-key: label-value }, annotations: { a-key: a-value } },";
    let report = report(&[with("g", labels, HTTP)]).await;
    report.object("Gateway", &key("g")).has("Accepted", "True", "Accepted");
}

#[tokio::test]
async fn gateway_overlapping_tls_config_hostnames() {
    let of = |name: &str, port: u16, host: &str| {
        https(name, port, &format!("hostname: \"{host}\","), &format!("name: {SECRET}"))
    };
    let listeners = [
        of("foo-https", 443, "foo.example.com"),
        of("bar-https", 443, "bar.bar.example.com"),
        of("wildcard-https", 443, "*.example.com"),
        of("not-overlapping-https", 443, "example.com"),
        of("not-overlapping-other-port", 9443, "foo.example.com"),
    ];
    let report = report(&[gateway("g", &listeners.join(", "))]).await;
    for name in ["foo-https", "bar-https", "wildcard-https"] {
        let listener = report.listener("Gateway", &key("g"), name);
        listener.has("Accepted", "True", "Accepted").has(
            "OverlappingTLSConfig",
            "True",
            "OverlappingHostnames",
        );
    }
    for name in ["not-overlapping-https", "not-overlapping-other-port"] {
        report.listener("Gateway", &key("g"), name).lacks("OverlappingTLSConfig", "none");
    }
}

#[tokio::test]
async fn gateway_preserve_foreign_conditions() {
    let world = World::stage().await;
    let seeded = "{ type: Stale, status: \"True\", reason: Seeded, message: \"\", observedGeneration: 1, \
                  lastTransitionTime: \"2026-01-01T00:00:00Z\" }";
    let bumped = gateway("g", &HTTP.replace("port: 80", "port: 80, hostname: second.example.com"))
        .replace("name: g,", "name: g, generation: 2,");
    world.write(
        "scenario",
        &format!("{bumped}status: {{ conditions: [{seeded}], listeners: [{{ name: http, conditions: [{seeded}] }}] }}\n"),
    );
    let report = world.report();
    for stanza in [report.object("Gateway", &key("g")), report.listener("Gateway", &key("g"), "http")] {
        stanza.has_at("Accepted", "True", "Accepted", 2).has_at("Stale", "True", "Seeded", 1);
    }
}

#[tokio::test]
async fn gateway_update_listener_hostname() {
    let world = World::stage().await;
    let host = |host: &str| {
        gateway("g", &format!("{{ name: http, port: 80, protocol: HTTP, hostname: {host} }}"))
            + &route("r", "parentRefs: [{ name: g }], hostnames: [accepted.example.com]")
    };
    world.write("scenario", &host("other.example.com"));
    let before = world.report();
    before.parent("HTTPRoute", &key("r"), "g").has("Accepted", "False", "NoMatchingListenerHostname");
    before.listener("Gateway", &key("g"), "http").attached(0);
    world.write("scenario", &host("accepted.example.com"));
    let after = world.report();
    after.parent("HTTPRoute", &key("r"), "g").has("Accepted", "True", "Accepted");
    after.listener("Gateway", &key("g"), "http").attached(1);
}

#[tokio::test]
async fn gateway_listener_protocol_and_route_kind_conflicts() {
    let kinds = |kind: &str| format!("allowedRoutes: {{ kinds: [{{ kind: {kind} }}] }}");
    let listeners = [
        format!(
            "{{ name: tls, port: 443, protocol: TLS, hostname: abc.example.com, tls: {{ mode: Passthrough }}, {} }}",
            kinds("TLSRoute")
        ),
        https("conflicted-https", 8443, &format!("{},", kinds("HTTPRoute")), &format!("name: {SECRET}")),
        format!(
            "{{ name: conflicted-tls, port: 8443, protocol: TLS, tls: {{ mode: Passthrough }}, {} }}",
            kinds("TLSRoute")
        ),
    ];
    let report = report(&[
        gateway("g", &listeners.join(", ")),
        route("disallowed", "parentRefs: [{ name: g, sectionName: tls }]"),
    ])
    .await;
    let disallowed = report.parent("HTTPRoute", &key("disallowed"), "g#tls");
    disallowed.has("Accepted", "False", "NotAllowedByListeners").has("ResolvedRefs", "True", "ResolvedRefs");
    for name in ["conflicted-https", "conflicted-tls"] {
        let listener = report.listener("Gateway", &key("g"), name);
        listener
            .has("Accepted", "False", "Invalid")
            .has("Conflicted", "True", "ProtocolConflict")
            .attached(0);
        listener.has("Programmed", "False", "Invalid");
    }
}

#[tokio::test]
async fn gateway_invalid_frontend_client_certificate_validation() {
    let world = World::stage().await;
    let reference =
        |text: &str| format!("{{ validation: {{ caCertificateRefs: [{{ group: \"\", {text} }}] }} }}");
    let per_port = |port: u16, text: &str| format!("{{ port: {port}, tls: {} }}", reference(text));
    let tls = format!(
        "tls: {{ frontend: {{ default: {}, perPort: [{}, {}, {}] }} }},",
        reference("kind: ConfigMap, name: authorities"),
        per_port(7443, "kind: ConfigMap, name: none"),
        per_port(8443, "kind: Service, name: infra-backend-v2"),
        per_port(6443, "kind: ConfigMap, name: authorities, namespace: elsewhere")
    );
    let listener = |name: &str, port: u16| https(name, port, "", &format!("name: {SECRET}"));
    let listeners = [
        listener("https", 443),
        listener("https-unresolved", 7443),
        listener("https-invalid-kind", 8443),
        listener("https-grant-missing", 6443),
    ];
    let authorities = world.authority.config_map(INFRA, "authorities");
    world.write("scenario", &format!("{}{authorities}", with("g", &tls, &listeners.join(", "))));
    let report = world.report();
    let of = |name: &str| report.listener("Gateway", &key("g"), name);
    let good = of("https");
    good.has("Accepted", "True", "Accepted").has("ResolvedRefs", "True", "ResolvedRefs");
    good.has("Programmed", "True", "Programmed");
    for (name, reason) in [
        ("https-unresolved", "InvalidCACertificateRef"),
        ("https-invalid-kind", "InvalidCACertificateKind"),
        ("https-grant-missing", "RefNotPermitted"),
    ] {
        let bad = of(name);
        bad.has("ResolvedRefs", "False", reason).has("Accepted", "False", "NoValidCACertificate");
        bad.has("Programmed", "False", "Invalid");
    }
}
