//! Session persistence.

use super::{
    client::{Ask, call, get},
    world::World,
};

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: sessions, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules:
    - matches: [{ path: { value: /cookie } }]
      sessionPersistence: { sessionName: stay, type: Cookie }
      backendRefs: &both [{ name: infra-backend-v1, port: 8080, weight: 1 }, { name: infra-backend-v2, port: 8080, weight: 1 }]
    - matches: [{ path: { value: /permanent } }]
      sessionPersistence: { sessionName: stay, absoluteTimeout: 1h, cookieConfig: { lifetimeType: Permanent } }
      backendRefs: *both
    - matches: [{ path: { value: /header } }]
      sessionPersistence: { sessionName: x-stay, type: Header }
      backendRefs: *both
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: sessions, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: all-namespaces }]
  rules:
    - sessionPersistence: { sessionName: stay }
      backendRefs: [{ name: grpc-infra-backend-v1, port: 8080 }, { name: grpc-infra-backend-v2, port: 8080 }]
"#;

/// Twenty requests with what the first answer gave all meet the pod of the first; without it, they meet several.
async fn stays(world: &World, to: std::net::SocketAddr, ask: &Ask, given: &str, sent: &str) -> String {
    let first = world.reaches(to, ask, "").await;
    let value = first.headers[given].to_str().unwrap().to_owned();
    let token = value.split(';').next().unwrap().to_owned();
    let with = ask.clone().header(sent, &token);
    let pod = first.echo.unwrap().pod;
    for _ in 0..20 {
        let answer = with.send(to).await.unwrap();
        assert_eq!(answer.echo.unwrap().pod, pod, "{token}");
        assert!(!answer.headers.contains_key(given), "it knows already");
    }
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..40 {
        met.insert(ask.send(to).await.unwrap().echo.unwrap().pod);
    }
    assert!(met.len() > 1, "without a session requests are spread: {met:?}");
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_session_persistence() {
    let world = World::with(ROUTES).await;
    let to = world.address("same-namespace", 80);
    let cookie = stays(&world, to, &get("x", "/cookie"), "set-cookie", "cookie").await;
    assert!(cookie.starts_with("stay=") && !cookie.contains("Max-Age"), "{cookie}");
    let cookie = stays(&world, to, &get("x", "/permanent"), "set-cookie", "cookie").await;
    assert!(cookie.contains("Max-Age=3600") && cookie.contains("HttpOnly"), "{cookie}");
    stays(&world, to, &get("x", "/header"), "x-stay", "x-stay").await;
    let odd = get("x", "/cookie").header("cookie", "stay=nonsense");
    assert!(world.reaches(to, &odd, "").await.headers.contains_key("set-cookie"), "it gets a session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_session_persistence_cookie() {
    let world = World::with(ROUTES).await;
    let to = world.address("all-namespaces", 80);
    stays(&world, to, &call("x", "/a.B/C"), "set-cookie", "cookie").await;
}
