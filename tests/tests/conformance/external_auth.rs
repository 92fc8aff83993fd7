//! HTTPRoute's ExternalAuth filter: servers over HTTP and gRPC that let in, deny, are away, or are not there.
//!
//! The suite has these scenarios only after v1.6.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tombolo_proto::auth::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, Status,
    authorization_server::{Authorization, AuthorizationServer},
    check_response::HttpResponse,
};

use super::{
    client::{Ask, get},
    world::{INFRA, World},
};

const DENIED: &str = "Access denied by external auth server";

/// Lets in what is under `/http/allowed`, and tells what it got.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut response = Response::builder()
        .header("x-user-id", "42")
        .header("x-auth-received-body-size", body.len().to_string());
    if let Some(value) = head.headers.get("x-test-header") {
        response = response.header("x-auth-received-test-header", value);
    }
    Ok(if head.uri.path().starts_with("/http/allowed") {
        response.body(Full::default()).unwrap()
    } else {
        response.status(403).header("x-auth-error", "access-denied").body(DENIED.into()).unwrap()
    })
}

async fn http_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serving.serve_connection(TokioIo::new(tcp), service_fn(answer)));
        }
    });
    address
}

/// Lets in what is under `/grpc/allowed`.
struct Judge;

#[tonic::async_trait]
impl Authorization for Judge {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let field = |key: &str, value: &str| HeaderValueOption {
            header: Some(HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
            ..Default::default()
        };
        let mut headers = vec![
            field("x-user-id", "42"),
            field("x-auth-received-body-size", &(http.body.len() + http.raw_body.len()).to_string()),
        ];
        if let Some(value) = http.headers.get("x-test-header") {
            headers.push(field("x-auth-received-test-header", value));
        }
        let (code, response) = if http.path.starts_with("/grpc/allowed") {
            (0, HttpResponse::OkResponse(OkHttpResponse { headers, ..Default::default() }))
        } else {
            headers.push(field("x-auth-error", "access-denied"));
            let status = Some(HttpStatus { code: 403 });
            (7, HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body: DENIED.into() }))
        };
        let status = Some(Status { code, message: String::new() });
        Ok(tonic::Response::new(CheckResponse {
            status,
            http_response: Some(response),
            ..Default::default()
        }))
    }
}

async fn grpc_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Judge));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

fn service(name: &str, port: u16, endpoint: Option<SocketAddr>) -> String {
    let addresses = endpoint.map(|at| format!("{{ addresses: [\"{}\"] }}", at.ip())).unwrap_or_default();
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {INFRA} }}
spec: {{ ports: [{{ name: auth, port: {port} }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: {name}, namespace: {INFRA}, labels: {{ kubernetes.io/service-name: {name} }} }}
addressType: IPv4
ports: [{{ name: auth, port: {} }}]
endpoints: [{addresses}]
",
        endpoint.map_or(port, |at| at.port())
    )
}

/// A route to `infra-backend-v1`, whose rules have a path and a filter each.
fn route(name: &str, rules: &[(&str, &str)]) -> String {
    let rules: Vec<String> = rules
        .iter()
        .map(|(path, auth)| {
            let filter = format!("{{ type: ExternalAuth, externalAuth: {{ {auth} }} }}");
            let filters = if auth.is_empty() { String::new() } else { filter };
            format!(
                "{{ matches: [{{ path: {{ type: PathPrefix, value: {path} }} }}], filters: [{filters}],
                    backendRefs: [{{ name: infra-backend-v1, port: 8080 }}] }}"
            )
        })
        .collect();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name}, namespace: {INFRA} }}
spec: {{ parentRefs: [{{ name: same-namespace }}], rules: [{}] }}
",
        rules.join(",\n")
    )
}

const HTTP: &str = "protocol: HTTP, backendRef: { name: external-auth-http, port: 9002 }";
const GRPC: &str = "protocol: GRPC, backendRef: { name: external-auth-grpc, port: 9001 }";

/// The stage with both servers and this route.
async fn stage(rules: &[(&str, &str)]) -> World {
    let services = [
        service("external-auth-http", 9002, Some(http_server().await)),
        service("external-auth-grpc", 9001, Some(grpc_server().await)),
        service("external-auth-unavailable", 9002, None),
        route("external-auth", rules),
    ];
    World::with(&services.concat()).await
}

fn accepted(world: &World) {
    world
        .report()
        .parent("HTTPRoute", &format!("{INFRA}/external-auth"), "same-namespace")
        .has("Accepted", "True", "Accepted")
        .has("ResolvedRefs", "True", "ResolvedRefs");
}

fn post(path: &str, body: &str) -> Ask {
    Ask { body: Bytes::from(body.to_owned()), ..get("example.org", path).method(Method::POST) }
}

/// What reached the backend under this name.
async fn told(world: &World, ask: &Ask, name: &str) -> Option<String> {
    let answer = world.reaches(world.address("same-namespace", 80), ask, "infra-backend-v1").await;
    answer.echo.unwrap().header(name)
}

