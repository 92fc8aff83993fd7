//! Asking endpoints for their health.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tombolo_proto::health::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use tonic::{Request, Status};

use super::{harness::*, mesh::World};
use crate::{
    decide::{HealthCheck, HealthQuestion, ProxyVersion, UpstreamTls},
    model::{AppProtocol, Endpoint, Snapshot},
    proxy::*,
};

fn rules(question: HealthQuestion) -> HealthCheck {
    HealthCheck {
        question,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(400),
        healthy: 1,
        unhealthy: 1,
        jitter: 0,
    }
}

fn http(path: &str) -> HealthCheck {
    rules(HealthQuestion::Http { path: path.into(), host: None, statuses: [(200, 299), (429, 429)].into() })
}

fn grpc(service: &str) -> HealthCheck {
    rules(HealthQuestion::Grpc { service: service.into(), host: None })
}

/// Makes checks, as a workload of this world.
fn checker(world: &World) -> Arc<MeshUpstream> {
    let caller = world.caller();
    let snapshot = Snapshot { trust: caller.trust, ..Snapshot::default() };
    let identity = watch::channel(caller.identity.unwrap()).1;
    MeshUpstream::new(Some(identity), Arc::new(ArcSwap::from_pointee(snapshot)))
}

async fn check(
    upstream: &MeshUpstream,
    endpoint: &Endpoint,
    protocol: AppProtocol,
    rules: &HealthCheck,
) -> Result<(), String> {
    let tls = UpstreamTls::default();
    let asked = Asked { endpoint, host: "app.shop", protocol, tls: &tls };
    soon("a check", upstream.check(asked, rules)).await
}

/// Answers with the status that is its path; `/silent` never.
async fn told() -> App {
    App::answering(|seen| async move {
        if seen.target.ends_with("/silent") {
            std::future::pending::<()>().await;
        }
        let status = seen.target.rsplit('/').next().unwrap().parse().unwrap_or(StatusCode::NOT_FOUND);
        Response::builder().status(status).body(Full::default()).unwrap()
    })
    .await
}

struct Shown;

#[tonic::async_trait]
impl Health for Shown {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            "ill" => ServingStatus::NotServing,
            _ => return Err(Status::not_found("no such service")),
        };
        Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
    }
}

#[tokio::test]
async fn statuses_tell_directly_and_over_the_mesh() {
    let world = World::new();
    let upstream = checker(&world);
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let app = told().await;
        let beside = world.beside(app.address, protocol);
        let inbound = beside.inbound();
        for endpoint in [plain(app.address), world.endpoint(&inbound)] {
            let of = async |path: &str| check(&upstream, &endpoint, protocol, &http(path)).await;
            assert_eq!(of("/200").await, Ok(()));
            assert_eq!(of("/429").await, Ok(()));
            assert_eq!(of("/503").await, Err("it answered 503".into()));
            assert_eq!(of("/302").await, Err("it answered 302".into()));
            assert_eq!(of("/silent").await, Err("no answer in 400ms".into()));
        }
        let asked = app.seen();
        let agent =
            |seen: &Seen| seen.headers["user-agent"].to_str().unwrap().starts_with("tombolo-health-check/");
        assert!(asked.iter().all(agent));
        assert!(asked.iter().all(|seen| seen.headers.get("host").is_none_or(|host| host == "app.shop")));
    }
}

#[tokio::test]
async fn grpc_servers_are_asked_in_their_own_way() {
    let world = World::new();
    let upstream = checker(&world);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(HealthServer::new(Shown));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let beside = world.beside(address, AppProtocol::Http2);
    let inbound = beside.inbound();
    for endpoint in [plain(address), world.endpoint(&inbound)] {
        // Whatever the port speaks else: gRPC has but one transport.
        let of = async |service: &str| check(&upstream, &endpoint, AppProtocol::Http1, &grpc(service)).await;
        assert_eq!(of("").await, Ok(()));
        assert_eq!(of("ill").await, Err("it is NOT_SERVING".into()));
        assert_eq!(of("other").await, Err("grpc-status 5".into()));
    }
    let app = App::named("no gRPC").await;
    let answer = check(&upstream, &plain(app.address), AppProtocol::Http2, &grpc("")).await;
    assert_eq!(answer, Err("no grpc-status".into()));
}

#[tokio::test]
async fn a_connection_that_is_taken_and_kept_is_enough() {
    let world = World::new();
    let upstream = checker(&world);
    let (app, tcp) = (App::named("app").await, rules(HealthQuestion::Tcp));
    for (address, well) in [(app.address, true), (nobody().await, false)] {
        let beside = world.called();
        let beside =
            Setup { tcp: Some(backend(address)), ..beside }.forwards(to_address(address, AppProtocol::Tcp));
        let inbound = beside.inbound();
        for endpoint in [plain(address), world.endpoint(&inbound)] {
            let result = check(&upstream, &endpoint, AppProtocol::Tcp, &tcp).await;
            assert_eq!(result.is_ok(), well, "{endpoint:?}: {result:?}");
        }
    }
    // Nobody of that name is there.
    let beside = world.beside(app.address, AppProtocol::Http1);
    let inbound = beside.inbound();
    let stranger = meshed(inbound.address(), world.caller_id());
    assert!(check(&upstream, &stranger, AppProtocol::Http1, &tcp).await.is_err());
    assert!(check(&upstream, &stranger, AppProtocol::Http1, &http("/200")).await.is_err());
}

fn backend(address: std::net::SocketAddr) -> crate::decide::Backend {
    crate::decide::Backend::Address { address, protocol: AppProtocol::Tcp }
}

#[tokio::test]
async fn endpoints_outside_of_the_mesh_may_have_a_port_for_it_and_be_told_who_calls() {
    let world = World::new();
    let upstream = checker(&world);
    let app = told().await;
    let elsewhere = plain(([127, 0, 0, 1], 9).into());
    let rules = HealthCheck { port: Some(app.address.port()), ..http("/200") };
    assert_eq!(check(&upstream, &elsewhere, AppProtocol::Http1, &rules).await, Ok(()));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = UpstreamTls { announce: Some(ProxyVersion::V1), ..UpstreamTls::default() };
    let (endpoint, rules) = (plain(address), http("/200"));
    let asked = Asked { endpoint: &endpoint, host: "app.shop", protocol: AppProtocol::Http1, tls: &tls };
    let reading = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = super::clients::read_head(&mut tcp).await;
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        head
    };
    let (head, result) = tokio::join!(reading, upstream.check(asked, &rules));
    assert!(head.starts_with("PROXY UNKNOWN\r\nGET /200 HTTP/1.1\r\n"), "{head}");
    assert_eq!(result, Ok(()));
}
