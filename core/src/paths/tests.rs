use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const MS: Duration = Duration::from_millis(1);

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A gateway, probed once every two seconds.
struct Watch {
    gateway: Arc<Gateway>,
    now: u64,
}

impl Watch {
    fn new() -> Self {
        Self { gateway: Arc::new(Gateway::new(address(1))), now: SECOND }
    }

    fn probe(&mut self, round_trip: Option<u32>) -> Option<bool> {
        self.now += 7 * SECOND;
        let probe = self.gateway.due(self.now, 0.5).expect("it is due");
        probe.finish(round_trip.map(|ms| MS * ms), self.now)
    }

    fn standing(&self) -> Standing {
        self.gateway.standing(self.now)
    }
}

#[test]
fn one_failure_makes_it_suspect_and_two_make_it_down_until_it_answers_twice() {
    let mut watch = Watch::new();
    assert_eq!((watch.probe(Some(10)), watch.standing()), (None, Standing::Up));
    assert_eq!((watch.probe(None), watch.standing()), (None, Standing::Suspect));
    assert_eq!((watch.probe(Some(10)), watch.standing()), (None, Standing::Up));
    watch.probe(None);
    assert_eq!((watch.probe(None), watch.standing()), (Some(false), Standing::Down));
    assert!(!is_reachable(&[watch.gateway.clone()]));
    assert_eq!((watch.probe(Some(10)), watch.standing()), (None, Standing::Down));
    assert_eq!((watch.probe(Some(10)), watch.standing()), (Some(true), Standing::Up));
}

#[test]
fn connections_count_as_probes_do_and_silence_behind_it_does_not_make_it_down() {
    let paths = Paths::new(Instant::now());
    let now = Instant::now();
    let gateway = paths.gateway(address(1)).unwrap();
    for _ in 0..10 {
        paths.unanswered(address(1), now);
    }
    assert_eq!(gateway.standing(paths.nanos(now)), Standing::Suspect);
    paths.answered(address(1), now);
    assert_eq!(gateway.standing(paths.nanos(now)), Standing::Up);
    paths.failed(address(1), now);
    paths.failed(address(1), now);
    assert!(gateway.is_down());
}

#[test]
fn probes_hurry_where_something_is_wrong_and_are_rare_where_nobody_calls() {
    let mut watch = Watch::new();
    let due =
        |watch: &Watch, after_ms: u64| watch.gateway.due(watch.now + after_ms * 1_000_000, 0.5).is_some();
    watch.probe(Some(10));
    watch.probe(Some(10));
    assert!(!due(&watch, 4_900), "nobody calls");
    assert!(due(&watch, 5_100));
    watch.gateway.used(watch.now);
    assert!(!due(&watch, 5_200), "once at a time");
    watch.now += 6 * SECOND;
    watch.gateway.used(watch.now);
    assert!(due(&watch, 0));
    assert!(!due(&watch, 700) && due(&watch, 800), "it is in use");
    watch.probe(None);
    assert!(!due(&watch, 190) && due(&watch, 210), "it failed");
}

#[test]
fn a_probe_takes_no_longer_than_a_few_round_trips() {
    let mut watch = Watch::new();
    assert_eq!(watch.gateway.due(1, 0.5).unwrap().limit(), Duration::from_secs(1));
    watch.probe(Some(10));
    watch.now += 7 * SECOND;
    assert_eq!(watch.gateway.due(watch.now, 0.5).unwrap().limit(), Duration::from_millis(300));
    let mut far = Watch::new();
    far.probe(Some(200));
    far.now += 7 * SECOND;
    assert_eq!(far.gateway.due(far.now, 0.5).unwrap().limit(), Duration::from_millis(900));
}

