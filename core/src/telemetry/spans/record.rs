//! What is kept of a request for its span, from its end until it is exported.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, Version};

use crate::{
    decide::Backend,
    model::{Lane, ServiceKey, SpiffeId},
    proxy::{Entry, RequestEnd, SpanIds},
    telemetry::clip,
};

/// A span's role (OpenTelemetry's span kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Of a request that came in: at the edge, or for a workload.
    Server,
    /// Of an application's call, at its sidecar.
    Client,
}

/// One request. What is shared is shared here too, so that little is copied.
#[derive(Debug)]
pub(super) struct Record {
    pub ids: SpanIds,
    pub role: Role,
    pub begun: SystemTime,
    pub duration: Duration,
    pub method: Method,
    pub tls: bool,
    pub host: Box<str>,
    pub port: Option<u16>,
    pub path: Box<str>,
    pub version: Version,
    pub status: u16,
    pub reason: Option<&'static str>,
    pub grpc: Option<Option<u16>>,
    pub route: Option<Arc<str>>,
    pub arm: Option<Arc<str>>,
    pub lane: Option<Lane>,
    pub service: Option<ServiceKey>,
    pub endpoint: Option<(Arc<str>, Arc<str>)>,
    pub upstream: Option<SocketAddr>,
    pub tries: u8,
    pub client: Option<SocketAddr>,
    pub caller: Option<SpiffeId>,
    pub request_id: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
}

impl Record {
    pub fn of(ids: &SpanIds, end: &RequestEnd<'_>) -> Self {
        let (decision, arrival) = (end.decision, end.arrival);
        let service = match decision.map(|d| &d.backend) {
            Some(Backend::Service { service, .. }) => Some(service.clone()),
            Some(Backend::Address { .. }) | None => None,
        };
        let (role, port) = match arrival.map(|a| &*a.entry) {
            Some(Entry::Outbound { port, .. }) => (Role::Client, Some(*port)),
            Some(Entry::Edge(_)) => (Role::Server, arrival.map(|a| a.local.port())),
            Some(Entry::Passed) => (Role::Client, None),
            Some(Entry::Inbound | Entry::Captured { .. }) | None => (Role::Server, None),
        };
        Self {
            ids: ids.clone(),
            role,
            begun: SystemTime::now().checked_sub(end.duration).unwrap_or(SystemTime::UNIX_EPOCH),
            duration: end.duration,
            method: end.method.clone(),
            // Between proxies TLS is ours; applications speak plain HTTP.
            tls: arrival.is_some_and(|a| a.tls && matches!(*a.entry, Entry::Edge(_))),
            host: clip(end.host).into(),
            port,
            path: clip(end.path).into(),
            version: end.version,
            status: end.status,
            reason: end.reason,
            grpc: end.grpc,
            route: decision.map(|d| d.route.clone()).or_else(|| end.route.map(Into::into)),
            arm: decision.and_then(|d| d.arm.clone()),
            lane: decision.and_then(|d| d.lane.clone()),
            service,
            endpoint: end.endpoint.map(|endpoint| (endpoint.id.clone(), endpoint.cluster.clone())),
            upstream: end.upstream,
            tries: end.tries,
            client: arrival.map(|a| a.peer),
            caller: arrival.and_then(|a| a.identity.clone()),
            request_id: end.request_id.map(|id| clip(id).into()),
            user_agent: end.user_agent.map(|agent| clip(agent).into()),
        }
    }
}
