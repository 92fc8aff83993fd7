//! Services and their keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{Endpoint, Locality, NameError, check_dns_label};

/// Where a service's name is valid; the two scopes of one service are separate services to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// `SVC.NS.svc.cluster.local`: this cluster's endpoints only.
    Cluster,
    /// `SVC.NS.svc.clusterset.local`: also those imported from peers (Multi-Cluster Services).
    Clusterset,
}

/// Names one service in one scope. Written `cluster/NAMESPACE/NAME` or `clusterset/NAMESPACE/NAME`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Where the name is valid.
    pub scope: Scope,
    /// Namespace, a DNS label.
    pub namespace: Arc<str>,
    /// Name, a DNS label.
    pub name: Arc<str>,
}

/// Why a text is no service key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceKeyError {
    /// Not of the form `SCOPE/NAMESPACE/NAME`.
    #[error("a service key is cluster/NAMESPACE/NAME or clusterset/NAMESPACE/NAME")]
    Form,
    /// A part is not a DNS label.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl ServiceKey {
    /// A key from its parts.
    pub fn new(scope: Scope, namespace: &str, name: &str) -> Result<Self, NameError> {
        check_dns_label(namespace)?;
        check_dns_label(name)?;
        Ok(Self { scope, namespace: namespace.into(), name: name.into() })
    }

    /// Parses what `Display` writes.
    pub fn parse(text: &str) -> Result<Self, ServiceKeyError> {
        let mut parts = text.split('/');
        let scope = match parts.next() {
            Some("cluster") => Scope::Cluster,
            Some("clusterset") => Scope::Clusterset,
            _ => return Err(ServiceKeyError::Form),
        };
        match (parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(name), None) => Ok(Self::new(scope, namespace, name)?),
            _ => Err(ServiceKeyError::Form),
        }
    }

    /// The DNS name, e.g. `ledger.bank.svc.clusterset.local`.
    pub fn dns_name(&self) -> String {
        let zone = match self.scope {
            Scope::Cluster => "cluster",
            Scope::Clusterset => "clusterset",
        };
        format!("{}.{}.svc.{zone}.local", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            Scope::Cluster => "cluster",
            Scope::Clusterset => "clusterset",
        };
        write!(f, "{scope}/{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the application speaks on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AppProtocol {
    /// HTTP/1.1 (also WebSocket).
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, gRPC.
    Http2,
    /// Anything over TCP: never parsed.
    Tcp,
}

impl AppProtocol {
    /// From Kubernetes' `appProtocol`; empty is HTTP/1.1, and what is not known is TCP.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "" | "http" | "http1" | "https" | "kubernetes.io/ws" | "kubernetes.io/wss" => Self::Http1,
            "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" => Self::Http2,
            _ => Self::Tcp,
        }
    }

    /// What a service's port says of itself: its `appProtocol`, else the first word of its name (`grpc`, `tcp-admin`). None:
    /// neither says anything, and what is spoken has to be found out. TLS that the application itself speaks is TCP.
    pub fn of_port(app_protocol: &str, name: &str) -> Option<Self> {
        if !app_protocol.is_empty() {
            let own_tls = ["https", "tls"].iter().any(|word| app_protocol.eq_ignore_ascii_case(word));
            return Some(if own_tls { Self::Tcp } else { Self::parse(app_protocol) });
        }
        match name.split('-').next().unwrap_or_default() {
            "http" | "http1" | "ws" => Some(Self::Http1),
            "http2" | "h2c" | "grpc" => Some(Self::Http2),
            "tcp" | "tls" | "https" | "mongo" | "mysql" | "postgres" | "postgresql" | "redis" | "amqp"
            | "kafka" | "smtp" | "ssh" => Some(Self::Tcp),
            _ => None,
        }
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name; may be empty when it is the only one.
    pub name: Arc<str>,
    /// The port that callers use.
    pub port: u16,
    /// What is spoken.
    pub protocol: AppProtocol,
    /// Nobody says what is spoken: `protocol` is only what is assumed where it cannot be found out.
    pub sniff: bool,
}

