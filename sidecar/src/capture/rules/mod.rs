//! What of a machine's or pod's traffic goes through its sidecar, as rules of the kernel's packet filter. Pure: from
//! options to the steps that put the rules in force or take them out of it.

mod iptables;
mod nft;
mod step;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeSet;

use tombolo_core::decide::Cidr;

pub use step::Step;

/// Where redirected traffic arrives, and what is redirected.
///
/// What the sidecar itself sends is recognised by its user, its group, or a mark on its packets; without any of them it
/// would be captured as well, and go round for ever, so that [`Rules::check`] asks for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Users whose traffic is left alone: names or numbers.
    pub users: BTreeSet<String>,
    /// Groups whose traffic is left alone: names or numbers.
    pub groups: BTreeSet<String>,
    /// Packets with this mark are left alone.
    pub mark: Option<u32>,
    /// Where outbound TCP is sent; none: it is left alone.
    pub outbound: Option<u16>,
    /// Where questions to DNS servers (port 53, UDP and TCP) are sent, whoever they are for; none: left alone.
    pub dns: Option<u16>,
    /// Where inbound TCP is sent; none: it is left alone.
    pub inbound: Option<u16>,
    /// Ports of other machines that are left alone.
    pub outbound_ports: BTreeSet<u16>,
    /// Ports of this machine that are left alone; the one where mesh traffic comes in has to be among them.
    pub inbound_ports: BTreeSet<u16>,
    /// Addresses of other machines that are left alone.
    pub ranges: Vec<Cidr>,
    /// IPv6 as well; without it, only IPv4 is captured.
    pub ipv6: bool,
}

/// Why there can be no rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// The sidecar's own traffic would be captured.
    #[error(
        "the sidecar's own traffic would be sent to itself: say by which user (--user), group (--group) or mark (--mark) it is known"
    )]
    NobodyExcepted,
    /// Not a name that a system gives to users and groups.
    #[error("{0:?} is not the name or number of a user or group")]
    Name(String),
    /// There is nothing to do.
    #[error("nothing is to be captured: leave out one of --no-outbound, --no-inbound and --no-dns")]
    Nothing,
}

/// The program that puts rules in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// `nft`, from 0.9.3 on (nat chains in the inet family), Linux 5.2.
    Nftables,
    /// `iptables` and `ip6tables`.
    Iptables,
}

impl Rules {
    /// Checks what would do harm.
    pub fn check(&self) -> Result<(), RulesError> {
        if self.outbound.or(self.dns).or(self.inbound).is_none() {
            return Err(RulesError::Nothing);
        }
        if let Some(name) = self.users.iter().chain(&self.groups).find(|name| !is_name(name)) {
            return Err(RulesError::Name(name.clone()));
        }
        let outgoing = self.outbound.or(self.dns).is_some();
        if outgoing && self.users.is_empty() && self.groups.is_empty() && self.mark.is_none() {
            return Err(RulesError::NobodyExcepted);
        }
        Ok(())
    }

    /// The steps that put these rules in force by `filter`, in place of those that are in force; `installed` are the programs
    /// by which there may be some. What they leave over, another program's or for IPv6, is taken away once the new ones are
    /// in force, so that nothing goes past the sidecar meanwhile.
    pub fn install(&self, filter: Filter, installed: &[Filter], has_ipv6: bool) -> Vec<Step> {
        let other = |other: Filter| filter != other && installed.contains(&other);
        let mut steps = match filter {
            Filter::Nftables => vec![nft::load(nft::install(self))],
            Filter::Iptables => iptables::install(self),
        };
        if filter == Filter::Iptables && has_ipv6 && !self.ipv6 {
            steps.extend(iptables::undo_ipv6());
        }
        if other(Filter::Iptables) {
            steps.extend(iptables::undo(has_ipv6));
        }
        if other(Filter::Nftables) {
            steps.push(nft::try_undo());
        }
        steps
    }

    /// The steps that take out of force whatever an earlier [`Rules::install`] has put there.
    pub fn undo(filter: Filter, ipv6: bool) -> Vec<Step> {
        match filter {
            Filter::Nftables => vec![nft::load(nft::UNDO.to_string())],
            Filter::Iptables => iptables::undo(ipv6),
        }
    }
}

/// A name or number of a user or group: it becomes a word of a ruleset.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && text.len() <= 32 && text.bytes().all(inner)
}
