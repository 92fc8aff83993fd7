//! The split: weighted rendezvous hashing of (salt, key).
//!
//! Each arm `i` (and `stable`) gets a position `x = -ln(u)` for a key, where `u` in (0, 1) is xxh3 of the key under a
//! seed made of the release's salt and the arm's name; the arm with the least `x / weight` takes the key. The `x` are
//! exponential and independent, so that each arm's share is its weight over the sum of all weights, and scores are
//! continuous in the weights. What follows for a release whose `stable` takes the rest of 100%:
//!
//! - *Growth is monotone, exactly.* While an arm grows and no other gray arm does, every key on it stays: its own score
//!   only falls, all others only rise or stay. The same holds for `stable` while arms shrink.
//! - *Least movement.* When one arm changes by `d`, at least `d` of the keys must move. With one gray arm exactly
//!   those move, all between it and `stable`. With more, whose weights add up to `c`, the expected share that moves is
//!   `d * (1 + c / (1 + d))`: besides those `d`, `c * d / (1 + d)` go from `stable` to other arms while as many go from
//!   those to the one that grew. No split of three arms or more over all weights can do with `d` alone: arms at half
//!   of the keys each would have to be pairwise disjoint, since none may depend on the other's weight.
//! - *Independence.* Seeds of two releases have nothing in common, so who is on one arm says nothing of the other.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// All of the traffic, in hundredths of a percent.
pub(crate) const WHOLE: u16 = 10_000;

/// Arms with their weights; `stable` takes the rest.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    /// Seed and weight by arm, in the order of the release's arms.
    arms: Box<[(u64, u16)]>,
    stable: (u64, u16),
}

/// Where a key falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Position of the arm; none: `stable`.
    pub(crate) arm: Option<usize>,
    /// The weight, in hundredths of a percent (0 to 9,999), above which the key is on the arm that it is on, or that is
    /// nearest to taking it from `stable`. Exact where that arm is the only one.
    pub(crate) bucket: u16,
}

impl Split {
    /// From a salt, and the names and weights (hundredths of a percent) of the arms. Weights that add up to more than
    /// 100% leave nothing to `stable` and count in proportion.
    pub(crate) fn new<'a>(salt: &str, arms: impl IntoIterator<Item = (&'a str, u16)>) -> Self {
        let arms: Box<[_]> = arms.into_iter().map(|(name, weight)| (seed(salt, name), weight)).collect();
        let sum = arms.iter().fold(0u16, |sum, (_, weight)| sum.saturating_add(*weight));
        Self { arms, stable: (seed(salt, super::STABLE), WHOLE.saturating_sub(sum)) }
    }

    /// True if users are on this arm (none: `stable`).
    pub(crate) fn has_share(&self, arm: Option<usize>) -> bool {
        let of_arm = |at: usize| self.arms.get(at).is_some_and(|(_, weight)| *weight > 0);
        arm.map_or(self.stable.1 > 0, of_arm)
    }

    /// The arm of a key.
    pub(crate) fn place(&self, key: &[u8]) -> Place {
        let stable = position(key, self.stable.0);
        let mut nearest = None;
        for (at, (seed, weight)) in self.arms.iter().enumerate().filter(|(_, (_, weight))| *weight > 0) {
            let x = position(key, *seed);
            let score = x / f64::from(*weight);
            // The first of equals wins, so that a tie is no exception to monotone growth.
            if nearest.is_none_or(|(_, _, least)| score < least) {
                nearest = Some((at, x, score));
            }
        }
        let Some((arm, x, score)) = nearest else { return Place { arm: None, bucket: WHOLE - 1 } };
        let wins = self.stable.1 == 0 || score <= stable / f64::from(self.stable.1);
        // Against `stable` alone the arm wins at weights above x / (x + stable). The cast saturates.
        let bucket = (f64::from(WHOLE) * x / (x + stable)) as u16;
        Place { arm: wins.then_some(arm), bucket: bucket.min(WHOLE - 1) }
    }
}

fn seed(salt: &str, arm: &str) -> u64 {
    // Arm names are DNS labels: the separator is in none of them.
    xxh3_64_with_seed(arm.as_bytes(), xxh3_64(salt.as_bytes()) ^ 0x746f_6d62_6f6c_6f00)
}

/// Exponentially distributed with mean 1; positive and finite.
fn position(key: &[u8], seed: u64) -> f64 {
    // 53 bits fill a mantissa; the half keeps clear of 0 and of 1.
    let u = ((xxh3_64_with_seed(key, seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -u.ln()
}
