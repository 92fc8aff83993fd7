//! Attaching HTTPRoutes to what they name as their parents: listeners (the edge), services (the mesh, GAMMA).

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{
    gateways::GatewayDraft,
    mesh::{Attachment, MeshDraft},
    refs::{GATEWAY_GROUP, MCS_GROUP},
    releases::Releases,
    rules::{RouteRules, compile_rules},
    status::{CONTROLLER, Conditions, Problem, messages, object_status},
};
use crate::{
    decide::host::HostPattern,
    model::{Scope, ServiceKey},
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{HttpRoute, ParentRef},
    },
};

/// Attaches every route; returns their status.
pub(super) fn attach(
    resources: &ResourceSet,
    releases: &Releases,
    gateways: &mut [GatewayDraft<'_>],
    mesh: &mut MeshDraft,
) -> Vec<ObjectStatus> {
    let by_key: HashMap<ObjectKey, usize> =
        gateways.iter().enumerate().map(|(at, draft)| (draft.key.clone(), at)).collect();
    let mut out = Vec::new();
    for (key, route) in &resources.http_routes {
        let rules = compile_rules(resources, releases, key, route);
        let mut attachment =
            Attaching { resources, key, rules: &rules, hosts: hosts(route), done: HashSet::new() };
        let mut parents = Vec::new();
        for parent in &route.spec.parent_refs {
            let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
            let at = ObjectKey::new(namespace, &parent.name);
            let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
            let outcome = match (group, parent.kind.as_deref().unwrap_or("Gateway")) {
                (GATEWAY_GROUP, "Gateway") => match by_key.get(&at).and_then(|at| gateways.get_mut(*at)) {
                    Some(gateway) => attachment.with_gateway(parent, gateway),
                    None if is_foreign(resources, &at) => continue,
                    None => no_parent(format!("there is no Gateway {at} of a class of ours")),
                },
                ("" | "core", "Service") => attachment.with_service(parent, Scope::Cluster, &at, mesh),
                (MCS_GROUP, "ServiceImport") => attachment.with_service(parent, Scope::Clusterset, &at, mesh),
                // Somebody else's kind of parent, and status.
                _ => continue,
            };
            parents.push(parent_status(parent, route, outcome.err(), &rules));
        }
        out.push(object_status("HTTPRoute", route, json!({ "parents": parents })));
    }
    out
}

/// True for a Gateway of another implementation, whose routes are not for us to judge.
fn is_foreign(resources: &ResourceSet, gateway: &ObjectKey) -> bool {
    let Some(gateway) = resources.gateways.get(gateway) else { return false };
    let class = ObjectKey::new("", &gateway.spec.gateway_class_name);
    resources.gateway_classes.get(&class).is_some_and(|class| class.spec.controller_name != CONTROLLER)
}

fn hosts(route: &Object<HttpRoute>) -> Vec<HostPattern> {
    if route.spec.hostnames.is_empty() {
        return vec![HostPattern::Any];
    }
    route.spec.hostnames.iter().map(|host| HostPattern::parse(Some(host))).collect()
}

fn no_parent(message: String) -> Result<(), Problem> {
    Err(Problem::new("NoMatchingParent", message))
}

/// One route on its way to its parents.
struct Attaching<'a> {
    resources: &'a ResourceSet,
    key: &'a ObjectKey,
    rules: &'a RouteRules,
    hosts: Vec<HostPattern>,
    /// Gateway and listener, service and port: attached by an earlier parentRef.
    done: HashSet<(ObjectKey, String)>,
}

