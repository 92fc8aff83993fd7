//! HTTPRoute: what becomes of requests.

use http::StatusCode;

use super::{
    client::{Ask, get},
    world::{INFRA, World},
};

fn route(rules: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: requests, namespace: gateway-conformance-infra }}
spec:
  parentRefs: [{{ name: same-namespace }}]
  rules:
{rules}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_redirects() {
    let world = World::with(&route(
        "    - { matches: [{ path: { value: /host } }],
        filters: [{ type: RequestRedirect, requestRedirect: { hostname: other.example } }] }
    - { matches: [{ path: { value: /port } }],
        filters: [{ type: RequestRedirect, requestRedirect: { port: 8083, statusCode: 301 } }] }
    - { matches: [{ path: { value: /scheme } }],
        filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 307 } }] }
    - { matches: [{ path: { value: /full } }], filters: [{ type: RequestRedirect,
        requestRedirect: { statusCode: 308, path: { type: ReplaceFullPath, replaceFullPath: /new } } }] }
    - { matches: [{ path: { value: /prefix } }], filters: [{ type: RequestRedirect,
        requestRedirect: { statusCode: 303, path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }] }",
    ))
    .await;
    let to = world.address("same-namespace", 80);
    for (path, status, location) in [
        ("/host", 302, "http://other.example/host"),
        ("/port", 301, "http://example.org:8083/port"),
        ("/scheme", 307, "https://example.org/scheme"),
        ("/full/more", 308, "http://example.org/new"),
        ("/prefix/more?a=b", 303, "http://example.org/new/more?a=b"),
    ] {
        let answer = world.answers(to, &get("example.org", path), status).await;
        assert_eq!(answer.headers["location"], location, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_rewrites_headers_and_protocols() {
    let world = World::with(&route(
        "    - { matches: [{ path: { value: /prefix } }], backendRefs: &v1 [{ name: infra-backend-v1, port: 8080 }],
        filters: [{ type: URLRewrite, urlRewrite: { hostname: one.example,
          path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }] }
    - { matches: [{ path: { value: /full } }], backendRefs: *v1, filters: [{ type: URLRewrite,
        urlRewrite: { path: { type: ReplaceFullPath, replaceFullPath: /whole } } }] }
    - { matches: [{ path: { value: /headers } }], backendRefs: *v1, filters: [
        { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-Set, value: set }],
          add: [{ name: X-Add, value: added }], remove: [X-Remove] } },
        { type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: X-Answer, value: set }], remove: [X-Gone] } }] }
    - { matches: [{ path: { value: /h2c } }], backendRefs: [{ name: infra-backend-v1, port: 8081 }] }",
    ))
    .await;
    let to = world.address("same-namespace", 80);
    let reached = async |ask: &Ask| world.reaches(to, ask, "infra-backend-v1").await;
    let echo = reached(&get("example.org", "/prefix/more?a=b")).await.echo.unwrap();
    assert_eq!((echo.path.as_str(), echo.host.as_str()), ("/new/more?a=b", "one.example"));
    let echo = reached(&get("example.org", "/full/more")).await.echo.unwrap();
    assert_eq!((echo.path.as_str(), echo.host.as_str()), ("/whole", "example.org"));
    let ask = get("example.org", "/headers")
        .header("x-set", "client")
        .header("x-add", "client")
        .header("x-remove", "client")
        .header("x-echo-set-header", "X-Gone:1, X-Answer:backend");
    let answer = reached(&ask).await;
    let echo = answer.echo.unwrap();
    assert_eq!(echo.header("x-set").as_deref(), Some("set"));
    assert_eq!(echo.header("x-add").as_deref(), Some("client,added"));
    assert_eq!(echo.header("x-remove"), None);
    assert_eq!((&answer.headers["x-answer"], answer.headers.get("x-gone")), (&"set".parse().unwrap(), None));
    assert_eq!(reached(&get("example.org", "/h2c")).await.echo.unwrap().proto, "HTTP/2.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_timeouts_and_retries() {
    let documents = route(
        "    - { matches: [{ path: { value: /request } }], backendRefs: &v1 [{ name: infra-backend-v1, port: 8080 }],
        timeouts: { request: 300ms } }
    - { matches: [{ path: { value: /backend } }], backendRefs: *v1, timeouts: { backendRequest: 200ms } }
    - { matches: [{ path: { value: /none } }], backendRefs: *v1, timeouts: { request: 0s, backendRequest: 0s } }
    - { matches: [{ path: { value: /status } }], backendRefs: *v1, retry: { codes: [500], attempts: 2, backoff: 50ms } }",
    );
    let world = World::with(&documents).await;
    let to = world.address("same-namespace", 80);
    let report = world.report();
    let parent = report.parent("HTTPRoute", &format!("{INFRA}/requests"), "same-namespace");
    parent.has("Accepted", "True", "Accepted").lacks("PartiallyInvalid", "False");
    world.answers(to, &get("example.org", "/request?delay=1000ms"), 504).await;
    world.answers(to, &get("example.org", "/backend?delay=1000ms"), 504).await;
    world.reaches(to, &get("example.org", "/none?delay=400ms"), "infra-backend-v1").await;
    world.reaches(to, &get("example.org", "/request"), "infra-backend-v1").await;
    let begun = std::time::Instant::now();
    let answer = get("example.org", "/status/500").send(to).await.unwrap();
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    // 50 ms before the second try, 100 ms before the third.
    assert!(begun.elapsed() >= std::time::Duration::from_millis(150), "{:?}", begun.elapsed());
}
