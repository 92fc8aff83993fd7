//! What active checks find out of one endpoint, and when the next one is.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::nanos_of;
use crate::decide::HealthCheck;

/// Of one endpoint; until enough checks have failed it counts as well. All times are nanoseconds since the pools were made.
/// Checks of an endpoint are begun and ended one at a time, so that the fields need not change together.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// When the next one is; 0: it is not known yet.
    next: AtomicU64,
    running: AtomicBool,
    passed: AtomicU32,
    failed: AtomicU32,
    failing: AtomicBool,
}

impl Checks {
    /// When the next check is, if none runs. The first of an endpoint is at some time within an interval, so that not all
    /// endpoints are asked at once. `fraction`: 0 to 1, by chance.
    pub(super) fn due(&self, rules: &HealthCheck, now: u64, fraction: f64) -> Option<u64> {
        if self.running.load(Relaxed) {
            return None;
        }
        match self.next.load(Relaxed) {
            0 => {
                let first = now.saturating_add((nanos_of(rules.interval) as f64 * fraction) as u64).max(1);
                self.next.store(first, Relaxed);
                Some(first)
            }
            next => Some(next),
        }
    }

    /// A check begins.
    pub(super) fn begin(&self, rules: &HealthCheck, now: u64, fraction: f64) {
        let jitter = f64::from(rules.jitter) / 100.0 * (2.0 * fraction - 1.0);
        let pause = nanos_of(rules.interval) as f64 * (1.0 + jitter);
        self.next.store(now.saturating_add(pause as u64).max(1), Relaxed);
        self.running.store(true, Relaxed);
    }

    /// It ended. Whether the endpoint is well, where that has changed.
    pub(super) fn ended(&self, rules: &HealthCheck, well: bool) -> Option<bool> {
        self.running.store(false, Relaxed);
        let (same, other) = if well { (&self.passed, &self.failed) } else { (&self.failed, &self.passed) };
        other.store(0, Relaxed);
        let in_a_row = same.load(Relaxed).saturating_add(1);
        same.store(in_a_row, Relaxed);
        let enough = if well { rules.healthy } else { rules.unhealthy };
        let changes = self.failing.load(Relaxed) == well && in_a_row >= enough;
        changes.then(|| {
            self.failing.store(!well, Relaxed);
            well
        })
    }

    /// It was given up, and says nothing.
    pub(super) fn given_up(&self) {
        self.running.store(false, Relaxed);
    }

    /// There are other rules, or none: what was found out by the old ones is forgotten.
    pub(super) fn forget(&self) {
        self.next.store(0, Relaxed);
        self.passed.store(0, Relaxed);
        self.failed.store(0, Relaxed);
        self.failing.store(false, Relaxed);
    }

    /// True while it is out.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    /// Whether it is well; none: no check has ended yet.
    pub(super) fn verdict(&self) -> Option<bool> {
        let asked = self.passed.load(Relaxed) > 0 || self.failed.load(Relaxed) > 0;
        asked.then(|| !self.is_failing())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::decide::HealthQuestion;

    fn rules(healthy: u32, unhealthy: u32, jitter: u8) -> HealthCheck {
        HealthCheck {
            question: HealthQuestion::Tcp,
            port: None,
            interval: Duration::from_nanos(1000),
            timeout: Duration::from_nanos(100),
            healthy,
            unhealthy,
            jitter,
        }
    }

    #[test]
    fn so_many_in_a_row_take_it_out_and_bring_it_back() {
        let (checks, rules) = (Checks::default(), rules(2, 3, 0));
        assert_eq!(checks.verdict(), None);
        let results: Vec<_> = [true, false, false, true, false, false, false, false, true, false, true, true]
            .into_iter()
            .map(|well| checks.ended(&rules, well))
            .collect();
        assert_eq!(results.iter().position(|change| *change == Some(false)), Some(6));
        assert_eq!(results.iter().position(|change| *change == Some(true)), Some(11));
        assert_eq!(results.iter().flatten().count(), 2);
        assert_eq!(checks.verdict(), Some(true));
        let ill = (0..3).filter_map(|_| checks.ended(&rules, false)).next();
        assert_eq!(ill, Some(false));
        assert!(checks.is_failing());
        checks.forget();
        assert!(!checks.is_failing() && checks.verdict().is_none());
    }

    #[test]
    fn one_at_a_time_each_in_its_interval() {
        let (checks, rules) = (Checks::default(), rules(1, 1, 20));
        assert_eq!(checks.due(&rules, 500, 0.5), Some(1000), "somewhere in the first interval");
        assert_eq!(checks.due(&rules, 600, 0.9), Some(1000), "and that once for all");
        checks.begin(&rules, 1000, 1.0);
        assert_eq!(checks.due(&rules, 5000, 0.0), None, "it runs");
        checks.ended(&rules, true);
        assert_eq!(checks.due(&rules, 5000, 0.0), Some(2200));
        checks.begin(&rules, 5000, 0.0);
        checks.given_up();
        assert_eq!(checks.due(&rules, 5000, 0.0), Some(5800));
    }

    proptest! {
        /// It is out exactly since the last run of failures that was long enough, with no run of passes after it that was.
        #[test]
        fn the_last_run_that_is_long_enough_counts(
            healthy in 1u32..5, unhealthy in 1u32..5, results in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let (checks, rules) = (Checks::default(), rules(healthy, unhealthy, 0));
            let (mut failing, mut run, mut last) = (false, 0, None);
            for well in results {
                run = if last == Some(well) { run + 1 } else { 1 };
                last = Some(well);
                let before = failing;
                failing = if well { failing && run < healthy } else { failing || run >= unhealthy };
                prop_assert_eq!(checks.ended(&rules, well), (failing != before).then_some(!failing));
                prop_assert_eq!(checks.is_failing(), failing);
            }
        }

        /// No two intervals differ by more than the jitter says.
        #[test]
        fn the_jitter_is_bounded(jitter in 0u8..=100, fraction in 0.0f64..1.0) {
            let (checks, rules) = (Checks::default(), rules(1, 1, jitter));
            checks.begin(&rules, 1_000_000, fraction);
            checks.given_up();
            let pause = checks.due(&rules, 1_000_000, 0.0).unwrap_or_default() - 1_000_000;
            let most = u64::from(jitter) * 10;
            prop_assert!((1000 - most.min(1000)..=1000 + most).contains(&pause), "{pause}");
        }
    }
}
