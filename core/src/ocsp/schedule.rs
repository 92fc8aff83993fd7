//! When a response is asked for: a state machine with the clock passed in. Times are milliseconds since the Unix epoch.

use std::time::Duration;

use super::Staple;

/// Bounds of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// After the first failure, doubled with each further one; also the shortest pause after a success.
    pub first: Duration,
    /// At most so long after a failure.
    pub most: Duration,
}

impl Default for Times {
    /// A minute, an hour.
    fn default() -> Self {
        Self { first: Duration::from_secs(60), most: Duration::from_secs(3600) }
    }
}

/// Doublings; more would not fit any bound.
const MOST_DOUBLINGS: u32 = 16;

/// One certificate's schedule.
#[derive(Debug, Clone)]
pub struct StapleSchedule {
    times: Times,
    /// 0 to 1: so that not all are asked for at once.
    place: f64,
    due: i64,
    failures: u32,
}

impl StapleSchedule {
    /// Due at once. `random` is 64 fresh random bits.
    pub fn new(times: Times, random: u64) -> Self {
        // 53 bits are what a double holds.
        let place = (random >> 11) as f64 / (1_u64 << 53) as f64;
        Self { times, place, due: 0, failures: 0 }
    }

    /// There is a response: the next is due at half of its time, up to a tenth of it later. Of one that was old already
    /// when it came, half of the rest is waited.
    pub fn holds(&mut self, now: i64, staple: &Staple) {
        let (from, to) = (staple.this_update.saturating_mul(1000), staple.next_update.saturating_mul(1000));
        let half = from.saturating_add(part(from, to, 0.5 + self.place / 10.0));
        let rest = now.saturating_add(part(now, to, 0.5));
        let least = now.saturating_add(millis(self.times.first));
        self.due = half.max(rest.min(least));
        self.failures = 0;
    }

    /// There was none to be had.
    pub fn failed(&mut self, now: i64) {
        let doublings = self.failures.min(MOST_DOUBLINGS);
        self.failures = self.failures.saturating_add(1);
        let pause = self.times.first.saturating_mul(1 << doublings).min(self.times.most);
        // Up to a quarter later, as others who failed with this one will try again too.
        self.due = now.saturating_add(millis(pause.mul_f64(1.0 + self.place / 4.0)));
    }

    /// When the responder is asked next.
    pub fn due(&self) -> i64 {
        self.due
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

fn part(from: i64, to: i64, share: f64) -> i64 {
    (to.saturating_sub(from).max(0) as f64 * share) as i64
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600 * 1000;

    fn staple(from: i64, to: i64) -> Staple {
        Staple { response: Vec::new(), this_update: from / 1000, next_update: to / 1000 }
    }

    #[test]
    fn the_next_is_due_at_half_of_its_time_and_not_all_at_once() {
        let due = |random, now| {
            let mut schedule = StapleSchedule::new(Times::default(), random);
            assert_eq!(schedule.due(), 0, "the first at once");
            schedule.holds(now, &staple(10 * HOUR, 110 * HOUR));
            schedule.due()
        };
        assert_eq!(due(0, 11 * HOUR), 60 * HOUR);
        let latest = due(u64::MAX, 11 * HOUR);
        assert!(latest > 69 * HOUR && latest <= 70 * HOUR, "{latest}");
        assert_eq!(due(0, 100 * HOUR), 100 * HOUR + 60_000, "it was old already: not again and again");
        assert_eq!(due(0, 110 * HOUR - 60_000), 110 * HOUR - 30_000, "and still before its end");
    }

    #[test]
    fn failures_are_tried_again_later_and_later_up_to_a_bound() {
        let mut schedule = StapleSchedule::new(Times::default(), 0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.failed(HOUR);
            pauses.push((schedule.due() - HOUR) / 60_000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(schedule.failures(), 8);
        schedule.holds(HOUR, &staple(HOUR, 3 * HOUR));
        assert_eq!((schedule.failures(), schedule.due()), (0, 2 * HOUR));
    }
}
