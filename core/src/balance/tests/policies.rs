use std::collections::BTreeSet;

use super::*;
use crate::{
    decide::{Algorithm, Balancing, Breaker, Compiled, HashKey, Outliers, ServicePolicy},
    model::SpiffeId,
};

/// A town whose service has this policy.
pub(super) fn under(policy: ServicePolicy, endpoints: Vec<Endpoint>) -> Town {
    let town = Town::new(Vec::new());
    town.pools.apply(&ruled(policy, endpoints), town.now);
    town
}

pub(super) fn ruled(policy: ServicePolicy, endpoints: Vec<Endpoint>) -> Snapshot {
    let mut config = Compiled::default();
    config.service_policies.0.insert(key(), Arc::new(policy));
    Snapshot { config: Arc::new(config), ..snapshot(endpoints) }
}

fn by(algorithm: Algorithm) -> ServicePolicy {
    ServicePolicy { balancing: Balancing { algorithm, ..Balancing::default() }, ..ServicePolicy::default() }
}

pub(super) fn many(count: usize) -> Vec<Endpoint> {
    (0..count).map(|n| endpoint(&format!("e{n}"))).collect()
}

fn in_mesh(id: &str) -> Endpoint {
    let identity = SpiffeId::parse("spiffe://east.example/ns/shop/sa/checkout").unwrap();
    Endpoint { transport: Transport::Mesh { identity, sni: "x".into() }, ..endpoint(id) }
}

fn hashed(town: &Town, hash: u64) -> String {
    let (service, labels) = (key(), Labels::new());
    let wanted = Wanted {
        service: &service,
        port: PORT,
        labels: &labels,
        lane: None,
        prefer: None,
        hash: Some(hash),
        avoid: &[],
        around: &[],
    };
    town.pools.pick(&wanted, town.now).unwrap().endpoint().id.to_string()
}

#[test]
fn in_turn_each_has_its_share() {
    let heavy = Endpoint { weight: 3, ..endpoint("heavy") };
    let town = under(by(Algorithm::RoundRobin), vec![endpoint("a"), heavy, endpoint("b")]);
    let counts = town.ids(5000);
    for (id, due) in [("a", 1000), ("b", 1000), ("heavy", 3000)] {
        assert!(counts[id].abs_diff(due) < 100, "{counts:?}");
    }
    let town = under(by(Algorithm::RoundRobin), many(4));
    assert!(town.ids(400).values().all(|count| *count == 100));
    town.finish("e1", TryResult::ConnectFailure);
    let counts = town.ids(300);
    assert!(!counts.contains_key("e1") && counts.values().all(|count| count.abs_diff(100) < 5), "{counts:?}");
}

#[test]
fn weights_hold_without_load() {
    let heavy = Endpoint { weight: 3, ..endpoint("heavy") };
    let town = under(by(Algorithm::LeastRequest), vec![endpoint("a"), heavy]);
    let heavy = town.ids(4000)["heavy"];
    assert!((2600..3900).contains(&heavy), "{heavy} of 4000 for a weight of 3 in 4");
}

#[test]
fn the_one_with_fewer_requests_is_preferred() {
    let town = under(by(Algorithm::LeastRequest), many(2));
    let held: Vec<Pick> = (0..100).map(|_| town.pick(None, &[]).unwrap()).collect();
    let first = held.iter().filter(|pick| &*pick.endpoint().id == "e0").count();
    assert_eq!(first, 50);
}

#[test]
fn a_key_keeps_its_endpoint_and_moves_only_when_that_is_gone() {
    let town = under(by(Algorithm::Hash(HashKey::Source)), many(10));
    let before: Vec<String> = (0..1000).map(|n| hashed(&town, n * 0x9E37_79B9)).collect();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 10);
    town.finish_hashed(&before, "e3");
    let after: Vec<String> = (0..1000).map(|n| hashed(&town, n * 0x9E37_79B9)).collect();
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || before == "e3", "{before} moved to {after}");
        assert_ne!(after, "e3");
    }
}

