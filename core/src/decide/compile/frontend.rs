//! `spec.tls.frontend` of a Gateway: which authorities vouch for the clients of its listeners.

use std::sync::Arc;

use super::{
    authorities,
    listeners::{ListenerDraft, Owner},
    refs::is_permitted,
    status::Problem,
};
use crate::{
    decide::{ClientValidation, ListenerProtocol},
    resources::{
        ObjectKey, ResourceSet,
        kinds::{
            CertificateRef, FrontendTls, FrontendTlsConfig, FrontendValidation, FrontendValidationMode,
            Gateway,
        },
    },
};

/// Gives every listener that ends TLS what its Gateway asks of clients on its port.
pub(super) fn apply(
    resources: &ResourceSet,
    gateway: &ObjectKey,
    spec: &Gateway,
    listeners: &mut [ListenerDraft<'_>],
) {
    let Some(frontend) = spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return };
    for l in listeners.iter_mut().filter(|l| l.protocol.is_some_and(ListenerProtocol::needs_certificates)) {
        let per_port = frontend.per_port.iter().find(|per_port| per_port.port == l.spec.port);
        let config = per_port.map_or(&frontend.default, |per_port| &per_port.tls);
        let Some(validation) = &config.validation else { continue };
        let (roots, problems) = roots(resources, gateway, validation);
        if roots.is_empty() {
            let message = "no certificate authority for clients can be used: nobody could be let in";
            l.refused.push(Problem::new("NoValidCACertificate", message));
        }
        l.unresolved_authorities = problems;
        let insecure_fallback = is_insecure(validation);
        l.clients = Some(ClientValidation { roots: roots.into(), insecure_fallback });
    }
}

/// True if somewhere clients without a valid certificate are let in.
pub(super) fn allows_insecure(gateway: &Gateway) -> bool {
    let frontend = gateway.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let configs = |frontend: &FrontendTls| {
        let of = |config: &FrontendTlsConfig| config.validation.as_ref().is_some_and(is_insecure);
        of(&frontend.default) || frontend.per_port.iter().any(|per_port| of(&per_port.tls))
    };
    frontend.is_some_and(configs)
}

fn is_insecure(validation: &FrontendValidation) -> bool {
    validation.mode == Some(FrontendValidationMode::AllowInsecureFallback)
}

/// Certificates (DER) of all references that can be used, and what is wrong with the others.
fn roots(
    resources: &ResourceSet,
    gateway: &ObjectKey,
    validation: &FrontendValidation,
) -> (Vec<Arc<[u8]>>, Vec<Problem>) {
    let (mut roots, mut problems) = (Vec::new(), Vec::new());
    for reference in &validation.ca_certificate_refs {
        match of_reference(resources, gateway, reference) {
            Ok(more) => roots.extend(more),
            Err(problem) => problems.push(problem),
        }
    }
    (roots, problems)
}

fn of_reference(
    resources: &ResourceSet,
    gateway: &ObjectKey,
    reference: &CertificateRef,
) -> Result<Vec<Arc<[u8]>>, Problem> {
    let (group, kind) =
        (reference.group.as_deref().unwrap_or_default(), reference.kind.as_deref().unwrap_or("ConfigMap"));
    if (group, kind) != ("", "ConfigMap") {
        let message =
            format!("authorities for clients stand in a ConfigMap, not in {kind:?} of group {group:?}");
        return Err(Problem::new("InvalidCACertificateKind", message));
    }
    let namespace = reference.namespace.as_deref().unwrap_or(&gateway.namespace);
    let key = ObjectKey::new(namespace, &reference.name);
    if !is_permitted(resources, Owner::gateway(gateway).referrer(), (group, kind), &key) {
        let message = format!("no ReferenceGrant in {namespace} lets a Gateway refer to ConfigMap {key}");
        return Err(Problem::new("RefNotPermitted", message));
    }
    let invalid = |message: String| Problem::new("InvalidCACertificateRef", message);
    authorities::authorities(resources, &key).map_err(invalid)
}
