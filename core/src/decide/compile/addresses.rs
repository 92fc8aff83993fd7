//! Where Gateways listen.
//!
//! A Gateway without an address listens where the process does (`--address`). Several such Gateways with a port in
//! common share its socket; so that each can be reached for itself, each also gets a loopback address of its own, which
//! its status shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use super::{gateways::GatewayDraft, status::Problem};
use crate::{
    decide::{BindKey, ListenerProtocol},
    resources::{Object, ObjectKey, kinds::Gateway},
};

/// The addresses of one Gateway.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// As its document names them, each once.
    pub(super) named: Vec<IpAddr>,
    /// True if at least one is to be chosen.
    pub(super) floating: bool,
    /// The loopback address that was chosen, if it needs one.
    pub(super) own: Option<IpAddr>,
}

impl Addresses {
    /// From a document, with what is wrong in it.
    pub(super) fn read(gateway: &Object<Gateway>) -> (Self, Vec<Problem>) {
        let mut out = Self { floating: gateway.spec.addresses.is_empty(), ..Self::default() };
        let mut problems = Vec::new();
        for address in &gateway.spec.addresses {
            let kind = address.r#type.as_deref().unwrap_or("IPAddress");
            match (kind, address.value.as_deref().filter(|value| !value.is_empty())) {
                ("IPAddress", None) => out.floating = true,
                ("IPAddress", Some(value)) => match value.parse() {
                    Ok(ip) if !out.named.contains(&ip) => out.named.push(ip),
                    Ok(_) => {}
                    Err(_) => problems
                        .push(Problem::new("UnsupportedAddress", format!("{value:?} is not an IP address"))),
                },
                (other, _) => {
                    let message = format!("addresses of type {other} are not supported, only IPAddress");
                    problems.push(Problem::new("UnsupportedAddress", message));
                }
            }
        }
        (out, problems)
    }

    /// What its status shows: an own address where it has one, else where the process listens (none: everywhere).
    pub(super) fn shown(&self, process: Option<IpAddr>) -> Vec<IpAddr> {
        let chosen = self.floating.then(|| self.own.or(process).unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
        self.named.iter().copied().chain(chosen).collect()
    }

    /// The sockets of a port.
    pub(super) fn keys(&self, port: u16, on_shared_socket: bool) -> impl Iterator<Item = BindKey> {
        let shared = (self.floating && on_shared_socket).then_some(None);
        let named = self.named.iter().copied().chain(self.own).map(Some);
        named.chain(shared).map(move |address| BindKey { address, port })
    }
}

/// Chooses addresses for Gateways that have none, the oldest first, and who is on the sockets that they share.
pub(super) fn choose(drafts: &mut [GatewayDraft<'_>]) {
    let named: BTreeSet<(IpAddr, u16)> = drafts
        .iter()
        .filter(|draft| draft.serves())
        .flat_map(|draft| draft.addresses.named.iter().flat_map(|ip| draft.ports().map(|port| (*ip, port))))
        .collect();
    let mut users: BTreeMap<u16, usize> = BTreeMap::new();
    for draft in drafts.iter().filter(|draft| draft.serves() && draft.addresses.floating) {
        for port in draft.ports() {
            *users.entry(port).or_default() += 1;
        }
    }
    let everywhere = |port: u16| named.iter().any(|(ip, p)| *p == port && ip.is_unspecified());
    let on_loopback = |port: u16| named.contains(&(Ipv4Addr::LOCALHOST.into(), port));
    let is_shared = |port: u16| users.get(&port).is_some_and(|count| *count > 1);
    let mut taken: BTreeSet<IpAddr> = named.iter().map(|(ip, _)| *ip).collect();
    let mut speaks: BTreeMap<u16, ListenerProtocol> = BTreeMap::new();
    for draft in drafts.iter_mut().filter(|draft| draft.serves() && draft.addresses.floating) {
        if draft.ports().any(|port| is_shared(port) || everywhere(port) || on_loopback(port)) {
            let own = own_address(draft.key, &taken);
            taken.insert(own);
            draft.addresses.own = Some(own);
        }
        for l in draft.listeners.iter_mut().filter(|l| l.is_served()) {
            let Some(protocol) = l.protocol else { continue };
            // A Gateway that names every address has that socket for itself; on one that is shared, the oldest
            // Gateway says what is spoken. Its own address is left to each.
            let fits = speaks.entry(l.spec.port).or_insert(protocol).shares_port_with(protocol);
            l.on_shared_socket = fits && !everywhere(l.spec.port);
        }
    }
}

/// Own addresses come from 127.128.0.0/9; it stays the same as long as nobody else has taken it.
const FIRST: u32 = u32::from_be_bytes([127, 128, 0, 1]);
/// Neither its first nor its last address is used.
const COUNT: u32 = (1 << 23) - 2;

/// By the hash of the Gateway's name; the next one that is free where that is taken.
fn own_address(key: &ObjectKey, taken: &BTreeSet<IpAddr>) -> IpAddr {
    let hash = xxhash_rust::xxh3::xxh3_64(key.to_string().as_bytes());
    let start = u32::try_from(hash % u64::from(COUNT)).unwrap_or_default();
    let nth = |n: u32| IpAddr::from(Ipv4Addr::from(FIRST + (start + n) % COUNT));
    // There are far fewer Gateways than addresses: with so many tries one of them is free.
    let tries = u32::try_from(taken.len()).unwrap_or(COUNT - 1).min(COUNT - 1);
    (0..=tries).map(nth).find(|ip| !taken.contains(ip)).unwrap_or_else(|| nth(0))
}
