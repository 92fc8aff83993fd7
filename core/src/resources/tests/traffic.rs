//! TrafficPolicies and external authorization as they are written.

use super::*;

#[test]
fn a_traffic_policy_has_to_make_sense() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: tombolo.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: p }}\nspec: {{ {spec} }}\n"
        )
    };
    let to = "targetRefs: [{ kind: Service, name: a }]";
    let full = format!(
        "{to}, ipAccess: {{ allow: [10.0.0.0/8, \"::1\"], deny: [10.1.2.3] }}, maxConnections: 5,
         requestLimits: {{ bodyBytes: 10, headerBytes: 10, headerCount: 1 }},
         rateLimit: {{ requests: 5, per: 1m, burst: 1, key: {{ header: x-user }} }},
         compression: {{ algorithms: [br, gzip, zstd], contentTypes: [text/*, application/json], minBytes: 1 }}"
    );
    assert_eq!(accepted(&policy(&full)).traffic_policies.len(), 1);
    for (spec, wrong) in [
        ("rateLimit: { requests: 1 }", "spec.targetRefs"),
        ("targetRefs: [], rateLimit: { requests: 1 }", "spec.targetRefs"),
        (to, "spec"),
        ("targetRefs: [{ kind: Pod, name: a }], maxConnections: 1", "spec.targetRefs[0].kind"),
        (
            "targetRefs: [{ kind: Service, name: a, sectionName: b }], maxConnections: 1",
            "spec.targetRefs[0].sectionName",
        ),
        (
            "targetRefs: [{ kind: Service, name: a }, { kind: Service, name: a }], maxConnections: 1",
            "spec.targetRefs",
        ),
        ("T, maxConnections: 0", "spec.maxConnections"),
        ("T, ipAccess: {}", "spec.ipAccess"),
        ("T, ipAccess: { deny: [\"10.0.0.0/33\"] }", "spec.ipAccess.deny[0]"),
        ("T, requestLimits: {}", "spec.requestLimits"),
        ("T, rateLimit: { requests: 0 }", "spec.rateLimit.requests"),
        ("T, rateLimit: { requests: 1, burst: 0 }", "spec.rateLimit.burst"),
        ("T, rateLimit: { requests: 1, per: 10ms }", "spec.rateLimit.per"),
        ("T, rateLimit: { requests: 1, per: soon }", "spec.rateLimit.per"),
        ("T, rateLimit: { requests: 1, key: { header: a, cookie: b } }", "spec.rateLimit.key"),
        ("T, rateLimit: { requests: 1, key: { header: \"a b\" } }", "spec.rateLimit.key.header"),
        ("T, sharedRateLimit: { requests: 0 }", "spec.sharedRateLimit.requests"),
        ("T, sharedRateLimit: { requests: 1, key: {} }", "spec.sharedRateLimit.key"),
        ("T, sharedRateLimit: { requests: 1, key: { header: x-user } }", "spec.sharedRateLimit.key"),
        ("T, compression: { algorithms: [deflate] }", "spec.compression.algorithms[0]"),
        ("T, compression: { algorithms: [br, br] }", "spec.compression.algorithms"),
        ("T, compression: { contentTypes: [html] }", "spec.compression.contentTypes[0]"),
        ("T, compresion: {}", "spec.compresion"),
        ("T, loadBalancer: { type: Random }", "spec.loadBalancer.type"),
        ("T, loadBalancer: { hashKey: { sourceIP: true } }", "spec.loadBalancer.hashKey"),
        ("T, loadBalancer: { type: ConsistentHash, hashKey: {} }", "spec.loadBalancer.hashKey"),
        ("T, loadBalancer: { subsetSize: 1 }", "spec.loadBalancer.subsetSize"),
        ("T, loadBalancer: { slowStart: 1h }", "spec.loadBalancer.slowStart"),
        ("T, locality: { overprovisioningPercent: 99 }", "spec.locality.overprovisioningPercent"),
        ("T, locality: { failBackPercentPerSecond: 101 }", "spec.locality.failBackPercentPerSecond"),
        ("T, outlierDetection: { maxEjectedPercent: 101 }", "spec.outlierDetection.maxEjectedPercent"),
        ("T, outlierDetection: { interval: 1ms }", "spec.outlierDetection.interval"),
        ("T, healthCheck: { path: healthz }", "spec.healthCheck.path"),
        ("T, healthCheck: { type: TCP, path: / }", "spec.healthCheck.path"),
        ("T, healthCheck: { service: a }", "spec.healthCheck.service"),
        ("T, healthCheck: { expectedStatuses: [200, 299-200] }", "spec.healthCheck.expectedStatuses[1]"),
        ("T, healthCheck: { host: \"a b\" }", "spec.healthCheck.host"),
        ("T, healthCheck: { port: 0 }", "spec.healthCheck.port"),
        ("T, healthCheck: { interval: 1ms }", "spec.healthCheck.interval"),
        ("T, healthCheck: { timeout: 2m }", "spec.healthCheck.timeout"),
        ("T, healthCheck: { healthyThreshold: 0 }", "spec.healthCheck.healthyThreshold"),
        ("T, healthCheck: { jitterPercent: 101 }", "spec.healthCheck.jitterPercent"),
        ("T, circuitBreaker: {}", "spec.circuitBreaker"),
        ("T, circuitBreaker: { maxRequests: 0 }", "spec.circuitBreaker.maxRequests"),
        ("T, retryBudget: { percent: 101 }", "spec.retryBudget.percent"),
        ("T, timeouts: { request: 1s, backendRequest: 2s }", "spec.timeouts.backendRequest"),
        ("T, fault: {}", "spec.fault"),
        ("T, capacity: {}", "spec.capacity"),
        ("T, capacity: { requestsPerSecond: 0 }", "spec.capacity.requestsPerSecond"),
        ("T, inbound: {}", "spec.inbound"),
        ("T, inbound: { mode: open }", "spec.inbound.mode"),
        ("T, inbound: { ports: [{ port: 0, mode: strict }] }", "spec.inbound.ports[0].port"),
        (
            "T, inbound: { ports: [{ port: 1, mode: strict }, { port: 1, mode: permissive }] }",
            "spec.inbound.ports",
        ),
        ("T, inbound: { probePaths: [healthz] }", "spec.inbound.probePaths[0]"),
        ("T, inbound: { maxRequests: 0 }", "spec.inbound.maxRequests"),
        (
            "targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: a }], inbound: { mode: strict }",
            "spec.inbound",
        ),
        ("T, fault: { abort: { percent: 100.01, status: 503 } }", "spec.fault.abort.percent"),
        ("T, fault: { abort: { percent: 0.001, status: 503 } }", "spec.fault.abort.percent"),
        ("T, fault: { abort: { percent: 1, status: 199 } }", "spec.fault.abort.status"),
        ("T, fault: { delay: { percent: 1, duration: 2h } }", "spec.fault.delay.duration"),
        (
            "T, fault: { abort: { percent: 1, status: 503 }, headers: [{ name: \"a b\", value: x }] }",
            "spec.fault.headers[0].name",
        ),
        (
            "targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: a }], locality: {}",
            "spec.locality",
        ),
        ("T, proxyProtocol: v3", "spec.proxyProtocol"),
        (
            "targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: a }], proxyProtocol: v1",
            "spec.proxyProtocol",
        ),
    ] {
        let spec = spec.replace("T,", &format!("{to},"));
        assert_eq!(fields(&policy(&spec)), [wrong], "{spec}");
    }
}

#[test]
fn external_authorization_has_to_make_sense() {
    let filter = |spec: &str| {
        route(&format!(
            "{{ rules: [{{ filters: [{{ type: ExternalAuth, externalAuth: {{ {spec} }} }}] }}] }}"
        ))
    };
    let to = "backendRef: { name: a, port: 80 }";
    let full = format!(
        "{to}, protocol: HTTP, http: {{ path: /check, allowedHeaders: [x-a], allowedResponseHeaders: ~ }}, forwardBody: {{ maxSize: 65535 }}"
    );
    accepted(&filter(&full));
    accepted(&filter(&format!("{to}, protocol: GRPC, grpc: {{ allowedHeaders: [x-a] }}")));
    for (spec, wrong) in [
        ("protocol: HTTP", "backendRef"),
        ("T, protocol: TCP", "protocol"),
        ("T, protocol: HTTP, grpc: {}", "grpc"),
        ("T, protocol: GRPC, http: {}", "http"),
        ("T, protocol: HTTP, http: { path: check }", "http.path"),
        ("T, protocol: HTTP, http: { path: \"/a?b\" }", "http.path"),
        ("T, protocol: HTTP, http: { allowedHeaders: [\"a b\"] }", "http.allowedHeaders[0]"),
        ("T, protocol: HTTP, forwardBody: { maxSize: 65536 }", "forwardBody.maxSize"),
        ("T, protocol: HTTP, timeout: 1s", "timeout"),
        ("T, protocol: HTTP, failOpen: true", "failOpen"),
        ("protocol: HTTP, backendRef: { name: a }", "backendRef.port"),
        ("protocol: HTTP, backendRef: { name: a, port: 80, weight: 1 }", "backendRef"),
    ] {
        let spec = spec.replace("T,", &format!("{to},"));
        assert_eq!(
            fields(&filter(&spec)),
            [format!("spec.rules[0].filters[0].externalAuth.{wrong}")],
            "{spec}"
        );
    }
    let both = "{ rules: [{ filters: [{ type: ExternalAuth }] }] }";
    assert_eq!(fields(&route(both)), ["spec.rules[0].filters[0].externalAuth"]);
}

#[test]
fn a_policy_on_tokens_has_to_make_sense() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: tombolo.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: p }}\nspec: {{ targetRefs: [{{ kind: Service, name: a }}], jwt: {{ providers: [{spec}] }} }}\n"
        )
    };
    let base = "name: p, issuer: i, jwks: { url: \"https://issuer.example/jwks\", refresh: 1m }";
    accepted(&policy(&format!(
        "{{ {base}, audiences: [a], from: {{ cookie: t }}, forward: false, clockSkew: 0s,
            claimsToHeaders: [{{ claim: sub, header: x-user }}] }}"
    )));
    for (spec, wrong) in [
        ("", ""),
        ("{ name: p, issuer: \"\", jwks: { file: /a } }", "[0].issuer"),
        ("{ name: p, issuer: i, jwks: { file: a } }", "[0].jwks.file"),
        ("{ name: p, issuer: i, jwks: { url: \"ftp://a/\" } }", "[0].jwks.url"),
        ("{ name: p, issuer: i, jwks: {} }", "[0].jwks"),
        ("{ name: p, issuer: i, jwks: { file: /a, url: \"http://a/\" } }", "[0].jwks"),
        ("{ name: p, issuer: i, jwks: { file: /a, refresh: 1s } }", "[0].jwks.refresh"),
        ("{ @, from: { cookie: a, header: b } }", "[0].from"),
        ("{ @, clockSkew: 1h }", "[0].clockSkew"),
        ("{ @, claimsToHeaders: [{ claim: sub, header: Host }] }", "[0].claimsToHeaders[0].header"),
        ("{ @ }, { @ }", ""),
    ] {
        let found = fields(&policy(&spec.replace('@', base)));
        assert!(!found.is_empty(), "{spec}");
        assert!(
            found.iter().all(|field| *field == format!("spec.jwt.providers{wrong}")),
            "{spec}: {found:?}"
        );
    }
}
