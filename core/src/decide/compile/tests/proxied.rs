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
    assert_eq!(none.proxied(&none.binds[0]), None);
    let some = with("tombolo.dev/proxy-protocol: v2, tombolo.dev/proxy-protocol-from: 10.0.0.0/8");
    let proxied = some.proxied(&some.binds[0]).unwrap();
    assert!(proxied.v2 && !proxied.v1 && proxied.expects([10, 0, 0, 1].into()));
}

#[test]
fn a_gateway_whose_annotations_cannot_be_read_says_so_and_listens_nowhere() {
    for (annotations, words) in [
        ("tombolo.dev/proxy-protocol: v9", "v1, v2 or any"),
        (
            "tombolo.dev/proxy-protocol: v2, tombolo.dev/proxy-protocol-from: 10.0.0.0/99",
            "proxy-protocol-from",
        ),
        ("tombolo.dev/proxy-protocol-from: 10.0.0.0/8", "does not say which"),
    ] {
        let bad = with(annotations);
        assert!(bad.binds.is_empty(), "{annotations}");
        let status = status(&bad, "Gateway", "edge");
        assert_eq!(conditions(&status), ["Accepted=False/InvalidParameters", "Programmed=False/Invalid"]);
        assert!(status["conditions"][0]["message"].as_str().unwrap().contains(words), "{status}");
    }
}
