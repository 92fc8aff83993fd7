//! What operators do to a release, over 100,000 users: nobody moves who need not.

use super::*;

const MANY: u32 = 100_000;
const SEED: u64 = 0x7e57_0001;

/// Ids as gateways issue them, the same in every run.
fn users() -> Vec<Vec<u8>> {
    let mut state = SEED;
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..MANY).map(|_| format!("{:016x}{:016x}", next(), next()).into_bytes()).collect()
}

type Arms = [(&'static str, u16)];

/// Each user's arm by name.
fn arms(users: &[Vec<u8>], weights: &Arms) -> Vec<&'static str> {
    let split = split("shop/checkout-v2", weights);
    let name = |arm: Option<usize>| arm.map_or(STABLE, |at| weights[at].0);
    users.iter().map(|user| name(split.place(user).arm)).collect()
}

fn count(moves: &[(&str, &str)], pick: impl Fn(&str, &str) -> bool) -> f64 {
    moves.iter().filter(|(from, to)| pick(from, to)).count() as f64 / f64::from(MANY)
}

/// Five standard deviations.
fn near(measured: f64, expected: f64) -> bool {
    (measured - expected).abs() <= 5.0 * (expected * (1.0 - expected) / f64::from(MANY)).sqrt() + 1e-9
}

#[test]
fn with_one_arm_exactly_those_move_by_whom_the_weight_changes() {
    let users = users();
    let steps = [0, 1, 100, 500, 2500, 5000, 9999, 10_000];
    for (at, from) in steps.into_iter().enumerate() {
        for to in steps.into_iter().skip(at + 1) {
            let (less, more) = (arms(&users, &[("v2", from)]), arms(&users, &[("v2", to)]));
            let grown: Vec<_> = less.iter().copied().zip(more.iter().copied()).collect();
            let moved = count(&grown, |from, to| from != to);
            assert!(near(moved, f64::from(to - from) / 10_000.0), "{from} to {to}: {moved}");
            // Growing: only from stable to v2. Shrinking is the same read backwards: only from v2 to stable.
            assert!(grown.iter().all(|(from, to)| from == to || (*from, *to) == (STABLE, "v2")));
        }
    }
}

#[test]
fn adding_removing_promoting_and_aborting_one_of_several_arms_moves_its_users() {
    let users = users();
    let before: &Arms = &[("v2", 500), ("v3", 1000)];
    let at_first = arms(&users, before);
    let moves =
        |after: &Arms| -> Vec<(&str, &str)> { at_first.iter().copied().zip(arms(&users, after)).collect() };
    // Nothing changes by the order of the arms, or by one that nobody is on yet.
    for same in [&[("v3", 1000), ("v2", 500)][..], &[("v4", 0), ("v2", 500), ("v3", 1000)]] {
        assert_eq!(count(&moves(same), |from, to| from != to), 0.0, "{same:?}");
    }
    // One grows: nobody leaves it. What moves besides those it takes is what three weighted sets cannot do without.
    let (d, c) = (0.05, 0.10);
    for (what, after, takes) in [
        ("grow", &[("v2", 1000), ("v3", 1000)][..], "v2"),
        ("add", &[("v2", 500), ("v3", 1000), ("v4", 500)], "v4"),
    ] {
        let moves = moves(after);
        let others = if takes == "v4" { 0.15 } else { c };
        assert_eq!(count(&moves, |from, to| from == takes && to != takes), 0.0, "{what}");
        assert!(near(count(&moves, |from, to| from != takes && to == takes), d), "{what}");
        let moved = count(&moves, |from, to| from != to);
        assert!(near(moved, d * (1.0 + others / (1.0 + d))), "{what}: {moved}");
    }
    // One shrinks, is removed or aborted: nobody leaves stable.
    for (what, after) in [
        ("shrink", &[("v2", 500), ("v3", 500)][..]),
        ("remove", &[("v2", 500)]),
        ("abort one", &[("v2", 500), ("v3", 0)]),
        ("abort all", &[("v2", 0), ("v3", 0)]),
    ] {
        let moves = moves(after);
        assert_eq!(count(&moves, |from, to| from == STABLE && to != STABLE), 0.0, "{what}");
        assert_eq!(count(&moves, |from, to| from == "v2" && to == "v3"), 0.0, "{what}");
    }
    // Removing an arm and taking its weight to nothing are one and the same.
    assert_eq!(arms(&users, &[("v2", 500)]), arms(&users, &[("v2", 500), ("v3", 0)]));
    assert!(arms(&users, &[("v2", 0), ("v3", 0)]).iter().all(|arm| *arm == STABLE));
    // Promoted: everybody is on it, and those who were before have not moved.
    let promoted = moves(&[("v2", 10_000), ("v3", 0)]);
    assert!(promoted.iter().all(|(_, to)| *to == "v2"));
    assert!(near(count(&promoted, |from, to| from != to), 0.95));
}

/// A release as it goes in practice: in steps to all, and back at once. A user changes arm once on the way up.
#[test]
fn on_the_way_from_nothing_to_everything_a_user_moves_once() {
    let users = users();
    let steps = [0, 1, 10, 100, 500, 1000, 2500, 5000, 7500, 10_000];
    let ways: Vec<Vec<&str>> = steps.iter().map(|step| arms(&users, &[("v2", *step)])).collect();
    for user in 0..users.len() {
        let changes = ways.windows(2).filter(|pair| pair[0][user] != pair[1][user]).count();
        assert_eq!(changes, 1, "user {user}");
    }
    assert!(ways[0].iter().all(|arm| *arm == STABLE));
}