#[test]
fn load_is_spread_over_gateways_that_are_up() {
    let (paths, now) = (Paths::new(Instant::now()), Instant::now());
    let all = [address(1), address(2), address(3)];
    let held: Vec<_> = all.iter().filter_map(|address| paths.gateway(*address)).collect();
    let chosen = |tried: &[SocketAddr]| -> Vec<u16> {
        let mut ports: Vec<u16> =
            (0..30).filter_map(|n| paths.choose(&all, tried, n, now)).map(|a| a.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    assert_eq!(chosen(&[]), [1, 2, 3]);
    paths.failed(address(2), now);
    assert_eq!(chosen(&[]), [1, 3]);
    assert_eq!(chosen(&[address(1), address(3)]), [2], "better than none");
    assert!(chosen(&all).is_empty());
    drop(held);
    paths.forget_unused();
    assert_eq!(chosen(&[]), [1, 2, 3], "what nobody is behind is forgotten");
}

#[test]
fn who_loses_much_is_lossy_until_it_loses_little() {
    let mut watch = Watch::new();
    for _ in 0..40 {
        watch.probe(None);
        watch.probe(Some(10));
    }
    assert!(watch.gateway.is_lossy() && !watch.gateway.is_down());
    assert!(is_failing(&[watch.gateway.clone()]) && is_reachable(&[watch.gateway.clone()]));
    for _ in 0..40 {
        watch.probe(Some(10));
    }
    assert!(!watch.gateway.is_lossy());
}

/// Clusters with their order (0: none) and round trip in milliseconds (0: not known).
fn seen(list: &[(&str, u32, u64)]) -> BTreeMap<Arc<str>, Seen> {
    let of = |(name, order, ms): &(&str, u32, u64)| {
        let order = (*order > 0).then_some(*order);
        let round_trip = (*ms > 0).then(|| Duration::from_millis(*ms));
        (Arc::from(*name), Seen { order, round_trip })
    };
    list.iter().map(of).collect()
}

fn names(order: &Order) -> Vec<&str> {
    order.clusters().map(|name| &**name).collect()
}

#[test]
fn documents_order_clusters_and_then_the_round_trip_does() {
    let mut order = Order::default();
    order.update(&seen(&[("a", 0, 0), ("b", 0, 40), ("c", 0, 20), ("d", 2, 90), ("e", 1, 0)]), 1);
    assert_eq!(names(&order), ["e", "d", "c", "b", "a"]);
    // A first measure counts at once, and so does a document.
    order.update(&seen(&[("a", 0, 1), ("b", 3, 40), ("c", 0, 20), ("d", 2, 90), ("e", 1, 0)]), 2);
    assert_eq!(names(&order), ["e", "d", "b", "a", "c"]);
    assert!(order.update(&seen(&[("c", 0, 20), ("a", 0, 1)]), 3), "some are gone");
    assert_eq!(names(&order), ["a", "c"]);
}

#[test]
fn a_measure_moves_who_is_clearly_better_for_some_time() {
    let mut order = Order::default();
    order.update(&seen(&[("a", 0, 20), ("b", 0, 30), ("c", 0, 31)]), SECOND);
    let at = |order: &mut Order, second: u64, a: u64, b: u64| {
        order.update(&seen(&[("a", 0, a), ("b", 0, b), ("c", 0, 31)]), second * SECOND)
    };
    for second in 2..60 {
        assert!(!at(&mut order, second, 30, 26), "a little better is not better");
    }
    for second in 60..70 {
        assert!(!at(&mut order, second, 60, 30), "for long enough?");
    }
    // It flaps: the time begins anew.
    assert!(!at(&mut order, 70, 30, 30));
    for second in 71..81 {
        assert!(!at(&mut order, second, 60, 30));
    }
    assert!(at(&mut order, 81, 60, 30));
    assert_eq!(names(&order)[0], "b");
    for second in 82..120 {
        at(&mut order, second, 60, 30);
    }
    assert_eq!(names(&order), ["b", "c", "a"]);
    // Two milliseconds are nothing, whatever the ratio.
    let mut near = Order::default();
    near.update(&seen(&[("a", 0, 1), ("b", 0, 2)]), 1);
    for second in 2..60 {
        assert!(!near.update(&seen(&[("a", 0, 3), ("b", 0, 1)]), second * SECOND));
    }
}

proptest! {
    /// Whatever is measured, every cluster stands in it once, and those of documents are in their order.
    #[test]
    fn it_is_an_order(rounds in proptest::collection::vec(
        proptest::collection::btree_map("[a-e]", (0u32..3, 0u64..50), 0..5), 1..30,
    )) {
        let mut order = Order::default();
        for (at, round) in rounds.iter().enumerate() {
            let list: Vec<_> = round.iter().map(|(name, (order, ms))| (name.as_str(), *order, *ms)).collect();
            order.update(&seen(&list), at as u64 * 3 * SECOND);
            let mut all = names(&order);
            let classes: Vec<u32> = all.iter().map(|name| match round[*name].0 {
                0 => u32::MAX,
                order => order,
            }).collect();
            prop_assert!(classes.is_sorted(), "{classes:?}");
            all.sort_unstable();
            prop_assert_eq!(all, round.keys().map(String::as_str).collect::<Vec<_>>());
        }
    }

    /// What does not change comes to rest, and then nobody stands behind one that is clearly worse.
    #[test]
    fn it_comes_to_rest(first in proptest::array::uniform5(1u64..100), then in proptest::array::uniform5(1u64..100)) {
        let mut order = Order::default();
        let of = |times: &[u64; 5]| {
            let names = ["a", "b", "c", "d", "e"];
            seen(&names.iter().zip(times).map(|(name, ms)| (*name, 0, *ms)).collect::<Vec<_>>())
        };
        order.update(&of(&first), 1);
        for second in 1..200 {
            order.update(&of(&then), second * SECOND);
        }
        for second in 200..300 {
            prop_assert!(!order.update(&of(&then), second * SECOND));
        }
        let times: Vec<u64> = names(&order).iter().map(|name| then[usize::from(name.as_bytes()[0] - b'a')]).collect();
        for pair in times.windows(2) {
            prop_assert!(!(pair[1] * 10 < pair[0] * 8 && pair[1] + 2 < pair[0]), "{times:?}");
        }
    }
}
