//! Client connections under a policy, counted.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use dashmap::DashMap;

use crate::decide::ConnectionLimit;

/// Policies that are counted; at the bound those that nobody holds a place of are forgotten.
const POLICIES: usize = 1024;

/// Connections of each policy, in an engine.
#[derive(Default)]
pub(super) struct Counts(DashMap<Arc<str>, Arc<AtomicU32>>);

/// The places that one connection holds, given back when it ends.
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
    /// True if the connection has a place under this policy, or there was one left to take.
    pub fn admit(&self, limit: &ConnectionLimit, connection: &Places) -> bool {
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
        let limit = |policy: &str, most| ConnectionLimit { policy: policy.into(), most };
        let (one, two) = (Places::default(), Places::default());
        assert!(counts.admit(&limit("a/p", 1), &one) && counts.admit(&limit("a/p", 1), &one));
        assert!(!counts.admit(&limit("a/p", 1), &two));
        assert!(counts.admit(&limit("a/other", 1), &two));
        assert!(counts.admit(&limit("a/p", 2), &two), "the bound may be changed");
        drop(one);
        assert!(counts.admit(&limit("a/p", 2), &Places::default()));
    }
}
