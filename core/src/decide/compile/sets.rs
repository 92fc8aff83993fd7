//! ListenerSets: listeners that others add to a Gateway.

use std::collections::HashMap;

use serde_json::json;

use super::{
    conflicts, frontend,
    gateways::{GatewayDraft, Managed, managed},
    listeners::{ListenerDraft, Owner, selects},
    refs::{GATEWAY_GROUP, created},
    status::{Conditions, Problem, object_status},
};
use crate::resources::{
    Object, ObjectKey, ObjectStatus, ResourceSet,
    kinds::{FromNamespaces, Gateway, ListenerSet},
};

/// Of XListenerSet.
pub(super) const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";

/// Listeners of one Gateway, with those of its ListenerSets. One more is not accepted.
const MAX_LISTENERS: usize = 4096;

/// A ListenerSet of either group.
#[derive(Clone, Copy)]
struct Set<'a> {
    owner: Owner<'a>,
    object: &'a Object<ListenerSet>,
}

impl Set<'_> {
    fn gateway(&self) -> ObjectKey {
        let parent = &self.object.spec.parent_ref;
        ObjectKey::new(parent.namespace.as_deref().unwrap_or(&self.owner.key.namespace), &parent.name)
    }

    /// True if its parent is of a kind that could be ours.
    fn names_a_gateway(&self) -> bool {
        let parent = &self.object.spec.parent_ref;
        parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
            && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
    }
}

/// All sets in their order of precedence: the oldest first, then by namespace and name.
fn all(resources: &ResourceSet) -> Vec<Set<'_>> {
    let mut sets: Vec<_> = each(resources).collect();
    sets.sort_by_key(|set| (created(&set.object.meta), set.owner.key));
    sets
}

fn each(resources: &ResourceSet) -> impl Iterator<Item = Set<'_>> {
    let standard = resources.listener_sets.iter().map(|(key, object)| {
        let owner = Owner { group: GATEWAY_GROUP, kind: "ListenerSet", key };
        Set { owner, object }
    });
    let experimental = resources.x_listener_sets.iter().map(|(key, object)| {
        let owner = Owner { group: EXPERIMENTAL_GROUP, kind: "XListenerSet", key };
        Set { owner, object }
    });
    standard.chain(experimental)
}

/// The Gateway that a set names as its parent; none where there is no such set.
pub(super) fn gateway_of(resources: &ResourceSet, kind: &str, set: &ObjectKey) -> Option<ObjectKey> {
    let sets = if kind == "ListenerSet" { &resources.listener_sets } else { &resources.x_listener_sets };
    let (key, object) = sets.get_key_value(set)?;
    let set = Set { owner: Owner { group: GATEWAY_GROUP, kind: "ListenerSet", key }, object };
    set.names_a_gateway().then(|| set.gateway())
}

/// Adds the listeners of every set to the Gateway that lets it in.
pub(super) fn add<'a>(resources: &'a ResourceSet, drafts: &mut [GatewayDraft<'a>]) {
    let positions: HashMap<ObjectKey, usize> =
        drafts.iter().enumerate().map(|(at, draft)| (draft.key.clone(), at)).collect();
    for set in all(resources).into_iter().filter(Set::names_a_gateway) {
        let Some(draft) = positions.get(&set.gateway()).and_then(|at| drafts.get_mut(*at)) else { continue };
        if !is_allowed(resources, draft.key, &draft.object.spec, set.owner.key) {
            continue;
        }
        for spec in &set.object.spec.listeners {
            let mut listener = ListenerDraft::new(resources, set.owner, spec);
            frontend::apply(resources, draft.key, &draft.object.spec, std::slice::from_mut(&mut listener));
            if draft.listeners.len() >= MAX_LISTENERS {
                let message = format!("the Gateway has {MAX_LISTENERS} listeners already");
                listener.refused.push(Problem::new("TooManyListeners", message));
            }
            conflicts::with_earlier(&draft.listeners, &mut listener);
            draft.listeners.push(listener);
        }
    }
}

