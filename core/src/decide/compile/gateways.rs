//! GatewayClasses and Gateways: which listeners serve, and what is wrong with the others.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    backend_tls::shown_certificate,
    certificates::certificates,
    refs::{GATEWAY_GROUP, by_age},
    status::{CONTROLLER, Conditions, Problem, messages, object_status},
    streams::protocol_of,
};
use crate::{
    decide::{
        Bind, BindKey, Listener, ListenerProtocol, ShownCertificate,
        host::HostPattern,
        stream::StreamRoute,
        table::{Entry, RouteTable},
    },
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{AllowedRoutes, FromNamespaces, Gateway, GatewayClass, ListenerSpec},
    },
};

/// A Gateway of ours while routes are being attached to it.
pub(super) struct GatewayDraft<'a> {
    pub(super) key: &'a ObjectKey,
    object: &'a Object<Gateway>,
    pub(super) listeners: Vec<ListenerDraft<'a>>,
    addresses: Vec<Option<IpAddr>>,
    problems: Vec<Problem>,
    /// What it shows to backends, and what is wrong with that.
    shown: ShownCertificate,
    unresolved: Vec<Problem>,
}

/// A listener while routes are being attached to it.
pub(super) struct ListenerDraft<'a> {
    pub(super) spec: &'a ListenerSpec,
    pub(super) pattern: HostPattern,
    protocol: Option<ListenerProtocol>,
    /// Kinds of routes that may attach, all of the Gateway API's group.
    pub(super) kinds: Vec<&'static str>,
    refused: Vec<Problem>,
    conflicts: Vec<Problem>,
    invalid_kinds: Vec<Problem>,
    /// References to certificates that are not valid.
    unresolved: Vec<Problem>,
    certificates: Vec<Arc<str>>,
    /// Routes attached, each once.
    pub(super) attached: usize,
    pub(super) entries: Vec<(HostPattern, Entry)>,
    /// Each with the route's own hostname, and what it shares with the listener.
    pub(super) streams: Vec<(HostPattern, HostPattern, Arc<StreamRoute>)>,
}

/// True if a class is for this implementation.
fn is_ours(class: &GatewayClass) -> bool {
    class.controller_name == CONTROLLER
}

/// Gateways of our classes, the oldest first.
pub(super) fn drafts(resources: &ResourceSet) -> Vec<GatewayDraft<'_>> {
    let class = |name: &str| resources.gateway_classes.get(&ObjectKey::new("", name));
    let mut drafts: Vec<GatewayDraft<'_>> = by_age(&resources.gateways)
        .into_iter()
        .filter(|(_, gateway)| {
            class(&gateway.spec.gateway_class_name)
                .is_some_and(|c| is_ours(&c.spec) && c.spec.parameters_ref.is_none())
        })
        .map(|(key, object)| draft(resources, key, object))
        .collect();
    conflicts_over_sockets(&mut drafts);
    drafts
}

fn draft<'a>(resources: &ResourceSet, key: &'a ObjectKey, object: &'a Object<Gateway>) -> GatewayDraft<'a> {
    let mut problems = Vec::new();
    let mut addresses = Vec::new();
    for address in &object.spec.addresses {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        match (kind, address.value.as_deref().filter(|value| !value.is_empty())) {
            ("IPAddress", None) => addresses.push(None),
            ("IPAddress", Some(value)) => match value.parse() {
                Ok(ip) => addresses.push(Some(ip)),
                Err(_) => problems
                    .push(Problem::new("UnsupportedAddress", format!("{value:?} is not an IP address"))),
            },
            (other, _) => {
                let message = format!("addresses of type {other} are not supported, only IPAddress");
                problems.push(Problem::new("UnsupportedAddress", message));
            }
        }
    }
    if object.spec.addresses.is_empty() {
        addresses.push(None);
    }
    let mut listeners: Vec<_> =
        object.spec.listeners.iter().map(|spec| listener(resources, key, spec)).collect();
    conflicts_within(&mut listeners);
    let (shown, unresolved) = shown_certificate(resources, key, &object.spec);
    GatewayDraft {
        key,
        object,
        listeners,
        addresses,
        problems,
        shown,
        unresolved: unresolved.into_iter().collect(),
    }
}

