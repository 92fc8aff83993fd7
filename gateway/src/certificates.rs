//! The certificates of HTTPS listeners.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use tombolo_core::{
    resources::{Object, ResourceSet, kinds::Secret},
    telemetry::Telemetry,
    tls::{
        EdgeCertificate,
        edge::{OCSP_ANNOTATION, OCSP_KEY},
    },
};

use crate::stapling::{Staples, Stapling, Wanted};

/// The type of a Secret that holds a certificate.
const TLS_SECRET: &str = "kubernetes.io/tls";

/// Usable certificates by `NAMESPACE/NAME` of their Secret.
pub(crate) type Certificates = HashMap<Arc<str>, Arc<EdgeCertificate>>;

/// The certificates of Secrets, each read once. Of a Secret that cannot be used, the last good certificate stays.
#[derive(Debug)]
pub(crate) struct CertificateBook {
    entries: HashMap<Arc<str>, Entry>,
    stapling: Stapling,
}

#[derive(Debug)]
struct Entry {
    secret: Arc<Object<Secret>>,
    problem: Option<String>,
    certificate: Option<Arc<EdgeCertificate>>,
}

impl CertificateBook {
    /// Without certificates. OCSP responses come by `stapling`.
    pub fn new(stapling: Stapling) -> Self {
        Self { entries: HashMap::new(), stapling }
    }

    /// Takes over the Secrets of these documents.
    pub fn update(&mut self, resources: &ResourceSet, telemetry: &Telemetry) {
        let mut book = HashMap::new();
        for (key, secret) in resources.secrets.iter().filter(|(_, secret)| secret.spec.r#type == TLS_SECRET) {
            let name: Arc<str> = format!("{}/{}", key.namespace, key.name).into();
            let entry = match self.entries.remove(&name) {
                Some(entry) if Arc::ptr_eq(&entry.secret, secret) => entry,
                before => Entry::read(&name, secret, before, telemetry),
            };
            book.insert(name, entry);
        }
        self.entries = book;
        self.stapling.want(self.entries.values().filter_map(Entry::wanted).collect());
    }

    /// How their OCSP responses are, at any time.
    pub fn staples(&self) -> Arc<ArcSwap<Staples>> {
        self.stapling.staples()
    }

    /// All that can be used.
    pub fn certificates(&self) -> Certificates {
        let usable =
            |(name, entry): (&Arc<str>, &Entry)| Some((Arc::clone(name), entry.certificate.clone()?));
        self.entries.iter().filter_map(usable).collect()
    }

    /// What is wrong with the others.
    pub fn problems(&self) -> Vec<String> {
        self.entries.values().filter_map(|entry| entry.problem.clone()).collect()
    }
}

impl Entry {
    /// What goes with the certificate, where it demands OCSP responses, or its Secret holds one or asks for them.
    fn wanted(&self) -> Option<Wanted> {
        let certificate = Arc::clone(self.certificate.as_ref()?);
        let own: Option<Arc<[u8]>> = self.secret.spec.value(OCSP_KEY).map(Into::into);
        let asked = self.secret.meta.annotations.get(OCSP_ANNOTATION).is_some_and(|how| how == "fetch");
        let fetch = asked || certificate.must_staple();
        (fetch || own.is_some()).then_some(Wanted { certificate, own, fetch })
    }

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
    EdgeCertificate::from_pem(name, &value("tls.crt")?, &value("tls.key")?).map_err(|error| error.to_string())
}
