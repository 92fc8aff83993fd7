//! Attaching routes to what they name as their parents: listeners (the edge), services (the mesh, GAMMA).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    gateways::{GatewayDraft, Managed, managed},
    listeners::ListenerDraft,
    mesh::{Attachment, MeshDraft},
    refs::{GATEWAY_GROUP, MCS_GROUP},
    releases::Releases,
    requests,
    rules::{GRPC_ROUTE, HTTP_ROUTE, RouteRules, compile_rules},
    sets::{self, EXPERIMENTAL_GROUP},
    status::{CONTROLLER, Conditions, Problem, Stanzas, messages, object_status},
    streams::{self, StreamRules},
};
use crate::{
    decide::{host::HostPattern, table::Entry},
    model::{Scope, ServiceKey},
    resources::{ObjectKey, ObjectStatus, ResourceSet, kinds::ParentRef},
};

/// Attaches every route; returns their status.
pub(super) fn attach(
    resources: &ResourceSet,
    releases: &Releases,
    gateways: &mut [GatewayDraft<'_>],
    mesh: &mut MeshDraft,
) -> Vec<ObjectStatus> {
    let mut out = Vec::new();
    let mut places = Places { resources, by_key: positions(gateways), gateways, mesh };
    let mut done = attach_requests(resources, releases, &mut places);
    for (key, route) in &resources.http_routes {
        let stanza = done.remove(&(HTTP_ROUTE, key)).unwrap_or_default();
        out.push(object_status(HTTP_ROUTE, route, stanza));
    }
    for (key, route) in &resources.grpc_routes {
        let stanza = done.remove(&(GRPC_ROUTE, key)).unwrap_or_default();
        out.push(object_status(GRPC_ROUTE, route, stanza));
    }
    let mut streams = HashMap::new();
    for source in streams::sources(resources) {
        let attaching = Attaching {
            kind: source.kind,
            key: source.key,
            generation: source.generation,
            hosts: source.hosts,
            cargo: Cargo::Streams(&source.rules),
            done: HashSet::new(),
        };
        let parents = attaching.to(source.parents, &mut places);
        streams.insert((source.kind, source.key), json!({ "parents": parents }));
    }
    for (key, route) in &resources.tls_routes {
        let stanza = streams.remove(&("TLSRoute", key)).unwrap_or_default();
        out.push(object_status("TLSRoute", route, stanza));
    }
    for (key, route) in &resources.tcp_routes {
        let stanza = streams.remove(&("TCPRoute", key)).unwrap_or_default();
        out.push(object_status("TCPRoute", route, stanza));
    }
    out
}

/// Attaches HTTPRoutes and GRPCRoutes, the oldest first, since an older one keeps its hosts; gives their stanzas.
fn attach_requests<'r>(
    resources: &'r ResourceSet,
    releases: &Releases,
    places: &mut Places<'_, '_>,
) -> HashMap<(&'static str, &'r ObjectKey), Arc<Value>> {
    let mut out = HashMap::new();
    let mut stanzas = Stanzas::default();
    for source in requests::sources(resources) {
        let named = (source.kind, source.key);
        let rules = compile_rules(resources, releases, named, source.meta, &source.rules);
        let attaching = Attaching {
            kind: source.kind,
            key: source.key,
            generation: source.meta.generation,
            hosts: hosts(source.hostnames),
            cargo: Cargo::Requests(&rules),
            done: HashSet::new(),
        };
        let stanza = json!({ "parents": attaching.to(source.parents, places) });
        out.insert(named, stanzas.share(stanza));
    }
    out
}

fn positions(gateways: &[GatewayDraft<'_>]) -> HashMap<ObjectKey, usize> {
    gateways.iter().enumerate().map(|(at, draft)| (draft.key.clone(), at)).collect()
}

/// What routes can be attached to.
struct Places<'p, 'g> {
    resources: &'p ResourceSet,
    by_key: HashMap<ObjectKey, usize>,
    gateways: &'p mut [GatewayDraft<'g>],
    mesh: &'p mut MeshDraft,
}

fn hosts(hostnames: &[String]) -> Vec<HostPattern> {
    if hostnames.is_empty() {
        return vec![HostPattern::Any];
    }
    hostnames.iter().map(|host| HostPattern::parse(Some(host))).collect()
}

fn no_parent(message: String) -> Result<(), Problem> {
    Err(Problem::new("NoMatchingParent", message))
}

