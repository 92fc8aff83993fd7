//! TLSRoutes and TCPRoutes, and what listeners of each protocol take.

use std::sync::Arc;

use super::{
    listeners::ListenerDraft,
    refs::{Referrer, by_age, find_backend},
    status::Problem,
};
use crate::{
    decide::{
        ListenerProtocol,
        host::HostPattern,
        rule::{Invalid, Target, Weighted},
        stream::{StreamRoute, StreamTable},
    },
    resources::{
        ObjectKey, ResourceSet,
        kinds::{ListenerSpec, ParentRef, StreamRule, TlsMode},
    },
};

/// What a listener speaks, or why none of it is spoken here.
pub(super) fn protocol_of(spec: &ListenerSpec) -> Result<ListenerProtocol, Problem> {
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode).unwrap_or(TlsMode::Terminate);
    match (spec.protocol.as_str(), mode) {
        ("HTTP", _) => Ok(ListenerProtocol::Http),
        ("HTTPS", TlsMode::Terminate) => Ok(ListenerProtocol::Https),
        ("HTTPS", TlsMode::Passthrough) => {
            let message = "an HTTPS listener terminates TLS: mode Passthrough is for protocol TLS";
            Err(Problem::new("UnsupportedValue", message))
        }
        ("TLS", TlsMode::Terminate) => Ok(ListenerProtocol::TlsTerminate),
        ("TLS", TlsMode::Passthrough) => Ok(ListenerProtocol::TlsPassthrough),
        ("TCP", _) => Ok(ListenerProtocol::Tcp),
        (other, _) => {
            let message = format!("protocol {other:?} is not supported, only HTTP, HTTPS, TLS and TCP");
            Err(Problem::new("UnsupportedProtocol", message))
        }
    }
}

impl ListenerProtocol {
    /// Kinds of routes of the Gateway API's group that may attach, if `allowedRoutes` names no others.
    pub(super) fn route_kinds(self) -> &'static [&'static str] {
        match self {
            Self::Http | Self::Https => &["HTTPRoute", "GRPCRoute"],
            Self::TlsPassthrough => &["TLSRoute"],
            Self::TlsTerminate => &["TLSRoute", "TCPRoute"],
            Self::Tcp => &["TCPRoute"],
        }
    }

    /// As users write it, with the mode where there are two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::TlsPassthrough => "TLS (Passthrough)",
            Self::TlsTerminate => "TLS (Terminate)",
            Self::Tcp => "TCP",
        }
    }

    /// Listeners can share a port if the first bytes of a connection tell them apart: those that begin with a ClientHello
    /// by its server name, those for plain HTTP by their host.
    pub(super) fn shares_port_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::Http, Self::Http) | (Self::Tcp, Self::Tcp) => true,
            (this, other) => this.begins_with_tls() && other.begins_with_tls(),
        }
    }

    /// True if certificates are needed.
    pub(super) fn needs_certificates(self) -> bool {
        matches!(self, Self::Https | Self::TlsTerminate)
    }
}

/// A TLSRoute or TCPRoute, ready to be attached.
pub(super) struct StreamRules {
    pub(super) route: Arc<StreamRoute>,
    /// References that lead nowhere: ResolvedRefs.
    pub(super) unresolved: Vec<Problem>,
    /// What is not carried out: PartiallyInvalid.
    pub(super) unsupported: Vec<Problem>,
}

/// One route of either kind, with what attaching needs of it.
pub(super) struct StreamSource<'a> {
    pub(super) kind: &'static str,
    pub(super) key: &'a ObjectKey,
    pub(super) generation: i64,
    pub(super) parents: &'a [ParentRef],
    pub(super) hosts: Vec<HostPattern>,
    pub(super) rules: StreamRules,
}

/// All routes of both kinds in their order of precedence at one hostname: TLSRoutes before TCPRoutes, then the oldest.
pub(super) fn sources(resources: &ResourceSet) -> Vec<StreamSource<'_>> {
    let mut out = Vec::new();
    for (key, route) in by_age(&resources.tls_routes) {
        let hosts = match route.spec.hostnames.as_slice() {
            [] => vec![HostPattern::Any],
            hosts => hosts.iter().map(|host| HostPattern::parse(Some(host))).collect(),
        };
        out.push(StreamSource {
            kind: "TLSRoute",
            key,
            generation: route.meta.generation,
            parents: &route.spec.parent_refs,
            hosts,
            rules: compile(resources, "TLSRoute", key, &route.spec.rules),
        });
    }
    for (key, route) in by_age(&resources.tcp_routes) {
        out.push(StreamSource {
            kind: "TCPRoute",
            key,
            generation: route.meta.generation,
            parents: &route.spec.parent_refs,
            hosts: vec![HostPattern::Any],
            rules: compile(resources, "TCPRoute", key, &route.spec.rules),
        });
    }
    out
}

fn compile(
    resources: &ResourceSet,
    kind: &'static str,
    key: &ObjectKey,
    rules: &[StreamRule],
) -> StreamRules {
    let from = Referrer { group: super::refs::GATEWAY_GROUP, kind, namespace: &key.namespace };
    let mut unresolved = Vec::new();
    let rule = rules.first();
    let references = rule.map(|rule| rule.backend_refs.as_slice()).unwrap_or_default();
    let targets = references.iter().map(|reference| {
        let target = find_backend(resources, from, reference)
            .map(|found| Arc::new(Target::plain(found.backend, found.protocol)));
        let target = target.map_err(|problem| {
            unresolved.push(problem);
            Invalid
        });
        (reference.weight.unwrap_or(1), target)
    });
    let backends = Weighted::new(targets.collect::<Vec<_>>());
    let ignored = (rules.len() > 1).then(|| {
        let message = "only the first rule is used, as nothing tells the rules apart";
        Problem::new("UnsupportedValue", message)
    });
    let route = StreamRoute {
        route: format!("{}/{key}", kind.to_ascii_lowercase()).into(),
        rule: rule.and_then(|rule| rule.name.as_deref()).unwrap_or("0").into(),
        backends,
    };
    StreamRules { route: Arc::new(route), unresolved, unsupported: ignored.into_iter().collect() }
}

impl ListenerDraft<'_> {
    /// Takes over a raw route, for those of its hostnames that it shares with the listener.
    pub(super) fn add_stream(&mut self, hosts: &[HostPattern], rules: &StreamRules) {
        for own in hosts {
            if let Some(host) = own.intersect(&self.pattern) {
                self.streams.push((own.clone(), host, rules.route.clone()));
            }
        }
    }

    /// The table of all raw routes, which are taken out. Of two that share the same host with the listener, the one whose
    /// own hostname is the more specific comes first, and only then the older one.
    pub(super) fn take_streams(&mut self) -> StreamTable {
        let mut streams = std::mem::take(&mut self.streams);
        streams.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        StreamTable::new(streams.into_iter().map(|(_, host, route)| (host, route)))
    }
}
