//! Asking one endpoint for its health.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use tokio::io::AsyncReadExt;
use tombolo_proto::health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    Connection, MeshProtocol, MeshUpstream,
    ask::{self, Error},
    gate::random,
};
use crate::{
    decide::{HealthCheck, HealthQuestion, UpstreamTls},
    model::{AppProtocol, Endpoint, Reach, Transport},
};

const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";
const AGENT: &str = concat!("tombolo-health-check/", env!("CARGO_PKG_VERSION"));
/// A sidecar takes a connection before its application does: one that is still there after this time was taken by both.
const TAKEN: Duration = Duration::from_millis(100);

/// Who is asked, and how it is spoken to.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// The host that is asked for where the rules name none.
    pub host: &'a str,
    /// What the service's port speaks.
    pub protocol: AppProtocol,
    /// How an endpoint outside of the mesh is spoken to.
    pub tls: &'a UpstreamTls,
}

impl MeshUpstream {
    /// Asks an endpoint, over a connection of its own. The error says what is wrong with it.
    pub async fn check(&self, asked: Asked<'_>, rules: &HealthCheck) -> Result<(), String> {
        let checking = async {
            match &rules.question {
                HealthQuestion::Http { path, host, statuses } => {
                    let host = host.as_deref().unwrap_or(asked.host);
                    let request = request(Method::GET, host, path).body(Bytes::new())?;
                    let answer = self.ask(asked, rules, spoken(asked.protocol), &request).await?;
                    let status = answer.head.status.as_u16();
                    let is_well = statuses.iter().any(|(first, last)| (*first..=*last).contains(&status));
                    is_well.then_some(()).ok_or_else(|| format!("it answered {status}").into())
                }
                HealthQuestion::Grpc { service, host } => {
                    let message = HealthCheckRequest { service: service.to_string() };
                    let request = request(Method::POST, host.as_deref().unwrap_or(asked.host), GRPC_CHECK)
                        .header(header::CONTENT_TYPE, "application/grpc")
                        .header(header::TE, "trailers")
                        .body(ask::grpc_body(&message)?)?;
                    let answer = self.ask(asked, rules, MeshProtocol::Http2, &request).await?;
                    let status = ask::grpc_message::<HealthCheckResponse>(answer)?.status();
                    let is_well = status == ServingStatus::Serving;
                    is_well.then_some(()).ok_or_else(|| format!("it is {}", status.as_str_name()).into())
                }
                HealthQuestion::Tcp => {
                    let connection = self.connect_to(asked, rules, MeshProtocol::Tcp).await?;
                    let in_mesh = matches!(asked.endpoint.transport, Transport::Mesh { .. });
                    if in_mesh { is_kept(connection).await } else { Ok(()) }
                }
            }
        };
        match tokio::time::timeout(rules.timeout, checking).await {
            Ok(result) => result.map_err(|error: Error| error.to_string()),
            Err(_) => Err(format!("no answer in {:?}", rules.timeout)),
        }
    }

    async fn connect_to(
        &self,
        asked: Asked<'_>,
        rules: &HealthCheck,
        protocol: MeshProtocol,
    ) -> Result<Connection, Error> {
        let endpoint = asked.endpoint;
        let mut address = self.address(endpoint, &[], random()).ok_or("no address")?;
        if let (Some(port), Reach::Direct(_), Transport::Plaintext) =
            (rules.port, &endpoint.reach, &endpoint.transport)
        {
            address.set_port(port);
        }
        let connecting = self.connect(endpoint, address, protocol, asked.tls, None).await;
        Ok(connecting.inspect_err(|error| {
            // Of an endpoint, checks say for themselves how it stands; of a gateway, this does.
            let _of_the_endpoint = self.judge(endpoint, address, error.failure());
        })?)
    }

    async fn ask(
        &self,
        asked: Asked<'_>,
        rules: &HealthCheck,
        protocol: MeshProtocol,
        request: &Request<Bytes>,
    ) -> Result<ask::Answer, Error> {
        let connection = self.connect_to(asked, rules, protocol).await?;
        match protocol {
            MeshProtocol::Http2 => ask::over_http2(&mut ask::http2(connection).await?, request).await,
            MeshProtocol::Http1 | MeshProtocol::Tcp => {
                ask::over_http1(&mut ask::http1(connection).await?, request).await
            }
        }
    }
}

fn spoken(protocol: AppProtocol) -> MeshProtocol {
    match protocol {
        AppProtocol::Http2 => MeshProtocol::Http2,
        AppProtocol::Http1 | AppProtocol::Tcp => MeshProtocol::Http1,
    }
}

fn request(method: Method, host: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://{host}{path}")).header(header::USER_AGENT, AGENT)
}

/// True where it says something, or nothing.
async fn is_kept(mut connection: Connection) -> Result<(), Error> {
    match tokio::time::timeout(TAKEN, connection.read_u8()).await {
        Ok(Err(error)) => Err(format!("the connection was closed at once: {error}").into()),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
