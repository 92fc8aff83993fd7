//! References between objects: what exists, and what may be referred to over namespaces (ReferenceGrant).

use std::{collections::BTreeMap, sync::Arc};

use super::status::Problem;
use crate::{
    decide::{Backend, forward::SHARED},
    model::{AppProtocol, Labels, Scope, ServiceKey},
    resources::{
        Object, ObjectKey, ObjectMeta, ResourceSet,
        kinds::{BackendRef, Service},
    },
};

pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
pub(super) const MCS_GROUP: &str = "multicluster.x-k8s.io";
pub(super) const OWN_GROUP: &str = "tombolo.dev";

/// Who refers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Referrer<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
}

/// A service that a backendRef leads to.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// Always [`Backend::Service`].
    pub(super) backend: Backend,
    /// None: only the snapshot knows.
    pub(super) protocol: Option<AppProtocol>,
    /// Namespace and name of the service.
    pub(super) key: ObjectKey,
}

/// True if the referrer may refer to this object: in its own namespace always, else by a ReferenceGrant there.
pub(super) fn is_permitted(
    resources: &ResourceSet,
    from: Referrer<'_>,
    (group, kind): (&str, &str),
    to: &ObjectKey,
) -> bool {
    if from.namespace == to.namespace {
        return true;
    }
    of_namespace(&resources.reference_grants, &to.namespace).any(|(_, grant)| {
        let is_from = grant
            .spec
            .from
            .iter()
            .any(|f| f.group == from.group && f.kind == from.kind && f.namespace == from.namespace);
        let is_to = grant.spec.to.iter().any(|t| {
            let named = t.name.as_ref().is_none_or(|name| name.is_empty() || *name == to.name);
            t.group == group && t.kind == kind && named
        });
        is_from && is_to
    })
}

/// The objects of one namespace.
pub(super) fn of_namespace<'a, T>(
    objects: &'a BTreeMap<ObjectKey, Arc<Object<T>>>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Object<T>>)> {
    objects.range(ObjectKey::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace)
}

/// The service of a backendRef for HTTP, or why there is none (Gateway API RouteConditionResolvedRefs).
pub(super) fn resolve(
    resources: &ResourceSet,
    from: Referrer<'_>,
    reference: &BackendRef,
) -> Result<Resolved, Problem> {
    let found = find_backend(resources, from, reference)?;
    if found.protocol == Some(AppProtocol::Tcp) {
        let (port, key) = (reference.port.unwrap_or_default(), &found.key);
        let message = format!("port {port} of {key} does not speak HTTP, by its appProtocol");
        return Err(Problem::new("UnsupportedProtocol", message));
    }
    Ok(found)
}

/// The service of a backendRef, whatever is spoken there.
pub(super) fn find_backend(
    resources: &ResourceSet,
    from: Referrer<'_>,
    reference: &BackendRef,
) -> Result<Resolved, Problem> {
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Service");
    let scope = match (group, kind) {
        ("", "Service") => Scope::Cluster,
        (MCS_GROUP, "ServiceImport") => Scope::Clusterset,
        _ => {
            let message = format!("a backendRef to {kind:?} of group {group:?} is not supported");
            return Err(Problem::new("InvalidKind", message));
        }
    };
    let namespace = reference.namespace.as_deref().unwrap_or(from.namespace);
    let key = ObjectKey::new(namespace, &reference.name);
    if !is_permitted(resources, from, (group, kind), &key) {
        let message = format!("no ReferenceGrant in {namespace} lets {} refer to {kind} {key}", from.kind);
        return Err(Problem::new("RefNotPermitted", message));
    }
    let port = reference.port.unwrap_or_default();
    let protocol = protocol_of(resources, scope, &key, port)?;
    let service = ServiceKey::new(scope, &key.namespace, &key.name)
        .map_err(|error| Problem::new("BackendNotFound", error.to_string()))?;
    let labels: Labels =
        reference.labels.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
    let labels = if labels.is_empty() { SHARED.labels.clone() } else { Arc::new(labels) };
    let backend = Backend::Service { service, port, labels, protocol: protocol.unwrap_or_default() };
    Ok(Resolved { backend, protocol, key })
}

/// What is spoken on a service's port. A ServiceImport is made by the controller, from peers that may not be there
/// yet: that it has no document means nothing.
fn protocol_of(
    resources: &ResourceSet,
    scope: Scope,
    key: &ObjectKey,
    port: u16,
) -> Result<Option<AppProtocol>, Problem> {
    let Some(service) = resources.services.get(key) else {
        return match scope {
            Scope::Clusterset => Ok(None),
            Scope::Cluster => Err(Problem::new("BackendNotFound", format!("there is no Service {key}"))),
        };
    };
    let protocol = ports(&service.spec).find(|(number, _)| *number == port).map(|(_, protocol)| protocol);
    match (protocol, scope) {
        (None, Scope::Cluster) => {
            Err(Problem::new("BackendNotFound", format!("Service {key} has no port {port}")))
        }
        (protocol, _) => Ok(protocol),
    }
}

/// A Service's ports with what they speak.
pub(super) fn ports(service: &Service) -> impl Iterator<Item = (u16, AppProtocol)> {
    service.tcp_ports().map(|port| (port.port, port.protocol()))
}

/// When an object was created, in nanoseconds since the epoch. One that does not say is younger than all that do.
pub(super) fn created(meta: &ObjectMeta) -> i128 {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};
    let time = meta.creation_timestamp.as_deref().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    time.map_or(i128::MAX, OffsetDateTime::unix_timestamp_nanos)
}

/// Objects from the oldest on; the name breaks ties (Gateway API's rule for conflicts).
pub(super) fn by_age<T>(objects: &BTreeMap<ObjectKey, Arc<Object<T>>>) -> Vec<(&ObjectKey, &Object<T>)> {
    let mut out: Vec<_> = objects.iter().map(|(key, object)| (key, &**object)).collect();
    out.sort_by_key(|(_, object)| created(&object.meta));
    out
}
