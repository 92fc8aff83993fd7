//! One listener of a Gateway or of a ListenerSet: what it speaks, who may attach, and what is wrong with it.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    certificates::certificates,
    refs::{GATEWAY_GROUP, Referrer},
    rivals::Taken,
    status::{Conditions, Problem, messages},
    streams::protocol_of,
};
use crate::{
    decide::{
        ClientValidation, Listener, ListenerProtocol, ShownCertificate,
        host::HostPattern,
        stream::StreamRoute,
        table::{Entry, RouteTables},
    },
    resources::{
        ObjectKey, ResourceSet,
        kinds::{FromNamespaces, ListenerSpec, RouteNamespaces},
    },
};

/// Whose listener it is: references are the owner's, and routes name the owner as their parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner<'a> {
    /// The group of [`kind`](Self::kind).
    pub(super) group: &'static str,
    /// `Gateway`, `ListenerSet` or `XListenerSet`.
    pub(super) kind: &'static str,
    pub(super) key: &'a ObjectKey,
}

impl<'a> Owner<'a> {
    pub(super) fn gateway(key: &'a ObjectKey) -> Self {
        Self { group: GATEWAY_GROUP, kind: "Gateway", key }
    }

    pub(super) fn is_gateway(&self) -> bool {
        self.kind == "Gateway"
    }

    pub(super) fn referrer(&self) -> Referrer<'a> {
        Referrer { group: self.group, kind: self.kind, namespace: &self.key.namespace }
    }
}

/// A listener while routes are being attached to it.
pub(super) struct ListenerDraft<'a> {
    pub(super) owner: Owner<'a>,
    pub(super) spec: &'a ListenerSpec,
    pub(super) pattern: HostPattern,
    pub(super) protocol: Option<ListenerProtocol>,
    /// Kinds of routes that may attach, all of the Gateway API's group.
    pub(super) kinds: Vec<&'static str>,
    /// Why it is not accepted for itself.
    pub(super) refused: Vec<Problem>,
    /// Why it is not accepted beside others.
    pub(super) conflicts: Vec<Problem>,
    invalid_kinds: Vec<Problem>,
    /// References to certificates that are not valid.
    pub(super) unresolved: Vec<Problem>,
    /// What is wrong with some of the authorities that vouch for clients, while others serve.
    pub(super) unresolved_authorities: Vec<Problem>,
    /// Other listeners that some names lead to as well, where TLS ends here.
    pub(super) overlaps: Vec<String>,
    pub(super) certificates: Vec<Arc<str>>,
    /// None of its certificates is there yet: they are ordered.
    awaits_certificate: bool,
    pub(super) clients: Option<ClientValidation>,
    /// Whether it has its part of the socket that Gateways without an address share.
    pub(super) on_shared_socket: bool,
    /// Routes attached, each once.
    pub(super) attached: usize,
    pub(super) entries: Vec<(HostPattern, Entry)>,
    /// Hosts of the routes for requests, by the routes' kind.
    pub(super) taken: HashMap<&'static str, Taken>,
    /// Each with the route's own hostname, and what it shares with the listener.
    pub(super) streams: Vec<(HostPattern, HostPattern, Arc<StreamRoute>)>,
}

impl<'a> ListenerDraft<'a> {
    pub(super) fn new(resources: &ResourceSet, owner: Owner<'a>, spec: &'a ListenerSpec) -> Self {
        let mut out = Self {
            owner,
            spec,
            pattern: HostPattern::parse(spec.hostname.as_deref()),
            protocol: None,
            kinds: Vec::new(),
            refused: Vec::new(),
            conflicts: Vec::new(),
            invalid_kinds: Vec::new(),
            unresolved: Vec::new(),
            unresolved_authorities: Vec::new(),
            overlaps: Vec::new(),
            certificates: Vec::new(),
            awaits_certificate: false,
            clients: None,
            on_shared_socket: true,
            attached: 0,
            entries: Vec::new(),
            taken: HashMap::new(),
            streams: Vec::new(),
        };
        match protocol_of(spec) {
            Ok(protocol) => {
                out.protocol = Some(protocol);
                if protocol.needs_certificates() {
                    (out.certificates, out.unresolved) = certificates(resources, owner.referrer(), spec);
                    out.awaits_certificate = out.unresolved.is_empty()
                        && !out.certificates.iter().any(|name| is_there(resources, name));
                }
                if protocol == ListenerProtocol::Tcp {
                    // Nothing that is sent tells a host.
                    out.pattern = HostPattern::Any;
                }
            }
            Err(problem) => out.refused.push(problem),
        }
        out.choose_kinds();
        out
    }

    fn choose_kinds(&mut self) {
        let possible = self.protocol.map(ListenerProtocol::route_kinds).unwrap_or_default();
        let named =
            self.spec.allowed_routes.as_ref().map(|allowed| allowed.kinds.as_slice()).unwrap_or_default();
        if named.is_empty() {
            self.kinds = possible.to_vec();
        }
        for kind in named {
            let is_known = kind.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP;
            match possible.iter().find(|possible| is_known && **possible == kind.kind) {
                Some(known) if !self.kinds.contains(known) => self.kinds.push(known),
                Some(_) => {}
                None => {
                    let possible = possible.join(", ");
                    let message =
                        format!("routes of kind {:?} are not supported here, only {possible}", kind.kind);
                    self.invalid_kinds.push(Problem::new("InvalidRouteKinds", message));
                }
            }
        }
    }

