//! The rules of one host, indexed by path.

use super::{Entry, RequestHead, Rule, Trace};
use crate::decide::{hash::NameMap, matcher::PathMatch};

/// What is attached for one host, in the order of the hostnames that its routes name themselves. Only a listener for
/// fewer hosts than its routes has more than one group.
#[derive(Debug)]
pub(crate) struct Host(Box<[Hosts]>);

impl Host {
    /// Sorts and indexes entries.
    pub(super) fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| (&a.own, a.precedence()).cmp(&(&b.own, b.precedence())));
        let groups = entries.chunk_by(|a, b| a.own == b.own);
        Self(groups.map(|group| Hosts::new(group.to_vec())).collect())
    }

    /// The first entry that matches.
    pub(super) fn find<T: Trace>(&self, host: &str, head: &RequestHead<'_>, trace: &mut T) -> Option<&Entry> {
        self.0.iter().find_map(|group| group.find(host, head, trace))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().flat_map(|group| group.entries.iter())
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().flat_map(|group| group.entries.iter().map(|entry| &*entry.rule))
    }
}

/// Entries of one host in their order of precedence, and indexes into it by path. The cost of a lookup grows with the
/// depth of the deepest configured prefix and the number of expressions, not with the number of routes.
#[derive(Debug, Default)]
struct Hosts {
    entries: Box<[Entry]>,
    exact: NameMap<Box<str>, Vec<usize>>,
    /// By prefix without trailing slash.
    prefix: NameMap<Box<str>, Vec<usize>>,
    /// Most slashes in any prefix: a path is not tried deeper than that, however many slashes it has.
    deepest: usize,
    regex: Vec<usize>,
}

impl Hosts {
    /// Indexes entries that are sorted by precedence.
    fn new(entries: Vec<Entry>) -> Self {
        let mut hosts = Self::default();
        for (at, entry) in entries.iter().enumerate() {
            match &entry.matches.path {
                PathMatch::Exact(path) => hosts.exact.entry(path.clone()).or_default().push(at),
                PathMatch::Prefix(prefix) => {
                    hosts.deepest = hosts.deepest.max(prefix.matches('/').count());
                    hosts.prefix.entry(prefix.clone()).or_default().push(at);
                }
                PathMatch::Regex(_) => hosts.regex.push(at),
            }
        }
        hosts.entries = entries.into();
        hosts
    }

    /// The first entry that matches.
    fn find<T: Trace>(&self, host: &str, head: &RequestHead<'_>, trace: &mut T) -> Option<&Entry> {
        let found = self.look_up(head);
        if T::ON {
            trace.place("host", || host.to_string());
            let before = found.unwrap_or(self.entries.len());
            for entry in self.entries.iter().take(before) {
                if let Err(mismatch) = entry.matches.check(head) {
                    trace.lost(|| entry.describe(), mismatch);
                }
            }
        }
        found.and_then(|at| self.entries.get(at))
    }

    fn look_up(&self, head: &RequestHead<'_>) -> Option<usize> {
        let first = |list: &Vec<usize>| list.iter().copied().find(|at| self.rest_matches(*at, head));
        if let Some(found) = self.exact.get(head.path).and_then(first) {
            return Some(found);
        }
        let mut candidate = Some(clip_depth(head.path, self.deepest));
        while let Some(path) = candidate {
            if let Some(found) = self.prefix.get(path).and_then(first) {
                return Some(found);
            }
            candidate = match path.rsplit_once('/') {
                Some((parent, _)) => Some(parent),
                // `*` of `OPTIONS *` has no slash, and still every path begins with the empty prefix.
                None => (!path.is_empty()).then_some(""),
            };
        }
        self.regex
            .iter()
            .copied()
            .find(|at| self.entries.get(*at).is_some_and(|entry| entry.matches.check(head).is_ok()))
    }

    fn rest_matches(&self, at: usize, head: &RequestHead<'_>) -> bool {
        self.entries.get(at).is_some_and(|entry| entry.matches.check_rest(head).is_ok())
    }
}

/// The part of the path before its slash number `depth + 1`.
fn clip_depth(path: &str, depth: usize) -> &str {
    match path.match_indices('/').nth(depth) {
        Some((at, _)) => path.get(..at).unwrap_or(path),
        None => path,
    }
}
