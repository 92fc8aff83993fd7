//! Annotations of Gateways for the PROXY protocol.

use super::*;

fn with(annotations: &str) -> Compiled {
    compile(&resources(&format!(
        "{CLASS}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge, namespace: shop, annotations: {{ {annotations} }} }}
spec: {{ gatewayClassName: tombolo, listeners: [{{ name: http, port: 80, protocol: HTTP }}] }}
"
    )))
}

#[test]
fn a_gateway_says_who_sends_proxy_headers() {
    let none = with("");
    assert_eq!(none.proxied(&none.binds[0]), Ok(None));
    let some = with("tombolo.dev/proxy-protocol: v2, tombolo.dev/proxy-protocol-from: 10.0.0.0/8");
    let proxied = some.proxied(&some.binds[0]).unwrap().unwrap();
    assert!(proxied.v2 && !proxied.v1 && proxied.expects([10, 0, 0, 1].into()));
    let bad = with("tombolo.dev/proxy-protocol: v9");
    assert!(bad.proxied(&bad.binds[0]).unwrap_err().contains("v1, v2 or any"));
}