impl Attaching<'_> {
    /// To every listener that the parentRef means, that lets the route in, and with which it shares a host.
    fn with_gateway(&mut self, parent: &ParentRef, gateway: &mut GatewayDraft<'_>) -> Result<(), Problem> {
        let (mut meant, mut allowed, mut shared) = (false, false, false);
        let gateway_key = gateway.key;
        for listener in &mut gateway.listeners {
            let named = parent.section_name.as_ref().is_none_or(|name| *name == listener.spec.name);
            if !named || parent.port.is_some_and(|port| port != listener.spec.port) {
                continue;
            }
            meant = true;
            let namespace = &self.key.namespace;
            if !listener.takes_http || !listener.allows(self.resources, &gateway_key.namespace, namespace) {
                continue;
            }
            allowed = true;
            let mut hosts: Vec<_> =
                self.hosts.iter().filter_map(|host| host.intersect(&listener.pattern)).collect();
            hosts.sort();
            hosts.dedup();
            if hosts.is_empty() {
                continue;
            }
            shared = true;
            if self.done.insert((gateway_key.clone(), listener.spec.name.clone())) {
                listener.attached += 1;
                for host in hosts {
                    listener.entries.extend(self.rules.entries.iter().map(|e| (host.clone(), e.clone())));
                }
            }
        }
        match (meant, allowed, shared) {
            (false, ..) => no_parent(format!("Gateway {gateway_key} has no such listener")),
            (_, false, _) => Err(Problem::new(
                "NotAllowedByListeners",
                format!("allowedRoutes of Gateway {gateway_key} do not let this route in"),
            )),
            (.., false) => Err(Problem::new(
                "NoMatchingListenerHostname",
                format!("no hostname is shared with a listener of Gateway {gateway_key}"),
            )),
            _ => Ok(()),
        }
    }

    /// To a service: for all its callers if the route lives beside it (a producer's route), else for those of the
    /// route's own namespace (a consumer's).
    fn with_service(
        &mut self,
        parent: &ParentRef,
        scope: Scope,
        at: &ObjectKey,
        mesh: &mut MeshDraft,
    ) -> Result<(), Problem> {
        let service = self.resources.services.get(at);
        if service.is_none() && scope == Scope::Cluster {
            return no_parent(format!("there is no Service {at}"));
        }
        let port = match (parent.port, &parent.section_name, service) {
            (None, Some(name), Some(service)) => {
                let port = service.spec.ports.iter().find(|port| port.name == *name);
                match port {
                    Some(port) => Some(port.port),
                    None => return no_parent(format!("Service {at} has no port named {name:?}")),
                }
            }
            (Some(port), _, Some(service)) if service.spec.ports.iter().all(|p| p.port != port) => {
                return no_parent(format!("Service {at} has no port {port}"));
            }
            (port, ..) => port,
        };
        let Ok(service) = ServiceKey::new(scope, &at.namespace, &at.name) else {
            return no_parent(format!("{at} is not the name of a service"));
        };
        if self.done.insert((at.clone(), format!("{scope:?} {port:?}"))) {
            let consumer = (at.namespace != self.key.namespace).then(|| self.key.namespace.as_str().into());
            let entries = self.rules.entries.clone();
            mesh.attachments.entry(service).or_default().push(Attachment { consumer, port, entries });
        }
        Ok(())
    }
}

/// The status of a route at one parent (Gateway API RouteParentStatus).
fn parent_status(
    parent: &ParentRef,
    route: &Object<HttpRoute>,
    problem: Option<Problem>,
    rules: &RouteRules,
) -> Value {
    let mut conditions = Conditions::new(route.meta.generation);
    let nothing_left = rules.entries.is_empty();
    match problem {
        Some(problem) => conditions.good("Accepted", &[problem]),
        None if nothing_left => conditions.good("Accepted", &rules.unsupported),
        None => conditions.good("Accepted", &[]),
    }
    conditions.good("ResolvedRefs", &rules.unresolved);
    if let Some(first) = rules.unsupported.first().filter(|_| !nothing_left) {
        conditions.add("PartiallyInvalid", "True", first.reason, messages(&rules.unsupported));
    }
    // With the defaults that an API server fills in.
    let defaulted = ParentRef {
        group: Some(parent.group.clone().unwrap_or_else(|| GATEWAY_GROUP.into())),
        kind: Some(parent.kind.clone().unwrap_or_else(|| "Gateway".into())),
        ..parent.clone()
    };
    json!({
        "parentRef": serde_json::to_value(defaulted).unwrap_or_default(),
        "controllerName": CONTROLLER,
        "conditions": conditions.value(),
    })
}
