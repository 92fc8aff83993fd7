//! Endpoints compared with each other: who fails, or takes, far more than the others is left alone.

use super::health::Counted;
use crate::decide::Outliers;

/// By so many standard deviations an endpoint's share of failures has to differ before it is no chance: of a thousand
/// comparisons of equals, fewer than one is beyond.
const SIGNIFICANT: f64 = 4.0;
/// Microseconds by which a mean latency has to be above that of the others, whatever the ratio.
const NOTABLE: f64 = 5_000.0;

/// The positions of those that stand out, worst first. Needs two with enough requests; each is compared with all others.
pub(super) fn stand_out(counted: &[Counted], outliers: &Outliers) -> Vec<usize> {
    let enough = |c: &Counted| c.requests >= outliers.requests.max(1);
    let all = counted.iter().filter(|c| enough(c)).fold((0.0, 0.0, 0.0), |(n, bad, time), c| {
        (n + f64::from(c.requests), bad + f64::from(c.failures), time + c.latency as f64)
    });
    let mut found: Vec<(usize, f64)> = counted
        .iter()
        .enumerate()
        .filter(|(_, c)| enough(c))
        .filter_map(|(at, c)| {
            let own = (f64::from(c.requests), f64::from(c.failures), c.latency as f64);
            let others = (all.0 - own.0, all.1 - own.1, all.2 - own.2);
            (others.0 > 0.0)
                .then(|| fails_more(own, others, outliers).or(takes_longer(own, others, outliers)))?
                .map(|how_bad| (at, how_bad))
        })
        .collect();
    found.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    found.into_iter().map(|(at, _)| at).collect()
}

/// Requests, failures, time.
type Sums = (f64, f64, f64);

/// A test of two proportions. By how much it is worse, above 1 so that failing comes before being slow.
fn fails_more(own: Sums, others: Sums, outliers: &Outliers) -> Option<f64> {
    let (mine, theirs) = (own.1 / own.0, others.1 / others.0);
    let pooled = (own.1 + others.1) / (own.0 + others.0);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / own.0 + 1.0 / others.0)).sqrt();
    let worse = mine - theirs;
    let is_outlier = outliers.success_rate > 0
        && worse * 100.0 >= f64::from(outliers.success_rate)
        && worse > SIGNIFICANT * deviation;
    is_outlier.then_some(1.0 + worse)
}

fn takes_longer(own: Sums, others: Sums, outliers: &Outliers) -> Option<f64> {
    let (mine, theirs) = (own.2 / own.0, others.2 / others.0);
    let is_outlier =
        outliers.latency > 0 && mine > theirs * f64::from(outliers.latency) && mine - theirs > NOTABLE;
    is_outlier.then(|| 1.0 - theirs / mine)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(requests: u32, failures: u32, mean_ms: u64) -> Counted {
        Counted { requests, failures, latency: u64::from(requests) * mean_ms * 1000 }
    }

    #[test]
    fn who_fails_far_more_than_the_others_stands_out() {
        let rules = Outliers::default();
        for (list, expected) in [
            (vec![(100, 0), (100, 1), (100, 40)], vec![2]),
            // The others are no better: it is the service, or who calls it.
            (vec![(100, 38), (100, 41), (100, 40)], vec![]),
            // Too few requests to say.
            (vec![(100, 0), (10, 10)], vec![]),
            (vec![(100, 0), (20, 10)], vec![1]),
            // Significant, but little.
            (vec![(100_000, 0), (100_000, 5_000)], vec![]),
            (vec![(200, 150), (200, 60), (2_000, 0)], vec![0, 1]),
            (vec![(100, 100)], vec![]),
            (vec![], vec![]),
        ] {
            let counted: Vec<_> = list.iter().map(|(n, bad)| counted(*n, *bad, 1)).collect();
            assert_eq!(stand_out(&counted, &rules), expected, "{list:?}");
        }
        let off = Outliers { success_rate: 0, ..rules };
        assert!(stand_out(&[counted(100, 0, 1), counted(100, 90, 1)], &off).is_empty());
    }

    #[test]
    fn who_takes_far_longer_does_where_that_is_asked_for() {
        let list = [counted(50, 0, 10), counted(50, 0, 12), counted(50, 0, 90)];
        assert!(stand_out(&list, &Outliers::default()).is_empty());
        assert_eq!(stand_out(&list, &Outliers { latency: 5, ..Outliers::default() }), [2]);
        let quick = [counted(50, 0, 1), counted(50, 0, 5)];
        assert!(
            stand_out(&quick, &Outliers { latency: 3, ..Outliers::default() }).is_empty(),
            "4 ms are nothing"
        );
    }

    proptest! {
        /// Equals are never told apart.
        #[test]
        fn equals_do_not_stand_out(n in 20u32..1000, share in 0u32..=100, how_many in 1usize..20) {
            let list = vec![counted(n, n * share / 100, 20); how_many];
            let rules = Outliers { latency: 2, ..Outliers::default() };
            prop_assert!(stand_out(&list, &rules).is_empty());
        }
    }
}
