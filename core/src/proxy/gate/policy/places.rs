//! Client connections and requests under a policy, counted.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use dashmap::DashMap;

use crate::decide::{CountLimit, Policies};

/// The reason where a connection is one too many.
pub(super) const CONNECTIONS: &str = "policy_connections";
/// The reason where a request is one too many.
pub(super) const REQUESTS: &str = "policy_requests";
/// Policies that are counted; at the bound those that nobody holds a place of are forgotten.
const POLICIES: usize = 1024;

/// What an engine counts at a time, of HTTP and raw TCP together.
#[derive(Default)]
pub(in crate::proxy) struct Crowds {
    pub(super) connections: Counts,
    pub(super) requests: Counts,
}

impl Crowds {
    /// Places for a raw connection, which is a connection and a request; or why there is none.
    pub fn admit_tunnel(&self, policies: &Policies) -> Result<[Places; 2], &'static str> {
        let places = <[Places; 2]>::default();
        let [connection, request] = &places;
        if policies.connections().is_some_and(|limit| !self.connections.admit(limit, connection)) {
            return Err(CONNECTIONS);
        }
        if policies.requests().is_some_and(|limit| !self.requests.admit(limit, request)) {
            return Err(REQUESTS);
        }
        Ok(places)
    }
}

/// Connections or requests of each policy.
#[derive(Default)]
pub(super) struct Counts(DashMap<Arc<str>, Arc<AtomicU32>>);

/// The places that one connection or request holds, given back when it ends.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Places(Mutex<Vec<Place>>);

#[derive(Debug)]
struct Place {
    policy: Arc<str>,
    count: Arc<AtomicU32>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// True if the connection (or request) has a place under this policy, or there was one left to take.
    pub fn admit(&self, limit: &CountLimit, connection: &Places) -> bool {
        let mut places = connection.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.iter().any(|place| place.policy == limit.policy) {
            return true;
        }
        let count = self.count(&limit.policy);
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < limit.most).then_some(open.saturating_add(1))
        });
        if taken.is_ok() {
            places.push(Place { policy: limit.policy.clone(), count });
        }
        taken.is_ok()
    }

    fn count(&self, policy: &Arc<str>) -> Arc<AtomicU32> {
        if let Some(count) = self.0.get(policy) {
            return count.clone();
        }
        if self.0.len() >= POLICIES {
            self.0.retain(|_, count| count.load(Ordering::Relaxed) > 0);
        }
        self.0.entry(policy.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_one_place_and_gives_it_back() {
        let counts = Counts::default();
        let limit = |policy: &str, most| CountLimit { policy: policy.into(), most };
        let (one, two) = (Places::default(), Places::default());
        assert!(counts.admit(&limit("a/p", 1), &one) && counts.admit(&limit("a/p", 1), &one));
        assert!(!counts.admit(&limit("a/p", 1), &two));
        assert!(counts.admit(&limit("a/other", 1), &two));
        assert!(counts.admit(&limit("a/p", 2), &two), "the bound may be changed");
        drop(one);
        assert!(counts.admit(&limit("a/p", 2), &Places::default()));
    }
}
