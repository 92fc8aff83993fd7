//! How the arms of gray releases fare, for those who decide whether a release goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use tombolo_proto::v1::ArmTraffic;

use crate::proxy::RequestEnd;

/// Intervals of durations. The first ends at a millisecond, each further one a quarter above the one before; the last has
/// no end.
pub const INTERVALS: usize = 52;
/// Arms that are counted; requests of more are not.
const MOST_ARMS: usize = 4096;

/// The end of an interval; none: it has none.
pub fn interval_end(interval: usize) -> Option<Duration> {
    let exponent = i32::try_from(interval).ok().filter(|_| interval + 1 < INTERVALS)?;
    Some(Duration::from_secs_f64(0.001 * 1.25_f64.powi(exponent)))
}

fn interval(duration: Duration) -> usize {
    let ratio = duration.as_secs_f64() / 0.001;
    // The cast saturates; what is below the first end is in the first.
    (ratio.ln() / 1.25_f64.ln()).ceil().max(0.0).min((INTERVALS - 1) as f64) as usize
}

struct Count {
    requests: AtomicU64,
    failures: AtomicU64,
    latency: [AtomicU64; INTERVALS],
}

impl Default for Count {
    fn default() -> Self {
        let latency = std::array::from_fn(|_| AtomicU64::new(0));
        Self { requests: AtomicU64::new(0), failures: AtomicU64::new(0), latency }
    }
}

impl Count {
    fn add(&self, failed: bool, duration: Duration) {
        self.requests.fetch_add(1, Relaxed);
        self.failures.fetch_add(u64::from(failed), Relaxed);
        if let Some(counter) = self.latency.get(interval(duration)) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

/// Counters by release and arm, since the process began.
#[derive(Default)]
pub(super) struct Arms(DashMap<(Arc<str>, Arc<str>), Arc<Count>>);

impl Arms {
    /// Counts a request that was sent to an arm. What was answered before it got there says nothing of the arm, nor does a
    /// client that did not wait. A request that another arm took, or that was refused, as its own has no healthy endpoint, is
    /// a failure of its own.
    pub(super) fn count(&self, end: &RequestEnd<'_>) {
        if let Some(count) = end.missed.and_then(|missed| self.of(&missed.release, &missed.arm)) {
            count.add(true, end.duration);
        }
        let Some(decision) = end.decision else { return };
        let (Some(release), Some(arm)) = (&decision.release, &decision.arm) else { return };
        if end.tries == 0 || end.status == 499 {
            return;
        }
        let failed = end.status >= 500;
        if let Some(count) = self.of(release, arm) {
            count.add(failed, end.duration);
        }
        if let Some(count) = decision.unavailable.as_ref().and_then(|meant| self.of(release, meant)) {
            count.add(true, end.duration);
        }
    }

    fn of(&self, release: &Arc<str>, arm: &Arc<str>) -> Option<Arc<Count>> {
        let key = (release.clone(), arm.clone());
        let found = self.0.get(&key).map(|count| Arc::clone(&count));
        if found.is_some() || self.0.len() >= MOST_ARMS {
            return found;
        }
        Some(Arc::clone(&self.0.entry(key).or_default()))
    }

    /// What was counted.
    pub(super) fn report(&self) -> Vec<ArmTraffic> {
        let report = self.0.iter().map(|entry| ArmTraffic {
            release: entry.key().0.to_string(),
            arm: entry.key().1.to_string(),
            requests: entry.requests.load(Relaxed),
            failures: entry.failures.load(Relaxed),
            latency: entry.latency.iter().map(|count| count.load(Relaxed)).collect(),
        });
        report.collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_interval_that_ends_above_it() {
        for millis in [0, 1, 2, 7, 99, 1000, 30_000] {
            let duration = Duration::from_millis(millis);
            let at = interval(duration);
            let slack = Duration::from_nanos(10);
            assert!(duration <= interval_end(at).unwrap() + slack, "{millis}");
            assert!(at == 0 || duration + slack >= interval_end(at - 1).unwrap(), "{millis}");
        }
        assert_eq!(interval(Duration::from_secs(100_000)), INTERVALS - 1);
        assert_eq!(interval_end(INTERVALS - 1), None);
    }
}