impl Town {
    /// Ejects an endpoint that some key is with.
    fn finish_hashed(&self, ids: &[String], id: &str) {
        let at = ids.iter().position(|other| other == id).unwrap() as u64;
        let (service, labels) = (key(), Labels::new());
        let wanted = Wanted {
            service: &service,
            port: PORT,
            labels: &labels,
            lane: None,
            prefer: None,
            hash: Some(at * 0x9E37_79B9),
            avoid: &[],
            around: &[],
        };
        self.pools.pick(&wanted, self.now).unwrap().finish(TryResult::ConnectFailure, MS, self.now);
    }
}

#[test]
fn who_is_new_starts_slowly() {
    let slow_start = Duration::from_secs(10);
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastRequest] {
        let balancing = Balancing { algorithm, slow_start, subset: None };
        let policy = ServicePolicy { balancing, ..ServicePolicy::default() };
        let mut town = under(policy.clone(), many(2));
        town.now += Duration::from_secs(60);
        town.pools.apply(&ruled(policy, many(3)), town.now);
        let held: Vec<Pick> = (0..300).map(|_| town.pick(None, &[]).unwrap()).collect();
        let new = held.iter().filter(|pick| &*pick.endpoint().id == "e2").count();
        assert!((1..60).contains(&new), "{new} of 300 at once");
        drop(held);
        town.now += slow_start;
        let held: Vec<Pick> = (0..300).map(|_| town.pick(None, &[]).unwrap()).collect();
        let new = held.iter().filter(|pick| &*pick.endpoint().id == "e2").count();
        assert!((80..120).contains(&new), "{new} of 300 afterwards");
    }
}

#[test]
fn each_proxy_uses_a_part_of_a_large_service() {
    let balancing = Balancing { subset: Some(5), ..Balancing::default() };
    let policy = ServicePolicy { balancing, ..ServicePolicy::default() };
    let used = |seat: u64, endpoints: Vec<Endpoint>| {
        let placement = Placement { cluster: "east".into(), seat, ..Placement::default() };
        let now = Instant::now();
        let pools = Pools::new(placement, now, seat);
        pools.apply(&ruled(policy.clone(), endpoints), now);
        let town = Town { pools, now };
        town.ids(400).into_keys().collect::<BTreeSet<_>>()
    };
    let mut all = BTreeSet::new();
    for seat in 0..40 {
        let part = used(seat, many(30));
        assert_eq!(part.len(), 5);
        let more = used(seat, many(31));
        assert!(part.difference(&more).count() <= 1, "one endpoint more moves at most one");
        all.extend(part);
    }
    assert_eq!(all.len(), 30, "together they use them all");
}

#[test]
fn what_is_over_a_bound_is_refused_and_places_come_back() {
    let under = |breaker| under(ServicePolicy { breaker, ..ServicePolicy::default() }, many(2));
    let town = under(Breaker { requests: Some(3), ..Breaker::default() });
    let held: Vec<Pick> = (0..3).map(|_| town.pick(None, &[]).unwrap()).collect();
    assert_eq!(town.pick(None, &[]).unwrap_err(), "overloaded");
    drop(held);
    assert!(town.pick(None, &[]).is_ok());

    let town = under(Breaker { per_endpoint: Some(2), ..Breaker::default() });
    let held: Vec<Pick> = (0..4).map(|_| town.pick(None, &[]).unwrap()).collect();
    assert_eq!(held.iter().filter(|pick| &*pick.endpoint().id == "e0").count(), 2);
    assert_eq!(town.pick(None, &[]).unwrap_err(), "overloaded");
    drop(held);

    let town = under(Breaker { pending: Some(1), ..Breaker::default() });
    let mut first = town.pick(None, &[]).unwrap();
    assert_eq!(town.pick(None, &[]).unwrap_err(), "overloaded");
    first.connected();
    first.connected();
    let second = town.pick(None, &[]).unwrap();
    assert_eq!(town.pick(None, &[]).unwrap_err(), "overloaded");
    drop((first, second));
    assert_eq!(town.pools.in_flight(&key(), PORT), 0);
}

