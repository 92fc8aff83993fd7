//! How load is shared over tiers: the nearest takes all that it can carry, what is over goes on to the next, and a tier that
//! is well again takes its load back by and by.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::decide::Localities;

/// Zone, region, cluster; then the other clusters, one by one, the last of these tiers for all that are further on; then what
/// is stale and fails.
pub(super) const TIERS: usize = NEAR + PEERS + 1;
/// Tiers of this cluster.
pub(super) const NEAR: usize = 3;
/// Tiers of other clusters.
pub(super) const PEERS: usize = 8;
/// All of the load, as it is counted here.
const ALL: f64 = 1.0;

/// How a tier is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Capacity {
    /// Weight of its endpoints that serve.
    pub(super) healthy: f64,
    /// Weight of all that are to serve. Those that drain are not.
    pub(super) total: f64,
}

impl Capacity {
    /// The part of all load that it can carry.
    pub(super) fn carries(&self, rules: &Localities) -> f64 {
        if self.healthy <= 0.0 || self.total <= 0.0 {
            return 0.0;
        }
        (self.healthy / self.total * f64::from(rules.overprovisioning) / 100.0).min(ALL)
    }
}

/// The shares by now, from those that were `elapsed` seconds ago (none: this is the beginning). They sum up to 1, or all
/// are 0 where nobody is healthy.
pub(super) fn shares(
    tiers: &[Capacity; TIERS],
    before: Option<(&[f64; TIERS], f64)>,
    rules: &Localities,
) -> [f64; TIERS] {
    let mut out = [0.0; TIERS];
    let mut rest = ALL;
    let carries = tiers.map(|tier| tier.carries(rules));
    for (at, (share, carries)) in out.iter_mut().zip(carries).enumerate() {
        let ramp = match before {
            Some((before, elapsed)) if rules.fail_back > 0 => {
                before.get(at).copied().unwrap_or_default() + elapsed * f64::from(rules.fail_back) / 100.0
            }
            _ => ALL,
        };
        *share = carries.min(ramp).min(rest);
        rest -= *share;
    }
    // Nobody further on can take it: better all at once than not at all.
    for (share, carries) in out.iter_mut().zip(carries) {
        let more = (carries - *share).min(rest).max(0.0);
        *share += more;
        rest -= more;
    }
    // More than all of them should carry.
    let sum: f64 = out.iter().sum();
    if sum > 0.0 && sum < ALL {
        out.iter_mut().for_each(|share| *share /= sum);
    }
    out
}

/// The shares of the tiers of one subset, kept while endpoints come and go.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// `f32` bits.
    shares: [AtomicU32; TIERS],
    /// When they were computed; 0: never.
    at: AtomicU64,
    /// Of what they were computed.
    version: AtomicU64,
    /// Bits of tiers that could carry more than their share.
    spare: AtomicU32,
}

/// Shares are computed anew after this time, as ejections end and ramps rise.
const STEP: u64 = 10_000_000;

impl Shares {
    /// True if they are to be computed anew. Of several that ask at a time, one is told so.
    pub(super) fn is_due(&self, version: u64, now: u64) -> bool {
        let at = self.at.load(Relaxed);
        at == 0 || self.version.load(Relaxed) != version || now.saturating_sub(at) >= STEP
    }

    /// Computes them anew.
    pub(super) fn update(&self, tiers: &[Capacity; TIERS], rules: &Localities, version: u64, now: u64) {
        let at = self.at.load(Relaxed);
        let before = self.load();
        let elapsed = now.saturating_sub(at) as f64 / 1e9;
        let nobody = before.iter().all(|share| *share == 0.0);
        let next = shares(tiers, (at > 0 && !nobody).then_some((&before, elapsed)), rules);
        let could = tiers.iter().zip(next).map(|(tier, share)| tier.carries(rules) > share + 1e-6);
        let spare = could.enumerate().fold(0, |bits, (at, could)| bits | u32::from(could) << at);
        self.spare.store(spare, Relaxed);
        for (kept, share) in self.shares.iter().zip(next) {
            kept.store((share as f32).to_bits(), Relaxed);
        }
        self.version.store(version, Relaxed);
        self.at.store(now.max(1), Relaxed);
    }

    /// Of a tier.
    pub(super) fn share(&self, tier: usize) -> f64 {
        self.load().get(tier).copied().unwrap_or_default()
    }

    /// True if this tier could carry more than its share.
    pub(super) fn has_spare(&self, tier: usize) -> bool {
        self.spare.load(Relaxed) >> tier & 1 == 1
    }

    fn load(&self) -> [f64; TIERS] {
        let mut out = [0.0; TIERS];
        for (out, share) in out.iter_mut().zip(&self.shares) {
            *out = f32::from_bits(share.load(Relaxed)).into();
        }
        out
    }

