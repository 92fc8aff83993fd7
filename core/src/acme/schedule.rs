//! When a certificate is ordered, and when it is tried again: a state machine with the clock passed in.
//!
//! Times are milliseconds since the Unix epoch.

use std::time::Duration;

use crate::decide::AcmeUrgency;

/// Bounds of trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After the first failure; doubled with each further one.
    pub first: Duration,
    /// At least so long after a challenge that failed: authorities count those by the hour.
    pub challenge: Duration,
    /// At least so long after the authority said that it was asked too often, and not until when.
    pub limited: Duration,
    /// At most so long, unless the authority says more.
    pub most: Duration,
}

impl Default for Patience {
    /// A minute, 15 minutes, an hour, six hours.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(60),
            challenge: Duration::from_secs(15 * 60),
            limited: Duration::from_secs(3600),
            most: Duration::from_secs(6 * 3600),
        }
    }
}

/// The authority's word counts for no more than this, so that a mistake there does not stop renewal for good.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Doublings; more would not fit any bound.
const MOST_DOUBLINGS: u32 = 16;

/// What kind of failure an order ended in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The authority could not be reached, or failed itself.
    Authority,
    /// It could not see that the name is ours, or does not want to issue for it.
    Challenge,
    /// It was asked too often.
    Limited,
    /// It took none of the nonces that it gave.
    Nonce,
    /// Something here.
    Local,
}

/// When a certificate is good, and when the authority wants it renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// From.
    pub not_before: i64,
    /// To.
    pub not_after: i64,
    /// The authority's window for its renewal (ARI, RFC 9773), from and to.
    pub window: Option<(i64, i64)>,
}

impl Lifetime {
    /// How near its end it is, after so many failures in a row.
    pub fn urgency(&self, now: i64, failures: u32) -> AcmeUrgency {
        let left = self.not_after.saturating_sub(now);
        match part(self.not_before, self.not_after, 1.0) {
            _ if left <= 0 => AcmeUrgency::Expired,
            life if left < life / 20 => AcmeUrgency::Critical,
            life if left < life / 5 && failures > 0 => AcmeUrgency::NearExpiry,
            _ => AcmeUrgency::None,
        }
    }
}

/// One certificate's schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    patience: Patience,
    /// 0 to 1: where in windows of time this one is, so that not all are renewed at once.
    place: f64,
    lifetime: Option<Lifetime>,
    failures: u32,
    not_before: i64,
}

impl Schedule {
    /// No certificate, and none tried for. `random` is 64 fresh random bits.
    pub fn new(patience: Patience, random: u64) -> Self {
        // 53 bits are what a double holds.
        let place = (random >> 11) as f64 / (1_u64 << 53) as f64;
        Self { patience, place, lifetime: None, failures: 0, not_before: 0 }
    }

    /// There is a certificate: one that was kept, or a new one. Failures are over.
    pub fn holds(&mut self, lifetime: Lifetime) {
        self.lifetime = Some(lifetime);
        self.failures = 0;
        self.not_before = 0;
    }

    /// What is held does not do any more: other names are wanted, or another authority.
    pub fn outdated(&mut self) {
        self.lifetime = None;
    }

    /// The authority has named a window.
    pub fn renew_within(&mut self, window: (i64, i64)) {
        if let Some(lifetime) = &mut self.lifetime {
            // One that ends before it begins says nothing (RFC 9773 section 4.2).
            lifetime.window = (window.0 < window.1).then_some(window);
        }
    }

    /// An order has failed. `retry_after`: how long the authority wants to be left alone.
    pub fn failed(&mut self, now: i64, kind: FailureKind, retry_after: Option<Duration>) {
        let doublings = self.failures.min(MOST_DOUBLINGS);
        self.failures = self.failures.saturating_add(1);
        let patience = &self.patience;
        let least = match kind {
            FailureKind::Challenge => patience.challenge,
            FailureKind::Limited if retry_after.is_none() => patience.limited,
            FailureKind::Authority | FailureKind::Limited | FailureKind::Nonce | FailureKind::Local => {
                Duration::ZERO
            }
        };
        let grown =
            patience.first.saturating_mul(1 << doublings).clamp(least.min(patience.most), patience.most);
        // Up to a quarter later, as others who failed with this one will try again too.
        let pause = grown.mul_f64(1.0 + self.place / 4.0);
        let asked = retry_after.unwrap_or_default().min(MOST_RETRY_AFTER);
        self.not_before = now.saturating_add(millis(pause.max(asked)));
    }

    /// When the next order is due.
    pub fn due(&self) -> i64 {
        let due = match self.lifetime {
            None => 0,
            Some(Lifetime { not_before, not_after, window: Some((from, to)) }) => {
                // A window in the past means at once, but not again and again.
                let least = not_before.saturating_add(part(not_before, not_after, 0.02));
                from.saturating_add(part(from, to, self.place)).max(least)
            }
            Some(Lifetime { not_before, not_after, window: None }) => {
                // At two thirds of the life, up to a twentieth of it later.
                let third = part(not_before, not_after, 2.0 / 3.0 + self.place / 20.0);
                not_before.saturating_add(third)
            }
        };
        due.max(self.not_before)
    }