fn listener<'a>(resources: &ResourceSet, gateway: &ObjectKey, spec: &'a ListenerSpec) -> ListenerDraft<'a> {
    let mut out = ListenerDraft {
        spec,
        pattern: HostPattern::parse(spec.hostname.as_deref()),
        protocol: None,
        kinds: Vec::new(),
        refused: Vec::new(),
        conflicts: Vec::new(),
        invalid_kinds: Vec::new(),
        unresolved: Vec::new(),
        certificates: Vec::new(),
        attached: 0,
        entries: Vec::new(),
        streams: Vec::new(),
    };
    match protocol_of(spec) {
        Ok(protocol) => {
            out.protocol = Some(protocol);
            if protocol.needs_certificates() {
                (out.certificates, out.unresolved) = certificates(resources, gateway, spec);
            }
            if protocol == ListenerProtocol::Tcp {
                // Nothing that is sent tells a host.
                out.pattern = HostPattern::Any;
            }
        }
        Err(problem) => out.refused.push(problem),
    }
    let possible = out.protocol.map(ListenerProtocol::route_kinds).unwrap_or_default();
    let named = spec.allowed_routes.as_ref().map(|allowed| allowed.kinds.as_slice()).unwrap_or_default();
    if named.is_empty() {
        out.kinds = possible.to_vec();
    }
    for kind in named {
        let is_ours = kind.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP;
        match possible.iter().find(|possible| is_ours && **possible == kind.kind) {
            Some(known) if !out.kinds.contains(known) => out.kinds.push(known),
            Some(_) => {}
            None => {
                let message = format!(
                    "routes of kind {:?} are not supported here, only {}",
                    kind.kind,
                    possible.join(", ")
                );
                out.invalid_kinds.push(Problem::new("InvalidRouteKinds", message));
            }
        }
    }
    out
}