    /// The tier for a number from 0 to 1: random, or by hash.
    pub(super) fn tier(&self, point: f64) -> usize {
        let mut sum = 0.0;
        let shares = self.load();
        let last = shares.iter().rposition(|share| *share > 0.0).unwrap_or_default();
        let found = shares.iter().position(|share| {
            sum += share;
            point < sum
        });
        found.unwrap_or(last)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tiers(list: &[(u32, u32)]) -> [Capacity; TIERS] {
        let mut out = [Capacity::default(); TIERS];
        for (tier, (healthy, total)) in out.iter_mut().zip(list) {
            *tier = Capacity { healthy: (*healthy).into(), total: (*total).into() };
        }
        out
    }

    fn begin(list: &[(u32, u32)]) -> Vec<u32> {
        let shares = shares(&tiers(list), None, &Localities::default());
        shares.iter().take(5).map(|share| (share * 100.0).round() as u32).collect()
    }

    #[test]
    fn load_spills_over_when_a_tier_cannot_carry_it() {
        for (list, expected) in [
            (vec![(10, 10), (10, 10)], [100, 0, 0, 0, 0]),
            // 5 of 7 can carry all; 1 of 2 carries 70 percent.
            (vec![(5, 7), (1, 1)], [100, 0, 0, 0, 0]),
            (vec![(1, 2), (1, 1)], [70, 30, 0, 0, 0]),
            (vec![(1, 4), (1, 4), (0, 0), (9, 9)], [35, 35, 0, 30, 0]),
            (vec![(0, 3), (0, 0), (0, 0), (1, 1)], [0, 0, 0, 100, 0]),
            // Nobody can carry the rest: it is shared by what each can.
            (vec![(1, 4), (1, 8)], [67, 33, 0, 0, 0]),
            (vec![(0, 3)], [0, 0, 0, 0, 0]),
        ] {
            assert_eq!(begin(&list), expected, "{list:?}");
        }
    }

    #[test]
    fn a_tier_that_is_well_again_takes_back_by_and_by() {
        let (well, ill) = (tiers(&[(2, 2), (2, 2)]), tiers(&[(0, 2), (2, 2)]));
        let (rules, kept) = (Localities::default(), Shares::default());
        let second = 1_000_000_000;
        let near = |point: f64| kept.tier(point) == 0;
        kept.update(&well, &rules, 1, 1);
        assert!(near(0.99));
        kept.update(&ill, &rules, 2, second);
        assert!(!near(0.0), "gone at once");
        kept.update(&well, &rules, 3, 2 * second);
        assert!(near(0.05) && !near(0.15), "a second, ten percent");
        for n in 3..=6 {
            kept.update(&well, &rules, 3, n * second);
        }
        assert!(near(0.45) && !near(0.55));
        // Who else could take it is ill: all of it at once.
        kept.update(&tiers(&[(2, 2), (0, 2)]), &rules, 4, 7 * second);
        assert!(near(0.99));
    }

    #[test]
    fn it_can_be_told_to_take_back_at_once() {
        let rules = Localities { fail_back: 0, ..Localities::default() };
        let mut before = [0.0; TIERS];
        before[1] = ALL;
        let shares = shares(&tiers(&[(2, 2), (2, 2)]), Some((&before, 0.001)), &rules);
        assert_eq!(shares[0], 1.0);
    }

    #[test]
    fn what_changed_is_due_and_so_is_what_is_old() {
        let kept = Shares::default();
        assert!(kept.is_due(0, 0));
        kept.update(&tiers(&[(1, 1)]), &Localities::default(), 0, 5);
        assert!(!kept.is_due(0, STEP));
        assert!(kept.is_due(1, 6) && kept.is_due(0, STEP + 5));
    }

    proptest! {
        /// All load goes somewhere that is healthy, whatever came before.
        #[test]
        fn nothing_is_lost_and_nothing_goes_to_the_dead(
            list in proptest::collection::vec((0u32..5, 0u32..5), 0..=TIERS),
            before in proptest::array::uniform12(0.0f64..1.0),
            elapsed in 0.0f64..20.0,
        ) {
            let list: Vec<_> = list.into_iter().map(|(healthy, more)| (healthy, healthy + more)).collect();
            let capacities = tiers(&list);
            let shares = shares(&capacities, Some((&before, elapsed)), &Localities::default());
            let sum: f64 = shares.iter().sum();
            let some = capacities.iter().any(|tier| tier.healthy > 0.0);
            prop_assert!((sum - f64::from(u8::from(some))).abs() < 1e-9, "{shares:?}");
            for (share, tier) in shares.iter().zip(&capacities) {
                prop_assert!(*share >= 0.0 && (*share == 0.0 || tier.healthy > 0.0), "{shares:?}");
            }
        }
    }
}