async fn refused(world: &World, path: &str) {
    let to = world.address("same-namespace", 80);
    let closed = [403, 500, 502, 503];
    let ask = get("example.org", path);
    world.expect(to, &ask, "a refusal", |answer| closed.contains(&answer.status.as_u16())).await;
}

/// Both protocols let in and deny, with headers from the server either way; a rule without the filter asks nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_external_auth_http_and_grpc() {
    let http = format!("{HTTP}, http: {{ allowedHeaders: ~ }}");
    let grpc = format!("{GRPC}, grpc: {{ allowedHeaders: ~ }}");
    let world = stage(&[("/http", &http), ("/grpc", &grpc), ("/open", "")]).await;
    accepted(&world);
    let to = world.address("same-namespace", 80);
    for kind in ["http", "grpc"] {
        let allowed = get("example.org", &format!("/{kind}/allowed")).header("x-user-id", "1");
        assert_eq!(told(&world, &allowed, "x-user-id").await.as_deref(), Some("42"));
        let answer = world.answers(to, &get("example.org", &format!("/{kind}/denied")), 403).await;
        assert_eq!(answer.body, DENIED);
        assert_eq!(answer.headers["x-auth-error"], "access-denied");
    }
    world.reaches(to, &get("example.org", "/open"), "infra-backend-v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_external_auth_request_headers_to_auth() {
    let http = format!(
        "{HTTP}, http: {{ allowedHeaders: [X-Test-Header], allowedResponseHeaders: [X-Auth-Received-Test-Header] }}"
    );
    let grpc = format!("{GRPC}, grpc: {{ allowedHeaders: [X-Test-Header] }}");
    let others = format!("{GRPC}, grpc: {{ allowedHeaders: [X-Other] }}");
    let world = stage(&[("/http", &http), ("/grpc/allowed/others", &others), ("/grpc", &grpc)]).await;
    accepted(&world);
    for (path, expected) in
        [("/http/allowed", Some("hello")), ("/grpc/allowed", Some("hello")), ("/grpc/allowed/others", None)]
    {
        let ask = get("example.org", path).header("x-test-header", "hello");
        assert_eq!(told(&world, &ask, "x-auth-received-test-header").await.as_deref(), expected, "{path}");
    }
    let ask = get("example.org", "/http/allowed").header("x-test-header", "hello");
    assert_eq!(told(&world, &ask, "x-user-id").await, None, "not listed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_external_auth_forward_body() {
    let with =
        |auth: &str, more: &str, size: u32| format!("{auth}, {more}, forwardBody: {{ maxSize: {size} }}");
    let (http, grpc) = ("http: { allowedResponseHeaders: [X-Auth-Received-Body-Size] }", "grpc: {}");
    let (http_some, http_none) = (with(HTTP, http, 100), with(HTTP, http, 0));
    let (grpc_some, grpc_none) = (with(GRPC, grpc, 100), with(GRPC, grpc, 0));
    let world = stage(&[
        ("/http/allowed/forward-body", &http_some),
        ("/grpc/allowed/forward-body", &grpc_some),
        ("/http", &http_none),
        ("/grpc", &grpc_none),
    ])
    .await;
    accepted(&world);
    let to = world.address("same-namespace", 80);
    let long = "x".repeat(200);
    for kind in ["http", "grpc"] {
        let path = format!("/{kind}/allowed/forward-body");
        let received = "x-auth-received-body-size";
        assert_eq!(told(&world, &post(&path, "0123456789"), received).await.as_deref(), Some("10"));
        world.answers(to, &post(&path, &long), 413).await;
        let withheld = post(&format!("/{kind}/allowed/zero"), &long);
        assert_eq!(told(&world, &withheld, received).await.as_deref(), Some("0"));
        let denied = world.answers(to, &post(&format!("/{kind}/denied/zero"), &long), 403).await;
        assert_eq!(denied.headers[received], "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_external_auth_backend_unavailable() {
    let auth = "protocol: HTTP, http: {}, backendRef: { name: external-auth-unavailable, port: 9002 }";
    let world = stage(&[("/", auth)]).await;
    accepted(&world);
    refused(&world, "/http/allowed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_external_auth_backend_ref_not_found_and_partially_invalid() {
    let unknown = "protocol: HTTP, http: {}, backendRef: { name: nonexistent-auth-service, port: 9002 }";
    let port = "protocol: HTTP, http: {}, backendRef: { name: external-auth-http, port: 9999 }";
    let good = format!("{HTTP}, http: {{ allowedHeaders: ~ }}");
    let world = stage(&[("/http/allowed", &good), ("/unknown", unknown), ("/port", port)]).await;
    world
        .report()
        .parent("HTTPRoute", &format!("{INFRA}/external-auth"), "same-namespace")
        .has("Accepted", "True", "Accepted")
        .has("ResolvedRefs", "False", "BackendNotFound")
        .has("PartiallyInvalid", "True", "UnsupportedValue");
    refused(&world, "/unknown").await;
    refused(&world, "/port").await;
    let to = world.address("same-namespace", 80);
    world.reaches(to, &get("example.org", "/http/allowed"), "infra-backend-v1").await;
}
