//! Configuration in the form that decisions are made from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use super::{
    Backend, ShownCertificate, UpstreamTls,
    authorize::Policies,
    backend_tls::{BackendTlsTable, InvalidTls},
    host::HostPattern,
    inbound::InboundTable,
    policy::{PolicyTable, ServicePolicies, ServicePolicy},
    proxied::ProxiedTable,
    services::{Mesh, rule_services, weighted_services},
    stream::StreamTable,
    table::RouteTable,
};
use crate::{
    model::{EndpointHealth, Lane, ServiceKey, Snapshot},
    resources::ObjectStatus,
};

/// What [`compile`](super::compile) makes of the documents. Immutable.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Sockets that a gateway binds, in the order of their keys.
    pub binds: Vec<Bind>,
    /// Addresses that were chosen for one Gateway each. Nobody else answers there, on no port.
    pub apart: BTreeSet<IpAddr>,
    /// Status of every object of a kind that has one, as Kubernetes would hold it.
    pub status: Vec<ObjectStatus>,
    /// Certificates that are to be ordered, and kept fresh.
    pub acme: Vec<super::AcmeCertificate>,
    /// What of a request's head decides at public listeners.
    pub deciding: super::Deciding,
    /// The order in which clusters are fallen back on, where their Peer documents give one: lower first.
    pub failover_order: BTreeMap<Arc<str>, u32>,
    pub(crate) mesh: Mesh,
    pub(crate) policies: Policies,
    pub(crate) inbound: InboundTable,
    pub(crate) backend_tls: BackendTlsTable,
    pub(crate) edge_policies: PolicyTable,
    pub(crate) proxied: ProxiedTable,
    pub(crate) service_policies: ServicePolicies,
}

impl Compiled {
    /// The socket of this key.
    pub fn bind(&self, key: BindKey) -> Option<&Bind> {
        self.binds.binary_search_by(|bind| bind.key.cmp(&key)).ok().and_then(|at| self.binds.get(at))
    }

    /// What TrafficPolicies say of a service; none where they say nothing.
    pub fn service_policy(&self, service: &ServiceKey) -> Option<&Arc<ServicePolicy>> {
        self.service_policies.of(service)
    }

    /// TLS towards a backend, for a Gateway that shows this certificate.
    pub(crate) fn tls_of(
        &self,
        backend: &Backend,
        certificate: &ShownCertificate,
    ) -> Result<UpstreamTls, InvalidTls> {
        self.backend_tls.of(backend, certificate)
    }

    /// Every service that public listeners may send to: what a gateway has to know.
    pub fn edge_services(&self) -> BTreeSet<ServiceKey> {
        let mut out = BTreeSet::new();
        let listeners = self.binds.iter().flat_map(|bind| &bind.listeners);
        for listener in listeners {
            listener.routes.rules().for_each(|rule| rule_services(rule, &mut out));
            listener.streams.routes().for_each(|route| weighted_services(&route.backends, &mut out));
        }
        out
    }

    /// Every service that requests for this one may be sent to, itself among them: what a sidecar has to know once
    /// its application uses the service, as an arm whose endpoints are not known counts as unavailable.
    pub fn services_behind(&self, service: &ServiceKey) -> BTreeSet<ServiceKey> {
        let mut out = BTreeSet::from([service.clone()]);
        self.mesh.behind(service, &mut out);
        out
    }
}

/// What is known of the machine that is to listen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Addresses that Gateways name and that it cannot listen on.
    pub unusable: BTreeSet<IpAddr>,
    /// Where Gateways listen that name no address and have none of their own; none: everywhere.
    pub listens: Option<IpAddr>,
}

/// A socket's address before `--port-offset`. The stable key by which a bound socket finds its listeners in each new
/// snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindKey {
    /// From the Gateway's `spec.addresses`, or chosen for it; none: the process's `--address`.
    pub address: Option<IpAddr>,
    /// From the listener.
    pub port: u16,
}

/// One socket and the listeners that share it.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where.
    pub key: BindKey,
    /// In order of precedence of their hostnames; all plain HTTP, all TCP, or all of protocols that begin with TLS.
    pub listeners: Vec<Arc<Listener>>,
}

/// One Gateway listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// `NAMESPACE/NAME` of the Gateway.
    pub gateway: Arc<str>,
    /// `NAMESPACE/NAME` of the ListenerSet that it comes from, if it is not the Gateway's own.
    pub set: Option<Arc<str>>,
    /// The listener's name, unique in the Gateway, or in the ListenerSet.
    pub name: Arc<str>,
    /// Exact, or `*.suffix`; none: every host.
    pub hostname: Option<Arc<str>>,
    /// Protocol.
    pub protocol: ListenerProtocol,
    /// `NAMESPACE/NAME` of the Secrets that hold its certificates, where TLS is terminated.
    pub certificates: Vec<Arc<str>>,
    /// What clients have to show, where TLS is terminated; none: nothing.
    pub clients: Option<ClientValidation>,
    /// [`hostname`](Self::hostname) as it is compared.
    pub(crate) pattern: HostPattern,
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) streams: Arc<StreamTable>,
    /// What its Gateway shows to backends that speak TLS.
    pub(crate) shown: ShownCertificate,
}

impl Listener {
    /// `NAMESPACE/GATEWAY/LISTENER`, or with the ListenerSet in the place of the Gateway.
    pub fn title(&self) -> String {
        format!("{}/{}", self.set.as_ref().unwrap_or(&self.gateway), self.name)
    }
}

/// Who may connect to a listener (Gateway API FrontendTLSValidation).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientValidation {
    /// DER of the certificate authorities that vouch for clients; at least one.
    pub roots: Arc<[Arc<[u8]>]>,
    /// Clients without a certificate, or with one that does not verify, are let in all the same
    /// (`AllowInsecureFallback`).
    pub insecure_fallback: bool,
}

impl fmt::Debug for ClientValidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientValidation")
            .field("roots", &self.roots.len())
            .field("insecure_fallback", &self.insecure_fallback)
            .finish()
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// Plain HTTP/1.1 and h2c.
    Http,
    /// HTTP/1.1 and h2 over TLS terminated here.
    Https,
    /// Anything over TLS, passed on by its server name without being decrypted.
    TlsPassthrough,
    /// Anything over TLS terminated here.
    TlsTerminate,
    /// Anything.
    Tcp,
}

impl ListenerProtocol {
    /// True if a connection begins with a ClientHello.
    pub fn begins_with_tls(self) -> bool {
        matches!(self, Self::Https | Self::TlsPassthrough | Self::TlsTerminate)
    }
}

/// Whether a backend, or a lane of it, can be served now. Answered by `balance`; in `explain` by the snapshot alone.
pub trait Availability {
    /// True if some endpoint of `backend` (in `lane`, or in the baseline if none) is healthy.
    fn is_available(&self, backend: &Backend, lane: Option<&Lane>) -> bool;
}

/// [`Availability`] by what discovery says alone, for `explain` and for processes that send nothing.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotAvailability<'a>(
    /// The snapshot that is asked.
    pub &'a Snapshot,
);

impl Availability for SnapshotAvailability<'_> {
    fn is_available(&self, backend: &Backend, lane: Option<&Lane>) -> bool {
        let Backend::Service { service, port, labels, .. } = backend else { return true };
        let endpoints = self.0.services.get(service).and_then(|entry| entry.endpoints.get(port));
        endpoints.into_iter().flat_map(|endpoints| endpoints.iter()).any(|endpoint| {
            endpoint.health == EndpointHealth::Healthy
                && endpoint.lane.as_ref() == lane
                && labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
        })
    }
}
