//! Services and their keys.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Endpoint, NameError, check_dns_label};

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

/// A service with its endpoints, as a proxy knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceEntry {
    /// Its name and scope.
    pub key: ServiceKey,
    /// Its ports, each once.
    pub ports: Vec<ServicePort>,
    /// Position of its virtual address in a sidecar's range; 0 is none.
    pub vip_index: u32,
    /// Endpoints by service port. A port without an entry is not known yet (not synced); an empty list is known empty.
    pub endpoints: BTreeMap<u16, Arc<[Arc<Endpoint>]>>,
}

impl ServiceEntry {
    /// The port's definition.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }
}
