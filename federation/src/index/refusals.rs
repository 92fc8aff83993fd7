//! What was not taken, and why.

use std::{collections::VecDeque, fmt};

use super::Moment;

/// Refusals that are shown of a peer; of older ones only the number is known.
const LATEST: usize = 8;

/// Something was not taken, and why. The rest goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct Refusal {
    /// What was refused, e.g. `service bank/ledger`.
    pub object: String,
    /// Why.
    pub reason: String,
    /// A word for the metric, one of few.
    pub kind: RefusalKind,
}

/// Kinds of refusal, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// It does not parse or breaks a rule of form.
    Malformed,
    /// This side's policy does not accept it.
    Policy,
    /// It claims what belongs to another trust domain or account.
    Identity,
    /// It claims an address that is this cluster's own, or nobody's.
    Address,
    /// A bound is reached.
    Limit,
    /// A younger stream took its place, or it is out of sequence.
    Outdated,
}

impl RefusalKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::Policy, Self::Identity, Self::Address, Self::Limit, Self::Outdated];

    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Policy => "policy",
            Self::Identity => "identity",
            Self::Address => "address",
            Self::Limit => "limit",
            Self::Outdated => "outdated",
        }
    }
}

impl Refusal {
    /// Puts a refusal together.
    pub fn new(kind: RefusalKind, object: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { object: object.to_string(), reason: reason.into(), kind }
    }
}

/// What was refused of one peer since the process started.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    counts: [u64; RefusalKind::ALL.len()],
    latest: VecDeque<(Moment, Refusal)>,
}

impl Refusals {
    /// Adds one.
    pub fn add(&mut self, refusal: &Refusal, now: Moment) {
        for (kind, count) in RefusalKind::ALL.into_iter().zip(&mut self.counts) {
            *count += u64::from(kind == refusal.kind);
        }
        // What is said over and over does not drive out the rest.
        self.latest.retain(|(_, known)| known != refusal);
        self.latest.push_back((now, refusal.clone()));
        if self.latest.len() > LATEST {
            self.latest.pop_front();
        }
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many of each kind.
    pub fn by_kind(&self) -> [(&'static str, u64); RefusalKind::ALL.len()] {
        let mut all = RefusalKind::ALL.map(|kind| (kind.as_str(), 0));
        all.iter_mut().zip(self.counts).for_each(|((_, shown), count)| *shown = count);
        all
    }

    /// The latest ones, each told once, with when it was told last.
    pub fn latest(&self) -> impl Iterator<Item = &(Moment, Refusal)> {
        self.latest.iter()
    }
}
