//! What TrafficPolicies say of services.

use std::time::Duration;

use super::*;
use crate::{
    decide::{Algorithm, HashKey, HealthQuestion},
    model::{AppProtocol, Scope, ServiceKey},
    resources::kinds,
};

fn policy(spec: &str) -> String {
    format!(
        "
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: p, namespace: shop }}
spec: {{ targetRefs: [{{ kind: Service, name: web }}], {spec} }}
"
    )
}

#[test]
fn a_port_named_grpc_is_called_over_http2() {
    let port = |text: &str| {
        let port: kinds::ServicePortSpec = serde_json::from_str(text).unwrap();
        port.protocol()
    };
    assert_eq!(port(r#"{ "port": 1, "name": "grpc" }"#), AppProtocol::Http2);
    assert_eq!(port(r#"{ "port": 1, "name": "grpc-admin" }"#), AppProtocol::Http2);
    assert_eq!(
        port(r#"{ "port": 1, "name": "grpc", "appProtocol": "http" }"#),
        AppProtocol::Http1,
        "it is said"
    );
    for name in ["http", "web", "redis"] {
        assert_eq!(port(&format!(r#"{{ "port": 1, "name": "{name}" }}"#)), AppProtocol::Http1, "{name}");
    }
}

#[test]
fn a_service_has_what_its_policy_says_in_both_scopes() {
    let text = policy(
        "loadBalancer: { type: ConsistentHash, hashKey: { cookie: uid }, slowStart: 30s, subsetSize: 20 },
         outlierDetection: { consecutiveFailures: 7, baseEjection: 20s }, circuitBreaker: { maxRequests: 9 },
         locality: { failBackPercentPerSecond: 0 }, retryBudget: { percent: 5 },
         healthCheck: { path: /up, expectedStatuses: [204, 300-399], interval: 2s, unhealthyThreshold: 1 }",
    );
    let compiled = world(&[text]);
    for scope in [Scope::Cluster, Scope::Clusterset] {
        let key = ServiceKey::new(scope, "shop", "web").unwrap();
        let policy = compiled.service_policy(&key).unwrap();
        assert_eq!(policy.balancing.algorithm, Algorithm::Hash(HashKey::Cookie("uid".into())));
        assert_eq!(
            (policy.balancing.slow_start, policy.balancing.subset),
            (Duration::from_secs(30), Some(20))
        );
        assert_eq!(policy.outliers.failures, 7);
        // The longest is never shorter than the first.
        assert_eq!(policy.outliers.longest, Duration::from_secs(20));
        assert_eq!(policy.outliers.most, 50, "as usual");
        assert_eq!(policy.breaker.requests, Some(9));
        assert_eq!((policy.localities.fail_back, policy.localities.overprovisioning), (0, 140));
        let check = policy.check.as_ref().unwrap();
        let statuses = [(204, 204), (300, 399)].into();
        assert_eq!(check.question, HealthQuestion::Http { path: "/up".into(), host: None, statuses });
        assert_eq!((check.healthy, check.unhealthy, check.interval), (2, 1, Duration::from_secs(2)));
        assert_eq!((policy.retries.percent, policy.retries.per_second), (5, 30));
    }
    let other = ServiceKey::new(Scope::Cluster, "shop", "other").unwrap();
    assert!(compiled.service_policy(&other).is_none());
}
