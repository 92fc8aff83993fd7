//! The certificates of HTTPS listeners.

use std::{collections::HashMap, sync::Arc};

use tombolo_core::{
    resources::{Object, ResourceSet, kinds::Secret},
    telemetry::Telemetry,
    tls::EdgeCertificate,
};

/// The type of a Secret that holds a certificate.
const TLS_SECRET: &str = "kubernetes.io/tls";
/// Beside the certificate, an OCSP response (DER) to be stapled.
const OCSP: &str = "ocsp.der";

/// Usable certificates by `NAMESPACE/NAME` of their Secret.
pub(crate) type Certificates = HashMap<Arc<str>, Arc<EdgeCertificate>>;

/// The certificates of Secrets, each read once. Of a Secret that cannot be used, the last good certificate stays.
#[derive(Debug, Default)]
pub(crate) struct CertificateBook(HashMap<Arc<str>, Entry>);

#[derive(Debug)]
struct Entry {
    secret: Arc<Object<Secret>>,
    problem: Option<String>,
    certificate: Option<Arc<EdgeCertificate>>,
}

impl CertificateBook {
    /// Takes over the Secrets of these documents.
    pub fn update(&mut self, resources: &ResourceSet, telemetry: &Telemetry) {
        let mut book = HashMap::new();
        for (key, secret) in resources.secrets.iter().filter(|(_, secret)| secret.spec.r#type == TLS_SECRET) {
            let name: Arc<str> = format!("{}/{}", key.namespace, key.name).into();
            let entry = match self.0.remove(&name) {
                Some(entry) if Arc::ptr_eq(&entry.secret, secret) => entry,
                before => Entry::read(&name, secret, before, telemetry),
            };
            book.insert(name, entry);
        }
        self.0 = book;
    }

    /// All that can be used.
    pub fn certificates(&self) -> Certificates {
        let usable =
            |(name, entry): (&Arc<str>, &Entry)| Some((Arc::clone(name), entry.certificate.clone()?));
        self.0.iter().filter_map(usable).collect()
    }

    /// What is wrong with the others.
    pub fn problems(&self) -> Vec<String> {
        self.0.values().filter_map(|entry| entry.problem.clone()).collect()
    }
}

impl Entry {
    fn read(name: &str, secret: &Arc<Object<Secret>>, before: Option<Self>, telemetry: &Telemetry) -> Self {
        let secret = Arc::clone(secret);
        match of_secret(name, &secret) {
            Ok(certificate) => Self { secret, problem: None, certificate: Some(Arc::new(certificate)) },
            Err(problem) => {
                telemetry.bad_input("certificate");
                tracing::error!(problem, "a certificate cannot be used; the last good one stays");
                let certificate = before.and_then(|before| before.certificate);
                Self { secret, problem: Some(problem), certificate }
            }
        }
    }
}

fn of_secret(name: &str, secret: &Object<Secret>) -> Result<EdgeCertificate, String> {
    let value = |key: &str| {
        secret.spec.value(key).ok_or_else(|| format!("secret {name}: {key} is missing or not base64"))
    };
    let certificate = EdgeCertificate::from_pem(name, &value("tls.crt")?, &value("tls.key")?);
    let certificate = certificate.map_err(|error| error.to_string())?;
    let certificate = match secret.spec.value(OCSP) {
        Some(response) => certificate.with_ocsp(&response).map_err(|error| error.to_string())?,
        None => certificate,
    };
    if certificate.lacks_staple() {
        tracing::warn!(
            secret = name,
            "the certificate demands an OCSP response, and {OCSP} of its Secret holds none: some clients refuse it"
        );
    }
    Ok(certificate)
}
