//! Header edits: applying them, and putting a rule's and a backend's together.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Filters, HeaderEdits, Rewrite};

impl HeaderEdits {
    /// True if nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Changes headers: set, then add, then remove.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// The edits that do what `self` and then `later` do.
    pub(crate) fn then(&self, later: &Self) -> Self {
        let mut out = Self { set: Vec::new(), add: Vec::new(), remove: later.remove.clone() };
        let mut names: Vec<&HeaderName> = Vec::new();
        for edits in [self, later] {
            for name in edits.names() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        for name in names.into_iter().filter(|name| !later.remove.contains(*name)) {
            let removed_before = self.remove.contains(name);
            // The last `set` of a name counts, as in `apply`.
            let set = last(&later.set, name).or_else(|| last(&self.set, name).filter(|_| !removed_before));
            let keeps_first_adds = last(&later.set, name).is_none() && !removed_before;
            let adds =
                self.add.iter().filter(|_| keeps_first_adds).chain(&later.add).filter(|(n, _)| n == name);
            let mut adds = adds.cloned();
            match set {
                Some(value) => out.set.push((name.clone(), value.clone())),
                // What was removed before and added after is, in one step, set.
                None if removed_before => match adds.next() {
                    Some(first) => out.set.push(first),
                    None => out.remove.push(name.clone()),
                },
                None => {}
            }
            out.add.extend(adds);
        }
        out
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove)
    }
}

fn last<'a>(edits: &'a [(HeaderName, HeaderValue)], name: &HeaderName) -> Option<&'a HeaderValue> {
    edits.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value)
}

impl Filters {
    /// A rule's filters followed by a backendRef's; of two rewrites of the same part the backend's counts.
    pub(crate) fn then(&self, later: &Self) -> Self {
        Self {
            request: self.request.then(&later.request),
            response: self.response.then(&later.response),
            rewrite: Rewrite {
                hostname: later.rewrite.hostname.clone().or_else(|| self.rewrite.hostname.clone()),
                path: later.rewrite.path.clone().or_else(|| self.rewrite.path.clone()),
            },
            cors: later.cors.clone().or_else(|| self.cors.clone()),
            external_auth: later.external_auth.clone().or_else(|| self.external_auth.clone()),
        }
    }

    /// True if nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty()
            && self.response.is_empty()
            && self.rewrite == Rewrite::default()
            && self.cors.is_none()
            && self.external_auth.is_none()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edit() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
        ("x-[ab]", "[0-9]").prop_map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
    }

    fn edits() -> impl Strategy<Value = HeaderEdits> {
        let list = || prop::collection::vec(edit(), 0..3);
        (list(), list(), list()).prop_map(|(set, add, remove)| HeaderEdits {
            set,
            add,
            remove: remove.into_iter().map(|(name, _)| name).collect(),
        })
    }

    proptest! {
        #[test]
        fn two_edits_in_one_do_what_they_do_one_after_the_other(
            first in edits(), second in edits(), start in prop::collection::vec(edit(), 0..4),
        ) {
            let mut one_by_one: HeaderMap = HeaderMap::new();
            for (name, value) in start {
                one_by_one.append(name, value);
            }
            let mut at_once = one_by_one.clone();
            first.apply(&mut one_by_one);
            second.apply(&mut one_by_one);
            first.then(&second).apply(&mut at_once);
            prop_assert_eq!(one_by_one, at_once);
        }
    }
}
