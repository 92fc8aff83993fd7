//! Configuration in the form that decisions are made from.

use std::{net::IpAddr, sync::Arc};

use super::Backend;
use crate::{model::Lane, resources::ObjectStatus};

/// What `compile` makes of the documents. Immutable.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Sockets that a gateway binds.
    pub binds: Vec<Bind>,
    /// Status of every object, as Kubernetes would hold it.
    pub status: Vec<ObjectStatus>,
}

/// A socket's address before `--port-offset`. The stable key by which a bound socket finds its listeners in each new
/// snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindKey {
    /// From the Gateway's `spec.addresses`; none: the process's `--address`.
    pub address: Option<IpAddr>,
    /// From the listener.
    pub port: u16,
}

/// One socket and the listeners that share it.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where.
    pub key: BindKey,
    /// In order of precedence of their hostnames; all with the same kind of protocol (plain or TLS).
    pub listeners: Vec<Arc<Listener>>,
}

/// One Gateway listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// `NAMESPACE/NAME` of the Gateway.
    pub gateway: Arc<str>,
    /// The listener's name.
    pub name: Arc<str>,
    /// Exact, or `*.suffix`; none: every host.
    pub hostname: Option<Arc<str>>,
    /// Protocol.
    pub protocol: ListenerProtocol,
    /// `NAMESPACE/NAME` of the Secrets that hold its certificates (HTTPS).
    pub certificates: Vec<Arc<str>>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// Plain HTTP/1.1 and h2c.
    Http,
    /// HTTP/1.1 and h2 over TLS terminated here.
    Https,
}

/// Whether a backend, or a lane of it, can be served now. Answered by `balance`; in `explain` by the snapshot alone.
pub trait Availability {
    /// True if some endpoint of `backend` (in `lane`, or in the baseline if none) is healthy.
    fn is_available(&self, backend: &Backend, lane: Option<&Lane>) -> bool;
}
