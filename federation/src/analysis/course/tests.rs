use proptest::prelude::*;

use super::*;

fn plan(rollback: bool) -> Plan {
    let second = Duration::from_secs(1);
    Plan {
        steps: vec![(500, 10 * second), (2500, 10 * second), (10_000, 10 * second)],
        least_success: Some(99.0),
        most_latency: Some(Duration::from_millis(100)),
        min_requests: 50,
        rollback,
    }
}

/// Requests that took so long each.
fn requests(requests: u64, failures: u64, millis: u64) -> Counts {
    let mut latency = vec![0; INTERVALS];
    let duration = Duration::from_millis(millis);
    let at = (0..INTERVALS).find(|at| interval_end(*at).is_none_or(|end| end >= duration)).unwrap();
    latency[at] = requests;
    Counts { requests, failures, latency }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

#[test]
fn a_step_takes_its_time_and_its_requests() {
    let mut course = Course::begin(plan(true), 0, at(0));
    assert_eq!(course.observe(&Counts::default(), at(0)), Next::Step(500));
    let mut course = Course::begin(plan(true), 500, at(0));
    assert_eq!(course.observe(&requests(30, 0, 5), at(9)), Next::Wait);
    assert_eq!(course.observe(&Counts::default(), at(60)), Next::Wait, "too few to judge");
    assert_eq!(course.observe(&requests(20, 0, 5), at(61)), Next::Step(2500));
    let mut course = Course::begin(plan(true), 10_000, at(0));
    assert_eq!(course.observe(&requests(50, 0, 5), at(9)), Next::Wait);
    assert_eq!(course.observe(&requests(50, 0, 5), at(10)), Next::Pass);
    // Somebody has begun between two steps.
    assert_eq!(Course::begin(plan(true), 700, at(0)).observe(&Counts::default(), at(0)), Next::Step(2500));
}

#[test]
fn a_broken_threshold_is_told_as_soon_as_it_can_be_judged() {
    for (bad, said) in
        [(requests(50, 1, 5), "success-rate 98.00% is below 99%"), (requests(50, 0, 200), "latency-p99")]
    {
        let mut course = Course::begin(plan(true), 500, at(0));
        assert_eq!(course.observe(&requests(49, 49, 999), at(1)), Next::Wait, "too few");
        let mut course = Course::begin(plan(true), 500, at(0));
        match course.observe(&bad, at(1)) {
            Next::RollBack(reason) => assert!(reason.starts_with(said), "{reason}"),
            other => panic!("{other:?}"),
        }
        let stops = Course::begin(plan(false), 500, at(0)).observe(&bad, at(1));
        assert!(matches!(stops, Next::Stop(_)), "{stops:?}");
    }
    assert_eq!(
        Course::begin(plan(true), 500, at(0)).observe(&requests(1000, 10, 90), at(1)),
        Next::Wait,
        "at the bounds"
    );
}

#[test]
fn what_was_well_for_long_does_not_hide_what_goes_wrong_now() {
    let plan = Plan { steps: vec![(500, Duration::from_secs(600))], ..plan(true) };
    let mut course = Course::begin(plan, 500, at(0));
    for second in 1..=100 {
        assert_eq!(course.observe(&requests(1000, 0, 5), at(second)), Next::Wait);
    }
    let until = (101..=121).find(|second| course.observe(&requests(5, 5, 5), at(*second)) != Next::Wait);
    assert!(until.is_some(), "{course:?}");
}

proptest! {
    /// Whatever comes, weights only grow along the steps until the end, no step ends before its time, and nothing goes on
    /// past a broken threshold.
    #[test]
    fn a_release_goes_up_its_steps_or_back_to_nothing(
        ticks in prop::collection::vec((0u64..5, 0u64..40, 0u64..3, 1u64..200), 1..200),
    ) {
        let plan = plan(true);
        let (mut weight, mut now, mut began, mut slow) = (0, 0, 0, false);
        let mut course = Course::begin(plan.clone(), weight, at(now));
        let mut seen = Counts::default();
        for (pause, sent, failed, millis) in ticks {
            now += pause;
            let more = requests(sent, failed.min(sent), millis);
            seen.add(&more);
            slow |= millis >= 100;
            let is_bad = weight > 0 && plan.broken(&seen).is_some();
            match course.observe(&more, at(now)) {
                Next::Wait => prop_assert!(!is_bad),
                Next::Step(next) => {
                    prop_assert!(!is_bad && next > weight);
                    let position = plan.steps.iter().position(|(w, _)| *w == next).unwrap();
                    let before = position.checked_sub(1).map_or(0, |at| plan.steps[at].0);
                    prop_assert_eq!(before, weight, "no step is left out");
                    prop_assert!(weight == 0 || (now - began >= 10 && seen.requests >= 50));
                    (weight, began, seen) = (next, now, Counts::default());
                    course = Course::begin(plan.clone(), weight, at(now));
                }
                Next::RollBack(_) => {
                    prop_assert!(is_bad || seen.failures > 0 || slow);
                    return Ok(());
                }
                Next::Pass => {
                    prop_assert!(!is_bad && weight == 10_000 && now - began >= 10);
                    return Ok(());
                }
                Next::Stop(_) => prop_assert!(false, "it rolls back"),
            }
        }
    }

    /// Counters of a process that began anew are no less than nothing.
    #[test]
    fn what_came_since_is_never_negative(a in 0u64..1000, b in 0u64..1000) {
        let since = requests(a, a / 2, 5).since(&requests(b, b / 2, 5));
        prop_assert_eq!(since.requests, a.saturating_sub(b));
        prop_assert_eq!(since.latency.iter().sum::<u64>(), a.saturating_sub(b));
    }
}
