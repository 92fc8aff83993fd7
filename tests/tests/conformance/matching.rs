//! What a request is chosen by, shares, and filters of single backends: HTTPRoute and GRPCRoute alike.

use std::{collections::BTreeMap, net::SocketAddr};

use http::Method;

use super::{
    client::{Ask, call, get},
    mirrors::until_copied,
    world::World,
};

/// Requests that shares are counted over.
const MANY: usize = 600;

const HTTP: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: matching, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules:
    - matches:
        - { path: { value: /all }, method: POST, headers: [{ name: version, value: two }], queryParams: [{ name: animal, value: whale }] }
      backendRefs: [{ name: infra-backend-v3, port: 8080 }]
    - matches: [{ path: { value: /all }, headers: [{ name: version, value: two }, { name: color, value: blue }] }]
      backendRefs: [{ name: infra-backend-v2, port: 8080 }]
    - matches:
        - { path: { value: /all }, headers: [{ name: version, value: two }] }
        - { path: { value: /all }, queryParams: [{ name: animal, type: RegularExpression, value: "whale|dolphin" }] }
        - { path: { value: /all }, method: PUT }
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
    - matches: [{ path: { value: /shares } }]
      backendRefs:
        - { name: infra-backend-v1, port: 8080, weight: 7 }
        - { name: infra-backend-v2, port: 8080, weight: 3 }
        - { name: infra-backend-v3, port: 8080, weight: 0 }
    - matches: [{ path: { value: /lost } }]
      backendRefs: [{ name: infra-backend-v1, port: 8080 }, { name: nobody, port: 8080 }]
    - matches: [{ path: { value: /filters } }]
      filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-rule, value: every }] } }]
      backendRefs:
        - name: infra-backend-v1
          port: 8080
          filters:
            - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-backend, value: one }], remove: [x-client] } }
            - { type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-from, value: one }] } }
        - name: infra-backend-v2
          port: 8080
          filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { add: [{ name: x-backend, value: two }] } }]
"#;

/// What answers, and how often.
async fn spread(to: SocketAddr, ask: &Ask) -> BTreeMap<String, usize> {
    let mut met = BTreeMap::new();
    for _ in 0..MANY {
        let answer = ask.send(to).await.unwrap();
        let who = answer.echo.map_or_else(|| answer.status.to_string(), |echo| service_of(&echo.pod));
        *met.entry(who).or_default() += 1;
    }
    met
}

fn service_of(pod: &str) -> String {
    let at = pod.find("-v").unwrap() + "-v1".len();
    pod[..at].to_owned()
}

/// Six deviations of a binomial: missed in two of a billion runs.
#[track_caller]
fn assert_share(met: &BTreeMap<String, usize>, who: &str, share: f64) {
    let (many, count) = (MANY as f64, met.get(who).copied().unwrap_or(0));
    let off = (count as f64 - many * share).abs();
    assert!(off <= 6.0 * (many * share * (1.0 - share)).sqrt(), "{who}: {met:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_header_method_and_query_param_matching_and_weight() {
    let world = World::with(HTTP).await;
    let to = world.address("same-namespace", 80);
    let all = |query: &str| get("x", &format!("/all{query}"));
    let two = |query: &str| all(query).header("VERSION", "two");
    for (ask, service) in [
        (two("?animal=whale").method(Method::POST), "infra-backend-v3"),
        (two("?animal=whale").method(Method::POST).header("color", "blue"), "infra-backend-v3"),
        (two("?animal=whale").header("color", "blue"), "infra-backend-v2"),
        (two("?animal=shark").method(Method::POST), "infra-backend-v1"),
        (two(""), "infra-backend-v1"),
        (two("").header("color", "green"), "infra-backend-v1"),
        (all("?a=b&animal=dolphin"), "infra-backend-v1"),
        (all("").method(Method::PUT), "infra-backend-v1"),
    ] {
        world.reaches(to, &ask, service).await;
        world.reaches(to, &ask.over_http2(), service).await;
    }
    for lost in [
        all(""),
        all("").method(Method::POST),
        all("").header("version", "Two"),
        all("?animal=whales"),
        all("?ANIMAL=whale"),
        // Of several with one name the first counts.
        all("?animal=shark&animal=whale"),
    ] {
        world.answers(to, &lost, 404).await;
    }

    let met = spread(to, &get("x", "/shares")).await;
    assert_share(&met, "infra-backend-v1", 0.7);
    assert_eq!(met.keys().collect::<Vec<_>>(), ["infra-backend-v1", "infra-backend-v2"]);
    let met = spread(to, &get("x", "/lost")).await;
    assert_share(&met, "500 Internal Server Error", 0.5);
    assert_eq!(met.len(), 2, "{met:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_backend_request_header_modifier() {
    let world = World::with(HTTP).await;
    let to = world.address("same-namespace", 80);
    let ask = get("x", "/filters").header("x-backend", "client").header("x-client", "client");
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let answer = ask.send(to).await.unwrap();
        let from = answer.headers.get("x-from").map(|value| value.to_str().unwrap().to_owned());
        let echo = answer.echo.unwrap();
        let header = |name| echo.header(name);
        assert_eq!(header("x-rule").as_deref(), Some("every"));
        let seen = (header("x-backend").unwrap(), header("x-client"), from);
        let expected = match echo.pod.starts_with("infra-backend-v1") {
            true => ("one".into(), None, Some("one".into())),
            false => ("client,two".into(), Some("client".into()), None),
        };
        assert_eq!(seen, expected);
        met.insert(echo.pod);
    }
    assert!(met.len() > 1, "{met:?}");
}

const CALLS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: hosts, namespace: gateway-conformance-infra }
spec:
  gatewayClassName: tombolo
  addresses: [{ type: IPAddress, value: 127.0.0.33 }]
  listeners:
    - { name: one, port: 8090, protocol: HTTP, hostname: bar.com }
    - { name: two, port: 8090, protocol: HTTP, hostname: "*.foo.com" }
    - { name: three, port: 8090, protocol: HTTP }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: one, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: hosts, sectionName: one }]
  rules: [{ name: first, backendRefs: [{ name: grpc-infra-backend-v1, port: 8080 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: two, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: hosts }]
  hostnames: [deep.foo.com, bar.com, apart.org]
  rules:
    - name: mirrored
      matches: [{ method: { service: a.Service, method: Mirrored } }]
      filters:
        - { type: RequestMirror, requestMirror: { backendRef: { name: grpc-infra-backend-v3, port: 8080 } } }
      backendRefs: [{ name: grpc-infra-backend-v2, port: 8080 }]
    - name: shares
      matches: [{ method: { service: a.Service, method: Shares } }]
      backendRefs:
        - { name: grpc-infra-backend-v1, port: 8080, weight: 3 }
        - name: grpc-infra-backend-v2
          port: 8080
          weight: 1
          filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-backend, value: two }] } }]
    - name: regular
      matches: [{ method: { type: RegularExpression, service: "b\\.[A-Z][a-z]+", method: "Get.*" } }]
      backendRefs: [{ name: grpc-infra-backend-v2, port: 8080 }]
