//! What the index needs to know of a generation of configuration.

use std::{collections::BTreeMap, fmt};

use tombolo_core::{
    model::TrustDomain,
    resources::kinds::{CapacitySpec, ServicePatterns, ServicePortSpec},
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
    /// ServiceExports, with their creation in seconds since the Unix epoch (0: unknown).
    pub exports: BTreeMap<Name, i64>,
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

/// What a Service document says.
#[derive(Debug, Clone, Default)]
pub struct ServiceSpec {
    /// Labels that its workloads have; empty: it selects none.
    pub selector: BTreeMap<String, String>,
    /// It has no address of its own, but each of its endpoints has one.
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<ServicePortSpec>,
    /// Endpoints from Workload documents and EndpointSlices, by service port.
    pub fixed: BTreeMap<u16, Vec<v1::Endpoint>>,
    /// What other clusters may send to it.
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
}

/// What a Peer document says of the lease, in milliseconds; none: as the cluster has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeasePolicy {
    /// Silent for so long, its endpoints are used last.
    pub stale_after: Option<i64>,
    /// Silent for so long, its endpoints are dropped.
    pub drop_after: Option<i64>,
}
