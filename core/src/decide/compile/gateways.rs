//! GatewayClasses and Gateways: which listeners serve, and what is wrong with the others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    addresses::{self, Addresses},
    backend_tls::shown_certificate,
    conflicts, features, frontend,
    listeners::{ListenerDraft, Owner},
    refs::by_age,
    sets,
    status::{CONTROLLER, Conditions, Problem, messages, object_status},
};
use crate::{
    decide::{Bind, BindKey, Listener, Place, Proxied, ShownCertificate, table::RouteTables},
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{Gateway, GatewayClass},
    },
};

/// A Gateway of ours while routes are being attached to it.
pub(super) struct GatewayDraft<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) object: &'a Object<Gateway>,
    /// Its own, in the order of the document, then those of its ListenerSets in their order of precedence.
    pub(super) listeners: Vec<ListenerDraft<'a>>,
    pub(super) addresses: Addresses,
    /// Why nothing of it serves.
    pub(super) problems: Vec<Problem>,
    /// What it shows to backends, and what is wrong with that.
    shown: ShownCertificate,
    unresolved: Option<Problem>,
}

impl<'a> GatewayDraft<'a> {
    fn new(resources: &ResourceSet, key: &'a ObjectKey, object: &'a Object<Gateway>) -> Self {
        let (addresses, mut problems) = Addresses::read(object);
        if object.spec.infrastructure.as_ref().is_some_and(|i| i.parameters_ref.is_some()) {
            let message = "infrastructure.parametersRef is not supported: there are no parameters";
            problems.push(Problem::new("InvalidParameters", message));
        }
        if let Err(message) = Proxied::parse(&object.meta.annotations) {
            problems.push(Problem::new("InvalidParameters", message));
        }
        let owner = Owner::gateway(key);
        let specs = object.spec.listeners.iter();
        let mut listeners: Vec<_> = specs.map(|spec| ListenerDraft::new(resources, owner, spec)).collect();
        frontend::apply(resources, key, &object.spec, &mut listeners);
        conflicts::within(&mut listeners);
        let (shown, unresolved) = shown_certificate(resources, key, &object.spec);
        Self { key, object, listeners, addresses, problems, shown, unresolved }
    }

    /// True if its listeners get sockets.
    pub(super) fn serves(&self) -> bool {
        self.problems.is_empty()
    }

    /// Ports of the listeners that are served, each once.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        let served = self.listeners.iter().filter(|l| l.is_served());
        served.map(|l| l.spec.port).collect::<BTreeSet<_>>().into_iter()
    }
}

/// Where a Gateway is managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Managed {
    /// Its class is ours, and accepted.
    Here,
    /// Its class is another implementation's.
    Elsewhere,
    /// There is no such Gateway, its class is not there, or it is not accepted.
    Nowhere,
}

/// Where the Gateway with this key is managed.
pub(super) fn managed(resources: &ResourceSet, gateway: &ObjectKey) -> Managed {
    let class = resources.gateways.get(gateway).and_then(|gateway| {
        let name = ObjectKey::new("", &gateway.spec.gateway_class_name);
        resources.gateway_classes.get(&name)
    });
    match class {
        Some(class) if !is_ours(&class.spec) => Managed::Elsewhere,
        Some(class) if class.spec.parameters_ref.is_none() => Managed::Here,
        _ => Managed::Nowhere,
    }
}

/// True if a class is for this implementation.
fn is_ours(class: &GatewayClass) -> bool {
    class.controller_name == CONTROLLER
}

/// Gateways of our classes, the oldest first.
pub(super) fn drafts(resources: &ResourceSet) -> Vec<GatewayDraft<'_>> {
    let gateways = by_age(&resources.gateways).into_iter();
    let ours = gateways.filter(|(key, _)| managed(resources, key) == Managed::Here);
    let mut drafts: Vec<_> = ours.map(|(key, object)| GatewayDraft::new(resources, key, object)).collect();
    sets::add(resources, &mut drafts);
    conflicts::over_addresses(&mut drafts);
    addresses::choose(&mut drafts);
    drafts.iter_mut().for_each(|draft| conflicts::overlaps(&mut draft.listeners));
    drafts
}

