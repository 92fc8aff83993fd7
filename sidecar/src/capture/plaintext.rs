//! Which plaintext reaches the application although it did not come over the mesh. Pure.

use std::collections::BTreeSet;

use http::Method;
use tombolo_core::{
    decide::{InboundMode, InboundWorkload, PlaintextRule, inbound_plaintext},
    model::Snapshot,
};

/// The path of gRPC's health checks.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What is admitted of connections to the application's ports that nobody vouches for, where no document says another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plaintext {
    /// All ports are permissive; else, `strict`, only those in `ports`.
    pub permissive: bool,
    /// Ports that are permissive: plaintext is admitted, within the AuthorizationPolicies. For services whose callers are
    /// not all in the mesh yet.
    pub ports: BTreeSet<u16>,
    /// Paths of health checks, which are admitted on every port, whatever policies say: `GET` and `HEAD` of exactly these.
    pub probe_paths: BTreeSet<String>,
    /// Ports that are there for health checks alone: everything is admitted.
    pub probe_ports: BTreeSet<u16>,
}

/// What may come in on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Anything.
    Everything,
    /// What policies allow to callers without an identity.
    Policies,
    /// Health checks.
    Probes,
    /// Nothing.
    Nothing,
}

impl Plaintext {
    fn of_port(&self, port: u16, said: &PlaintextRule<'_>) -> Admission {
        let told = self.permissive || self.ports.contains(&port);
        if self.probe_ports.contains(&port) {
            Admission::Everything
        } else if said.mode.map_or(told, |mode| mode == InboundMode::Permissive) {
            Admission::Policies
        } else if self.probe_paths.is_empty() && said.probe_paths.is_empty() {
            Admission::Nothing
        } else {
            Admission::Probes
        }
    }

    fn is_probe(&self, port: u16, method: &Method, path: &str, said: &PlaintextRule<'_>) -> bool {
        let asks = match path {
            GRPC_HEALTH => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        };
        let known = || self.probe_paths.contains(path) || said.probe_paths.contains(&path);
        self.probe_ports.contains(&port) || (asks && known())
    }
}

/// What is admitted of plaintext to a workload: by documents, else as the sidecar was told at its start.
#[derive(Debug)]
pub(crate) struct Admissions {
    pub workload: InboundWorkload,
    pub told: Plaintext,
}

impl Admissions {
    /// What may come in on this port.
    pub fn of_port(&self, snapshot: &Snapshot, port: u16) -> Admission {
        self.told.of_port(port, &self.said(snapshot, port))
    }

    /// What may come in of this request.
    pub fn of_request(&self, snapshot: &Snapshot, port: u16, method: &Method, path: &str) -> Admission {
        let said = self.said(snapshot, port);
        if self.told.is_probe(port, method, path, &said) {
            return Admission::Everything;
        }
        self.told.of_port(port, &said)
    }

    /// The mode of a port, and the TrafficPolicy that says it.
    pub fn mode<'a>(&'a self, snapshot: &'a Snapshot, port: u16) -> (InboundMode, Option<&'a str>) {
        let said = self.said(snapshot, port);
        let open = matches!(self.told.of_port(port, &said), Admission::Everything | Admission::Policies);
        (if open { InboundMode::Permissive } else { InboundMode::Strict }, said.policy)
    }

    fn said<'a>(&'a self, snapshot: &'a Snapshot, port: u16) -> PlaintextRule<'a> {
        inbound_plaintext(snapshot, &self.workload, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_admits_probes_alone() {
        let strict = Plaintext {
            probe_paths: ["/healthz".to_string(), GRPC_HEALTH.to_string()].into(),
            probe_ports: [9000].into(),
            ports: [8080].into(),
            ..Plaintext::default()
        };
        let nothing = PlaintextRule::default();
        let admitted = [80, 8080, 9000].map(|port| strict.of_port(port, &nothing));
        assert_eq!(admitted, [Admission::Probes, Admission::Policies, Admission::Everything]);
        assert_eq!(Plaintext::default().of_port(80, &nothing), Admission::Nothing);
        for (port, method, path, is_probe) in [
            (80, Method::GET, "/healthz", true),
            (80, Method::HEAD, "/healthz", true),
            (80, Method::POST, "/healthz", false),
            (80, Method::GET, "/healthz/", false),
            (80, Method::GET, "/", false),
            (80, Method::POST, GRPC_HEALTH, true),
            (80, Method::GET, GRPC_HEALTH, false),
            (9000, Method::POST, "/anything", true),
        ] {
            assert_eq!(strict.is_probe(port, &method, path, &nothing), is_probe, "{port} {method} {path}");
        }
    }

    #[test]
    fn what_documents_say_wins_over_what_was_told() {
        let said = |mode| PlaintextRule { mode: Some(mode), probe_paths: vec!["/ready"], policy: None };
        let told = Plaintext { permissive: true, probe_ports: [9000].into(), ..Plaintext::default() };
        let (strict, permissive) = (said(InboundMode::Strict), said(InboundMode::Permissive));
        assert_eq!(told.of_port(80, &strict), Admission::Probes);
        assert_eq!(told.of_port(9000, &strict), Admission::Everything, "a port for probes alone stays one");
        assert_eq!(Plaintext::default().of_port(80, &permissive), Admission::Policies);
        assert!(told.is_probe(80, &Method::GET, "/ready", &strict));
        assert!(!told.is_probe(80, &Method::POST, "/ready", &strict));
    }
}
