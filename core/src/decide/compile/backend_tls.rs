//! BackendTLSPolicies: which Services they hold for, and what is said of them at each Gateway that sends there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    authorities::authorities,
    certificates::check_certificate,
    gateways::GatewayDraft,
    listeners::Owner,
    refs::{GATEWAY_GROUP, by_age},
    status::{CONTROLLER, Conditions, Problem, object_status},
};
use crate::{
    decide::{
        ShownCertificate,
        backend_tls::{BackendName, BackendTls, BackendTlsTable, BackendTrust, InvalidTls},
        policy::ServicePolicies,
        services::{rule_services, weighted_services},
    },
    model::ServiceKey,
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{BackendTlsPolicy, Gateway, Service, SubjectAltName, SubjectAltNameType},
    },
};

/// Gateways that a policy is told of at most (Gateway API PolicyStatus.ancestors); further ones are left out.
const MAX_ANCESTORS: usize = 16;

/// All policies, by what they hold for.
pub(super) struct BackendTlsPolicies<'a> {
    policies: Vec<Draft<'a>>,
    /// Position of the policy that holds, by Service and port.
    holding: BTreeMap<ObjectKey, BTreeMap<u16, usize>>,
}

/// One policy.
struct Draft<'a> {
    key: &'a ObjectKey,
    object: &'a Object<BackendTlsPolicy>,
    compiled: Result<Arc<BackendTls>, InvalidTls>,
    /// Why it cannot be carried out.
    refused: Vec<Problem>,
    /// References that lead nowhere.
    unresolved: Vec<Problem>,
    targets: Vec<Target>,
}

/// One target of a policy.
struct Target {
    service: ObjectKey,
    /// The older policy that holds in its place.
    lost_to: Option<ObjectKey>,
}

impl<'a> BackendTlsPolicies<'a> {
    /// Compiles all. Of policies for the same Service and section the oldest holds; one with a section goes before one
    /// without (GEP-713).
    pub(super) fn compile(resources: &'a ResourceSet) -> Self {
        let mut out = Self { policies: Vec::new(), holding: BTreeMap::new() };
        let mut taken: BTreeMap<(ObjectKey, Option<&str>), usize> = BTreeMap::new();
        for (at, (key, object)) in by_age(&resources.backend_tls_policies).into_iter().enumerate() {
            let mut draft = validation(resources, key, object);
            for target in &object.spec.target_refs {
                if (target.group.as_str(), target.kind.as_str()) != ("", "Service") {
                    continue;
                }
                let service = ObjectKey::new(&key.namespace, &target.name);
                let place = (service.clone(), target.section_name.as_deref());
                let holder = *taken.entry(place).or_insert(at);
                let lost_to =
                    (holder != at).then(|| out.policies.get(holder).map(|p| p.key.clone())).flatten();
                draft.targets.push(Target { service, lost_to });
            }
            out.policies.push(draft);
        }
        for ((service, section), at) in taken {
            let Some(document) = resources.services.get(&service) else { continue };
            let ports = out.holding.entry(service).or_default();
            for port in ports_of(&document.spec, section) {
                // Of one Service, no section sorts first: sections replace it.
                ports.insert(port, at);
            }
        }
        out
    }

    /// What decisions look up, with the TrafficPolicies that hold for Services.
    pub(super) fn table(&self, traffic: &ServicePolicies) -> BackendTlsTable {
        let mut table = BackendTlsTable::default();
        for (service, policy) in &traffic.0 {
            let key = (service.namespace.clone(), service.name.clone());
            table.announced.extend(policy.announce.map(|version| (key, version)));
        }
        for (service, ports) in &self.holding {
            let key = (service.namespace.as_str().into(), service.name.as_str().into());
            let of = |at: &usize| self.policies.get(*at).map_or(Err(InvalidTls), |p| p.compiled.clone());
            table.policies.insert(key, ports.iter().map(|(port, at)| (*port, of(at))).collect());
        }
        table
    }

    /// The status of each, at each Gateway with a route to one of its targets.
    pub(super) fn status(&self, gateways: &[GatewayDraft<'_>]) -> Vec<ObjectStatus> {
        let mut by_service: BTreeMap<ObjectKey, BTreeSet<&ObjectKey>> = BTreeMap::new();
        for gateway in gateways {
            for service in services_of(gateway) {
                let key = ObjectKey::new(&*service.namespace, &*service.name);
                by_service.entry(key).or_default().insert(gateway.key);
            }
        }
        let mut out: Vec<(&ObjectKey, ObjectStatus)> = Vec::new();
        for policy in &self.policies {
            let ancestors: BTreeSet<&ObjectKey> =
                policy.targets.iter().filter_map(|t| by_service.get(&t.service)).flatten().copied().collect();
            let stanzas: Vec<Value> = ancestors
                .into_iter()
                .take(MAX_ANCESTORS)
                .map(|gateway| {
                    let reaches = |target: &&Target| {
                        by_service.get(&target.service).is_some_and(|gateways| gateways.contains(gateway))
                    };
                    policy.stanza(gateway, policy.targets.iter().filter(reaches))
                })
                .collect();
            let status = object_status("BackendTLSPolicy", policy.object, json!({ "ancestors": stanzas }));
            out.push((policy.key, status));
        }
        out.sort_by_key(|(key, _)| *key);
        out.into_iter().map(|(_, status)| status).collect()
    }
}

impl Draft<'_> {
    fn stanza<'t>(&self, gateway: &ObjectKey, targets: impl Iterator<Item = &'t Target>) -> Value {
        let lost = targets.filter_map(|target| Some((&target.service, target.lost_to.as_ref()?)));
        let conflicts = lost.map(|(service, older)| {
            let message = format!("BackendTLSPolicy {older} is older and holds for Service {service}");
            Problem::new("Conflicted", message)
        });
        let problems: Vec<Problem> = conflicts.chain(self.refused.iter().cloned()).collect();
        let mut conditions = Conditions::new(self.object.meta.generation);
        conditions.good("Accepted", &problems);
        conditions.good("ResolvedRefs", &self.unresolved);
        json!({
            "ancestorRef": {
                "group": GATEWAY_GROUP,
                "kind": "Gateway",
                "namespace": gateway.namespace,
                "name": gateway.name,
            },
            "controllerName": CONTROLLER,
            "conditions": conditions.value(),
        })
    }
}