fn place_in(kind: &str, listener: &ListenerDraft<'_>) -> String {
    format!("{kind} {}", listener.spec.name)
}

/// What a route brings along.
#[derive(Clone, Copy)]
enum Cargo<'a> {
    /// Rules for requests.
    Requests(&'a RouteRules),
    /// One for connections.
    Streams(&'a StreamRules),
}

impl<'a> Cargo<'a> {
    fn unresolved(self) -> &'a [Problem] {
        match self {
            Self::Requests(rules) => &rules.unresolved,
            Self::Streams(rules) => &rules.unresolved,
        }
    }

    fn unsupported(self) -> &'a [Problem] {
        match self {
            Self::Requests(rules) => &rules.unsupported,
            Self::Streams(rules) => &rules.unsupported,
        }
    }

    /// True if everything in it had to be left out.
    fn is_empty(self) -> bool {
        match self {
            Self::Requests(rules) => rules.entries.is_empty(),
            Self::Streams(_) => false,
        }
    }
}

/// One route on its way to its parents.
struct Attaching<'a> {
    kind: &'static str,
    key: &'a ObjectKey,
    generation: i64,
    hosts: Vec<HostPattern>,
    cargo: Cargo<'a>,
    /// Gateway and listener, service and port: attached by an earlier parentRef.
    done: HashSet<(ObjectKey, String)>,
}

