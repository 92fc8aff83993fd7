//! A bound on requests in flight that is found by itself, by the gradient of latency: while answers take as long as they do
//! without a queue it grows by the square root of itself, and it shrinks by the ratio in which they take longer.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Where it begins.
const FIRST: u32 = 64;
/// It never falls below.
const LEAST: u32 = 4;
/// It never grows above.
const MOST: u32 = 100_000;
/// Latencies are averaged over this time at least.
const WINDOW: u64 = 100_000_000;
/// And over so many answers at least.
const ANSWERS: u32 = 10;
/// Latency may be so many times its lowest before that counts as a queue.
const TOLERANCE: f64 = 1.5;
/// Now and then a quarter as much is let through for two windows, to see how long answers take without a queue: a service
/// that has become slower for good is not bounded by what it once was. What is measured counts up to twice what was known, as
/// a server that is overrun has a queue all the same.
const MEASURED_SHARE: f64 = 0.25;
/// So many windows pass before the first measurement, and before the next one where answers turned out to take less than was
/// known: there was a queue from the beginning, and there may be one still. Else twice as many as before,
const MEASURE_SOON: u32 = 10;
/// up to so many.
const MEASURE_EVERY: u32 = 300;

/// The bound of one service. Races between threads lose a few counts, which a mean survives.
#[derive(Debug)]
pub(super) struct Adaptive {
    limit: AtomicU32,
    began: AtomicU64,
    answers: AtomicU32,
    /// Nanoseconds, all together.
    latency: AtomicU64,
    /// `f64` bits, nanoseconds; 0: not known.
    lowest: AtomicU64,
    /// The most in flight since the window began.
    peak: AtomicU32,
    /// Windows since the last measurement.
    windows: AtomicU32,
    /// So many windows pass before the next one begins.
    every: AtomicU32,
    /// The bound when it began.
    before: AtomicU32,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            limit: FIRST.into(),
            began: AtomicU64::default(),
            answers: AtomicU32::default(),
            latency: AtomicU64::default(),
            lowest: AtomicU64::default(),
            peak: AtomicU32::default(),
            windows: AtomicU32::default(),
            every: MEASURE_SOON.into(),
            before: FIRST.into(),
        }
    }
}

impl Adaptive {
    /// True if one more may be in flight beside so many.
    pub(super) fn admits(&self, in_flight: u32) -> bool {
        self.peak.fetch_max(in_flight, Relaxed);
        in_flight < self.limit.load(Relaxed)
    }

    /// An answer came after so many nanoseconds.
    pub(super) fn answered(&self, latency: u64, now: u64) {
        let all = self.latency.fetch_add(latency, Relaxed).saturating_add(latency);
        let answers = self.answers.fetch_add(1, Relaxed).saturating_add(1);
        let began = self.began.load(Relaxed);
        if answers < ANSWERS || now.saturating_sub(began) < WINDOW {
            return;
        }
        if self.began.compare_exchange(began, now, Relaxed, Relaxed).is_err() {
            return;
        }
        self.answers.store(0, Relaxed);
        self.latency.store(0, Relaxed);
        let peak = self.peak.swap(0, Relaxed);
        self.adapt(all as f64 / f64::from(answers), peak);
    }

    fn adapt(&self, mean: f64, peak: u32) {
        let limit = f64::from(self.limit.load(Relaxed));
        let known = f64::from_bits(self.lowest.load(Relaxed));
        let known = if known == 0.0 { mean } else { known };
        let lowest = mean.min(known);
        let every = self.every.load(Relaxed);
        let (windows, next, lowest) = match self.windows.load(Relaxed) {
            windows if windows == every => {
                self.before.store(limit as u32, Relaxed);
                (windows + 1, limit * MEASURED_SHARE, lowest)
            }
            // What was under way before is through by now.
            windows if windows == every + 1 => (windows + 1, limit, lowest),
            windows if windows > every + 1 => {
                let had_queue = mean < known * 0.9;
                let next = if had_queue { MEASURE_SOON } else { (every * 2).min(MEASURE_EVERY) };
                self.every.store(next, Relaxed);
                (0, f64::from(self.before.load(Relaxed)), mean.min(known * 2.0))
            }
            windows => {
                let gradient = (TOLERANCE * lowest / mean.max(1.0)).clamp(0.5, 1.0);
                // It grows only while it is what bounds.
                let room = if f64::from(peak) * 2.0 >= limit { limit.sqrt() } else { 0.0 };
                (windows + 1, limit * gradient + room, lowest)
            }
        };
        self.windows.store(windows, Relaxed);
        self.lowest.store(lowest.to_bits(), Relaxed);
        self.limit.store(next.clamp(f64::from(LEAST), f64::from(MOST)) as u32, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that takes `own` for each request, `width` at a time; callers send as much as they may. The bound after
    /// so many windows.
    fn settle(adaptive: &Adaptive, own: f64, width: f64, windows: u64, from: u64) -> u32 {
        for window in from..from + windows {
            let limit = adaptive.limit.load(Relaxed);
            // Little's law: what is in flight above the width waits.
            let latency = own * (f64::from(limit) / width).max(1.0);
            assert!(adaptive.admits(limit - 1) && !adaptive.admits(limit));
            (0..ANSWERS).for_each(|_| adaptive.answered(latency as u64, (window + 1) * WINDOW));
        }
        adaptive.limit.load(Relaxed)
    }

    #[test]
    fn it_settles_above_the_servers_width_and_below_a_long_queue() {
        for (own, width) in [(1e6, 50.0), (20e6, 200.0), (5e6, 10.0)] {
            let adaptive = Adaptive::default();
            // So that the lowest is known: little load at first.
            for n in 0..ANSWERS {
                adaptive.answered(own as u64, WINDOW * u64::from(n));
            }
            let limit = f64::from(settle(&adaptive, own, width, 290, 20));
            assert!(limit >= width && limit < width * 4.0 + 10.0, "{limit} for a width of {width}");
        }
    }

    #[test]
    fn it_follows_a_server_that_loses_most_of_its_width() {
        let adaptive = Adaptive::default();
        let before = settle(&adaptive, 1e6, 200.0, 290, 1);
        let after = settle(&adaptive, 1e6, 20.0, 30, 400);
        assert!(after < before / 2, "{before}, then {after}");
    }

    #[test]
    fn it_forgets_how_fast_a_server_once_was() {
        let adaptive = Adaptive::default();
        settle(&adaptive, 1e6, 50.0, 200, 1);
        let limit = f64::from(settle(&adaptive, 30e6, 50.0, 2000, 300));
        assert!((50.0..200.0).contains(&limit), "{limit} for a width of 50");
    }

    #[test]
    fn it_finds_out_that_there_was_a_queue_from_the_beginning() {
        for (own, width) in [(60e6, 3.0), (1e6, 10.0), (5e6, 40.0)] {
            let adaptive = Adaptive::default();
            let limit = f64::from(settle(&adaptive, own, width, 120, 1));
            assert!(limit >= width && limit < width * 4.0 + 10.0, "{limit} for a width of {width}");
        }
    }

    #[test]
    fn without_load_it_does_not_grow() {
        let adaptive = Adaptive::default();
        for window in 1..100 {
            (0..ANSWERS).for_each(|_| adaptive.answered(1_000_000, window * WINDOW));
        }
        assert_eq!(adaptive.limit.load(Relaxed), FIRST);
    }
}
