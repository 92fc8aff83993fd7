//! TLS to backends outside of the mesh: one configuration for each policy and certificate, kept while they are used.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use rustls::{ClientConfig, pki_types::ServerName};

use super::{DialError, MeshProtocol};
use crate::{
    decide::{BackendTls, ShownCertificate, UpstreamTls},
    tls::{EdgeCertificate, backend_client},
};

/// Certificates by `NAMESPACE/NAME` of their Secret.
pub type ClientCertificates = HashMap<Arc<str>, Arc<EdgeCertificate>>;

/// Profiles kept; at the bound all are forgotten and made anew as they are used.
const PROFILES: usize = 4096;

/// Finds the profile of each connection.
pub(super) struct BackendProfiles {
    certificates: Arc<ArcSwap<ClientCertificates>>,
    by_content: DashMap<Content, Arc<Profile>>,
    by_number: DashMap<u64, Arc<Profile>>,
    last: AtomicU64,
}

/// What a profile is made from. A certificate is told by its address, which the profile keeps alive.
#[derive(PartialEq, Eq, Hash)]
struct Content {
    policy: Arc<BackendTls>,
    certificate: Option<usize>,
}

/// How TLS is spoken to one kind of backend.
pub(super) struct Profile {
    /// Never used for another one: pooled connections are told apart by it.
    pub number: u64,
    /// What is asked for by SNI.
    pub name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    raw: Arc<ClientConfig>,
    _certificate: Option<Arc<EdgeCertificate>>,
}

impl Profile {
    /// The configuration for this protocol.
    pub fn config(&self, protocol: MeshProtocol) -> Arc<ClientConfig> {
        Arc::clone(match protocol {
            MeshProtocol::Http1 => &self.http1,
            MeshProtocol::Http2 => &self.http2,
            MeshProtocol::Tcp => &self.raw,
        })
    }

    fn new(
        number: u64,
        policy: &BackendTls,
        certificate: Option<Arc<EdgeCertificate>>,
    ) -> Result<Self, DialError> {
        let name = ServerName::try_from(policy.hostname.to_string());
        let name = name.map_err(|_| DialError::Name(policy.hostname.to_string()))?;
        let make = |alpn: &[&str]| backend_client(policy, certificate.as_deref(), alpn).map(Arc::new);
        Ok(Self {
            number,
            name,
            http1: make(&["http/1.1"])?,
            http2: make(&["h2"])?,
            raw: make(&[])?,
            _certificate: certificate,
        })
    }
}

impl BackendProfiles {
    /// With certificates that may be shown.
    pub fn new(certificates: Arc<ArcSwap<ClientCertificates>>) -> Self {
        Self { certificates, by_content: DashMap::new(), by_number: DashMap::new(), last: AtomicU64::new(0) }
    }

    /// The profile for a decision; none: no TLS.
    pub fn of(&self, tls: &UpstreamTls) -> Result<Option<Arc<Profile>>, DialError> {
        let Some(policy) = &tls.policy else { return Ok(None) };
        let certificate = match &tls.certificate {
            ShownCertificate::None => None,
            ShownCertificate::Secret(name) => {
                let known = self.certificates.load().get(name).cloned();
                Some(known.ok_or_else(|| DialError::Certificate(name.clone()))?)
            }
            ShownCertificate::Unusable => return Err(DialError::Certificate("".into())),
        };
        let address = certificate.as_ref().map(|certificate| Arc::as_ptr(certificate) as usize);
        let content = Content { policy: Arc::clone(policy), certificate: address };
        if let Some(profile) = self.by_content.get(&content) {
            return Ok(Some(Arc::clone(&profile)));
        }
        if self.by_number.len() >= PROFILES {
            self.by_content.clear();
            self.by_number.clear();
        }
        // Two callers at once may both make one: then one of them is used for little more than a connection.
        let profile = Arc::new(Profile::new(self.last.fetch_add(1, Relaxed) + 1, policy, certificate)?);
        self.by_number.insert(profile.number, Arc::clone(&profile));
        self.by_content.insert(content, Arc::clone(&profile));
        Ok(Some(profile))
    }

    /// The profile with this number; none where it was forgotten meanwhile, which another try finds anew.
    pub fn numbered(&self, number: u64) -> Option<Arc<Profile>> {
        self.by_number.get(&number).map(|profile| Arc::clone(&profile))
    }
}
