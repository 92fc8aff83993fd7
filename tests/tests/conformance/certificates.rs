//! Certificates for listeners, backends and clients, and the documents that hold them.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A certificate with its key, as PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, as PEM.
    pub certificate: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for these DNS names, good for servers and clients.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, 4096)
    }

    /// One that has expired.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        self.issue_until(names, 2020)
    }

    /// Good until a year begins.
    fn issue_until(&self, names: &[&str], year: i32) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// A ConfigMap with this authority's certificate under `ca.crt`.
    pub fn config_map(&self, namespace: &str, name: &str) -> String {
        let data = serde_json::json!({ "ca.crt": self.certificate });
        document("ConfigMap", namespace, name, &format!("data: {data}"))
    }
}

impl Issued {
    /// A Secret of type `kubernetes.io/tls`.
    pub fn secret(&self, namespace: &str, name: &str) -> String {
        let data = serde_json::json!({
            "tls.crt": STANDARD.encode(&self.certificate),
            "tls.key": STANDARD.encode(&self.key),
        });
        document("Secret", namespace, name, &format!("type: kubernetes.io/tls\ndata: {data}"))
    }
}

fn document(kind: &str, namespace: &str, name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: {namespace} }}\n{rest}\n"
    )
}