/// The sockets of all Gateways. Takes the listeners' routes.
pub(super) fn binds(drafts: &mut [GatewayDraft<'_>]) -> Vec<Bind> {
    let mut binds: BTreeMap<BindKey, Vec<Arc<Listener>>> = BTreeMap::new();
    let mut tables = RouteTables::default();
    for draft in drafts.iter_mut().filter(|draft| draft.serves()) {
        for l in &mut draft.listeners {
            let Some(listener) = l.finish(draft.key, &draft.shown, &mut tables) else { continue };
            for key in draft.addresses.keys(l.spec.port, l.on_shared_socket) {
                binds.entry(key).or_default().push(listener.clone());
            }
        }
    }
    binds
        .into_iter()
        .map(|(key, mut listeners)| {
            // Stable: of equals, the older Gateway's stays in front.
            listeners.sort_by(|a, b| a.pattern.cmp(&b.pattern));
            same_clients(&mut listeners);
            Bind { key, listeners }
        })
        .collect()
}

/// Of listeners for the same hostname on a shared socket, one handshake is made for all: those that ask something else
/// of clients than the oldest do not serve there (on the address that is their Gateway's alone, they do).
fn same_clients(listeners: &mut Vec<Arc<Listener>>) {
    let mut leader: Option<Arc<Listener>> = None;
    listeners.retain(|listener| match &leader {
        Some(leader) if leader.pattern == listener.pattern => leader.clients == listener.clients,
        _ => {
            leader = Some(listener.clone());
            true
        }
    });
}

/// Status of GatewayClasses, Gateways and ListenerSets.
pub(super) fn status(
    resources: &ResourceSet,
    drafts: &[GatewayDraft<'_>],
    place: &Place,
) -> Vec<ObjectStatus> {
    let mut out: Vec<ObjectStatus> =
        resources.gateway_classes.values().map(|class| class_status(class)).collect();
    let by_key: HashMap<&ObjectKey, &GatewayDraft<'_>> =
        drafts.iter().map(|draft| (draft.key, draft)).collect();
    for (key, gateway) in &resources.gateways {
        let stanza = match by_key.get(key) {
            Some(draft) => draft.status(place),
            None => unmanaged(resources, key, gateway),
        };
        out.push(object_status("Gateway", gateway, stanza));
    }
    out.extend(sets::status(resources, drafts));
    out
}

fn class_status(class: &Object<GatewayClass>) -> ObjectStatus {
    if !is_ours(&class.spec) {
        return object_status("GatewayClass", class, json!({}));
    }
    let mut conditions = Conditions::new(class.meta.generation);
    let invalid = class
        .spec
        .parameters_ref
        .as_ref()
        .map(|_| Problem::new("InvalidParameters", "parametersRef is not supported"));
    conditions.good("Accepted", invalid.as_slice());
    // Documents of versions that are not known are refused when they are read.
    conditions.good("SupportedVersion", &[]);
    let stanza = json!({ "conditions": conditions.value(), "supportedFeatures": features::supported() });
    object_status("GatewayClass", class, stanza)
}

/// A Gateway of another implementation has no status from us; one whose class is not there waits for it.
fn unmanaged(resources: &ResourceSet, key: &ObjectKey, gateway: &Object<Gateway>) -> Value {
    if managed(resources, key) == Managed::Elsewhere {
        return json!({});
    }
    let name = &gateway.spec.gateway_class_name;
    let message = match resources.gateway_classes.contains_key(&ObjectKey::new("", name)) {
        true => format!("GatewayClass {name} is not accepted"),
        false => format!("there is no GatewayClass {name}; ours have controllerName {CONTROLLER}"),
    };
    let mut conditions = Conditions::new(gateway.meta.generation);
    conditions.add("Accepted", "Unknown", "Pending", message.clone());
    conditions.add("Programmed", "Unknown", "Pending", message);
    conditions.stanza()
}

impl GatewayDraft<'_> {
    fn status(&self, place: &Place) -> Value {
        let generation = self.object.meta.generation;
        let mut conditions = Conditions::new(generation);
        let own = || self.listeners.iter().filter(|l| l.owner.is_gateway());
        let bad: Vec<&str> = own().filter(|l| !l.is_fine()).map(|l| l.spec.name.as_str()).collect();
        if !self.problems.is_empty() {
            conditions.good("Accepted", &self.problems);
        } else if bad.is_empty() {
            conditions.add("Accepted", "True", "Accepted", "");
        } else {
            let accepted = if own().any(ListenerDraft::is_served) { "True" } else { "False" };
            let message = format!("not all is well with listeners {}", bad.join(", "));
            conditions.add("Accepted", accepted, "ListenersNotValid", message);
        }
        match self.not_programmed(place) {
            Some(problem) => conditions.good("Programmed", &[problem]),
            None => conditions.good("Programmed", &[]),
        }
        if self.object.spec.tls.is_some() {
            conditions.good("ResolvedRefs", self.unresolved.as_slice());
        }
        if frontend::allows_insecure(&self.object.spec) {
            let message = "AllowInsecureFallback lets in clients without a valid certificate";
            conditions.add("InsecureFrontendValidationMode", "True", "ConfigurationChanged", message);
        }
        let addresses: Vec<Value> = self
            .addresses
            .shown(place.listens)
            .into_iter()
            .filter(|address| self.serves() && !place.unusable.contains(address))
            .map(|address| json!({ "type": "IPAddress", "value": address.to_string() }))
            .collect();
        let blocked = self.problems.first();
        let listeners: Vec<Value> = own().map(|l| l.status(generation, blocked)).collect();
        json!({
            "addresses": addresses,
            "attachedListenerSets": sets::attached(self),
            "conditions": conditions.value(),
            "listeners": listeners,
        })
    }

    fn not_programmed(&self, place: &Place) -> Option<Problem> {
        if let Some(problem) = self.problems.first() {
            let reason = if problem.reason == "UnsupportedAddress" { "AddressNotUsable" } else { "Invalid" };
            return Some(Problem::new(reason, messages(&self.problems)));
        }
        let unusable: Vec<String> = self
            .addresses
            .named
            .iter()
            .filter(|ip| place.unusable.contains(ip))
            .map(ToString::to_string)
            .collect();
        if !unusable.is_empty() {
            let message = format!("this machine cannot listen on {}", unusable.join(", "));
            return Some(Problem::new("AddressNotUsable", message));
        }
        let works = self.listeners.iter().any(ListenerDraft::is_working);
        (!works).then(|| Problem::new("Invalid", "no listener can serve"))
    }
}
