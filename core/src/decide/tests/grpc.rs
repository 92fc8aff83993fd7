//! GRPCRoutes.

use super::*;

fn route(rules: &str) -> Snapshot {
    world(&format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{ name: calls, namespace: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  hostnames: [grpc.example]
  rules:
{rules}
"
    ))
}

/// The rule that takes a call, if one does.
fn rule(snapshot: &Snapshot, path: &str, header: Option<(&'static str, &'static str)>) -> Option<String> {
    let mut ask = get("grpc.example", path);
    ask.method = Method::POST;
    if let Some((name, value)) = header {
        ask.headers.insert(name, value.parse().unwrap());
    }
    match ask.edge(snapshot) {
        Outcome::Forward(decision) => {
            assert_eq!(&*decision.route, "grpcroute/shop/calls");
            let Backend::Service { protocol, .. } = &decision.backend else { panic!("no service") };
            assert_eq!(*protocol, AppProtocol::Http2, "gRPC is spoken over HTTP/2 alone");
            Some(decision.rule.to_string())
        }
        Outcome::Local(_) => None,
    }
}

#[test]
fn calls_are_matched_by_service_method_and_header() {
    let to = "backendRefs: [{ name: web, port: 80 }]";
    let snapshot = route(&format!(
        "
    - {{ name: method, matches: [{{ method: {{ method: Buy }} }}], {to} }}
    - {{ name: service, matches: [{{ method: {{ service: shop.v1.Checkout }} }}], {to} }}
    - {{ name: header, matches: [{{ method: {{ service: shop.v1.Checkout, method: Pay }},
         headers: [{{ name: version, value: two }}] }}], {to} }}
    - {{ name: both, matches: [{{ method: {{ service: shop.v1.Checkout, method: Pay }} }}], {to} }}
    - {{ name: regex, matches: [{{ method: {{ type: RegularExpression, service: 'a[.].*|b', method: 'Get.+' }} }}], {to} }}"
    ));
    let found = |path, header| rule(&snapshot, path, header);
    assert_eq!(found("/shop.v1.Checkout/Pay", None).as_deref(), Some("both"));
    assert_eq!(found("/shop.v1.Checkout/Pay", Some(("version", "two"))).as_deref(), Some("header"));
    assert_eq!(found("/shop.v1.Checkout/Other", None).as_deref(), Some("service"));
    assert_eq!(found("/any.Service/Buy", None).as_deref(), Some("method"));
    assert_eq!(found("/a.x/GetIt", None).as_deref(), Some("regex"));
    assert_eq!(found("/b/GetIt", None).as_deref(), Some("regex"));
    assert_eq!(found("/b/Get", None), None);
    assert_eq!(found("/shopxv1.Checkout/Pay", None), None, "a dot is a dot");
    assert_eq!(found("/any.Service/BuyMore", None), None);
}

#[test]
fn a_rule_without_matches_takes_every_call_of_its_hosts() {
    let snapshot = route("    - { backendRefs: [{ name: web, port: 80 }] }");
    assert_eq!(rule(&snapshot, "/x.Y/Z", None).as_deref(), Some("0"));
}

#[test]
fn forms_are_checked() {
    let of = |rules: &str| {
        let yaml = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{ name: calls, namespace: shop }}
spec:
  rules:
    - {rules}
"
        );
        let parsed = parse(&[Source { name: "test".into(), text: yaml }]);
        parsed.problems.iter().map(|problem| problem.to_string()).collect::<Vec<_>>().join(" | ")
    };
    assert_eq!(of("{ matches: [{ method: { service: a.B, method: C } }] }"), "");
    for (rules, said) in [
        ("{ matches: [{ method: {} }] }", "neither a service nor a method"),
        ("{ matches: [{ method: { service: a/B } }] }", "is not a gRPC service"),
        ("{ matches: [{ method: { method: a.B } }] }", "is not a gRPC method"),
        ("{ matches: [{ method: { type: RegularExpression, method: '(' } }] }", "not a regular expression"),
        ("{ matches: [{ path: { value: / } }] }", "unknown field"),
        ("{ filters: [{ type: URLRewrite, urlRewrite: { hostname: a } }] }", "is not for GRPCRoutes"),
        ("{ timeouts: { request: 1s } }", "unknown field"),
    ] {
        assert!(of(rules).contains(said), "{rules}: {}", of(rules));
    }
}

/// Neither the service nor the arms say that they speak HTTP/2.
#[test]
fn arms_of_a_call_speak_http2() {
    let release = |target: &str| {
        format!(
            "
---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{ name: calls, namespace: shop }}
spec:
  targetRefs: [{{ {target} }}]
  arms: [{{ name: v2, backendRefs: [{{ name: checkout, port: 80, labels: {{ version: v2 }} }}] }}]
  rules: [{{ arm: v2, headers: [{{ name: x-gray, value: v2 }}] }}]
"
        )
    };
    for target in
        ["group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls", "kind: Service, name: web"]
    {
        let snapshot =
            route(&format!("    - {{ backendRefs: [{{ name: web, port: 80 }}] }}\n{}", release(target)));
        let mut ask = get("grpc.example", "/x.Y/Z").header("x-gray", "v2");
        ask.method = Method::POST;
        let decision = forward(ask.edge(&snapshot));
        assert_eq!(
            (to(&decision).as_str(), decision.arm.as_deref()),
            ("cluster/shop/checkout:80 version=v2", Some("v2")),
            "{target}"
        );
        assert!(
            matches!(decision.backend, Backend::Service { protocol: AppProtocol::Http2, .. }),
            "{target}"
        );
    }
}
