//! The certificates of a listener: references that lead to a usable Secret.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    refs::{Referrer, is_permitted},
    status::Problem,
};
use crate::resources::{
    ObjectKey, ResourceSet,
    kinds::{CertificateRef, ListenerSpec, Secret},
};

/// `NAMESPACE/NAME` of every Secret that the listener may use, and what is wrong with its references.
///
/// A Secret that is not there is named all the same: a gateway with a controller gets certificates on their own, not
/// among the documents.
pub(super) fn certificates(
    resources: &ResourceSet,
    from: Referrer<'_>,
    listener: &ListenerSpec,
) -> (Vec<Arc<str>>, Vec<Problem>) {
    let mut names = Vec::new();
    let mut problems = Vec::new();
    let references = listener.tls.as_ref().map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
    if references.is_empty() {
        problems.push(Problem::new("InvalidCertificateRef", "certificateRefs names no Secret"));
    }
    for reference in references {
        let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
        let key = ObjectKey::new(namespace, &reference.name);
        match check_certificate(resources, from, reference, &key) {
            Ok(()) => names.push(key.to_string().into()),
            Err(problem) => {
                let is_absent = !resources.secrets.contains_key(&key);
                if problem.reason == "InvalidCertificateRef" && is_absent {
                    names.push(key.to_string().into());
                }
                problems.push(problem);
            }
        }
    }
    (names, problems)
}

/// Whether this Secret may be used from there, and whether it holds a certificate with its key.
pub(super) fn check_certificate(
    resources: &ResourceSet,
    from: Referrer<'_>,
    reference: &CertificateRef,
    key: &ObjectKey,
) -> Result<(), Problem> {
    let invalid = |message: String| Err(Problem::new("InvalidCertificateRef", message));
    let (group, kind) =
        (reference.group.as_deref().unwrap_or_default(), reference.kind.as_deref().unwrap_or("Secret"));
    if (group, kind) != ("", "Secret") {
        return invalid(format!("a certificate is a Secret, not {kind:?} of group {group:?}"));
    }
    if !is_permitted(resources, from, (group, kind), key) {
        let message =
            format!("no ReferenceGrant in {} lets a {} refer to Secret {key}", key.namespace, from.kind);
        return Err(Problem::new("RefNotPermitted", message));
    }
    match resources.secrets.get(key) {
        // It is on its way; the AcmeIssuer's status tells how far it has come.
        None if super::acme::is_ordered(resources, key) => Ok(()),
        None => invalid(format!("there is no Secret {key}")),
        Some(secret) => match unusable(&secret.spec) {
            Some(why) => invalid(format!("Secret {key} {why}")),
            None => Ok(()),
        },
    }
}

/// Why a Secret holds no certificate with key. Never says anything of its values.
fn unusable(secret: &Secret) -> Option<&'static str> {
    if secret.r#type != "kubernetes.io/tls" {
        return Some("is not of type kubernetes.io/tls");
    }
    let chain = secret.value("tls.crt").unwrap_or_default();
    if !matches!(CertificateDer::pem_slice_iter(&chain).next(), Some(Ok(_))) {
        return Some("has no PEM certificate in tls.crt");
    }
    let key = secret.value("tls.key").unwrap_or_default();
    if PrivateKeyDer::from_pem_slice(&key).is_err() {
        return Some("has no PEM private key in tls.key");
    }
    None
}