    /// True if it gets connections. Its certificates may be missing: they can come on their own.
    pub(super) fn is_served(&self) -> bool {
        self.protocol.is_some() && self.refused.is_empty() && self.conflicts.is_empty()
    }

    /// True if it can do its work.
    pub(super) fn is_working(&self) -> bool {
        self.is_served() && self.unresolved.is_empty()
    }

    /// True if there is nothing to be said against it.
    pub(super) fn is_fine(&self) -> bool {
        self.is_working() && self.invalid_kinds.is_empty() && self.unresolved_authorities.is_empty()
    }

    /// True if routes of this namespace may attach.
    pub(super) fn allows(&self, resources: &ResourceSet, namespace: &str) -> bool {
        let namespaces = self.spec.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        selects(resources, namespaces, FromNamespaces::Same, &self.owner.key.namespace, namespace)
    }

    /// What serves, once every route is attached. Takes the routes. None if it is not served.
    pub(super) fn finish(
        &mut self,
        gateway: &ObjectKey,
        shown: &ShownCertificate,
        tables: &mut RouteTables,
    ) -> Option<Arc<Listener>> {
        let protocol = self.protocol.filter(|_| self.is_served())?;
        Some(Arc::new(Listener {
            gateway: gateway.to_string().into(),
            set: (!self.owner.is_gateway()).then(|| self.owner.key.to_string().into()),
            name: self.spec.name.as_str().into(),
            hostname: self.pattern.text().map(Into::into),
            protocol,
            certificates: self.certificates.clone(),
            clients: self.clients.clone(),
            pattern: self.pattern.clone(),
            routes: tables.share(std::mem::take(&mut self.entries)),
            streams: Arc::new(self.take_streams()),
            shown: shown.clone(),
        }))
    }

    /// `blocked`: why nothing of the Gateway serves.
    pub(super) fn status(&self, generation: i64, blocked: Option<&Problem>) -> Value {
        let mut conditions = Conditions::new(generation);
        match (self.refused.first(), self.conflicts.first()) {
            (None, None) => conditions.add("Accepted", "True", "Accepted", ""),
            (Some(_), _) => conditions.good("Accepted", &self.refused),
            (None, Some(first)) => {
                conditions.add("Accepted", "False", self.in_conflict(first), messages(&self.conflicts));
            }
        }
        match self.conflicts.first() {
            Some(first) => conditions.add("Conflicted", "True", first.reason, messages(&self.conflicts)),
            None => conditions.add("Conflicted", "False", "NoConflicts", ""),
        }
        let unresolved = [&self.invalid_kinds, &self.unresolved, &self.unresolved_authorities];
        let unresolved: Vec<Problem> = unresolved.into_iter().flatten().cloned().collect();
        conditions.good("ResolvedRefs", &unresolved);
        match (blocked, self.conflicts.first()) {
            (None, _) if self.is_working() && self.awaits_certificate => {
                conditions.add(
                    "Programmed",
                    "False",
                    "Pending",
                    "its certificate is ordered, and not there yet",
                );
            }
            (None, _) if self.is_working() => conditions.add("Programmed", "True", "Programmed", ""),
            (None, Some(first)) => {
                conditions.add("Programmed", "False", self.in_conflict(first), messages(&self.conflicts));
            }
            (Some(problem), _) => conditions.add("Programmed", "False", "Invalid", problem.message.as_str()),
            (None, None) => {
                conditions.add("Programmed", "False", "Invalid", "what it needs is not valid, or not there");
            }
        }
        if !self.overlaps.is_empty() {
            let message = format!(
                "some names lead here and to {}: a client that reuses its connection for another name gets 421",
                self.overlaps.join(", ")
            );
            conditions.add("OverlappingTLSConfig", "True", "OverlappingHostnames", message);
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

    /// The reason of `Accepted` and `Programmed` for a conflict: a Gateway's own listeners are all `Invalid`, one of a
    /// ListenerSet lost against an earlier one.
    fn in_conflict(&self, conflict: &Problem) -> &'static str {
        if self.owner.is_gateway() { "Invalid" } else { conflict.reason }
    }
}

/// True if `namespace` is one of those that the owner in namespace `own` admits.
pub(super) fn selects(
    resources: &ResourceSet,
    namespaces: Option<&RouteNamespaces>,
    default: FromNamespaces,
    own: &str,
    namespace: &str,
) -> bool {
    match namespaces.and_then(|n| n.from).unwrap_or(default) {
        FromNamespaces::All => true,
        FromNamespaces::Same => own == namespace,
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

fn is_there(resources: &ResourceSet, secret: &str) -> bool {
    let (namespace, name) = secret.split_once('/').unwrap_or_default();
    resources.secrets.contains_key(&ObjectKey::new(namespace, name))
}
