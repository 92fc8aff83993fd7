//! TrafficPolicies: what applies to a request.

use super::*;

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  rules:
    - { name: buy, matches: [{ path: { value: /buy } }], backendRefs: [{ name: checkout, port: 80 }] }
    - { name: away, matches: [{ path: { value: /away } }], filters: [{ type: RequestRedirect, requestRedirect: { hostname: x.example } }] }
    - { name: see, matches: [{ path: { value: /see } }], backendRefs: [{ name: web, port: 80 }] }
";

fn policy(name: &str, target: &str, fields: &str) -> String {
    let target = target
        .replace("Gateway", "group: gateway.networking.k8s.io, kind: Gateway, name: edge")
        .replace("HTTPRoute", "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r")
        .replace("Service", "kind: Service, name: checkout");
    format!(
        "---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: {name}, namespace: shop }}
spec: {{ targetRefs: [{{ {target} }}], {fields} }}
"
    )
}

fn connections(snapshot: &Snapshot, path: &str) -> Option<u32> {
    forward(get("any.example", path).edge(snapshot)).policies.connections().map(|limit| limit.most)
}

#[test]
fn the_most_specific_target_wins_field_by_field() {
    let gateway = policy(
        "g",
        "Gateway",
        "maxConnections: 1, requestLimits: { bodyBytes: 1 }, rateLimit: { requests: 1 }",
    );
    let listener = policy("l", "Gateway, sectionName: http", "maxConnections: 2, rateLimit: { requests: 2 }");
    let route = policy("r", "HTTPRoute", "maxConnections: 3");
    let rule = policy("u", "HTTPRoute, sectionName: buy", "maxConnections: 4");
    let service = policy("s", "Service", "maxConnections: 5");
    let all = [gateway, listener, route, rule, service];
    for (count, expected) in [(0, None), (1, Some(1)), (2, Some(2)), (3, Some(3)), (4, Some(4)), (5, Some(5))]
    {
        let snapshot = world(&format!("{ROUTE}{}", all[..count].concat()));
        assert_eq!(connections(&snapshot, "/buy"), expected);
        let elsewhere = connections(&snapshot, "/see");
        assert_eq!(elsewhere, expected.map(|most| most.min(3)), "the rule and the service are others");
    }
    let snapshot = world(&format!("{ROUTE}{}", all.concat()));
    let policies = forward(get("any.example", "/buy").edge(&snapshot)).policies;
    assert_eq!(policies.limits().body_bytes, Some(1), "said by the Gateway alone");
    assert_eq!(policies.rate().unwrap().requests, 2, "the listener's");
    let mesh = forward(get("checkout", "/buy").mesh(&snapshot, "cluster/shop/checkout")).policies;
    assert!(mesh.is_empty(), "the edge's affair");
}

#[test]
fn calls_inside_the_mesh_are_counted_as_their_service_says() {
    let gateway = policy("g", "Gateway", "sharedRateLimit: { requests: 1 }");
    let service = policy(
        "s",
        "Service",
        "maxConnections: 5, rateLimit: { requests: 2 }, sharedRateLimit: { requests: 30, per: 1m, burst: 4 }",
    );
    let snapshot = world(&format!("{ROUTE}{gateway}{service}"));
    for service in ["cluster/shop/checkout", "clusterset/shop/checkout"] {
        let policies = forward(get("checkout", "/buy").mesh(&snapshot, service)).policies;
        assert_eq!((policies.rate().unwrap().requests, policies.connections()), (2, None));
        let shared = policies.shared().unwrap();
        assert_eq!((&*shared.policy, shared.requests, shared.burst), ("shop/s", 30, 4));
        assert_eq!(shared.rate(), 0.5);
    }
    let other = forward(get("web", "/").mesh(&snapshot, "cluster/shop/web")).policies;
    assert!(other.is_empty(), "what holds for a Gateway is the edge's affair");
    let edge = forward(get("any.example", "/see").edge(&snapshot)).policies;
    assert_eq!(edge.shared().unwrap().requests, 1);
}

#[test]
fn addresses_are_judged_whatever_the_answer_would_be() {
    // The client of these tests is 192.0.2.1.
    let denied = policy("g", "Gateway", "ipAccess: { deny: [192.0.2.0/24] }");
    let snapshot = world(&format!("{ROUTE}{denied}"));
    for path in ["/buy", "/away", "/nothing"] {
        assert_eq!(local(get("any.example", path).edge(&snapshot)), (403, "ip_denied"), "{path}");
    }
    let let_in = policy("r", "HTTPRoute, sectionName: see", "ipAccess: { allow: [192.0.2.1] }");
    let snapshot = world(&format!("{ROUTE}{denied}{let_in}"));
    forward(get("any.example", "/see").edge(&snapshot));
    assert_eq!(local(get("any.example", "/buy").edge(&snapshot)), (403, "ip_denied"));
}

#[test]
fn heads_are_measured() {
    let limits = policy("g", "Gateway", "requestLimits: { headerBytes: 10, headerCount: 2 }");
    let snapshot = world(&format!("{ROUTE}{limits}"));
    let refused = (431, "policy_headers_too_large");
    forward(get("any.example", "/buy").header("x-a", "1234567").edge(&snapshot));
    assert_eq!(local(get("any.example", "/buy").header("x-a", "12345678").edge(&snapshot)), refused);
    let three = get("any.example", "/buy").header("a", "1").header("b", "1").header("a", "1");
    assert_eq!(local(three.edge(&snapshot)), refused);
}
