//! One proxy's share of a limit: a bucket of tokens that fills at the rate of the share, and how much it is asked for.

use std::time::Duration;

use super::{Taken, WHOLE};
use crate::decide::SharedLimit;

/// Demand is measured over this time at least, in nanoseconds.
const MEASURED: u64 = 100_000_000;
/// Time constant of the average demand, in seconds.
const SMOOTH: f64 = 1.0;
/// No answer names a longer wait.
const LONGEST: f64 = 24.0 * 3600.0;

/// All times are nanoseconds since the same moment.
#[derive(Debug)]
pub(super) struct Bucket {
    share: u32,
    lease: u64,
    tokens: f64,
    /// When `tokens` was right.
    filled: u64,
    /// Requests a second of the whole limit, and those that all may save up, as last seen.
    rate: f64,
    burst: f64,
    /// Requests that went on, and those that did not.
    allowed: u64,
    refused: u64,
    /// Requests since `measured`.
    asked: u64,
    measured: u64,
    last_asked: u64,
    /// Requests a second; none: not measured yet.
    demand: Option<f64>,
}

impl Bucket {
    /// With this share, and a share of so many tokens, but one at least.
    pub(super) fn new(share: u32, tokens: f64, now: u64) -> Self {
        Self {
            share,
            lease: 0,
            tokens: (tokens * part(share)).max(1.0),
            filled: now,
            rate: 0.0,
            burst: 0.0,
            allowed: 0,
            refused: 0,
            asked: 0,
            measured: now,
            last_asked: now,
            demand: None,
        }
    }

    /// Somebody may take tokens soon.
    pub(super) fn hold(&mut self, limit: &SharedLimit, now: u64) {
        self.fill(now);
        (self.rate, self.burst) = (limit.rate(), limit.burst.into());
        self.tokens = self.tokens.min(self.size());
        self.last_asked = now;
    }

    /// Takes a token.
    pub(super) fn take(&mut self, limit: &SharedLimit, now: u64) -> Taken {
        self.hold(limit, now);
        self.asked += 1;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
            self.allowed += 1;
        } else {
            self.refused += 1;
        }
        let until = |tokens: f64| {
            let seconds = (tokens - self.tokens).max(0.0) / (self.rate * part(self.share)).max(1e-9);
            Duration::from_secs_f64(seconds.min(LONGEST))
        };
        Taken {
            allowed,
            remaining: self.tokens as u64,
            full_in: until(self.size()),
            retry_in: if allowed { Duration::ZERO } else { until(1.0) },
        }
    }

    /// Tokens that it can hold: its share, but one at least, or nobody would ever get one of a small limit.
    fn size(&self) -> f64 {
        (self.burst * part(self.share)).max(1.0)
    }

    fn fill(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.filled) as f64 / 1e9;
        self.filled = self.filled.max(now);
        self.tokens += elapsed * self.rate * part(self.share);
    }

    /// Another share from now on.
    pub(super) fn lease_is(&mut self, share: u32, lease: u64, now: u64) {
        self.fill(now);
        // What is saved up beyond the old share is nobody's.
        self.tokens = self.tokens.min(self.size());
        (self.share, self.lease) = (share, lease);
        self.tokens = self.tokens.min(self.size());
    }

    /// The share, and the number of its lease.
    pub(super) fn lease(&self) -> (u32, u64) {
        (self.share, self.lease)
    }

    /// Requests that went on, and those that did not.
    pub(super) fn taken(&self) -> (u64, u64) {
        (self.allowed, self.refused)
    }

    pub(super) fn forget_number(&mut self) {
        self.lease = 0;
    }

    pub(super) fn is_idle(&self, now: u64, limit: u64) -> bool {
        now.saturating_sub(self.last_asked) >= limit
    }

    /// How much it is asked for, in parts of the limit.
    pub(super) fn demand(&mut self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.measured);
        if elapsed >= MEASURED {
            let seconds = elapsed as f64 / 1e9;
            let seen = self.asked as f64 / seconds;
            let known = self.demand.unwrap_or(seen);
            self.demand = Some(known + (seen - known) * (1.0 - (-seconds / SMOOTH).exp()));
            (self.asked, self.measured) = (0, now);
        }
        // Before there is a measure: as much as it has, so that it keeps that.
        let demand = self.demand.map_or(part(self.share), |demand| demand / self.rate.max(1e-9));
        (demand * f64::from(WHOLE)) as u64
    }
}

fn part(share: u32) -> f64 {
    f64::from(share) / f64::from(WHOLE)
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
