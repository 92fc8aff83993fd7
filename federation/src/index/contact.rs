//! How fresh what is known of a peer is, and how far the peer is with what it is told.
//!
//! Silence is counted by this process's own clock, and what was counted before a restart is added to it: a wall clock
//! that was set meanwhile makes nothing fresh or stale. Time without a process is not counted, as nobody listened.

use std::collections::VecDeque;

use super::Moment;

/// Changes whose age is known one by one; further ones count as old as the last of them.
const MAX_WAITING: usize = 64;

/// Silence is saved again when it has grown by this, in milliseconds.
const SAVE_EACH: i64 = 30_000;

/// For how long a silent peer's word is good, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Then its endpoints are stale: used last.
    pub stale_after: i64,
    /// Then they are dropped.
    pub drop_after: i64,
}

/// Contact with one peer.
#[derive(Debug, Clone)]
pub struct Contact {
    /// The last sign of life; before a restart by the wall clock of then.
    heard: Moment,
    /// Silence is counted from here.
    quiet_since: Moment,
    /// Nothing becomes stale before: after a restart the peer has to find back.
    grace_until: Moment,
    /// How much of the silence is saved.
    saved: i64,
    /// When the peer has confirmed last: a change, or, where none waits, that it is there.
    acknowledged: Option<Moment>,
    /// Changes that are not confirmed: revision, and since when there is one.
    waiting: VecDeque<(u64, Moment)>,
}

impl Contact {
    /// With a peer that was heard just now.
    pub fn new(now: Moment) -> Self {
        Self {
            heard: now,
            quiet_since: now,
            grace_until: now,
            saved: 0,
            acknowledged: None,
            waiting: VecDeque::new(),
        }
    }

    /// After a restart: `silent` is what was saved of its silence, in milliseconds.
    pub fn restore(heard: Moment, silent: i64, now: Moment, grace: i64) -> Self {
        let silent = silent.max(0);
        Self {
            // The wall clock may have been set back.
            heard: heard.min(now),
            quiet_since: now.plus(-silent),
            grace_until: now.plus(grace),
            saved: silent,
            ..Self::new(now)
        }
    }

    /// A sign of life.
    pub fn heard(&mut self, now: Moment) {
        (self.heard, self.quiet_since, self.saved) = (now, now, 0);
    }

    /// It is not listened to for so many milliseconds: it cannot be silent meanwhile.
    pub fn unread(&mut self, millis: i64, now: Moment) {
        self.quiet_since = self.quiet_since.max(now.plus(millis.max(0)));
    }

    /// The last sign of life.
    pub fn last_heard(&self) -> Moment {
        self.heard
    }

    /// For how long it has been silent, in milliseconds.
    pub fn silence(&self, now: Moment) -> i64 {
        now.since(self.quiet_since).max(0)
    }

    /// It has been silent for too long to be believed first.
    pub fn is_stale(&self, lease: Lease, now: Moment) -> bool {
        self.silence(now) >= lease.stale_after && self.grace_until <= now
    }

    /// It has been silent for too long to be believed at all.
    pub fn is_lost(&self, lease: Lease, now: Moment) -> bool {
        self.silence(now) >= lease.drop_after && self.grace_until <= now
    }

    /// Whether its silence should be saved again.
    pub fn is_to_save(&self, now: Moment) -> bool {
        self.silence(now) - self.saved >= SAVE_EACH
    }

    /// What to save.
    pub fn save(&mut self, now: Moment) -> i64 {
        self.saved = self.silence(now);
        self.saved
    }

    /// There is this revision to be told.
    pub fn advanced(&mut self, revision: u64, now: Moment) {
        let is_full = self.waiting.len() >= MAX_WAITING;
        match self.waiting.back_mut() {
            Some((last, _)) if *last >= revision => {}
            // The age of the newest is then overstated, never understated.
            Some((last, _)) if is_full => *last = revision,
            _ => self.waiting.push_back((revision, now)),
        }
    }

    /// The peer has taken everything up to this revision.
    pub fn confirmed(&mut self, revision: u64, now: Moment) {
        while self.waiting.front().is_some_and(|(first, _)| *first <= revision) {
            self.waiting.pop_front();
        }
        self.acknowledged = Some(now);
    }

    /// The peer has answered a question whether it is there. That confirms something only where no change waits.
    pub fn answered(&mut self, now: Moment) {
        if self.waiting.is_empty() {
            self.acknowledged = Some(now);
        }
    }

