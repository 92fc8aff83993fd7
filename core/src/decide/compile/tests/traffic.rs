//! TrafficPolicies: status, and which one wins.

use super::*;

fn policy(name: &str, created: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: {name}, namespace: shop, generation: 7, creationTimestamp: \"{created}\" }}
spec: {{ {spec} }}
"
    )
}

const OLD: &str = "2024-01-01T00:00:00Z";
const NEW: &str = "2025-01-01T00:00:00Z";
const EDGE: &str = "group: gateway.networking.k8s.io, kind: Gateway, name: edge";

fn ancestors(compiled: &Compiled, name: &str) -> Vec<Vec<String>> {
    let status = status(compiled, "TrafficPolicy", name);
    let but_refs = |of: &Value| -> Vec<String> {
        let (refs, others): (Vec<_>, Vec<_>) =
            conditions(of).into_iter().partition(|text| text.starts_with("ResolvedRefs"));
        assert_eq!(refs, ["ResolvedRefs=True/ResolvedRefs"]);
        others
    };
    status["ancestors"].as_array().unwrap().iter().map(but_refs).collect()
}

#[test]
fn each_target_is_told_of() {
    let route =
        "parentRefs: [{ name: edge }], rules: [{ name: buy, backendRefs: [{ name: web, port: 80 }] }]";
    let target = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: web";
    let refs = format!(
        "targetRefs: [{{ {EDGE} }}, {{ {EDGE}, sectionName: http }}, {{ {EDGE}, sectionName: none }},
           {{ {target} }}, {{ {target}, sectionName: buy }}, {{ {target}, sectionName: sell }},
           {{ kind: Service, name: web }}, {{ kind: Service, name: nothing }}], maxConnections: 3"
    );
    let compiled = world(&[gateway("edge", HTTP), http_route("web", "shop", route), policy("p", OLD, &refs)]);
    let (yes, no) = ("Accepted=True/Accepted", "Accepted=False/TargetNotFound");
    let expected: Vec<Vec<String>> =
        [yes, yes, no, yes, yes, no, yes, no].iter().map(|text| vec![(*text).to_owned()]).collect();
    assert_eq!(ancestors(&compiled, "p"), expected);
    let status = status(&compiled, "TrafficPolicy", "p");
    let second = &status["ancestors"][1];
    assert_eq!(second["ancestorRef"]["kind"], "Gateway");
    assert_eq!(second["ancestorRef"]["sectionName"], "http");
    assert_eq!(second["ancestorRef"]["namespace"], "shop");
    assert_eq!(second["controllerName"], "tombolo.dev/gateway-controller");
    assert_eq!(second["conditions"][0]["observedGeneration"], 7);
}

#[test]
fn of_two_with_one_target_the_older_wins_field_by_field() {
    let refs = format!("targetRefs: [{{ {EDGE} }}]");
    let compiled = world(&[
        gateway("edge", HTTP),
        policy("a", NEW, &format!("{refs}, maxConnections: 1")),
        policy("b", OLD, &format!("{refs}, maxConnections: 2, requestLimits: {{ bodyBytes: 1 }}")),
        policy("c", NEW, &format!("{refs}, maxConnections: 3, rateLimit: {{ requests: 1 }}")),
    ]);
    assert_eq!(ancestors(&compiled, "b"), [["Accepted=True/Accepted"]]);
    assert_eq!(ancestors(&compiled, "a"), [["Accepted=False/Conflicted", "Conflicted=True/Conflicted"]]);
    assert_eq!(ancestors(&compiled, "c"), [["Accepted=True/Accepted", "Conflicted=True/Conflicted"]]);
    let policy = compiled.edge_policies.gateways["shop/edge"].whole.as_ref().unwrap();
    assert_eq!(policy.connections.as_ref().unwrap().most, 2);
    assert_eq!(&*policy.rate.as_ref().unwrap().policy, "shop/c");
}

