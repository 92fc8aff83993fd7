//! Endpoints, beside EndpointSlices.

use super::*;
use crate::model::Endpoint;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: a, namespace: shop }
spec: { clusterIP: None, ports: [{ name: http, port: 80, targetPort: 3000 }] }
---
apiVersion: v1
kind: Endpoints
metadata: { name: a, namespace: shop }
subsets:
  - addresses: [{ ip: 10.0.0.1, nodeName: n, targetRef: { kind: Pod, name: p } }]
    notReadyAddresses: [{ ip: 10.0.0.2 }]
    ports: [{ name: http, port: 3000, protocol: TCP }, { name: other, port: 3001 }]
  - { addresses: [{ ip: 10.0.0.3 }], ports: [{ name: http, port: 3002 }] }
";

fn reached(text: &str) -> Vec<(String, EndpointHealth)> {
    let services = static_services(&accepted(text), "here");
    let entry = &services[&ServiceKey::new(Scope::Cluster, "shop", "a").unwrap()];
    let address = |e: &Endpoint| match &e.reach {
        Reach::Direct(address) => address.to_string(),
        Reach::Via(_) => panic!("no gateways here"),
    };
    entry.endpoints[&80].iter().map(|e| (address(e), e.health)).collect()
}

#[test]
fn endpoints_are_endpoints() {
    let expected = [
        ("10.0.0.1:3000".to_owned(), EndpointHealth::Healthy),
        ("10.0.0.2:3000".to_owned(), EndpointHealth::Unhealthy),
        ("10.0.0.3:3002".to_owned(), EndpointHealth::Healthy),
    ];
    assert_eq!(reached(SERVICE), expected);
}

#[test]
fn where_a_service_has_slices_its_endpoints_say_nothing_more() {
    let slice = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: a-1, namespace: shop, labels: { kubernetes.io/service-name: a } }
addressType: IPv4
ports: [{ name: http, port: 3000 }]
endpoints: [{ addresses: [10.0.0.1] }]
";
    let expected = [("10.0.0.1:3000".to_owned(), EndpointHealth::Healthy)];
    assert_eq!(reached(&format!("{SERVICE}{slice}")), expected);
}

#[test]
fn forms_of_endpoints_are_checked() {
    let text = "
apiVersion: v1
kind: Endpoints
metadata: { name: a }
subsets: [{ addresses: [{ ip: here }], ports: [{ port: 0 }] }]
";
    assert_eq!(fields(text), ["subsets[0].addresses[0].ip", "subsets[0].ports[0].port"]);
}
