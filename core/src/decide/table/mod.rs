//! The route table: from host and request to the rule that answers, by the Gateway API's precedence.
//!
//! The order of candidates is that of `HTTPRouteSpec.hostnames` and `HTTPRouteRule.matches`: an exact host before
//! wildcards, a longer wildcard before a shorter; then exact path, longest path prefix, regular expression (whose place
//! the specification leaves open), method, number of headers, number of query parameters; ties go to the oldest
//! route, then `NAMESPACE/NAME`, then the order of rules and of matches. A host's precedence is a preference, not a
//! fence: where no rule of an exact host matches, those of a wildcard that covers it are tried. What counts is the host
//! that the route itself names, not what is left of it at a listener for fewer hosts.

mod hosts;
mod shared;

use std::sync::Arc;

use hosts::Host;
pub(crate) use shared::RouteTables;

use super::{
    RequestHead, hash::NameMap, host::HostPattern, matcher::PathMatch, matcher::RequestMatch, rule::Rule,
    trace::Trace,
};

/// One match of one rule, attached for one host.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) matches: Arc<RequestMatch>,
    pub(crate) rule: Arc<Rule>,
    /// Position of the match in its rule.
    pub(crate) position: u16,
    /// The hostname of the route that it is attached by.
    pub(crate) own: HostPattern,
}

/// What decides between two matches of the same host; smaller is tried first.
type Precedence<'a> = (u8, usize, bool, usize, usize, i128, &'a str, u16, u16);

impl Entry {
    fn precedence(&self) -> Precedence<'_> {
        let m = &*self.matches;
        let (kind, length) = match &m.path {
            PathMatch::Exact(_) => (0, 0),
            PathMatch::Prefix(prefix) => (1, usize::MAX - prefix.len()),
            PathMatch::Regex(_) => (2, 0),
        };
        let fewer = |count: usize| usize::MAX - count;
        let origin = &self.rule.origin;
        let tie = (origin.created, &*origin.route, origin.position, self.position);
        (
            kind,
            length,
            m.method.is_none(),
            fewer(m.headers.len()),
            fewer(m.query.len()),
            tie.0,
            tie.1,
            tie.2,
            tie.3,
        )
    }

    fn describe(&self) -> String {
        let origin = &self.rule.origin;
        format!("{} rule {} match {} ({})", origin.route, origin.name, self.position, self.matches.path)
    }
}

/// The rules of one listener, or of one service of the mesh.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    exact: NameMap<Box<str>, Host>,
    /// By suffix with its dot.
    wildcard: NameMap<Box<str>, Host>,
    any: Option<Host>,
}

impl RouteTable {
    /// Sorts and indexes entries by host.
    pub(crate) fn new(entries: impl IntoIterator<Item = (HostPattern, Entry)>) -> Self {
        let mut by_host: std::collections::BTreeMap<HostPattern, Vec<Entry>> = Default::default();
        for (host, entry) in entries {
            by_host.entry(host).or_default().push(entry);
        }
        let mut table = Self::default();
        for (host, entries) in by_host {
            let hosts = Host::new(entries);
            match host {
                HostPattern::Exact(name) => drop(table.exact.insert((*name).into(), hosts)),
                HostPattern::Wildcard(suffix) => drop(table.wildcard.insert((*suffix).into(), hosts)),
                HostPattern::Any => table.any = Some(hosts),
            }
        }
        table
    }

    /// All rules, once for each of their matches and hosts.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.exact.values().chain(self.wildcard.values()).chain(&self.any).flat_map(Host::rules)
    }

    /// All entries, once for each of their hosts.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.exact.values().chain(self.wildcard.values()).chain(&self.any).flat_map(Host::entries)
    }

    /// The entry that answers a request for this host (normalized).
    pub(crate) fn find<T: Trace>(&self, host: &str, head: &RequestHead<'_>, trace: &mut T) -> Option<&Entry> {
        if let Some(found) = self.exact.get(host).and_then(|hosts| hosts.find(host, head, trace)) {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            // The first dot gives the longest suffix. A host that begins with a dot has nothing for `*` to stand for.
            for (at, _) in host.match_indices('.').filter(|(at, _)| *at > 0) {
                let suffix = host.get(at..).unwrap_or_default();
                if let Some(found) =
                    self.wildcard.get(suffix).and_then(|hosts| hosts.find(suffix, head, trace))
                {
                    return Some(found);
                }
            }
        }
        self.any.as_ref().and_then(|hosts| hosts.find("*", head, trace))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