impl Attaching<'_> {
    /// To each of its parents; gives what is said of them.
    fn to(mut self, parent_refs: &[ParentRef], places: &mut Places<'_, '_>) -> Vec<Value> {
        let mut parents = Vec::new();
        for parent in parent_refs {
            let namespace = parent.namespace.as_deref().unwrap_or(&self.key.namespace);
            let at = ObjectKey::new(namespace, &parent.name);
            let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
            let outcome = match (group, parent.kind.as_deref().unwrap_or("Gateway")) {
                (GATEWAY_GROUP, "Gateway") => {
                    match places.by_key.get(&at).and_then(|at| places.gateways.get_mut(*at)) {
                        Some(gateway) => {
                            self.with_listeners(parent, "Gateway", &at, gateway, places.resources)
                        }
                        None if managed(places.resources, &at) == Managed::Elsewhere => continue,
                        None => no_parent(format!("there is no Gateway {at} of a class of ours")),
                    }
                }
                (GATEWAY_GROUP, kind @ "ListenerSet") | (EXPERIMENTAL_GROUP, kind @ "XListenerSet") => {
                    let gateway = sets::gateway_of(places.resources, kind, &at);
                    let draft = gateway.as_ref().and_then(|gateway| places.by_key.get(gateway));
                    match draft.and_then(|draft| places.gateways.get_mut(*draft)) {
                        Some(gateway) => self.with_listeners(parent, kind, &at, gateway, places.resources),
                        None if gateway
                            .is_some_and(|g| managed(places.resources, &g) == Managed::Elsewhere) =>
                        {
                            continue;
                        }
                        None => no_parent(format!("there is no {kind} {at} that adds to a Gateway of ours")),
                    }
                }
                ("" | "core", "Service") => self.with_service(parent, Scope::Cluster, &at, places),
                (MCS_GROUP, "ServiceImport") => self.with_service(parent, Scope::Clusterset, &at, places),
                // Somebody else's kind of parent, and status.
                _ => continue,
            };
            parents.push(self.parent_status(parent, outcome.err()));
        }
        parents
    }

    /// To every listener that the parentRef means, that lets the route in, and with which it shares a host.
    fn with_listeners(
        &mut self,
        parent: &ParentRef,
        kind: &str,
        owner: &ObjectKey,
        gateway: &mut GatewayDraft<'_>,
        resources: &ResourceSet,
    ) -> Result<(), Problem> {
        let (mut meant, mut allowed, mut shared, mut attached) = (false, false, false, false);
        let mut rival = None;
        let is_owners = |l: &&mut ListenerDraft<'_>| l.owner.kind == kind && l.owner.key == owner;
        for listener in gateway.listeners.iter_mut().filter(is_owners) {
            let named = parent.section_name.as_ref().is_none_or(|name| *name == listener.spec.name);
            if !named || parent.port.is_some_and(|port| port != listener.spec.port) {
                continue;
            }
            meant = true;
            let namespace = &self.key.namespace;
            let takes = listener.kinds.contains(&self.kind);
            if !takes || !listener.allows(resources, namespace) {
                continue;
            }
            allowed = true;
            let hosts = self.shared_hosts(listener);
            if hosts.is_empty() {
                continue;
            }
            shared = true;
            if let Some(other) = self.rival(listener, &hosts) {
                rival = Some(format!("{kind} {owner} has {other} for some of its hosts"));
                continue;
            }
            attached = true;
            // What is not accepted is not attached either.
            let is_new =
                !self.cargo.is_empty() && self.done.insert((owner.clone(), place_in(kind, listener)));
            if is_new {
                self.add_to(listener, hosts);
            }
        }
        match rival {
            Some(rival) if !attached => return Err(Problem::new("HostnameConflict", rival)),
            _ => {}
        }
        match (meant, allowed, shared) {
            (false, ..) => no_parent(format!("{kind} {owner} has no such listener")),
            (_, false, _) => Err(Problem::new(
                "NotAllowedByListeners",
                format!("allowedRoutes of {kind} {owner} do not let this route in"),
            )),
            (.., false) => Err(Problem::new(
                "NoMatchingListenerHostname",
                format!("no hostname is shared with a listener of {kind} {owner}"),
            )),
            _ => Ok(()),
        }
    }

    /// What it shares with a listener, each with the hostname of its own that gives it: the most specific one.
    fn shared_hosts(&self, listener: &ListenerDraft<'_>) -> Vec<(HostPattern, HostPattern)> {
        let shared = |own: &HostPattern| Some((own.intersect(&listener.pattern)?, own.clone()));
        let mut hosts: Vec<_> = self.hosts.iter().filter_map(shared).collect();
        hosts.sort();
        hosts.dedup_by(|later, first| later.0 == first.0);
        hosts
    }

    /// A route of the other kind for requests that has some of these hosts there, and has been there before.
    fn rival(&self, listener: &ListenerDraft<'_>, hosts: &[(HostPattern, HostPattern)]) -> Option<Arc<str>> {
        let others = listener.taken.iter().filter(|(kind, _)| **kind != self.kind);
        others.flat_map(|(_, taken)| hosts.iter().find_map(|(host, _)| taken.by(host))).next().cloned()
    }

    fn add_to(&self, listener: &mut ListenerDraft<'_>, hosts: Vec<(HostPattern, HostPattern)>) {
        listener.attached += 1;
        let rules = match self.cargo {
            Cargo::Requests(rules) => rules,
            Cargo::Streams(rules) => return listener.add_stream(&self.hosts, rules),
        };
        let title = format!("{} {}", self.kind, self.key).into();
        let taken = listener.taken.entry(self.kind).or_default();
        taken.add(&title, hosts.iter().map(|(host, _)| host.clone()));
        for (host, own) in hosts {
            let entries = rules.entries.iter();
            listener.entries.extend(entries.map(|e| (host.clone(), Entry { own: own.clone(), ..e.clone() })));
        }
    }

    /// To a service: for all its callers if the route lives beside it (a producer's route), else for those of the
    /// route's own namespace (a consumer's).
    fn with_service(
        &mut self,
        parent: &ParentRef,
        scope: Scope,
        at: &ObjectKey,
        places: &mut Places<'_, '_>,
    ) -> Result<(), Problem> {
        let Cargo::Requests(rules) = self.cargo else {
            return no_parent(format!(
                "a {} cannot be attached to a service here, only to a Gateway",
                self.kind
            ));
        };
        let service = places.resources.services.get(at);
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
            let entries = rules.entries.clone();
            places.mesh.attachments.entry(service).or_default().push(Attachment { consumer, port, entries });
        }
        Ok(())
    }

    /// The status of the route at one parent (Gateway API RouteParentStatus).
    fn parent_status(&self, parent: &ParentRef, problem: Option<Problem>) -> Value {
        let mut conditions = Conditions::new(self.generation);
        let (unsupported, nothing_left) = (self.cargo.unsupported(), self.cargo.is_empty());
        match problem {
            Some(problem) => conditions.good("Accepted", &[problem]),
            None if nothing_left => conditions.good("Accepted", unsupported),
            None => conditions.good("Accepted", &[]),
        }
        conditions.good("ResolvedRefs", self.cargo.unresolved());
        if let Some(first) = unsupported.first().filter(|_| !nothing_left) {
            conditions.add("PartiallyInvalid", "True", first.reason, messages(unsupported));
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
}