    /// Orders that failed since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the certificate in use ends; none: there is none.
    pub fn not_after(&self) -> Option<i64> {
        self.lifetime.map(|lifetime| lifetime.not_after)
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

    const DAY: i64 = 24 * 3600 * 1000;
    const MINUTE: i64 = 60 * 1000;

    fn held(random: u64) -> Schedule {
        let mut schedule = Schedule::new(Patience::default(), random);
        schedule.holds(Lifetime { not_before: 10 * DAY, not_after: 100 * DAY, window: None });
        schedule
    }

    #[test]
    fn what_is_not_renewed_gets_urgent_long_before_its_end() {
        let lifetime = Lifetime { not_before: 10 * DAY, not_after: 100 * DAY, window: None };
        let at = |left: i64, failures| lifetime.urgency(100 * DAY - left, failures);
        assert_eq!(at(18 * DAY, 1), AcmeUrgency::None);
        assert_eq!(at(18 * DAY - 1, 1), AcmeUrgency::NearExpiry);
        assert_eq!(at(18 * DAY - 1, 0), AcmeUrgency::None, "the authority wanted it so late");
        assert_eq!(at(4 * DAY + DAY / 2, 1), AcmeUrgency::NearExpiry);
        assert_eq!(at(4 * DAY + DAY / 2 - 1, 0), AcmeUrgency::Critical);
        assert_eq!(at(1, 0), AcmeUrgency::Critical);
        assert_eq!(at(0, 9), AcmeUrgency::Expired);
    }

    #[test]
    fn without_a_certificate_it_is_due_at_once() {
        assert_eq!(Schedule::new(Patience::default(), 7).due(), 0);
    }

    #[test]
    fn it_is_renewed_at_two_thirds_of_its_life_and_not_all_at_once() {
        assert_eq!(held(0).due(), 70 * DAY);
        let latest = held(u64::MAX).due();
        assert!(latest > 74 * DAY && latest <= 74 * DAY + DAY / 2, "{latest}");
    }

    #[test]
    fn the_authoritys_window_counts_before_two_thirds() {
        let mut schedule = held(1 << 63);
        schedule.renew_within((20 * DAY, 22 * DAY));
        assert_eq!(schedule.due(), 21 * DAY);
        schedule.renew_within((0, DAY));
        assert_eq!(
            schedule.due(),
            10 * DAY + 90 * DAY / 50,
            "a window in the past is no reason to order for ever"
        );
        schedule.renew_within((22 * DAY, 20 * DAY));
        assert!(schedule.due() > 70 * DAY, "a window that ends before it begins says nothing");
    }

    #[test]
    fn failures_are_tried_again_later_and_later_up_to_a_bound() {
        let mut schedule = Schedule::new(Patience::default(), 0);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            schedule.failed(DAY, FailureKind::Authority, None);
            pauses.push((schedule.due() - DAY) / MINUTE);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]);
        assert_eq!(schedule.failures(), 12);
        schedule.holds(Lifetime { not_before: 0, not_after: 90 * DAY, window: None });
        assert_eq!((schedule.failures(), schedule.due()), (0, 60 * DAY));
    }

    #[test]
    fn a_failed_challenge_and_a_limit_wait_longer() {
        let after = |kind, told: Option<u64>| {
            let mut schedule = Schedule::new(Patience::default(), 0);
            schedule.failed(0, kind, told.map(Duration::from_secs));
            schedule.due() / 1000
        };
        assert_eq!(after(FailureKind::Challenge, None), 900);
        assert_eq!(after(FailureKind::Limited, None), 3600);
        assert_eq!(after(FailureKind::Limited, Some(7200)), 7200);
        assert_eq!(after(FailureKind::Limited, Some(30)), 60, "never sooner than without its word");
        assert_eq!(after(FailureKind::Authority, Some(u64::from(u32::MAX))), 7 * 24 * 3600);
    }

    #[test]
    fn a_failed_renewal_keeps_the_end_of_the_one_in_use() {
        let mut schedule = held(0);
        schedule.failed(71 * DAY, FailureKind::Authority, None);
        assert_eq!(schedule.not_after(), Some(100 * DAY));
        assert_eq!(schedule.due(), 71 * DAY + MINUTE);
    }

    #[test]
    fn other_names_are_ordered_at_once_but_not_against_the_bounds() {
        let mut schedule = held(0);
        schedule.outdated();
        assert_eq!(schedule.due(), 0);
        schedule.failed(DAY, FailureKind::Local, None);
        assert_eq!(schedule.due(), DAY + MINUTE);
    }
}