---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: { name: regular, namespace: gateway-conformance-infra }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: GRPCRoute, name: two, sectionName: regular }]
  arms: [{ name: v3, backendRefs: [{ name: grpc-infra-backend-v3, port: 8080 }] }]
  rules: [{ arm: v3, headers: [{ name: x-gray, value: "1" }] }]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_listener_hostname_matching_mirror_named_rule_and_weight() {
    let world = World::with(CALLS).await;
    let to = world.address("hosts", 8090);
    let path = "/a.Service/Mirrored";
    // The listener's own hostname holds for a route without one; the most specific listener takes the call.
    world.reaches(to, &call("bar.com", "/any.Service/Any"), "grpc-infra-backend-v1").await;
    world.reaches(to, &call("bar.com:8090", "/any.Service/Any"), "grpc-infra-backend-v1").await;
    for host in ["deep.foo.com", "apart.org"] {
        world.reaches(to, &call(host, path), "grpc-infra-backend-v2").await;
    }
    for host in ["other.foo.com", "foo.com", "elsewhere.org"] {
        let answer = world.answers(to, &call(host, path), 200).await;
        let status = answer.headers.get("grpc-status").or_else(|| answer.trailers.get("grpc-status"));
        assert_eq!(status.unwrap(), "12", "{host}: UNIMPLEMENTED");
    }

    world.pods.iter().for_each(|pod| pod.seen.lock().unwrap().clear());
    for _ in 0..20 {
        let answer = call("apart.org", path).header("x-mine", "1").send(to).await.unwrap();
        assert!(answer.echo.unwrap().pod.starts_with("grpc-infra-backend-v2"), "never the mirror's answer");
    }
    until_copied(&world, "grpc-infra-backend-v3", |copied| copied == 20).await;
    let copies = world.pods.iter().find(|pod| pod.name.starts_with("grpc-infra-backend-v3")).unwrap();
    let copy = copies.seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!((copy.path.as_str(), copy.proto.as_str()), (path, "HTTP/2.0"));
    assert_eq!(copy.header("x-mine").as_deref(), Some("1"));

    let met = spread(to, &call("apart.org", "/a.Service/Shares")).await;
    assert_share(&met, "grpc-infra-backend-v1", 0.75);
    assert_share(&met, "grpc-infra-backend-v2", 0.25);
    for _ in 0..20 {
        let echo = call("apart.org", "/a.Service/Shares").send(to).await.unwrap().echo.unwrap();
        let of_two = echo.pod.starts_with("grpc-infra-backend-v2");
        assert_eq!(echo.header("x-backend").as_deref(), of_two.then_some("two"));
    }

    // By its name, a rule has a release of its own.
    world.reaches(to, &call("apart.org", "/b.Shop/GetCart"), "grpc-infra-backend-v2").await;
    let gray = |method: &str| call("apart.org", method).header("x-gray", "1");
    world.reaches(to, &gray("/b.Shop/GetCart"), "grpc-infra-backend-v3").await;
    world.reaches(to, &gray(path), "grpc-infra-backend-v2").await;
}
