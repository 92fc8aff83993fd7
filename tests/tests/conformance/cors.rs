//! HTTPRoute's CORS filter.

use http::Method;

use super::{
    client::{Answer, Ask, get},
    world::World,
};

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cors, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules:
    - matches: [{ path: { value: /listed } }]
      filters:
        - type: CORS
          cors:
            allowOrigins: ["https://www.foo.com", "https://*.bar.com"]
            allowMethods: [GET, OPTIONS]
            allowHeaders: [x-header-1, x-header-2]
            exposeHeaders: [x-header-3, x-header-4]
            allowCredentials: true
            maxAge: 3600
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
    - matches: [{ path: { value: /methods } }]
      filters: [{ type: CORS, cors: { allowOrigins: ["https://www.foo.com"], allowMethods: ["*"] } }]
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
    - matches: [{ path: { value: /anyone } }]
      filters: [{ type: CORS, cors: { allowOrigins: ["*"], allowMethods: [PUT], allowCredentials: false } }]
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
    - matches: [{ path: { value: /echoed } }]
      filters:
        - type: CORS
          cors: { allowOrigins: ["https://other.foo.com"], allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: true }
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
"#;

fn preflight(path: &str, origin: &str, method: &str) -> Ask {
    get("x", path)
        .method(Method::OPTIONS)
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", "x-header-1, x-header-2")
}

fn says<'a>(answer: &'a Answer, what: &str) -> Option<&'a str> {
    answer.headers.get(format!("access-control-{what}")).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_cors() {
    let world = World::with(ROUTES).await;
    let to = world.address("same-namespace", 80);
    for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
        let answer = world.answers(to, &preflight("/listed", origin, "GET"), 200).await;
        assert!(answer.echo.is_none(), "it is answered by the gateway");
        assert_eq!(says(&answer, "allow-origin"), Some(origin));
        assert_eq!(says(&answer, "allow-methods"), Some("GET, OPTIONS"));
        assert_eq!(says(&answer, "allow-headers"), Some("x-header-1, x-header-2"));
        assert_eq!(says(&answer, "expose-headers"), Some("x-header-3, x-header-4"));
        assert_eq!(
            (says(&answer, "max-age"), says(&answer, "allow-credentials")),
            (Some("3600"), Some("true"))
        );
        let answer =
            world.reaches(to, &get("x", "/listed").header("origin", origin), "infra-backend-v1").await;
        assert_eq!(says(&answer, "allow-origin"), Some(origin));
    }
    let stranger = "https://foobar.com";
    let answer = world.answers(to, &preflight("/listed", stranger, "GET"), 200).await;
    assert_eq!((says(&answer, "allow-origin"), says(&answer, "allow-credentials")), (None, None));
    let answer = world.reaches(to, &get("x", "/listed").header("origin", stranger), "infra-backend-v1").await;
    assert_eq!((says(&answer, "allow-origin"), says(&answer, "allow-credentials")), (None, None));

    let answer = world.answers(to, &preflight("/methods", "https://www.foo.com", "POST"), 200).await;
    assert_eq!((says(&answer, "allow-methods"), says(&answer, "allow-credentials")), (Some("*"), None));
    for origin in [stranger, "https://foobar.com:12345"] {
        let answer = world.answers(to, &preflight("/anyone", origin, "PUT"), 200).await;
        assert_eq!((says(&answer, "allow-origin"), says(&answer, "allow-methods")), (Some("*"), Some("PUT")));
    }
    let answer = world.answers(to, &preflight("/echoed", "https://other.foo.com", "PUT"), 200).await;
    assert_eq!(says(&answer, "allow-origin"), Some("https://other.foo.com"));
    assert_eq!(says(&answer, "allow-methods"), Some("PUT"));
    assert_eq!(says(&answer, "allow-headers"), Some("x-header-1, x-header-2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_cors_lets_no_backend_say_otherwise() {
    let world = World::with(ROUTES).await;
    let to = world.address("same-namespace", 80);
    let ask = get("x", "/listed")
        .header("origin", "https://foobar.com")
        .header("x-echo-set-header", "access-control-allow-origin:*");
    let answer = world.reaches(to, &ask, "infra-backend-v1").await;
    assert_eq!(says(&answer, "allow-origin"), None);
}
