//! What is kept of a request for its span, from its end until it is exported.

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, Version};
use opentelemetry_proto::tonic::trace::v1::Span;

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
    /// Of an application's call, at its sidecar; of a gateway's.
    Client,
}

/// One request. What is shared is shared here too, so that little is copied.
#[derive(Debug, Clone)]
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
    pub last_try: Option<Duration>,
    pub client: Option<SocketAddr>,
    pub caller: Option<SpiffeId>,
    pub request_id: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
}

impl Record {
    /// The spans that are exported of it: its own, and that of the call that was made for it, if that has one.
    pub fn into_spans(self) -> impl Iterator<Item = Span> {
        let call = self.call_made();
        std::iter::once(self.into_span()).chain(call.map(Self::into_span))
    }

    /// The call: from its last try to the end of all.
    fn call_made(&self) -> Option<Self> {
        let id = self.ids.onward.filter(|_| self.tries > 0)?;
        let before = self.last_try.unwrap_or_default().min(self.duration);
        Some(Self {
            ids: SpanIds { id, onward: None, parent: NonZeroU64::new(self.ids.id), ..self.ids.clone() },
            role: Role::Client,
            begun: self.begun + before,
            duration: self.duration - before,
            tls: false,
            port: self.upstream.map(|address| address.port()),
            user_agent: None,
            ..self.clone()
        })
    }

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
            last_try: end.last_try,
            client: arrival.map(|a| a.peer),
            caller: arrival.and_then(|a| a.identity.clone()),
            request_id: end.request_id.map(|id| clip(id).into()),
            user_agent: end.user_agent.map(|agent| clip(agent).into()),
        }
    }
}
