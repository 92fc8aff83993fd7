//! What the index needs to know of a generation of configuration.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tombolo_core::{
    model::TrustDomain,
    resources::kinds::{BundleEndpoint, CapacitySpec, PeerLimits, ServicePatterns, ServicePortSpec},
};
use tombolo_proto::v1;

use super::Name;

/// One generation of configuration, as far as the index goes by it. Made from the documents by
/// [`crate::config::configuration`].
#[derive(Clone, Default)]
pub struct Configuration {
    /// Its number.
    pub generation: u64,
    /// Services by name.
    pub services: BTreeMap<Name, ServiceSpec>,
    /// ServiceExports.
    pub exports: BTreeMap<Name, ExportSpec>,
    /// Peer documents by the peer's cluster name.
    pub peers: BTreeMap<String, PeerPolicy>,
    /// Documents that proxies compile, by resource name.
    pub documents: BTreeMap<String, v1::ConfigDocument>,
    /// TLS Secrets, for gateways only, by resource name.
    pub certificates: BTreeMap<String, v1::EdgeCertificate>,
}

impl fmt::Debug for Configuration {
    /// Without the documents: they hold private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configuration").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// What a ServiceExport says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportSpec {
    /// When it was created, in seconds since the Unix epoch; 0: unknown.
    pub created: i64,
    /// Labels of the ServiceImport.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What a Service document says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceSpec {
    /// Labels that its workloads have; empty: it selects none.
    pub selector: BTreeMap<String, String>,
    /// It has no address of its own, but each of its endpoints has one.
    pub headless: bool,
    /// Its workloads count as ready although they are not (`publishNotReadyAddresses`); those that go away do not.
    pub publishes_not_ready: bool,
    /// Its ports.
    pub ports: Vec<ServicePortSpec>,
    /// Endpoints from Workload documents and EndpointSlices, by service port.
    pub fixed: BTreeMap<u16, Vec<v1::Endpoint>>,
    /// What other clusters may send to it, all together.
    pub capacity: Option<CapacitySpec>,
}

impl ServiceSpec {
    /// The ports as they are published.
    pub fn published_ports(&self) -> Vec<v1::ServicePort> {
        let port = |p: &ServicePortSpec| v1::ServicePort {
            name: p.name.clone(),
            port: p.port.into(),
            app_protocol: p.app_protocol.clone().unwrap_or_default(),
        };
        self.ports.iter().map(port).collect()
    }
}

/// What a Peer document says.
#[derive(Debug, Clone)]
pub struct PeerPolicy {
    /// The trust domain that the peer must have; with another one the policy does not apply and all is refused.
    pub trust_domain: TrustDomain,
    /// What the peer may see.
    pub export: ServicePatterns,
    /// What is taken from the peer.
    pub import: ServicePatterns,
    /// For how long its word is good.
    pub lease: LeasePolicy,
    /// The network that it has to be on; none: any.
    pub network: Option<String>,
    /// How much is taken from it.
    pub limits: Limits,
    /// Where its bundle is served, if no link leads to it.
    pub bundle_endpoint: Option<Arc<BundleEndpoint>>,
}

/// How much is taken from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Services; a further one is refused.
    pub services: usize,
    /// Endpoints over all services; a service that exceeds it is refused, its last good form stays.
    pub endpoints: usize,
    /// Messages a second; more are read later.
    pub messages_per_second: u32,
    /// Bytes a second; more are read later.
    pub bytes_per_second: u32,
}

impl Default for Limits {
    /// 10,000 services, 100,000 endpoints, 2,000 messages and 16 MiB a second.
    fn default() -> Self {
        Self { services: 10_000, endpoints: 100_000, messages_per_second: 2_000, bytes_per_second: 16 << 20 }
    }
}

impl Limits {
    /// As a Peer document says, the defaults where it says nothing.
    pub fn said(said: &PeerLimits) -> Self {
        let (count, whole) = (|count: u32| usize::try_from(count).unwrap_or(usize::MAX), Self::default());
        Self {
            services: said.services.map_or(whole.services, count),
            endpoints: said.endpoints.map_or(whole.endpoints, count),
            messages_per_second: said.messages_per_second.unwrap_or(whole.messages_per_second),
            bytes_per_second: said.bytes_per_second.unwrap_or(whole.bytes_per_second),
        }
    }
}

/// What a Peer document says of the lease, in milliseconds; none: as the cluster has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeasePolicy {
    /// Silent for so long, its endpoints are used last.
    pub stale_after: Option<i64>,
    /// Silent for so long, its endpoints are dropped.
    pub drop_after: Option<i64>,
}
