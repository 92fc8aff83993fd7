//! WebSockets through the gateway.

use super::{
    client::get,
    wire::{Wire, connect, head, hear, say},
    world::{INFRA, World},
};

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: sockets, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }, { name: same-namespace-with-https-listener }]
  rules:
    - { matches: [{ path: { value: /ws } }], backendRefs: [{ name: infra-backend-v1, port: 8082 }] }
    - { matches: [{ path: { value: /plain } }], backendRefs: [{ name: infra-backend-v1, port: 8080 }] }
    - { matches: [{ path: { value: /h2c } }], backendRefs: [{ name: infra-backend-v1, port: 8081 }] }
";

/// Switches protocols.
async fn upgraded(mut wire: Box<dyn Wire>, path: &str) -> Box<dyn Wire> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: second-example.org\r\nconnection: keep-alive, Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    say(&mut wire, &request).await;
    let head = head(&mut wire).await;
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket"), "{path}: {head}");
    wire
}

async fn echoes(wire: &mut Box<dyn Wire>) {
    for message in ["one", "another"] {
        say(wire, message).await;
        hear(wire, message).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_backend_protocol_websocket() {
    let world = World::with(ROUTES).await;
    let plain = world.address("same-namespace", 80);
    let secure = world.address("same-namespace-with-https-listener", 443);
    world.reaches(plain, &get("x", "/plain"), "infra-backend-v1").await;
    for path in ["/ws", "/plain", "/h2c"] {
        for (to, sni) in [(plain, None), (secure, Some("second-example.org"))] {
            let mut wire = upgraded(connect(to, sni, false).await, path).await;
            echoes(&mut wire).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_held_while_the_configuration_changes() {
    let world = World::with(ROUTES).await;
    let plain = world.address("same-namespace", 80);
    let secure = world.address("same-namespace-with-https-listener", 443);
    world.reaches(plain, &get("x", "/plain"), "infra-backend-v1").await;
    let mut open = Vec::new();
    for (to, sni) in [(plain, None), (secure, Some("second-example.org"))] {
        open.push(upgraded(connect(to, sni, false).await, "/ws").await);
    }
    for round in 0..5 {
        let other = if round % 2 == 0 { "infra-backend-v2" } else { "infra-backend-v3" };
        world.write("scenario", &ROUTES.replace("infra-backend-v1", other));
        world.reaches(plain, &get("x", "/plain"), other).await;
        for wire in &mut open {
            echoes(wire).await;
        }
    }
    let renewed = world.authority.issue(&["*.org", "second-example.org"]);
    world.write("certificate", &renewed.secret(INFRA, "tls-validity-checks-certificate"));
    world.remove("scenario");
    world.answers(plain, &get("x", "/plain"), 404).await;
    for wire in &mut open {
        echoes(wire).await;
    }
}
