//! Calls to other services: by DNS name, in plain HTTP/1.1, over kept connections.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{HeaderMap, Method, Request, Uri, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::reply::{Outcome, Reply};
use crate::failure::Failure;

/// A call gives up after this long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer longer than this is an error.
const MAX_BODY: usize = 1 << 20;

pub struct Caller {
    resolver: TokioResolver,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Caller {
    pub fn new(dns: Option<SocketAddr>) -> Result<Self, Failure> {
        let builder = match dns {
            None => TokioResolver::builder_tokio()
                .map_err(|e| Failure::new(format!("cannot read the system's DNS settings: {e}")))?,
            Some(server) => {
                let mut udp = ConnectionConfig::udp();
                udp.port = server.port();
                let server = NameServerConfig::new(server.ip(), true, vec![udp]);
                let config = ResolverConfig::from_parts(None, vec![], vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let resolver = builder.build().map_err(|e| Failure::new(format!("cannot set up DNS: {e}")))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build_http();
        Ok(Self { resolver, client })
    }

    /// Calls `url`, passing on the trace context of the request in hand.
    pub async fn call(&self, url: &Uri, incoming: &HeaderMap, forget_baggage: bool) -> Outcome {
        let failed = |status, error: String| Outcome::Failed { url: url.to_string(), status, error };
        match tokio::time::timeout(TIMEOUT, self.attempt(url, incoming, forget_baggage)).await {
            Err(_) => failed(None, format!("no answer within {TIMEOUT:?}")),
            Ok(Err(error)) => failed(None, error),
            Ok(Ok((200, body))) => match serde_json::from_slice::<Reply>(&body) {
                Ok(reply) => Outcome::Reply(Box::new(reply)),
                Err(error) => failed(Some(200), format!("not a demo service's answer: {error}")),
            },
            Ok(Ok((status, body))) => {
                failed(Some(status), String::from_utf8_lossy(&body).chars().take(200).collect())
            }
        }
    }

    async fn attempt(
        &self,
        url: &Uri,
        incoming: &HeaderMap,
        forget_baggage: bool,
    ) -> Result<(u16, Bytes), String> {
        let host = url.host().unwrap_or_default();
        let address = self.resolve(host).await?;
        let authority = SocketAddr::new(address, url.port_u16().unwrap_or(80));
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority.to_string())
            .path_and_query(url.path_and_query().map_or("/", |p| p.as_str()))
            .build()
            .map_err(|e| e.to_string())?;
        let host = url.authority().map_or(host, |a| a.as_str());
        let mut request = Request::builder().method(Method::GET).uri(uri).header(header::HOST, host);
        let passed_on = ["traceparent", "tracestate", "baggage", "x-request-id"];
        for name in passed_on.iter().filter(|name| !(forget_baggage && **name == "baggage")) {
            if let Some(value) = incoming.get(*name) {
                request = request.header(*name, value);
            }
        }
        let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
        let response = self.client.request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    }

    async fn resolve(&self, host: &str) -> Result<IpAddr, String> {
        if let Ok(address) = host.parse() {
            return Ok(address);
        }
        // The final dot keeps the resolver from trying search domains.
        let answer = self
            .resolver
            .lookup_ip(format!("{host}."))
            .await
            .map_err(|e| format!("cannot resolve {host}: {e}"))?;
        let first = answer.iter().next();
        first.ok_or_else(|| format!("{host} has no address"))
    }
}