#[test]
fn keys_come_from_a_config_map_or_the_policy_says_what_is_missing() {
    use crate::decide::KeySource;
    let map = |text: &str| {
        format!(
            "---
apiVersion: v1
kind: ConfigMap
metadata: {{ name: keys, namespace: shop }}
data: {{ jwks.json: '{text}' }}
"
        )
    };
    let provider = "{ name: p, issuer: i, jwks: { configMap: { name: keys } } }";
    let with = |documents: &str| {
        let spec = format!("targetRefs: [{{ {EDGE} }}], jwt: {{ providers: [{provider}] }}");
        let compiled = world(&[gateway("edge", HTTP), policy("p", OLD, &spec), documents.into()]);
        let of = conditions(&status(&compiled, "TrafficPolicy", "p")["ancestors"][0]);
        let policy = compiled.edge_policies.gateways["shop/edge"].whole.clone().unwrap();
        (of[1].clone(), policy.jwt.as_ref().unwrap().providers[0].keys.clone())
    };
    let keys = crate::jwt::testing::Issuer::es256("a").jwks();
    let (refs, source) = with(&map(&keys));
    assert_eq!(refs, "ResolvedRefs=True/ResolvedRefs");
    assert!(matches!(source, KeySource::Known(_)));
    for (documents, expected) in [
        (String::new(), "JwksNotFound"),
        (map("{}"), "InvalidJwks"),
        (map("{ \"keys\": [] }"), "InvalidJwks"),
    ] {
        assert_eq!(with(&documents), (format!("ResolvedRefs=False/{expected}"), KeySource::Missing));
    }
}

#[test]
fn listener_sets_are_targets_and_their_gateways_policies_hold_behind_theirs() {
    let set = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: { name: more, namespace: shop }
spec: { parentRef: { name: edge }, listeners: [{ name: extra, port: 8080, protocol: HTTP }] }
";
    let to = "group: gateway.networking.k8s.io, kind: ListenerSet, name: more";
    let refs = format!(
        "targetRefs: [{{ {to} }}, {{ {to}, sectionName: extra }}, {{ {to}, sectionName: http }}, \
         {{ group: gateway.networking.k8s.io, kind: ListenerSet, name: none }}], maxConnections: 3"
    );
    let compiled = world(&[gateway("edge", HTTP), set.into(), policy("p", OLD, &refs)]);
    let (yes, no) = ("Accepted=True/Accepted", "Accepted=False/TargetNotFound");
    assert_eq!(ancestors(&compiled, "p"), [[yes], [yes], [no], [no]]);
    let policy = compiled.edge_policies.sets["shop/more"].whole.as_ref().unwrap();
    assert_eq!(policy.connections.as_ref().unwrap().most, 3);
}

#[test]
fn services_may_want_to_be_told_who_the_client_is() {
    use crate::{
        decide::{Backend, ProxyVersion},
        model::{AppProtocol, ServiceKey},
    };
    let compiled = world(&[
        gateway("edge", HTTP),
        policy("b", NEW, "targetRefs: [{ kind: Service, name: web }], proxyProtocol: v1"),
        policy("a", OLD, "targetRefs: [{ kind: Service, name: web }], proxyProtocol: v2"),
    ]);
    assert_eq!(ancestors(&compiled, "a"), [["Accepted=True/Accepted"]]);
    assert_eq!(ancestors(&compiled, "b"), [["Accepted=False/Conflicted", "Conflicted=True/Conflicted"]]);
    let announce = |name: &str| {
        let service = ServiceKey::new(crate::model::Scope::Cluster, "shop", name).unwrap();
        let (labels, protocol) = (Default::default(), AppProtocol::Http1);
        let backend = Backend::Service { service, port: 80, labels, protocol };
        let shown = Default::default();
        let of = compiled.backend_tls.of(&backend, &shown).unwrap();
        assert_eq!(of.announce, compiled.backend_tls.of_passed(&backend).announce);
        of.announce
    };
    assert_eq!((announce("web"), announce("other")), (Some(ProxyVersion::V2), None));
}
