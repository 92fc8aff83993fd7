//! When a new root takes the place of an old one. Nothing here knows of keys, files or clocks.
//!
//! ```text
//! Steady --begin--> Published --everybody has confirmed, or the lead time is over--> Signing
//!   ^     the new root is in the bundle;                     the new root signs; the old one is still in the bundle |
//!   +------------ no certificate that the old root signed can be valid any more ---------------------------------+
//! ```
//!
//! Time is what has passed while a process ran. A wall clock that is set, and time without a process, make a phase
//! longer at most.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// One root, which signs.
    #[default]
    Steady,
    /// The next root is in the bundle and signs nothing.
    Published,
    /// The next root signs, and the one before is still in the bundle.
    Signing,
}

/// How long the phases take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Who has not confirmed by then is not waited for any more.
    pub lead: Duration,
    /// From the moment that a root signs no more until nothing that it has signed is valid: the longest life of a
    /// certificate, and what clocks may differ by.
    pub outlive: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The new root signs from now on.
    Sign,
    /// The old root leaves the bundle.
    Retire,
}

/// A rotation, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rotation {
    /// Where it stands.
    pub phase: Phase,
    /// For how long it has stood there.
    pub spent: Duration,
}

impl Rotation {
    /// What is due after this much more time. The phase changes only by [`Self::enter`], when the step was taken.
    pub fn pass(&mut self, passed: Duration, all_confirmed: bool, limits: Limits) -> Option<Step> {
        self.spent = self.spent.saturating_add(passed);
        match self.phase {
            Phase::Steady => None,
            Phase::Published => (all_confirmed || self.spent >= limits.lead).then_some(Step::Sign),
            Phase::Signing => (self.spent >= limits.outlive).then_some(Step::Retire),
        }
    }

    /// A phase begins.
    pub fn enter(phase: Phase) -> Self {
        Self { phase, spent: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { lead: Duration::from_secs(100), outlive: Duration::from_secs(30) };
    /// Certificates live for so long; the rest of `outlive` is for clocks that differ.
    const LIFE: Duration = Duration::from_secs(25);

    #[derive(Debug, Clone)]
    enum Event {
        /// An operator asks for a new root.
        Begin,
        /// Time passes; everybody has confirmed, or not.
        Pass(u64, bool),
        /// Somebody gets a certificate.
        Issue,
        /// The process ends and comes back: up to so much of the time spent was not saved.
        Restart(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::Begin),
            6 => (0..20_u64, any::<bool>()).prop_map(|(seconds, all)| Event::Pass(seconds, all)),
            6 => (0..20_u64).prop_map(|seconds| Event::Pass(seconds, false)),
            4 => Just(Event::Issue),
            1 => (0..10_u64).prop_map(Event::Restart),
        ]
    }

    proptest! {
        #[test]
        fn every_valid_certificate_is_vouched_for_and_no_root_signs_before_it_is_known(
            events in prop::collection::vec(event(), 1..200)
        ) {
            let mut rotation = Rotation::default();
            let (mut signing, mut bundle) = (0, BTreeSet::from([0]));
            let mut now = Duration::ZERO;
            let mut certificates: Vec<(i32, Duration)> = Vec::new();
            let (mut published_at, mut confirmed) = (now, false);
            for event in events {
                match event {
                    Event::Begin if rotation.phase == Phase::Steady => {
                        bundle.insert(signing + 1);
                        rotation = Rotation::enter(Phase::Published);
                        (published_at, confirmed) = (now, false);
                    }
                    Event::Begin => {}
                    Event::Issue => certificates.push((signing, now + LIFE)),
                    Event::Restart(lost) => {
                        rotation.spent = rotation.spent.saturating_sub(Duration::from_secs(lost));
                    }
                    Event::Pass(seconds, all) => {
                        let passed = Duration::from_secs(seconds);
                        now += passed;
                        confirmed |= all;
                        match rotation.pass(passed, all, LIMITS) {
                            None => {}
                            Some(Step::Sign) => {
                                prop_assert!(confirmed || now - published_at >= LIMITS.lead);
                                signing += 1;
                                rotation = Rotation::enter(Phase::Signing);
                            }
                            Some(Step::Retire) => {
                                bundle.retain(|root| *root == signing);
                                rotation = Rotation::enter(Phase::Steady);
                            }
                        }
                    }
                }
                prop_assert!(bundle.contains(&signing));
                for (root, until) in &certificates {
                    prop_assert!(*until <= now || bundle.contains(root), "{} of {:?}", root, until);
                }
            }
        }
    }

    #[test]
    fn a_rotation_comes_to_its_end_though_nobody_confirms() {
        let mut rotation = Rotation::enter(Phase::Published);
        assert_eq!(rotation.pass(Duration::from_secs(99), false, LIMITS), None);
        assert_eq!(rotation.pass(Duration::from_secs(1), false, LIMITS), Some(Step::Sign));
        // The step could not be taken: it is due again.
        assert_eq!(rotation.pass(Duration::ZERO, false, LIMITS), Some(Step::Sign));
        rotation = Rotation::enter(Phase::Signing);
        assert_eq!(
            rotation.pass(Duration::from_secs(29), true, LIMITS),
            None,
            "no confirmation shortens this"
        );
        assert_eq!(rotation.pass(Duration::from_secs(1), false, LIMITS), Some(Step::Retire));
        assert_eq!(Rotation::default().pass(Duration::MAX, true, LIMITS), None);
    }
}