    /// Since when the oldest change waits that is not confirmed, in milliseconds; 0: none does.
    pub fn lag(&self, now: Moment) -> i64 {
        self.waiting.front().map_or(0, |(_, since)| now.since(*since).max(0))
    }

    /// Whether the peer has confirmed anything within this many milliseconds.
    pub fn is_confirmed(&self, within: i64, now: Moment) -> bool {
        self.acknowledged.is_some_and(|at| now.since(at) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { stale_after: 30_000, drop_after: 86_400_000 };
    const DAY: i64 = 86_400_000;

    #[test]
    fn silence_makes_stale_then_lost_and_a_sign_of_life_ends_it() {
        let mut contact = Contact::new(Moment(0));
        assert!(!contact.is_stale(LEASE, Moment(29_999)) && contact.is_stale(LEASE, Moment(30_000)));
        assert!(!contact.is_lost(LEASE, Moment(DAY - 1)) && contact.is_lost(LEASE, Moment(DAY)));
        contact.heard(Moment(DAY));
        assert!(!contact.is_stale(LEASE, Moment(DAY)));
    }

    #[test]
    fn who_is_not_listened_to_is_not_silent() {
        let mut contact = Contact::new(Moment(0));
        contact.unread(5_000, Moment(0));
        assert_eq!((contact.silence(Moment(4_000)), contact.silence(Moment(7_000))), (0, 2_000));
        contact.heard(Moment(6_000));
        assert_eq!(contact.silence(Moment(7_000)), 1_000);
    }

    #[test]
    fn a_wall_clock_that_was_set_between_two_processes_changes_nothing() {
        for wall in [-DAY, 0, DAY] {
            let mut before = Contact::new(Moment(10 * DAY));
            let silent = before.save(Moment(10 * DAY + 20_000));
            let now = Moment(10 * DAY + wall);
            let after = Contact::restore(Moment(10 * DAY), silent, now, 60_000);
            assert_eq!(after.silence(now), 20_000, "{wall}");
            assert!(!after.is_stale(LEASE, now.plus(59_999)) && after.is_stale(LEASE, now.plus(60_000)));
            assert!(!after.is_lost(LEASE, now.plus(DAY - 20_001)));
            assert!(after.is_lost(LEASE, now.plus(DAY - 20_000)));
            assert!(after.last_heard() <= now);
        }
    }

    #[test]
    fn restarts_do_not_keep_a_silent_peer_for_ever() {
        let (mut silent, mut restarts) = (0, 0);
        // Each process lives for a minute: it saves once.
        while restarts < 10_000 {
            let mut contact = Contact::restore(Moment(0), silent, Moment(0), 10_000);
            if contact.is_lost(LEASE, Moment(10_000)) {
                break;
            }
            assert!(contact.is_to_save(Moment(SAVE_EACH)));
            silent = contact.save(Moment(SAVE_EACH));
            restarts += 1;
        }
        assert_eq!(restarts, 2880);
    }

    #[test]
    fn the_lag_is_that_of_the_oldest_change_that_is_not_confirmed() {
        let mut contact = Contact::new(Moment(0));
        assert_eq!(contact.lag(Moment(5)), 0);
        contact.advanced(1, Moment(10));
        contact.advanced(1, Moment(15));
        contact.advanced(2, Moment(20));
        assert_eq!(contact.lag(Moment(25)), 15);
        contact.answered(Moment(25));
        assert!(!contact.is_confirmed(30_000, Moment(25)), "it is there, but moves nothing");
        contact.confirmed(1, Moment(30));
        assert_eq!((contact.lag(Moment(30)), contact.is_confirmed(10, Moment(39))), (10, true));
        contact.confirmed(2, Moment(31));
        assert_eq!(contact.lag(Moment(99)), 0);
        contact.answered(Moment(99));
        assert!(contact.is_confirmed(1, Moment(99)));
    }

    #[test]
    fn many_changes_are_remembered_within_a_bound() {
        let mut contact = Contact::new(Moment(0));
        (1..1000).for_each(|revision| contact.advanced(revision, Moment(10)));
        assert_eq!(contact.waiting.len(), MAX_WAITING);
        contact.confirmed(998, Moment(20));
        assert_eq!(contact.lag(Moment(20)), 10);
        contact.confirmed(999, Moment(20));
        assert_eq!(contact.lag(Moment(20)), 0);
    }
}
