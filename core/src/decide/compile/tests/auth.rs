//! External authorization: what status says of it.

use super::*;

fn auth_route(name: &str, backends: &[&str]) -> String {
    let rules: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(at, backend)| {
            format!(
                "{{ matches: [{{ path: {{ value: /{at} }} }}], backendRefs: [{{ name: web, port: 80 }}],
                    filters: [{{ type: ExternalAuth, externalAuth: {{ protocol: HTTP, http: {{ allowedHeaders: ~ }},
                      backendRef: {{ {backend} }} }} }}] }}"
            )
        })
        .collect();
    http_route(name, "shop", &format!("parentRefs: [{{ name: edge }}], rules: [{}]", rules.join(", ")))
}

#[test]
fn a_server_that_is_not_there_is_told_and_the_rest_stays_in_force() {
    let (good, none, port) = ("name: web, port: 80", "name: none, port: 80", "name: web, port: 81");
    let accepted = "Accepted=True/Accepted";
    let missing = "ResolvedRefs=False/BackendNotFound";
    for (backends, expected) in [
        (&[good][..], &[accepted, "ResolvedRefs=True/ResolvedRefs"][..]),
        (&[good, none], &[accepted, missing, "PartiallyInvalid=True/UnsupportedValue"]),
        (&[none], &[accepted, missing, "PartiallyInvalid=True/UnsupportedValue"]),
        (&[port], &[accepted, missing, "PartiallyInvalid=True/UnsupportedValue"]),
    ] {
        let compiled = world(&[gateway("edge", HTTP), auth_route("r", backends)]);
        assert_eq!(route(&compiled, "r"), expected, "{backends:?}");
    }
}

#[test]
fn a_policy_says_so_too_and_refuses() {
    let policy = "
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: p, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  externalAuth: { protocol: GRPC, backendRef: { name: auth, namespace: bank, port: 80 }, timeout: 50ms, failOpen: true }
";
    let compiled = world(&[gateway("edge", HTTP), policy.into()]);
    let status = status(&compiled, "TrafficPolicy", "p");
    assert_eq!(
        conditions(&status["ancestors"][0]),
        ["Accepted=True/Accepted", "ResolvedRefs=False/RefNotPermitted"]
    );
    let compiled = &compiled.edge_policies.gateways["shop/edge"].whole;
    let auth = compiled.as_ref().unwrap().external_auth.as_ref().unwrap();
    assert_eq!((&auth.backend, auth.timeout.as_millis(), auth.fail_open), (&None, 50, true));
}