/// Sets that their Gateway lets in, with that.
pub(super) fn let_in(
    resources: &ResourceSet,
) -> impl Iterator<Item = (&ObjectKey, &Object<Gateway>, &Object<ListenerSet>)> {
    each(resources).filter(Set::names_a_gateway).filter_map(|set| {
        let (key, gateway) = resources.gateways.get_key_value(&set.gateway())?;
        let allowed = is_allowed(resources, key, &gateway.spec, set.owner.key);
        allowed.then_some((set.owner.key, &**gateway, set.object))
    })
}

fn is_allowed(resources: &ResourceSet, gateway: &ObjectKey, spec: &Gateway, set: &ObjectKey) -> bool {
    let allowed = spec.allowed_listeners.as_ref();
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    selects(resources, namespaces, FromNamespaces::None, &gateway.namespace, &set.namespace)
}

/// How many sets a Gateway has accepted.
pub(super) fn attached(gateway: &GatewayDraft<'_>) -> usize {
    let mut owners: Vec<Owner<'_>> = Vec::new();
    for l in gateway.listeners.iter().filter(|l| !l.owner.is_gateway() && l.is_working()) {
        // Listeners of one set stand together.
        if owners.last() != Some(&l.owner) {
            owners.push(l.owner);
        }
    }
    if gateway.problems.is_empty() { owners.len() } else { 0 }
}

/// Status of every ListenerSet.
pub(super) fn status(resources: &ResourceSet, drafts: &[GatewayDraft<'_>]) -> Vec<ObjectStatus> {
    let by_key: HashMap<&ObjectKey, &GatewayDraft<'_>> =
        drafts.iter().map(|draft| (draft.key, draft)).collect();
    let of = |set: Set<'_>| {
        let gateway = set.gateway();
        let stanza = match by_key.get(&gateway) {
            Some(draft) if set.names_a_gateway() => of_set(resources, draft, set),
            _ if !set.names_a_gateway() || managed(resources, &gateway) == Managed::Elsewhere => json!({}),
            _ => {
                let message = format!("there is no Gateway {gateway} of a class of ours");
                refused(set.object.meta.generation, "ParentNotAccepted", "ParentNotAccepted", &message)
                    .stanza()
            }
        };
        object_status(set.owner.kind, set.object, stanza)
    };
    all(resources).into_iter().map(of).collect()
}

fn refused(generation: i64, accepted: &str, programmed: &str, message: &str) -> Conditions {
    let mut conditions = Conditions::new(generation);
    conditions.add("Accepted", "False", accepted, message);
    conditions.add("Programmed", "False", programmed, message);
    conditions
}

fn of_set(resources: &ResourceSet, gateway: &GatewayDraft<'_>, set: Set<'_>) -> serde_json::Value {
    let generation = set.object.meta.generation;
    if !is_allowed(resources, gateway.key, &gateway.object.spec, set.owner.key) {
        let message = format!("allowedListeners of Gateway {} does not let it in", gateway.key);
        return refused(generation, "NotAllowed", "NotAllowed", &message).stanza();
    }
    let listeners: Vec<_> = gateway.listeners.iter().filter(|l| l.owner == set.owner).collect();
    let bad: Vec<&str> = listeners.iter().filter(|l| !l.is_fine()).map(|l| l.spec.name.as_str()).collect();
    let message = format!("not all is well with listeners {}", bad.join(", "));
    let conditions = if let Some(problem) = gateway.problems.first() {
        refused(generation, "ParentNotAccepted", "ParentNotProgrammed", &problem.message)
    } else if listeners.iter().all(|l| !l.is_working()) {
        refused(generation, "ListenersNotValid", "ListenersNotValid", &message)
    } else {
        let mut conditions = Conditions::new(generation);
        match bad.is_empty() {
            true => conditions.add("Accepted", "True", "Accepted", ""),
            false => conditions.add("Accepted", "True", "ListenersNotValid", message),
        }
        conditions.add("Programmed", "True", "Programmed", "");
        conditions
    };
    let blocked = gateway.problems.first();
    let listeners: Vec<_> = listeners.into_iter().map(|l| l.status(generation, blocked)).collect();
    json!({ "conditions": conditions.value(), "listeners": listeners })
}
