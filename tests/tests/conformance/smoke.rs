//! That the stage itself stands.

use super::{
    client::get,
    world::{INFRA, World, says},
};

const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: first, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules: [{ backendRefs: [{ name: infra-backend-v1, port: 8080 }] }]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_of_the_same_namespace_is_served() {
    let world = World::with(ROUTE).await;
    let report = world.report();
    report
        .parent("HTTPRoute", &format!("{INFRA}/first"), "same-namespace")
        .has("Accepted", "True", "Accepted")
        .has("ResolvedRefs", "True", "ResolvedRefs");
    report.object("Gateway", &format!("{INFRA}/same-namespace")).has("Programmed", "True", "Programmed");
    report.listener("Gateway", &format!("{INFRA}/same-namespace"), "http").attached(1);
    let to = world.address("same-namespace", 80);
    let answer =
        world.reaches(to, &get("example.org", "/a?b=c").header("x-one", "1"), "infra-backend-v1").await;
    let echo = answer.echo.unwrap();
    assert_eq!((echo.path.as_str(), echo.header("x-one").as_deref()), ("/a?b=c", Some("1")));
    // Nothing of another Gateway's answers there.
    world.answers(world.address("all-namespaces", 80), &get("example.org", "/"), 404).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_gateway_does_not_take_a_share_of_the_firsts_connections() {
    let mut world = World::with(ROUTE).await;
    let (_second, output) = world.launch(&[]);
    says(&output, "another process of this user listens there");
    assert!(!std::fs::read_to_string(&output).unwrap().contains("gateway ready"));
    drop(world.start(&["--share-ports"]));
    // Where the first has gone, the second has its place.
    world.stop();
    says(&output, "gateway ready");
    world.reaches(world.address("same-namespace", 80), &get("x", "/"), "infra-backend-v1").await;
}