/// Listeners of one Gateway that cannot be told apart: none of them is accepted (Gateway API, "distinct listeners").
fn conflicts_within(listeners: &mut [ListenerDraft<'_>]) {
    let all: Vec<(u16, HostPattern, Option<ListenerProtocol>)> =
        listeners.iter().map(|l| (l.spec.port, l.pattern.clone(), l.protocol)).collect();
    for (at, l) in listeners.iter_mut().enumerate() {
        let (Some(protocol), port) = (l.protocol, l.spec.port) else { continue };
        let others = all.iter().enumerate().filter(|(other, (p, ..))| *other != at && *p == port);
        let others = others.filter_map(|(_, (_, pattern, protocol))| Some((pattern, (*protocol)?)));
        let (mut clash, mut same) = (None, false);
        for (pattern, other) in others {
            if !protocol.shares_port_with(other) || (*pattern == l.pattern && protocol != other) {
                clash = Some(other);
            }
            same |= *pattern == l.pattern;
        }
        if let Some(other) = clash {
            let message = format!(
                "listeners for {} and {} cannot share port {port} here",
                protocol.name(),
                other.name()
            );
            l.conflicts.push(Problem::new("ProtocolConflict", message));
        } else if same {
            let message = format!("more than one listener has port {port} and hostname {}", l.pattern);
            l.conflicts.push(Problem::new("HostnameConflict", message));
        }
    }
}

/// Gateways that share a socket have to speak the same on it; the oldest decides, so that a new one cannot break it.
fn conflicts_over_sockets(drafts: &mut [GatewayDraft<'_>]) {
    let mut sockets: BTreeMap<BindKey, (Option<ListenerProtocol>, String)> = BTreeMap::new();
    for draft in drafts.iter_mut().filter(|draft| draft.problems.is_empty()) {
        for l in &mut draft.listeners {
            for address in draft.addresses.iter().filter(|_| l.is_served()).copied().collect::<Vec<_>>() {
                let key = BindKey { address, port: l.spec.port };
                let (protocol, owner) =
                    sockets.entry(key).or_insert_with(|| (l.protocol, draft.key.to_string()));
                if let (Some(theirs), Some(ours)) = (*protocol, l.protocol)
                    && !theirs.shares_port_with(ours)
                {
                    let (port, theirs) = (l.spec.port, theirs.name());
                    let message = format!("port {port} speaks {theirs} for the older Gateway {owner}");
                    l.conflicts.push(Problem::new("ProtocolConflict", message));
                }
            }
        }
    }
}

impl ListenerDraft<'_> {
    fn is_served(&self) -> bool {
        self.protocol.is_some() && self.refused.is_empty() && self.conflicts.is_empty()
    }

    /// True if routes of this namespace may attach.
    pub(super) fn allows(&self, resources: &ResourceSet, gateway: &str, namespace: &str) -> bool {
        let namespaces = self
            .spec
            .allowed_routes
            .as_ref()
            .and_then(|AllowedRoutes { namespaces, .. }| namespaces.as_ref());
        match namespaces.and_then(|n| n.from).unwrap_or(FromNamespaces::Same) {
            FromNamespaces::All => true,
            FromNamespaces::Same => gateway == namespace,
            FromNamespaces::None => false,
            FromNamespaces::Selector => {
                // Kubernetes puts this label on every namespace; one without a document has no other.
                let object = resources.namespaces.get(&ObjectKey::new("", namespace));
                let mut labels = object.map(|object| object.meta.labels.clone()).unwrap_or_default();
                labels.entry("kubernetes.io/metadata.name".into()).or_insert_with(|| namespace.into());
                namespaces.and_then(|n| n.selector.as_ref()).is_some_and(|selector| selector.selects(&labels))
            }
        }
    }

    fn status(&self, generation: i64, gateway_is_fine: bool) -> Value {
        let mut conditions = Conditions::new(generation);
        let refused: Vec<Problem> = self.refused.iter().chain(&self.conflicts).cloned().collect();
        conditions.good("Accepted", &refused);
        match self.conflicts.first() {
            Some(first) => conditions.add("Conflicted", "True", first.reason, messages(&self.conflicts)),
            None => conditions.add("Conflicted", "False", "NoConflicts", ""),
        }
        let unresolved: Vec<Problem> = self.invalid_kinds.iter().chain(&self.unresolved).cloned().collect();
        conditions.good("ResolvedRefs", &unresolved);
        if gateway_is_fine && self.is_served() && self.unresolved.is_empty() {
            conditions.add("Programmed", "True", "Programmed", "");
        } else {
            conditions.add("Programmed", "False", "Invalid", "the listener cannot serve");
        }
        let kinds: Vec<Value> =
            self.kinds.iter().map(|kind| json!({ "group": GATEWAY_GROUP, "kind": kind })).collect();
        json!({
            "name": self.spec.name,
            "supportedKinds": kinds,
            "attachedRoutes": self.attached,
            "conditions": conditions.value(),
        })
    }
}

/// The sockets of all Gateways. Takes the listeners' entries.
pub(super) fn binds(drafts: &mut [GatewayDraft<'_>]) -> Vec<Bind> {
    let mut binds: BTreeMap<BindKey, Vec<Arc<Listener>>> = BTreeMap::new();
    for draft in drafts.iter_mut().filter(|draft| draft.problems.is_empty()) {
        for l in draft.listeners.iter_mut().filter(|l| l.is_served()) {
            let Some(protocol) = l.protocol else { continue };
            let listener = Arc::new(Listener {
                gateway: draft.key.to_string().into(),
                name: l.spec.name.as_str().into(),
                hostname: l.pattern.text().map(Into::into),
                protocol,
                certificates: l.certificates.clone(),
                pattern: l.pattern.clone(),
                routes: Arc::new(RouteTable::new(std::mem::take(&mut l.entries))),
                streams: Arc::new(l.take_streams()),
                shown: draft.shown.clone(),
            });
            for address in draft.addresses.iter().copied() {
                let key = BindKey { address, port: l.spec.port };
                binds.entry(key).or_default().push(listener.clone());
            }
        }
    }
    binds
        .into_iter()
        .map(|(key, mut listeners)| {
            // Stable: of equals, the older Gateway's stays in front.
            listeners.sort_by(|a, b| a.pattern.cmp(&b.pattern));
            Bind { key, listeners }
        })
        .collect()
}

/// Status of GatewayClasses and Gateways.
pub(super) fn status(resources: &ResourceSet, drafts: &[GatewayDraft<'_>]) -> Vec<ObjectStatus> {
    let mut out: Vec<ObjectStatus> =
        resources.gateway_classes.values().map(|class| class_status(class)).collect();
    let by_key: HashMap<&ObjectKey, &GatewayDraft<'_>> =
        drafts.iter().map(|draft| (draft.key, draft)).collect();
    for (key, gateway) in &resources.gateways {
        let stanza = match by_key.get(key) {
            Some(draft) => draft.status(),
            None => unmanaged(resources, gateway),
        };
        out.push(object_status("Gateway", gateway, stanza));
    }
    out
}

fn class_status(class: &Object<GatewayClass>) -> ObjectStatus {
    let mut conditions = Conditions::new(class.meta.generation);
    if !is_ours(&class.spec) {
        return object_status("GatewayClass", class, json!({}));
    }
    let invalid = class
        .spec
        .parameters_ref
        .as_ref()
        .map(|_| Problem::new("InvalidParameters", "parametersRef is not supported"));
    conditions.good("Accepted", invalid.as_slice());
    object_status("GatewayClass", class, conditions.stanza())
}

/// A Gateway of another implementation has no status from us; one whose class is not there waits for it.
fn unmanaged(resources: &ResourceSet, gateway: &Object<Gateway>) -> Value {
    let name = &gateway.spec.gateway_class_name;
    let class = resources.gateway_classes.get(&ObjectKey::new("", name));
    if class.is_some_and(|class| !is_ours(&class.spec)) {
        return json!({});
    }
    let message = match class {
        Some(_) => format!("GatewayClass {name} is not accepted"),
        None => format!("there is no GatewayClass {name}; ours have controllerName {CONTROLLER}"),
    };
    let mut conditions = Conditions::new(gateway.meta.generation);
    conditions.add("Accepted", "Unknown", "Pending", message.clone());
    conditions.add("Programmed", "Unknown", "Pending", message);
    conditions.stanza()
}

impl GatewayDraft<'_> {
    fn status(&self) -> Value {
        let generation = self.object.meta.generation;
        let is_fine = self.problems.is_empty();
        let bad = |l: &&ListenerDraft<'_>| {
            !l.is_served() || !l.unresolved.is_empty() || !l.invalid_kinds.is_empty()
        };
        let bad_names: Vec<&str> = self.listeners.iter().filter(bad).map(|l| l.spec.name.as_str()).collect();
        let all_refused = self.listeners.iter().all(|l| !l.is_served());
        let mut conditions = Conditions::new(generation);
        if !is_fine {
            conditions.good("Accepted", &self.problems);
        } else if bad_names.is_empty() {
            conditions.add("Accepted", "True", "Accepted", "");
        } else {
            let accepted = if all_refused { "False" } else { "True" };
            let message = format!("not all is well with listeners {}", bad_names.join(", "));
            conditions.add("Accepted", accepted, "ListenersNotValid", message);
        }
        if self.object.spec.tls.is_some() {
            conditions.good("ResolvedRefs", &self.unresolved);
        }
        match (is_fine, all_refused) {
            (false, _) => conditions.add("Programmed", "False", "AddressNotUsable", messages(&self.problems)),
            (true, true) => conditions.add("Programmed", "False", "Invalid", "no listener can serve"),
            (true, false) => conditions.add("Programmed", "True", "Programmed", ""),
        }
        let addresses: Vec<Value> = self
            .addresses
            .iter()
            .flatten()
            .map(|address| json!({ "type": "IPAddress", "value": address.to_string() }))
            .collect();
        let listeners: Vec<Value> = self.listeners.iter().map(|l| l.status(generation, is_fine)).collect();
        json!({ "addresses": addresses, "conditions": conditions.value(), "listeners": listeners })
    }
}
