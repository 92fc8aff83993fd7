//! Which backends are spoken to over TLS, and who has to answer (BackendTLSPolicy).

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

/// TLS towards the backend of one decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// None: plaintext, or the mesh's own TLS.
    pub policy: Option<Arc<BackendTls>>,
    /// What is shown if the backend asks for it.
    pub certificate: ShownCertificate,
}

/// A policy that holds for a backend cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidTls;

/// The policies of one Service, by port.
pub(crate) type PortPolicies = NameMap<u16, Result<Arc<BackendTls>, InvalidTls>>;

/// The policies in force, by namespace, name and port of the Service.
#[derive(Debug, Default)]
pub(crate) struct BackendTlsTable(pub(crate) NameMap<(Arc<str>, Arc<str>), PortPolicies>);

impl BackendTlsTable {
    /// TLS towards a backend, for a Gateway that shows this certificate. An error where a policy holds that cannot be
    /// carried out: plaintext is no way out then.
    pub(crate) fn of(
        &self,
        backend: &Backend,
        certificate: &ShownCertificate,
    ) -> Result<UpstreamTls, InvalidTls> {
        let plaintext = UpstreamTls { policy: None, certificate: certificate.clone() };
        let Backend::Service { service, port, .. } = backend else { return Ok(plaintext) };
        if self.0.is_empty() {
            return Ok(plaintext);
        }
        let key = (service.namespace.clone(), service.name.clone());
        match self.0.get(&key).and_then(|ports| ports.get(port)) {
            None => Ok(plaintext),
            Some(Ok(policy)) => Ok(UpstreamTls { policy: Some(policy.clone()), ..plaintext }),
            Some(Err(invalid)) => Err(*invalid),
        }
    }
}
