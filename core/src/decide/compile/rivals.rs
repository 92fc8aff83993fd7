//! HTTPRoutes and GRPCRoutes do not share hosts at a listener: of two that would, the older one is accepted (Gateway API
//! `GRPCRouteSpec.hostnames`).

use std::{collections::HashMap, sync::Arc};

use crate::decide::host::HostPattern;

/// The hosts of a listener that routes of one kind have taken, each with the first such route.
#[derive(Debug, Default)]
pub(super) struct Taken {
    first: Option<Arc<str>>,
    any: Option<Arc<str>>,
    exact: HashMap<Arc<str>, Arc<str>>,
    /// By suffix with its dot.
    wildcard: HashMap<Arc<str>, Arc<str>>,
    /// By every suffix with its dot that some host ends with, so that a wildcard finds them without a search.
    below: HashMap<Box<str>, Arc<str>>,
}

impl Taken {
    /// Notes that a route has these hosts.
    pub(super) fn add(&mut self, route: &Arc<str>, hosts: impl IntoIterator<Item = HostPattern>) {
        self.first.get_or_insert_with(|| route.clone());
        for host in hosts {
            match host {
                HostPattern::Any => drop(self.any.get_or_insert_with(|| route.clone())),
                HostPattern::Exact(name) => {
                    self.add_below(route, &name);
                    self.exact.entry(name).or_insert_with(|| route.clone());
                }
                HostPattern::Wildcard(suffix) => {
                    self.add_below(route, &suffix);
                    self.wildcard.entry(suffix).or_insert_with(|| route.clone());
                }
            }
        }
    }

    fn add_below(&mut self, route: &Arc<str>, host: &str) {
        for suffix in suffixes(host) {
            self.below.entry(suffix.into()).or_insert_with(|| route.clone());
        }
    }

    /// A route that has some of these hosts.
    pub(super) fn by(&self, host: &HostPattern) -> Option<&Arc<str>> {
        let covers = |host: &str| suffixes(host).find_map(|suffix| self.wildcard.get(suffix));
        match host {
            HostPattern::Any => self.first.as_ref(),
            HostPattern::Exact(name) => self.exact.get(name).or_else(|| covers(name)).or(self.any.as_ref()),
            HostPattern::Wildcard(suffix) => {
                self.below.get(&**suffix).or_else(|| covers(suffix)).or(self.any.as_ref())
            }
        }
    }
}

/// The suffixes that begin with a dot and have something before them, and `host` itself where it is a wildcard's.
fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    let is_wildcards = host.starts_with('.');
    let dots = host.match_indices('.').filter(move |(at, _)| *at > 0 || is_wildcards);
    dots.filter_map(|(at, _)| host.get(at..))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 8] = ["*", "*.com", "*.a.com", "a.com", "b.a.com", "c.b.a.com", "com", "*.b.a.com"];

    #[test]
    fn a_host_is_taken_where_it_intersects_with_one_that_is() {
        for theirs in HOSTS.map(|host| HostPattern::parse(Some(host))) {
            let mut taken = Taken::default();
            taken.add(&"them".into(), [theirs.clone()]);
            for ours in HOSTS.map(|host| HostPattern::parse(Some(host))) {
                let expected = theirs.intersect(&ours).is_some();
                assert_eq!(taken.by(&ours).is_some(), expected, "{theirs} and {ours}");
            }
        }
        assert!(Taken::default().by(&HostPattern::Any).is_none());
    }
}
