//! Rules of form are checked also where something else in the document cannot be read.

use super::{accepted, fields};

#[test]
fn a_wrong_type_hides_no_rule_of_form_elsewhere() {
    let found = fields(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: 5
  listeners:
    - { name: http, port: 0, protocol: HTTP }
    - { name: http, port: 81, protocol: HTTP, hostname: a_b }
",
    );
    assert_eq!(
        found,
        ["spec.listeners", "spec.listeners[0].port", "spec.listeners[1].hostname", "spec.gatewayClassName"]
    );
}

#[test]
fn what_is_missing_hides_no_rule_of_form_and_is_told_once() {
    let found = fields(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  listeners:
    - { port: 80, protocol: HTTP, hostname: a_b }
    - { name: s, port: 443, protocol: HTTPS, allowedRoutes: { namespaces: { from: Selector } } }
",
    );
    let expected = [
        "spec.listeners[0].hostname",
        "spec.listeners[1].allowedRoutes.namespaces.selector",
        "spec.listeners[0].name",
        "spec.gatewayClassName",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_was_cut_out_is_told_once_and_its_neighbours_are_not_mistaken() {
    // The first item goes: `hostnames[1]` would be told as `hostnames[0]`, so the list is left alone.
    let found = fields(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r }
spec: { hostnames: [5, a_b], rules: [{ matches: [{ path: { value: x } }] }] }
",
    );
    assert_eq!(found, ["spec.rules[0].matches[0].path.value", "spec.hostnames[0]"]);
}

#[test]
fn listener_sets_are_read_in_both_groups_and_a_documents_status_is_kept_aside() {
    let set = |version: &str, kind: &str| {
        format!(
            "
---
apiVersion: {version}
kind: {kind}
metadata: {{ name: more, namespace: shop }}
spec: {{ parentRef: {{ name: edge }}, listeners: [{{ name: a, port: 80, protocol: HTTP }}] }}
status: {{ conditions: [] }}
"
        )
    };
    let all = accepted(&format!(
        "{}{}",
        set("gateway.networking.k8s.io/v1", "ListenerSet"),
        set("gateway.networking.x-k8s.io/v1alpha1", "XListenerSet")
    ));
    assert_eq!((all.listener_sets.len(), all.x_listener_sets.len()), (1, 1));
    let (_, set) = all.listener_sets.first_key_value().unwrap();
    assert!(set.meta.status.is_some());
    assert!(all.documents().all(|(_, document)| !document.json().contains("status")));
    let long = format!("kind: ConfigMap\napiVersion: v1\nmetadata: {{ name: {} }}\n", "a".repeat(253));
    accepted(&long);
}

#[test]
fn a_service_may_have_ports_that_are_not_proxied() {
    let all = accepted(
        "
apiVersion: v1
kind: Service
metadata: { name: dns }
spec: { ports: [{ name: udp, port: 53, protocol: UDP }, { name: tcp, port: 53, protocol: TCP }, { name: u2, port: 54, protocol: UDP }] }
",
    );
    let (_, service) = all.services.first_key_value().unwrap();
    assert_eq!(service.spec.tcp_ports().map(|port| port.port).collect::<Vec<_>>(), [53]);
    let entry = crate::resources::static_services(&all, "c").into_values().next().unwrap();
    assert_eq!(entry.ports.len(), 1);
}

#[test]
fn labels_have_the_form_that_kubernetes_asks_for() {
    let of = |labels: &str, annotations: &str| {
        fields(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: m, labels: {{ {labels} }}, annotations: {{ {annotations} }} }}\n"
        ))
    };
    assert!(of("a: b, example.com/A_b.c: \"\", x: V-1", "example.com/note: anything at all").is_empty());
    for bad in ["-a: b", "a-: b", "a/b/c: d", "Example.com/a: b", "/a: b", "a: -b", "a: \"b c\"", "a: b_"] {
        assert_eq!(of(bad, ""), ["metadata.labels"], "{bad}");
    }
    assert_eq!(of(&format!("{}: b", "a".repeat(64)), ""), ["metadata.labels"]);
    assert_eq!(of("", "\"a b\": c"), ["metadata.annotations"]);
}