impl ServicePort {
    /// What is spoken, as far as somebody says it.
    pub fn said(&self) -> Option<AppProtocol> {
        (!self.sniff).then_some(self.protocol)
    }
}

/// Hosts of a headless service that have a name and an address of their own; further ones have none.
pub const MAX_HOSTS: usize = 256;

/// One host of a headless service, unique in that: `HOSTNAME.CLUSTER`, as in [`HOST_LABEL`](super::HOST_LABEL).
pub type HostName = Arc<str>;

/// What one hostname of a headless service stands for: its endpoints of this name in one cluster, mostly just one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The hostname, a DNS label.
    pub name: Arc<str>,
    /// The cluster, a DNS label.
    pub cluster: Arc<str>,
    /// Position of its virtual address in a sidecar's range; 0 is none.
    pub vip_index: u32,
    /// Some endpoint of this name serves.
    pub ready: bool,
    /// The service's ports that it serves, each with the workload's own.
    pub ports: Vec<(u16, u16)>,
}

impl Host {
    /// Its name among the hosts of its service.
    pub fn full_name(&self) -> HostName {
        format!("{}.{}", self.name, self.cluster).into()
    }

    /// The service's port that is meant by a port of this host: as in Kubernetes the workload's own; else the service's.
    pub fn port(&self, called: u16) -> Option<u16> {
        let by_target = self.ports.iter().find(|(_, target)| *target == called);
        by_target.or_else(|| self.ports.iter().find(|(port, _)| *port == called)).map(|(port, _)| *port)
    }

    /// All ports that mean something.
    pub fn called_ports(&self) -> impl Iterator<Item = u16> {
        let all: BTreeSet<u16> = self.ports.iter().flat_map(|(port, target)| [*port, *target]).collect();
        all.into_iter()
    }
}

/// What one cluster says of one locality of a service's port: what stands behind the endpoints that are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The locality.
    pub locality: Locality,
    /// Endpoints that are healthy.
    pub healthy: u32,
    /// All endpoints.
    pub total: u32,
    /// The healthy endpoints' weight together.
    pub healthy_weight: u64,
    /// All endpoints' weight together.
    pub total_weight: u64,
    /// Requests a second that the callers of this cluster may send there together: its share of what is taken from all
    /// clusters. 0: nothing is said.
    pub capacity: u32,
}

/// A service with its endpoints, as a proxy knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceEntry {
    /// Its name and scope.
    pub key: ServiceKey,
    /// Its ports, each once.
    pub ports: Vec<ServicePort>,
    /// Position of its virtual address in a sidecar's range; 0 is none.
    pub vip_index: u32,
    /// Of a headless service, which has no address of its own: its hosts, sorted by cluster and hostname.
    pub hosts: Option<Arc<[Host]>>,
    /// Endpoints by service port. A port without an entry is not known yet (not synced); an empty list is known empty.
    pub endpoints: BTreeMap<u16, Arc<[Arc<Endpoint>]>>,
    /// By service port, of clusters of which not every endpoint may be named; a cluster that is not in here has named all.
    pub summaries: BTreeMap<u16, Arc<[Summary]>>,
}

impl ServiceEntry {
    /// The port's definition.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// The DNS name of one of its hosts.
    pub fn host_dns_name(&self, host: &Host) -> String {
        match self.key.scope {
            Scope::Cluster => format!("{}.{}", host.name, self.key.dns_name()),
            Scope::Clusterset => format!("{}.{}.{}", host.name, host.cluster, self.key.dns_name()),
        }
    }

    /// Its hosts; none but for a headless service.
    pub fn hosts(&self) -> &[Host] {
        self.hosts.as_deref().unwrap_or_default()
    }
}
