//! Copies of requests: several, shares of them, and mirrors that are not there.

use http::Method;

use super::{
    client::get,
    world::{INFRA, World},
};

/// Requests that share is counted over. With chance, its mark is missed by more than six times its deviation in two of
/// a billion runs.
const MANY: usize = 600;

fn copies(world: &World, service: &str) -> usize {
    let of = |pod: &&super::backend::Pod| pod.name.starts_with(service);
    world.pods.iter().filter(of).map(|pod| pod.seen.lock().unwrap().len()).sum()
}

/// Waits until a service's pods have seen as many requests as wanted.
pub async fn until_copied(world: &World, service: &str, wanted: impl Fn(usize) -> bool) {
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !wanted(copies(world, service)) {
        assert!(tokio::time::Instant::now() < end, "{service}: {} copies", copies(world, service));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_request_mirrors() {
    let mut world = World::stage().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.add_backend(INFRA, "dead", "", nobody);
    world.write(
        "scenario",
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: mirrors, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }]
  rules:
    - matches: [{ path: { value: /several } }]
      filters:
        - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-set, value: by-route }] } }
        - { type: RequestMirror, requestMirror: { backendRef: { name: infra-backend-v2, port: 8080 } } }
        - { type: RequestMirror, requestMirror: { backendRef: { name: dead, port: 8080 } } }
        - { type: RequestMirror, requestMirror: { backendRef: { name: infra-backend-v3, port: 8081 } } }
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
    - matches: [{ path: { value: /shares } }]
      filters:
        - { type: RequestMirror, requestMirror: { backendRef: { name: infra-backend-v2, port: 8080 }, percent: 20 } }
        - { type: RequestMirror,
            requestMirror: { backendRef: { name: infra-backend-v3, port: 8080 }, fraction: { numerator: 1, denominator: 2 } } }
        - { type: RequestMirror, requestMirror: { backendRef: { name: dead, port: 8080 }, percent: 0 } }
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
",
    );
    world.serve();
    let to = world.address("same-namespace", 80);
    let ask = get("example.org", "/several?a=b").method(Method::POST).header("content-type", "text/plain");
    let ask = super::client::Ask { body: vec![b'x'; 50_000].into(), ..ask };
    for _ in 0..20 {
        world.reaches(to, &ask, "infra-backend-v1").await;
    }
    let sent = copies(&world, "infra-backend-v1");
    for service in ["infra-backend-v2", "infra-backend-v3"] {
        until_copied(&world, service, |copied| copied == sent).await;
    }
    let copy = world.pods.iter().filter(|pod| pod.name.starts_with("infra-backend-v3"));
    let copy = copy.filter_map(|pod| pod.seen.lock().unwrap().last().cloned()).next().unwrap();
    assert_eq!((copy.method.as_str(), copy.path.as_str()), ("POST", "/several?a=b"));
    assert_eq!((copy.header("x-set").as_deref(), copy.proto.as_str()), (Some("by-route"), "HTTP/2.0"));

    world.pods.iter().for_each(|pod| pod.seen.lock().unwrap().clear());
    for _ in 0..MANY {
        let answer = get("example.org", "/shares").send(to).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.echo.unwrap().pod.starts_with("infra-backend-v1"));
    }
    // Six deviations of a binomial are 6 * sqrt(n p (1 - p)).
    until_copied(&world, "infra-backend-v2", |copied| copied.abs_diff(MANY / 5) < 60).await;
    until_copied(&world, "infra-backend-v3", |copied| copied.abs_diff(MANY / 2) < 74).await;
}
