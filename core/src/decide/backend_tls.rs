//! Which backends are spoken to over TLS, and who has to answer (BackendTLSPolicy); and which are told who the client is.

use std::{fmt, sync::Arc};

use super::{Backend, hash::NameMap};

/// How TLS is spoken to a backend (Gateway API BackendTLSPolicySpec.validation). Two of the same content are equal, so
/// that connections outlive a configuration that does not change it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// Who vouches for the backend.
    pub trust: BackendTrust,
    /// The server name that is asked for; the certificate must have it where `names` is empty.
    pub hostname: Arc<str>,
    /// The certificate must have one of these.
    pub names: Arc<[BackendName]>,
}

/// Who vouches for a backend.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum BackendTrust {
    /// The certificate authorities of the machine.
    System,
    /// These, in DER; at least one.
    Roots(Arc<[Arc<[u8]>]>),
}

/// A name in a backend's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BackendName {
    /// A DNS name in lower case; `*.suffix` is that very wildcard, or a name of one more label.
    Dns(Arc<str>),
    /// A URI, compared as it is.
    Uri(Arc<str>),
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = match &self.trust {
            BackendTrust::System => None,
            BackendTrust::Roots(roots) => Some(roots.len()),
        };
        f.debug_struct("BackendTls")
            .field("roots", &roots)
            .field("hostname", &self.hostname)
            .field("names", &self.names)
            .finish()
    }
}

/// What a Gateway shows to backends that speak TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ShownCertificate {
    /// Nothing.
    #[default]
    None,
    /// The certificate of this Secret, `NAMESPACE/NAME`.
    Secret(Arc<str>),
    /// It was told to show one that it may not use: nothing is sent to such backends.
    Unusable,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    /// `v1` or `v2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|version| version.name() == name)
    }
}

/// What connections to the backend of one decision begin with: TLS, and before it, who the client is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// None: plaintext, or the mesh's own TLS.
    pub policy: Option<Arc<BackendTls>>,
    /// What is shown if the backend asks for it.
    pub certificate: ShownCertificate,
    /// The backend is told who the client is by the PROXY protocol, in this version; not in the mesh.
    pub announce: Option<ProxyVersion>,
}

/// A policy that holds for a backend cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidTls;

/// The policies of one Service, by port.
pub(crate) type PortPolicies = NameMap<u16, Result<Arc<BackendTls>, InvalidTls>>;

/// Namespace and name of a Service.
type ServiceName = (Arc<str>, Arc<str>);

/// What is in force, by namespace, name and port of the Service.
#[derive(Debug, Default)]
pub(crate) struct BackendTlsTable {
    pub(crate) policies: NameMap<ServiceName, PortPolicies>,
    /// Services that are told who the client is.
    pub(crate) announced: NameMap<ServiceName, ProxyVersion>,
}

impl BackendTlsTable {
    /// TLS towards a backend, for a Gateway that shows this certificate. An error where a policy holds that cannot be
    /// carried out: plaintext is no way out then.
    pub(crate) fn of(
        &self,
        backend: &Backend,
        certificate: &ShownCertificate,
    ) -> Result<UpstreamTls, InvalidTls> {
        let plaintext = UpstreamTls { certificate: certificate.clone(), ..UpstreamTls::default() };
        let Backend::Service { service, port, .. } = backend else { return Ok(plaintext) };
        if self.policies.is_empty() && self.announced.is_empty() {
            return Ok(plaintext);
        }
        let key = (service.namespace.clone(), service.name.clone());
        let plaintext = UpstreamTls { announce: self.announced.get(&key).copied(), ..plaintext };
        match self.policies.get(&key).and_then(|ports| ports.get(port)) {
            None => Ok(plaintext),
            Some(Ok(policy)) => Ok(UpstreamTls { policy: Some(policy.clone()), ..plaintext }),
            Some(Err(invalid)) => Err(*invalid),
        }
    }

    /// What connections begin with that are the client's own TLS.
    pub(crate) fn of_passed(&self, backend: &Backend) -> UpstreamTls {
        let Backend::Service { service, .. } = backend else { return UpstreamTls::default() };
        let key = (service.namespace.clone(), service.name.clone());
        UpstreamTls { announce: self.announced.get(&key).copied(), ..UpstreamTls::default() }
    }
}
