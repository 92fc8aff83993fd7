//! The documents that most of these tests begin with.

use super::PORT;

/// A service whose endpoints are the workloads with the label `app: NAME`. It says what it speaks: where nobody does, a client
/// that is silent for 100 ms, as a busy machine's may be, gets a tunnel.
pub fn service(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: {PORT}, targetPort: http, appProtocol: http}}]}}
---
"
    )
}

/// Everything is exported to this peer, and everything that it offers is imported; `more` of its spec.
pub fn peer(name: &str, more: &str) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: {{name: {name}}}
spec:
  trustDomain: {name}.example
  {more}
  export: {{services: [{{namespace: '*', name: '*'}}]}}
  import: {{services: [{{namespace: '*', name: '*'}}]}}
---
"
    )
}

/// The service is exported, and its namespace is open for callers of these trust domains.
pub fn exported(namespace: &str, service: &str, domains: &str) -> String {
    format!(
        "apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {{name: {service}, namespace: {namespace}}}
---
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: peers, namespace: {namespace}}}
spec:
  rules: [{{from: {{trustDomains: [{domains}]}}}}]
---
"
    )
}

/// A public listener on port 80, from which everything of `shop.example` goes to a service of namespace shop.
pub fn public(service: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: tombolo}}
spec: {{controllerName: tombolo.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  gatewayClassName: tombolo
  listeners: [{{name: web, protocol: HTTP, port: 80}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop, namespace: shop}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [shop.example]
  rules: [{{name: all, backendRefs: [{{name: {service}, port: {PORT}}}]}}]
---
"
    )
}