/// Services that routes of a Gateway send to.
fn services_of(gateway: &GatewayDraft<'_>) -> BTreeSet<ServiceKey> {
    let mut out = BTreeSet::new();
    for listener in &gateway.listeners {
        listener.entries.iter().for_each(|(_, entry)| rule_services(&entry.rule, &mut out));
        listener.streams.iter().for_each(|(.., route)| weighted_services(&route.backends, &mut out));
    }
    out
}

fn ports_of(service: &Service, section: Option<&str>) -> impl Iterator<Item = u16> {
    let named = move |name: &str| section.is_none_or(|section| section == name);
    service.ports.iter().filter(move |port| named(&port.name)).map(|port| port.port)
}

fn validation<'a>(
    resources: &ResourceSet,
    key: &'a ObjectKey,
    object: &'a Object<BackendTlsPolicy>,
) -> Draft<'a> {
    let spec = &object.spec.validation;
    let (mut refused, mut unresolved, mut roots) = (Vec::new(), Vec::new(), Vec::new());
    for reference in &spec.ca_certificate_refs {
        let (group, kind) = (reference.group.as_str(), reference.kind.as_str());
        if (group, kind) != ("", "ConfigMap") {
            let message = format!("a certificate authority is a ConfigMap, not {kind:?} of group {group:?}");
            unresolved.push(Problem::new("InvalidKind", message));
            continue;
        }
        match authorities(resources, &ObjectKey::new(&key.namespace, &reference.name)) {
            Ok(found) => roots.extend(found),
            Err(message) => unresolved.push(Problem::new("InvalidCACertificateRef", message)),
        }
    }
    let trust = match spec.well_known_ca_certificates.as_deref() {
        Some("System") => Some(BackendTrust::System),
        Some(other) => {
            let message = format!("wellKnownCACertificates {other:?} is not supported, only System");
            refused.push(Problem::new("Invalid", message));
            None
        }
        None if roots.is_empty() => {
            let message = "none of caCertificateRefs leads to a certificate authority";
            refused.push(Problem::new("NoValidCACertificate", message));
            None
        }
        None => Some(BackendTrust::Roots(roots.into())),
    };
    let compiled = trust.ok_or(InvalidTls).map(|trust| {
        Arc::new(BackendTls {
            trust,
            hostname: spec.hostname.to_ascii_lowercase().into(),
            names: spec.subject_alt_names.iter().filter_map(name).collect(),
        })
    });
    Draft { key, object, compiled, refused, unresolved, targets: Vec::new() }
}

fn name(name: &SubjectAltName) -> Option<BackendName> {
    match name.r#type {
        SubjectAltNameType::Hostname => {
            name.hostname.as_ref().map(|host| BackendName::Dns(host.to_ascii_lowercase().into()))
        }
        SubjectAltNameType::Uri => name.uri.as_deref().map(|uri| BackendName::Uri(uri.into())),
    }
}

/// What a Gateway shows to backends, and what is wrong with that.
pub(super) fn shown_certificate(
    resources: &ResourceSet,
    key: &ObjectKey,
    gateway: &Gateway,
) -> (ShownCertificate, Option<Problem>) {
    let backend = gateway.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) else {
        return (ShownCertificate::None, None);
    };
    let secret = ObjectKey::new(reference.namespace.as_deref().unwrap_or(&key.namespace), &reference.name);
    match check_certificate(resources, Owner::gateway(key).referrer(), reference, &secret) {
        Ok(()) => (ShownCertificate::Secret(secret.to_string().into()), None),
        Err(problem) if problem.reason == "RefNotPermitted" => (ShownCertificate::Unusable, Some(problem)),
        Err(problem) => {
            // As with listeners: a Secret that is not among the documents may come on its own.
            let may_come = (reference.group.as_deref(), reference.kind.as_deref());
            let shown = match may_come {
                (None | Some(""), None | Some("Secret")) => {
                    ShownCertificate::Secret(secret.to_string().into())
                }
                _ => ShownCertificate::Unusable,
            };
            (shown, Some(Problem::new("InvalidClientCertificateRef", problem.message)))
        }
    }
}
