//! Which plaintext reaches the application although it did not come over the mesh. Pure.

use std::collections::BTreeSet;

use http::Method;

/// The path of gRPC's health checks.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What is admitted of connections to the application's ports that nobody vouches for.
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
    /// What may come in on this port.
    pub(crate) fn of_port(&self, port: u16) -> Admission {
        if self.probe_ports.contains(&port) {
            Admission::Everything
        } else if self.permissive || self.ports.contains(&port) {
            Admission::Policies
        } else if self.probe_paths.is_empty() {
            Admission::Nothing
        } else {
            Admission::Probes
        }
    }

    /// True for a health check.
    pub(crate) fn is_probe(&self, port: u16, method: &Method, path: &str) -> bool {
        let asks = match path {
            GRPC_HEALTH => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        };
        self.probe_ports.contains(&port) || (asks && self.probe_paths.contains(path))
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
        let admitted = [80, 8080, 9000].map(|port| strict.of_port(port));
        assert_eq!(admitted, [Admission::Probes, Admission::Policies, Admission::Everything]);
        assert_eq!(Plaintext::default().of_port(80), Admission::Nothing);
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
            assert_eq!(strict.is_probe(port, &method, path), is_probe, "{port} {method} {path}");
        }
    }
}
