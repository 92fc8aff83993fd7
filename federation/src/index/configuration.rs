//! What the index needs to know of a generation of configuration.

use std::{collections::BTreeMap, fmt};

use tombolo_core::model::TrustDomain;
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceSpec {
    /// Labels that its workloads have; empty: it selects none.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<PortSpec>,
    /// Endpoints from Workload documents and EndpointSlices, by service port.
    pub fixed: BTreeMap<u16, Vec<v1::Endpoint>>,
}

/// One port of a Service document.
#[derive(Debug, Clone, PartialEq)]
pub struct PortSpec {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// As in Kubernetes.
    pub app_protocol: String,
    /// Which port of the workload.
    pub target: TargetPort,
}

/// `targetPort`: a number, or the name of a workload's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

impl ServiceSpec {
    /// The ports as they are published.
    pub fn published_ports(&self) -> Vec<v1::ServicePort> {
        let port = |p: &PortSpec| v1::ServicePort {
            name: p.name.clone(),
            port: p.port.into(),
            app_protocol: p.app_protocol.clone(),
        };
        self.ports.iter().map(port).collect()
    }
}

/// What a Peer document says.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerPolicy {
    /// The trust domain that the peer must have; with another one the policy does not apply and all is refused.
    pub trust_domain: TrustDomain,
    /// What the peer may see.
    pub export: Vec<ServiceRule>,
    /// What is taken from the peer.
    pub import: Vec<ServiceRule>,
}

/// Names services: `*` stands for any namespace or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRule {
    /// A namespace, or `*`.
    pub namespace: String,
    /// A name, or `*`.
    pub name: String,
}

/// Whether one of the rules names the service. No rules: nothing is named.
pub fn covers(rules: &[ServiceRule], service: &Name) -> bool {
    let fits = |rule: &str, text: &str| rule == "*" || rule == text;
    rules.iter().any(|rule| fits(&rule.namespace, &service.namespace) && fits(&rule.name, &service.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_services_and_nothing_is_named_by_default() {
        let rule =
            |namespace: &str, name: &str| ServiceRule { namespace: namespace.into(), name: name.into() };
        let ledger = Name::new("bank", "ledger");
        assert!(!covers(&[], &ledger));
        assert!(covers(&[rule("bank", "ledger")], &ledger));
        assert!(covers(&[rule("bank", "*")], &ledger));
        assert!(covers(&[rule("*", "ledger")], &ledger));
        assert!(!covers(&[rule("shop", "*"), rule("bank", "ledge")], &ledger));
    }
}
