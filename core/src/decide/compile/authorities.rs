//! Certificate authorities in ConfigMaps.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::resources::{ObjectKey, ResourceSet};

/// Certificates in one bundle. More are refused.
const MAX_CERTIFICATES: usize = 1024;

/// DER of every certificate under `ca.crt`; at least one. The error says what is wrong with the ConfigMap.
pub(super) fn authorities(resources: &ResourceSet, key: &ObjectKey) -> Result<Vec<Arc<[u8]>>, String> {
    let map = resources.config_maps.get(key).ok_or_else(|| format!("there is no ConfigMap {key}"))?;
    let pem = map.spec.data.get("ca.crt").ok_or_else(|| format!("ConfigMap {key} has no ca.crt"))?;
    let mut roots: Vec<Arc<[u8]>> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = certificate.map_err(|_| format!("ca.crt of ConfigMap {key} is not well-formed PEM"))?;
        if !matches!(X509Certificate::from_der(&der), Ok((rest, _)) if rest.is_empty()) {
            return Err(format!("ca.crt of ConfigMap {key} holds something that is no X.509 certificate"));
        }
        roots.push(Arc::from(&*der));
    }
    match roots.len() {
        0 => Err(format!("ca.crt of ConfigMap {key} holds no PEM certificate")),
        1..=MAX_CERTIFICATES => Ok(roots),
        many => Err(format!("ca.crt of ConfigMap {key} holds {many} certificates, over {MAX_CERTIFICATES}")),
    }
}
