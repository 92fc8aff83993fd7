//! How fast a peer is read.

use std::time::Duration;

use tokio::time::Instant;

use crate::index::Limits;

/// The longest pause at a time: signs of life are read in between.
const LONGEST: Duration = Duration::from_secs(5);

/// An allowance of messages and of bytes, each of a second's worth at most. What exceeds it is paid for with a pause.
#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    messages: f64,
    bytes: f64,
    filled: Instant,
}

impl Pace {
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            messages: f64::from(limits.messages_per_second),
            bytes: f64::from(limits.bytes_per_second),
            limits,
            filled: now,
        }
    }

    /// From now on these hold.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A message of so many bytes came; for how long nothing is read now.
    pub fn took(&mut self, bytes: usize, now: Instant) -> Duration {
        let (messages_per_second, bytes_per_second) =
            (f64::from(self.limits.messages_per_second), f64::from(self.limits.bytes_per_second));
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.messages = (self.messages + passed * messages_per_second).min(messages_per_second) - 1.0;
        self.bytes = (self.bytes + passed * bytes_per_second).min(bytes_per_second) - bytes as f64;
        let owed = (-self.messages / messages_per_second).max(-self.bytes / bytes_per_second).max(0.0);
        Duration::from_secs_f64(owed).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_allowance_is_read_later() {
        let limits = Limits { messages_per_second: 10, bytes_per_second: 1000, ..Limits::default() };
        let start = Instant::now();
        let mut pace = Pace::new(limits, start);
        for _ in 0..10 {
            assert_eq!(pace.took(1, start), Duration::ZERO, "a second's worth at once");
        }
        assert_eq!(pace.took(1, start), Duration::from_millis(100));
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.took(1000, later), Duration::ZERO, "no more than a second's worth is saved up");
        assert_eq!(pace.took(500, later), Duration::from_millis(500));
        assert_eq!(pace.took(1_000_000, later), LONGEST);
        let (mut now, mut taken) = (later + Duration::from_secs(3600), 0);
        let end = now + Duration::from_secs(10);
        while now < end {
            now += pace.took(1, now);
            taken += 1;
        }
        assert!((100..=112).contains(&taken), "{taken} in ten seconds");
    }
}