#[test]
fn who_fails_far_more_than_the_others_is_ejected() {
    let outliers = Outliers { failures: 0, ..Outliers::default() };
    let mut town = under(ServicePolicy { outliers, ..ServicePolicy::default() }, many(4));
    town.now += outliers.interval;
    let mut good = 0;
    for n in 0..400 {
        let pick = town.pick(None, &[]).unwrap();
        // Every other request to it fails: never many in a row.
        let fails = &*pick.endpoint().id == "e2" && n % 2 == 0;
        good += u32::from(!fails);
        pick.finish(if fails { TryResult::Failure } else { TryResult::Success }, MS, town.now);
    }
    assert!(good < 400 && town.ids(100).contains_key("e2"));
    town.now += outliers.interval;
    assert_eq!(town.ids(200).keys().collect::<Vec<_>>(), ["e0", "e1", "e3"]);
}

#[test]
fn at_most_a_share_is_ejected_for_what_it_answers() {
    let outliers = Outliers { failures: 1, most: 50, ..Outliers::default() };
    let town = under(ServicePolicy { outliers, ..ServicePolicy::default() }, many(4));
    for _ in 0..50 {
        town.pick(None, &[]).unwrap().finish(TryResult::Failure, MS, town.now);
    }
    assert_eq!(town.ids(200).len(), 2, "half of them stay in service");
    // Who takes no connections is of no use to anybody.
    for _ in 0..2 {
        town.pick(None, &[]).unwrap().finish(TryResult::ConnectFailure, MS, town.now);
    }
    assert!(!town.available(None));
}

#[test]
fn an_endpoint_that_discovery_drops_while_it_answers_is_kept_for_a_while() {
    let mut town = Town::new(vec![in_mesh("a"), in_mesh("b")]);
    town.finish("a", TryResult::Success);
    town.now += Duration::from_secs(5);
    // `b` never answered.
    town.pools.apply(&snapshot(vec![]), town.now);
    assert_eq!(town.ids(50).keys().collect::<Vec<_>>(), ["a"]);
    assert!(!town.available(None), "it counts for nothing but a last resort");
    town.pools.apply(&snapshot(vec![endpoint("c")]), town.now);
    assert_eq!(town.ids(50).keys().collect::<Vec<_>>(), ["c"]);
    town.pools.apply(&snapshot(vec![]), town.now);
    assert_eq!(town.id(None, &[]), "a");
    town.now += Duration::from_secs(31);
    assert_eq!(town.pick(None, &[]).unwrap_err(), "no_endpoint");
}

#[test]
fn what_drained_or_is_not_ours_is_not_kept() {
    let elsewhere = Endpoint { cluster: "west".into(), ..in_mesh("a") };
    let drains = Endpoint { health: EndpointHealth::Draining, ..in_mesh("a") };
    for gone in [elsewhere, drains, endpoint("a")] {
        let town = Town::new(vec![gone]);
        town.finish("a", TryResult::Success);
        town.pools.apply(&snapshot(vec![]), town.now);
        assert_eq!(town.pick(None, &[]).unwrap_err(), "no_endpoint");
    }
}

#[test]
fn what_was_under_way_at_an_ejection_ends_it_neither_way() {
    let outliers = Outliers { failures: 1, ejection: Duration::from_secs(10), ..Outliers::default() };
    let mut town = under(ServicePolicy { outliers, ..by(Algorithm::RoundRobin) }, many(3));
    let held: Vec<Pick> = (0..200).map(|_| town.pick(None, &[]).unwrap()).collect();
    let (mut slow, _others): (Vec<Pick>, Vec<Pick>) =
        held.into_iter().partition(|pick| &*pick.endpoint().id == "e0");
    town.now += MS;
    town.finish("e0", TryResult::Failure);
    assert!(!town.ids(200).contains_key("e0"));
    town.now += Duration::from_secs(1);
    slow.pop().unwrap().finish(TryResult::Success, Duration::from_secs(1), town.now);
    assert!(!town.ids(200).contains_key("e0"), "an answer from before does not bring it back");
    town.now += Duration::from_secs(10);
    slow.pop().unwrap().finish(TryResult::Failure, Duration::from_secs(11), town.now);
    town.finish("e0", TryResult::Success);
    assert!(town.ids(200).contains_key("e0"), "and a failure from before does not keep it away");
}
