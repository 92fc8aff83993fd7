//! Listeners that cannot be told apart, and those that can but confuse their clients.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{gateways::GatewayDraft, listeners::ListenerDraft, status::Problem};
use crate::{
    decide::{ClientValidation, ListenerProtocol, host::HostPattern},
    resources::ObjectKey,
};

/// What tells a listener from others.
type Place = (u16, HostPattern, ListenerProtocol);

fn place(l: &ListenerDraft<'_>) -> Option<Place> {
    Some((l.spec.port, l.pattern.clone(), l.protocol?))
}

/// Listeners of one Gateway that cannot be told apart: none of them is accepted (Gateway API, "distinct listeners").
pub(super) fn within(listeners: &mut [ListenerDraft<'_>]) {
    let all: Vec<Option<Place>> = listeners.iter().map(place).collect();
    for (at, l) in listeners.iter_mut().enumerate() {
        let Some((port, pattern, protocol)) = place(l) else { continue };
        let others = all.iter().enumerate().filter(|(other, _)| *other != at).filter_map(|(_, o)| o.as_ref());
        let (mut clash, mut same) = (None, false);
        for (_, other, speaks) in others.filter(|(p, ..)| *p == port) {
            if !protocol.shares_port_with(*speaks) || (*other == pattern && protocol != *speaks) {
                clash = Some(*speaks);
            }
            same |= *other == pattern;
        }
        if let Some(other) = clash {
            let message = format!(
                "listeners for {} and {} cannot share port {port} here",
                protocol.name(),
                other.name()
            );
            l.conflicts.push(Problem::new("ProtocolConflict", message));
        } else if same {
            l.conflicts.push(same_host(port, &pattern));
        }
    }
}

fn same_host(port: u16, pattern: &HostPattern) -> Problem {
    Problem::new("HostnameConflict", format!("more than one listener has port {port} and hostname {pattern}"))
}

/// A ListenerSet's listener against all that come before it in precedence: the earlier one stays (Gateway API
/// ListenerSet.spec.listeners). Says nothing of the others, which may be somebody else's.
pub(super) fn with_earlier(earlier: &[ListenerDraft<'_>], l: &mut ListenerDraft<'_>) {
    let Some((port, pattern, protocol)) = place(l) else { return };
    let others = earlier.iter().filter(|other| other.is_served()).filter_map(place);
    for (_, other, speaks) in others.filter(|(p, ..)| *p == port) {
        // A listener of another protocol that is for every host is not to lose some of them.
        let takes_from = protocol != speaks && other == HostPattern::Any;
        if !protocol.shares_port_with(speaks) || takes_from || (other == pattern && protocol != speaks) {
            let message = format!("port {port} speaks {} already", speaks.name());
            l.conflicts.push(Problem::new("ProtocolConflict", message));
            return;
        }
        if other == pattern {
            l.conflicts.push(same_host(port, &pattern));
            return;
        }
    }
}

/// Gateways that name the same address have to speak the same on each port, and to end TLS for a hostname with the same
/// certificates and the same trust in clients, as there is one handshake for both; the oldest decides, so that a new one
/// cannot break it.
pub(super) fn over_addresses(drafts: &mut [GatewayDraft<'_>]) {
    let mut sockets: BTreeMap<(IpAddr, u16), (ListenerProtocol, String)> = BTreeMap::new();
    let mut ends: BTreeMap<(IpAddr, u16, HostPattern), TlsEnd> = BTreeMap::new();
    for draft in drafts.iter_mut().filter(|draft| draft.serves()) {
        for l in draft.listeners.iter_mut().filter(|l| l.is_served()) {
            let Some(ours) = l.protocol else { continue };
            for address in &draft.addresses.named {
                let (theirs, owner) =
                    sockets.entry((*address, l.spec.port)).or_insert_with(|| (ours, draft.key.to_string()));
                if !theirs.shares_port_with(ours) {
                    let (port, theirs) = (l.spec.port, theirs.name());
                    let message = format!("port {port} speaks {theirs} for the older Gateway {owner}");
                    l.conflicts.push(Problem::new("ProtocolConflict", message));
                    break;
                }
                let Some(end) = TlsEnd::of(draft.key, l) else { continue };
                let older =
                    ends.entry((*address, l.spec.port, l.pattern.clone())).or_insert_with(|| end.clone());
                if !older.serves_for(&end) {
                    let (port, host, owner) = (l.spec.port, &l.pattern, &older.gateway);
                    let message = format!(
                        "the older Gateway {owner} ends TLS on {address}, port {port}, for hostname {host} with other \
                         certificates, or trusts other clients"
                    );
                    l.conflicts.push(Problem::new("HostnameConflict", message));
                    break;
                }
            }
        }
    }
}

/// What a handshake for one hostname is made with.
#[derive(Clone)]
struct TlsEnd {
    gateway: String,
    protocol: ListenerProtocol,
    certificates: Vec<Arc<str>>,
    clients: Option<ClientValidation>,
}

impl TlsEnd {
    /// None where no handshake is made.
    fn of(gateway: &ObjectKey, l: &ListenerDraft<'_>) -> Option<Self> {
        let protocol = l.protocol.filter(|protocol| protocol.needs_certificates() && l.is_working())?;
        let (certificates, clients) = (l.certificates.clone(), l.clients.clone());
        Some(Self { gateway: gateway.to_string(), protocol, certificates, clients })
    }

    /// True if what this one shows and asks for is what the other would have.
    fn serves_for(&self, other: &Self) -> bool {
        (self.protocol, &self.certificates, &self.clients)
            == (other.protocol, &other.certificates, &other.clients)
    }
}

/// Notes listeners of one Gateway that end TLS on the same port for some of the same names (GEP-3567): a client may
/// take its connection to one for names of the other.
pub(super) fn overlaps(listeners: &mut [ListenerDraft<'_>]) {
    let of = |l: &ListenerDraft<'_>| {
        let ends_tls = l.is_served() && l.protocol.is_some_and(ListenerProtocol::needs_certificates);
        ends_tls.then(|| (l.spec.port, l.pattern.clone(), l.owner.is_gateway(), l.spec.name.clone()))
    };
    let all: Vec<_> = listeners.iter().map(of).collect();
    for (at, l) in listeners.iter_mut().enumerate() {
        let Some(Some((port, pattern, ..))) = all.get(at) else { continue };
        let others = all.iter().enumerate().filter(|(other, _)| *other != at).filter_map(|(_, o)| o.as_ref());
        for (_, _, is_gateways, name) in
            others.filter(|(p, other, ..)| p == port && other.intersect(pattern).is_some())
        {
            // What stands in others' ListenerSets is theirs to know.
            let name = if *is_gateways { name.as_str() } else { "a listener of a ListenerSet" };
            if !l.overlaps.iter().any(|known| known == name) {
                l.overlaps.push(name.to_owned());
            }
        }
    }
}
