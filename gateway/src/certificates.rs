//! The certificates of HTTPS listeners.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tombolo_core::{
    decide::Bind,
    resources::{Object, ResourceSet, kinds::Secret},
    tls::{EdgeCertificate, EdgeCertificates, TlsError, edge_server},
};

/// The type of a Secret that holds a certificate.
const TLS_SECRET: &str = "kubernetes.io/tls";

/// Usable certificates by `NAMESPACE/NAME` of their Secret.
pub(crate) type Certificates = HashMap<Arc<str>, Arc<EdgeCertificate>>;

/// The certificates of Secrets, and what is wrong with those that cannot be used. `before`: the last good ones, which
/// stay in the place of those.
pub(crate) fn of_secrets(resources: &ResourceSet, before: &Certificates) -> (Certificates, Vec<String>) {
    let mut certificates = Certificates::new();
    let mut problems = Vec::new();
    for (key, secret) in &resources.secrets {
        if secret.spec.r#type != TLS_SECRET {
            continue;
        }
        let name: Arc<str> = format!("{}/{}", key.namespace, key.name).into();
        match of_secret(&name, secret) {
            Ok(certificate) => drop(certificates.insert(name, Arc::new(certificate))),
            Err(problem) => {
                problems.push(problem);
                if let Some(last) = before.get(&name) {
                    certificates.insert(name, Arc::clone(last));
                }
            }
        }
    }
    (certificates, problems)
}

fn of_secret(name: &str, secret: &Object<Secret>) -> Result<EdgeCertificate, String> {
    let value = |key: &str| {
        secret.spec.value(key).ok_or_else(|| format!("secret {name}: {key} is missing or not base64"))
    };
    EdgeCertificate::from_pem(name, &value("tls.crt")?, &value("tls.key")?).map_err(|error| error.to_string())
}

/// The TLS side of one socket: its configuration stays, its certificates are swapped.
pub(crate) struct BindTls {
    certificates: Arc<ArcSwap<EdgeCertificates>>,
    /// What the socket's acceptor takes.
    pub config: Arc<ArcSwap<ServerConfig>>,
}

impl BindTls {
    /// Without certificates so far.
    pub fn new() -> Result<Self, TlsError> {
        let certificates = Arc::new(ArcSwap::from_pointee(EdgeCertificates::default()));
        let config = Arc::new(ArcSwap::new(edge_server(Arc::clone(&certificates))?));
        Ok(Self { certificates, config })
    }

    /// Puts the certificates of a socket's listeners in force. Gives the names of those that are not there.
    pub fn update(&self, bind: &Bind, known: &Certificates) -> Vec<Arc<str>> {
        let mut set = EdgeCertificates::default();
        let mut missing = Vec::new();
        for listener in &bind.listeners {
            let mut usable = Vec::new();
            for name in &listener.certificates {
                match known.get(name) {
                    Some(certificate) => usable.push(&**certificate),
                    None => missing.push(Arc::clone(name)),
                }
            }
            set.add(listener.hostname.as_deref(), usable);
        }
        self.certificates.store(Arc::new(set));
        missing
    }
}
