//! GRPCRoute.

use super::{
    client::{Answer, call},
    world::{INFRA, World},
};

/// The status as clients read it: out of the trailers, or out of a head that is all there is (clients in C and Go take a
/// head with an empty body after it for a broken answer).
fn code(answer: &Answer) -> Option<&str> {
    let of = |headers: &http::HeaderMap| headers.get("grpc-status").cloned();
    let value = of(&answer.trailers).or_else(|| of(&answer.headers).filter(|_| answer.headed))?;
    Some(match value.to_str().unwrap() {
        "0" => "OK",
        "12" => "UNIMPLEMENTED",
        "14" => "UNAVAILABLE",
        _ => "another",
    })
}

const ECHO: &str = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_exact_method_matching() {
    let world = World::with(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: exact-matching, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules:
    - matches:
        - method: { service: gateway_api_conformance.echo_basic.grpcecho.GrpcEcho, method: Echo }
      backendRefs: [{ name: grpc-infra-backend-v1, port: 8080 }]
    - matches:
        - method: { service: gateway_api_conformance.echo_basic.grpcecho.GrpcEcho, method: EchoTwo }
      backendRefs: [{ name: grpc-infra-backend-v2, port: 8080 }]
"#,
    )
    .await;
    let report = world.report();
    let key = format!("{INFRA}/exact-matching");
    report.parent("GRPCRoute", &key, "same-namespace").has("Accepted", "True", "Accepted").has(
        "ResolvedRefs",
        "True",
        "ResolvedRefs",
    );
    let to = world.address("same-namespace", 80);
    let answer = world.reaches(to, &call("x", &format!("{ECHO}/Echo")), "grpc-infra-backend-v1").await;
    assert_eq!(code(&answer), Some("OK"), "the trailers came through");
    world.reaches(to, &call("x", &format!("{ECHO}/EchoTwo")), "grpc-infra-backend-v2").await;
    let answer = world.answers(to, &call("x", &format!("{ECHO}/EchoThree")), 200).await;
    assert_eq!(code(&answer), Some("UNIMPLEMENTED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_header_matching_and_filters() {
    let world = World::with(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: headers, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules:
    - matches: [{ headers: [{ name: version, value: one }] }]
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: { set: [{ name: x-set, value: by-route }], remove: [x-remove] }
        - type: ResponseHeaderModifier
          responseHeaderModifier: { add: [{ name: x-answer, value: by-route }] }
      backendRefs: [{ name: grpc-infra-backend-v1, port: 8080 }]
    - matches: [{ headers: [{ name: version, type: RegularExpression, value: "t.*" }] }]
      backendRefs: [{ name: grpc-infra-backend-v2, port: 8080, weight: 0 }, { name: grpc-infra-backend-v3, port: 8080, weight: 1 }]
"#,
    )
    .await;
    let to = world.address("same-namespace", 80);
    let path = format!("{ECHO}/Echo");
    let one = call("x", &path).header("version", "one").header("x-remove", "1").header("x-set", "client");
    let answer = world.reaches(to, &one, "grpc-infra-backend-v1").await;
    let echo = answer.echo.unwrap();
    assert_eq!((echo.header("x-set").as_deref(), echo.header("x-remove")), (Some("by-route"), None));
    assert_eq!(answer.headers["x-answer"], "by-route");
    world.reaches(to, &call("x", &path).header("version", "two"), "grpc-infra-backend-v3").await;
    let answer = world.answers(to, &call("x", &path), 200).await;
    assert_eq!(code(&answer), Some("UNIMPLEMENTED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_route_all_backends_weight_zero() {
    let world = World::with(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: zero, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules: [{ backendRefs: [{ name: grpc-infra-backend-v1, port: 8080, weight: 0 }] }]
"#,
    )
    .await;
    let to = world.address("same-namespace", 80);
    let answer = world.answers(to, &call("x", &format!("{ECHO}/Echo")), 200).await;
    assert_eq!(code(&answer), Some("UNAVAILABLE"));
}
