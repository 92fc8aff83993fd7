use proptest::prelude::*;

use super::*;

fn limit(requests: u32, per: u64, burst: u32) -> SharedLimit {
    SharedLimit { policy: "shop/p".into(), requests, per: Duration::from_secs(per), burst }
}

fn after(quotas: &Quotas, seconds: f64) -> Instant {
    quotas.origin + Duration::from_secs_f64(seconds)
}

fn admitted(quotas: &Quotas, limit: &SharedLimit, count: u32, at: f64) -> u32 {
    let now = after(quotas, at);
    (0..count).map(|_| u32::from(quotas.take(limit, now).unwrap().allowed)).sum()
}

#[test]
fn alone_all_of_it_is_ones_own() {
    let (quotas, limit) = (Quotas::alone(), limit(10, 1, 20));
    assert_eq!(admitted(&quotas, &limit, 50, 0.0), 20);
    assert_eq!(admitted(&quotas, &limit, 50, 0.5), 5);
    let refused = quotas.take(&limit, after(&quotas, 0.5)).unwrap();
    assert_eq!((refused.allowed, refused.remaining), (false, 0));
    assert_eq!((refused.retry_in, refused.full_in), (Duration::from_millis(100), Duration::from_secs(2)));
    assert_eq!(admitted(&quotas, &limit, 50, 1000.0), 20, "never more than the burst");
}

#[test]
fn a_share_is_kept_until_there_is_another() {
    let (quotas, limit) = (Quotas::together(), limit(100, 1, 100));
    assert_eq!(admitted(&quotas, &limit, 200, 0.0), 10, "a tenth before anybody has said anything");
    quotas.lease("shop/p", WHOLE / 2, 7, after(&quotas, 0.0));
    assert_eq!(admitted(&quotas, &limit, 200, 0.0), 0, "a share comes without tokens");
    assert_eq!(admitted(&quotas, &limit, 200, 0.5), 25);
    quotas.lease("shop/other", WHOLE, 8, after(&quotas, 0.5));
    let held = &quotas.uses(after(&quotas, 0.5))[0];
    assert_eq!((held.share, held.lease), (WHOLE / 2, 7));
    quotas.forget_numbers();
    // Nobody says anything any more.
    assert_eq!(admitted(&quotas, &limit, 200, 50.0), 50);
    assert_eq!(quotas.uses(after(&quotas, 50.0))[0].lease, 0);
    quotas.lease("shop/p", WHOLE / 4, 1, after(&quotas, 51.0));
    assert_eq!(admitted(&quotas, &limit, 200, 51.0), 25, "what was saved up beyond the share is gone");
}

#[test]
fn what_is_held_says_what_became_of_requests() {
    let (quotas, limit) = (Quotas::together(), limit(100, 1, 100));
    admitted(&quotas, &limit, 25, 0.0);
    quotas.lease("shop/p", WHOLE / 4, 7, after(&quotas, 0.0));
    let held = Held { policy: "shop/p".into(), share: WHOLE / 4, allowed: 10, refused: 15 };
    assert_eq!(quotas.held(), [held]);
    quotas.uses(after(&quotas, 61.0));
    assert_eq!(quotas.held(), [], "given back");
}

#[test]
fn demand_is_what_is_asked_for_also_in_vain() {
    let (quotas, limit) = (Quotas::together(), limit(100, 1, 100));
    for n in 0..400 {
        quotas.take(&limit, after(&quotas, f64::from(n) / 200.0));
    }
    let demand = quotas.uses(after(&quotas, 2.0))[0].demand;
    assert_eq!(demand, u64::from(WHOLE) * 2);
    let calmer = quotas.uses(after(&quotas, 3.0))[0].demand;
    assert!((demand / 4..demand / 2).contains(&calmer), "{calmer}");
    assert!(quotas.uses(after(&quotas, 62.1)).is_empty(), "nobody asked for a minute: it is given back");
}

#[test]
fn a_small_limit_lets_one_through_at_a_time() {
    let (quotas, limit) = (Quotas::together(), limit(6, 60, 1));
    quotas.take(&limit, after(&quotas, 0.0));
    quotas.lease("shop/p", WHOLE / 3, 1, after(&quotas, 0.0));
    assert_eq!(admitted(&quotas, &limit, 3, 29.0), 0);
    assert_eq!(admitted(&quotas, &limit, 3, 30.1), 1, "two in a minute are a third of six");
}

#[test]
fn the_table_is_bounded() {
    let quotas = Quotas::together();
    let named = |n: usize| SharedLimit { policy: format!("shop/{n}").into(), ..limit(1, 1, 1) };
    for n in 0..MOST_LIMITS {
        assert!(quotas.take(&named(n), after(&quotas, 0.0)).is_some());
    }
    assert!(quotas.take(&named(MOST_LIMITS), after(&quotas, 1.0)).is_none());
    assert!(quotas.take(&named(MOST_LIMITS), after(&quotas, 61.0)).is_some());
    assert_eq!(quotas.held.len(), 1);
}

proptest! {
    /// Whatever shares come and go, no more is let through than they flow in, and what was there at the beginning.
    #[test]
    fn no_more_than_the_shares_say(
        requests in 1u32..200, burst in 1u32..50,
        steps in prop::collection::vec((0.0f64..0.5, 0u32..=WHOLE, 0u32..40), 1..100),
    ) {
        let (quotas, limit) = (Quotas::together(), limit(requests, 1, burst));
        let (mut now, mut share, mut flowed, mut allowed) = (0.0, INITIAL, 0.0, 0);
        for (lease, (wait, next, asked)) in steps.into_iter().enumerate() {
            now += wait;
            flowed += wait * f64::from(requests) * f64::from(share) / f64::from(WHOLE);
            allowed += admitted(&quotas, &limit, asked, now);
            let most = 1.0 + f64::from(requests) / 10.0 + flowed;
            prop_assert!(f64::from(allowed) <= most + 1e-3, "{allowed} of {most}");
            quotas.lease("shop/p", next, lease as u64, after(&quotas, now));
            share = if quotas.held.is_empty() { INITIAL } else { next };
        }
    }
}

#[test]
fn a_share_can_be_held_before_it_is_needed() {
    let (quotas, limit) = (Quotas::together(), limit(100, 1, 100));
    for n in 0..120 {
        quotas.hold(&limit, after(&quotas, f64::from(n)));
        let held = quotas.uses(after(&quotas, f64::from(n)));
        assert_eq!(held.len(), 1, "it is not given back");
        assert!(n == 0 || held[0].demand == 0, "nobody asks for it");
        quotas.lease("shop/p", WHOLE / 2, 1, after(&quotas, f64::from(n)));
    }
    assert_eq!(admitted(&quotas, &limit, 200, 120.0), 50, "what it was told counts at once");
}
