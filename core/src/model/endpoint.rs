//! Endpoints: where a service answers, and how to get there.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{Lane, SpiffeId};

/// The label that puts an endpoint into a lane. Baseline traffic never reaches an endpoint that has it.
pub const LANE_LABEL: &str = "tombolo.dev/lane";

/// The label that says which host of a headless service an endpoint is: `HOSTNAME.CLUSTER`. Set by proxies, whatever a
/// workload says of itself. In documents' endpoints it is the hostname alone.
pub const HOST_LABEL: &str = "tombolo.dev/host";

/// Labels of an endpoint, as in Kubernetes.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// One place where a service answers on one of its ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Unique over all clusters; balancing state (latency, failures) is kept by it from snapshot to snapshot.
    pub id: Arc<str>,
    /// How to get there.
    pub reach: Reach,
    /// What to speak there.
    pub transport: Transport,
    /// The cluster it runs in.
    pub cluster: Arc<str>,
    /// Where in that cluster.
    pub locality: Locality,
    /// Share of traffic among its equals; at least 1.
    pub weight: u32,
    /// Labels, matched by gray arms.
    pub labels: Labels,
    /// From [`LANE_LABEL`].
    pub lane: Option<Lane>,
    /// What discovery says. What is seen on the wire is kept in `balance`.
    pub health: EndpointHealth,
    /// Imported over a link that is past its lease: used after all others, if its cluster cannot be reached
    /// well either.
    pub stale: bool,
    /// The workload's own port behind its sidecar (equal to the address's port for plaintext endpoints).
    pub target_port: u16,
    /// Some peer may reach it through this cluster's gateways.
    pub exported: bool,
}

/// The way to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Connect to it.
    Direct(SocketAddr),
    /// Connect to one of these gateways' mesh listeners; they pass on by SNI without decrypting.
    Via(Arc<[SocketAddr]>),
}

/// What is spoken to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The application itself, without a sidecar.
    Plaintext,
    /// Mutual TLS to a sidecar that must prove `identity`; `sni` is its opaque name.
    Mesh {
        /// Who must answer.
        identity: SpiffeId,
        /// Opaque server name in the ClientHello.
        sni: Arc<str>,
    },
}

/// Health by discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndpointHealth {
    /// Serves.
    #[default]
    Healthy,
    /// Its sidecar says that the application does not answer.
    Unhealthy,
    /// Going away: finish what runs, begin nothing.
    Draining,
}

/// Region and zone; empty where unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// e.g. `eu-west`.
    pub region: Arc<str>,
    /// e.g. `eu-west-1a`.
    pub zone: Arc<str>,
}
