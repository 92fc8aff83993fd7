//! How much of a service's traffic may be tries beyond the first, so that a service in trouble is not buried in them.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{
    decide::{Backend, RetryBudget},
    model::ServiceKey,
};

/// Requests are counted over windows of this length.
const WINDOW: Duration = Duration::from_secs(10);
/// Services are counted in so many places; where two share one, they share its budget.
const PLACES: usize = 256;

/// The budgets of one engine. Tries that the other side has certainly not begun with, such as those without a
/// connection, cost nothing.
pub(in crate::proxy) struct Budgets {
    origin: Instant,
    places: Box<[Place; PLACES]>,
}

#[derive(Default)]
struct Place {
    window: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { origin: Instant::now(), places: Box::new(std::array::from_fn(|_| Place::default())) }
    }
}

impl Budgets {
    /// Counts a request.
    pub fn request(&self, backend: &Backend, now: Instant) {
        if let Some(place) = self.place(backend, now) {
            place.requests.fetch_add(1, Relaxed);
        }
    }

    /// True if one more try is within the budget; it is taken from it. Otherwise what came is passed on as it is.
    pub fn retry(&self, backend: &Backend, budget: RetryBudget, now: Instant) -> bool {
        let Some(place) = self.place(backend, now) else { return true };
        let share = u64::from(place.requests.load(Relaxed)) * u64::from(budget.percent) / 100;
        let least = u64::from(budget.per_second) * WINDOW.as_secs();
        let allowed = u32::try_from(share.max(least)).unwrap_or(u32::MAX);
        place.retries.fetch_update(Relaxed, Relaxed, |taken| (taken < allowed).then_some(taken + 1)).is_ok()
    }

    fn place(&self, backend: &Backend, now: Instant) -> Option<&Place> {
        let Backend::Service { service, .. } = backend else { return None };
        let place = self.places.get(position(service))?;
        let window = now.saturating_duration_since(self.origin).as_secs() / WINDOW.as_secs();
        // Counts that another thread adds meanwhile may get lost: a budget need not be that exact.
        if place.window.swap(window, Relaxed) != window {
            place.requests.store(0, Relaxed);
            place.retries.store(0, Relaxed);
        }
        Some(place)
    }
}

fn position(service: &ServiceKey) -> usize {
    let hash = xxh3_64_with_seed(service.name.as_bytes(), xxh3_64(service.namespace.as_bytes()));
    usize::try_from(hash % PLACES as u64).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{AppProtocol, Scope};

    fn backend(name: &str) -> Backend {
        let service = ServiceKey::new(Scope::Cluster, "shop", name).unwrap();
        Backend::Service { service, port: 80, labels: Default::default(), protocol: AppProtocol::Http1 }
    }

    #[test]
    fn some_tries_are_always_allowed_and_then_a_share_of_the_requests() {
        let budgets = Budgets::default();
        let (app, now) = (backend("app"), budgets.origin);
        let usual = RetryBudget::default();
        let taken = || (0..10_000).filter(|_| budgets.retry(&app, usual, now)).count();
        assert_eq!(taken(), 300);
        (0..2_000).for_each(|_| budgets.request(&app, now));
        assert_eq!(taken(), 100, "a fifth of the requests, less those that were taken");
        assert!(!budgets.retry(&app, usual, now));
        assert!(budgets.retry(&app, RetryBudget { percent: 30, ..usual }, now), "a larger budget");
        assert!(budgets.retry(&app, usual, now + WINDOW), "a new window, a new budget");
    }

    #[test]
    fn services_have_their_own() {
        let budgets = Budgets::default();
        let (app, other, now) = (backend("app"), backend("other"), budgets.origin);
        while budgets.retry(&app, RetryBudget::default(), now) {}
        assert!(budgets.retry(&other, RetryBudget::default(), now));
        let none = RetryBudget { percent: 0, per_second: 0 };
        assert!(!budgets.retry(&backend("third"), none, now));
    }
}
