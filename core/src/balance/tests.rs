use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::{
    decide::{Availability, Backend, endpoint_key},
    model::{
        AppProtocol, Endpoint, EndpointHealth, Labels, Lane, Locality, Reach, Scope, ServiceEntry,
        ServiceKey, ServicePort, Snapshot, Transport,
    },
    proxy::{TryResult, Wanted},
};

const PORT: u16 = 80;
const MS: Duration = Duration::from_millis(1);

fn key() -> ServiceKey {
    ServiceKey::new(Scope::Cluster, "shop", "checkout").unwrap()
}

fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        reach: Reach::Direct(([127, 0, 0, 1], 1).into()),
        transport: Transport::Plaintext,
        cluster: "east".into(),
        locality: Locality::default(),
        weight: 1,
        labels: Labels::new(),
        lane: None,
        health: EndpointHealth::Healthy,
        stale: false,
        target_port: 1,
        exported: false,
    }
}

fn in_lane(id: &str, lane: &str) -> Endpoint {
    Endpoint { lane: Some(Lane::parse(lane).unwrap()), ..endpoint(id) }
}

fn far(id: &str) -> Endpoint {
    Endpoint { cluster: "west".into(), ..endpoint(id) }
}

fn snapshot(endpoints: Vec<Endpoint>) -> Snapshot {
    let list: Vec<Arc<Endpoint>> = endpoints.into_iter().map(Arc::new).collect();
    let entry = ServiceEntry {
        key: key(),
        ports: vec![ServicePort { name: "".into(), port: PORT, protocol: AppProtocol::Http1, sniff: false }],
        vip_index: 1,
        hosts: None,
        endpoints: BTreeMap::from([(PORT, list.into())]),
        summaries: BTreeMap::new(),
    };
    Snapshot { services: HashMap::from([(key(), Arc::new(entry))]), ..Default::default() }
}

mod checks;
/// Tiers of other clusters, and the gateways in front of them.
mod peers;
/// The rules of a service's TrafficPolicy.
mod policies;

struct Town {
    pools: Pools,
    now: Instant,
}

impl Town {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        let now = Instant::now();
        let placement = Placement { cluster: "east".into(), ..Placement::default() };
        let pools = Pools::new(placement, now, 7);
        pools.apply(&snapshot(endpoints), now);
        Self { pools, now }
    }

    fn pick(&self, lane: Option<&str>, avoid: &[&str]) -> Result<Pick, &'static str> {
        self.pick_around(lane, avoid, &[])
    }

    fn pick_around(
        &self,
        lane: Option<&str>,
        avoid: &[&str],
        around: &[Arc<str>],
    ) -> Result<Pick, &'static str> {
        let lane = lane.map(|lane| Lane::parse(lane).unwrap());
        let avoid: Vec<Arc<str>> = avoid.iter().map(|id| (*id).into()).collect();
        let (service, labels) = (key(), Labels::new());
        let wanted = Wanted {
            service: &service,
            port: PORT,
            labels: &labels,
            lane: lane.as_ref(),
            prefer: None,
            hash: None,
            avoid: &avoid,
            around,
        };
        self.pools.pick(&wanted, self.now)
    }

    fn id(&self, lane: Option<&str>, avoid: &[&str]) -> String {
        self.pick(lane, avoid).unwrap().endpoint().id.to_string()
    }

    fn finish(&self, id: &str, result: TryResult) {
        for _ in 0..1000 {
            let pick = self.pick(None, &[]).unwrap();
            if &*pick.endpoint().id == id {
                return pick.finish(result, MS, self.now);
            }
        }
        panic!("{id} was never picked");
    }

    fn ids(&self, times: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            *counts.entry(self.id(None, &[])).or_default() += 1;
        }
        counts
    }

    fn available(&self, lane: Option<&str>) -> bool {
        let lane = lane.map(|lane| Lane::parse(lane).unwrap());
        let labels = Arc::new(Labels::new());
        let backend = Backend::Service { service: key(), port: PORT, labels, protocol: AppProtocol::Http1 };
        self.pools.is_available(&backend, lane.as_ref())
    }
}

#[test]
fn load_spreads_over_equals_and_follows_weights() {
    let town = Town::new(vec![endpoint("a"), endpoint("b"), endpoint("c")]);
    let counts = town.ids(3000);
    assert!(counts.values().all(|count| (700..1300).contains(count)), "{counts:?}");

    // Held requests fill up by weight: an endpoint of weight 3 takes three times as many.
    let town = Town::new(vec![endpoint("a"), Endpoint { weight: 3, ..endpoint("b") }]);
    let held: Vec<Pick> = (0..400).map(|_| town.pick(None, &[]).unwrap()).collect();
    let heavy = held.iter().filter(|pick| &*pick.endpoint().id == "b").count();
    assert!((270..330).contains(&heavy), "{heavy}");
}

#[test]
fn a_slow_endpoint_gets_less_and_is_forgiven_with_time() {
    let mut town = Town::new(vec![endpoint("slow"), endpoint("fast")]);
    for _ in 0..50 {
        for (id, latency) in [("slow", 200), ("fast", 1)] {
            let avoid = if id == "slow" { "fast" } else { "slow" };
            town.pick(None, &[avoid]).unwrap().finish(TryResult::Success, MS * latency, town.now);
        }
    }
    // Held requests fill both up to the same cost: latency times load.
    let slow_of = |town: &Town| {
        let held: Vec<Pick> = (0..400).map(|_| town.pick(None, &[]).unwrap()).collect();
        held.iter().filter(|pick| &*pick.endpoint().id == "slow").count()
    };
    let slow = slow_of(&town);
    assert!(slow < 10, "{slow} of 400");
    town.now += Duration::from_secs(120);
    let slow = slow_of(&town);
    assert!((150..=250).contains(&slow), "still shunned after two minutes: {slow} of 400");
}

#[test]
fn a_refused_connection_ejects_at_once_and_a_probe_readmits() {
    let mut town = Town::new(vec![endpoint("a"), endpoint("b")]);
    town.finish("a", TryResult::ConnectFailure);
    assert_eq!(town.ids(200).keys().collect::<Vec<_>>(), ["b"]);
    town.now += Duration::from_millis(1001);
    // One request probes; while it is under way, no other does.
    let probe = town.pick(None, &[]).unwrap();
    assert_eq!(&*probe.endpoint().id, "a");
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["b"]);
    probe.finish(TryResult::ConnectFailure, MS, town.now);
    // Twice as long as the first time.
    town.now += Duration::from_millis(1500);
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["b"]);
    town.now += Duration::from_millis(600);
    let probe = town.pick(None, &[]).unwrap();
    assert_eq!(&*probe.endpoint().id, "a");
    probe.finish(TryResult::Success, MS, town.now);
    assert_eq!(town.ids(200).len(), 2);
}

#[test]
fn a_cancelled_probe_leaves_the_place_to_the_next() {
    let mut town = Town::new(vec![endpoint("a"), endpoint("b")]);
    town.finish("a", TryResult::ConnectFailure);
    town.now += Duration::from_secs(2);
    drop(town.pick(None, &[]).unwrap());
    assert_eq!(town.id(None, &[]), "a");
}

#[test]
fn three_failures_in_a_row_eject_and_a_success_between_does_not() {
    let town = Town::new(vec![endpoint("a"), endpoint("b")]);
    for result in
        [TryResult::Failure, TryResult::Failure, TryResult::Success, TryResult::Failure, TryResult::Failure]
    {
        town.finish("a", result);
    }
    assert_eq!(town.ids(200).len(), 2);
    town.finish("a", TryResult::Failure);
    assert_eq!(town.ids(200).keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_dead_tier_hands_over_at_once_and_takes_back_by_and_by() {
    let mut town = Town::new(vec![endpoint("near"), far("far")]);
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["near"]);
    town.finish("near", TryResult::ConnectFailure);
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["far"]);
    town.now += Duration::from_secs(2);
    town.pick(None, &[]).unwrap().finish(TryResult::Success, MS, town.now);
    town.now += Duration::from_secs(1);
    let near = *town.ids(1000).get("near").unwrap();
    assert!((50..400).contains(&near), "{near} of 1000 a second after it is back");
    town.now += Duration::from_secs(10);
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["near"]);
}

#[test]
fn what_was_tried_is_avoided_unless_nothing_else_is_left() {
    let town = Town::new(vec![endpoint("a"), far("b")]);
    assert_eq!(town.id(None, &["a"]), "b");
    assert_eq!(town.id(None, &["a", "b"]), "a");
    assert_eq!(Town::new(vec![]).pick(None, &[]).unwrap_err(), "no_endpoint");
}

#[test]
fn when_everything_is_ejected_it_is_tried_all_the_same() {
    let town = Town::new(vec![endpoint("a")]);
    town.finish("a", TryResult::ConnectFailure);
    assert_eq!(town.id(None, &[]), "a");
    assert!(!town.available(None));
}

#[test]
fn lanes_are_used_in_their_lane_only_and_fall_to_the_baseline() {
    let town = Town::new(vec![endpoint("base"), in_lane("gray", "v2")]);
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["base"]);
    assert_eq!(town.id(Some("v2"), &[]), "gray");
    assert_eq!(town.id(Some("other"), &[]), "base");
    town.pick(Some("v2"), &[]).unwrap().finish(TryResult::ConnectFailure, MS, town.now);
    assert_eq!(town.id(Some("v2"), &[]), "base");
    // Baseline traffic does not enter a lane, even when it has nothing else.
    let town = Town::new(vec![in_lane("gray", "v2")]);
    assert_eq!(town.pick(None, &[]).unwrap_err(), "no_endpoint");
    assert!(!town.available(None) && town.available(Some("v2")));
}

#[test]
fn labels_choose_a_subset() {
    let v2 = Endpoint { labels: Labels::from([("version".into(), "v2".into())]), ..endpoint("two") };
    let town = Town::new(vec![endpoint("one"), v2]);
    let (service, labels) = (key(), Labels::from([("version".into(), "v2".into())]));
    let wanted = Wanted {
        service: &service,
        port: PORT,
        labels: &labels,
        lane: None,
        prefer: None,
        hash: None,
        avoid: &[],
        around: &[],
    };
    for _ in 0..50 {
        assert_eq!(&*town.pools.pick(&wanted, town.now).unwrap().endpoint().id, "two");
    }
    // Nor does a session lead out of it.
    let (anything, nothing) = (Labels::new(), Labels::from([("version".into(), "v3".into())]));
    let of_session = |labels| {
        let wanted = Wanted { prefer: Some(endpoint_key("one")), labels, ..wanted };
        town.pools.pick(&wanted, town.now).map(|pick| pick.endpoint().id.to_string())
    };
    for _ in 0..50 {
        assert_eq!(of_session(&labels).unwrap(), "two");
        assert_eq!(of_session(&anything).unwrap(), "one", "where it may, it is kept");
    }
    assert_eq!(of_session(&nothing).unwrap_err(), "no_endpoint");
}

#[test]
fn a_session_does_not_lead_out_of_a_lane_that_can_serve() {
    let town = Town::new(vec![endpoint("base"), in_lane("gray", "v2")]);
    let (service, labels) = (key(), Labels::new());
    let pick = |lane: Option<&str>, id: &str| {
        let lane = lane.map(|lane| Lane::parse(lane).unwrap());
        let wanted = Wanted {
            service: &service,
            port: PORT,
            labels: &labels,
            lane: lane.as_ref(),
            prefer: Some(endpoint_key(id)),
            hash: None,
            avoid: &[],
            around: &[],
        };
        town.pools.pick(&wanted, town.now).unwrap().endpoint().id.to_string()
    };
    assert_eq!(pick(Some("v2"), "base"), "gray");
    assert_eq!(pick(None, "gray"), "base", "nor into one");
    assert_eq!(pick(Some("v9"), "base"), "base", "a lane without endpoints is served by the baseline");
}

#[test]
fn discovery_decides_who_drains_and_who_is_out() {
    let with = |id, health| Endpoint { health, ..endpoint(id) };
    let town = Town::new(vec![
        with("a", EndpointHealth::Draining),
        endpoint("b"),
        with("c", EndpointHealth::Unhealthy),
    ]);
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["b"]);
    let town = Town::new(vec![with("a", EndpointHealth::Draining), with("c", EndpointHealth::Unhealthy)]);
    assert_eq!(town.ids(100).keys().collect::<Vec<_>>(), ["a"]);
    assert!(!town.available(None));
}

#[test]
fn state_outlives_a_snapshot_and_not_its_endpoint() {
    let town = Town::new(vec![endpoint("a"), endpoint("b")]);
    town.finish("a", TryResult::ConnectFailure);
    town.pools.apply(&snapshot(vec![endpoint("a"), endpoint("b"), endpoint("c")]), town.now);
    assert_eq!(town.ids(300).keys().collect::<Vec<_>>(), ["b", "c"]);
    town.pools.apply(&snapshot(vec![endpoint("b")]), town.now);
    town.pools.apply(&snapshot(vec![endpoint("a")]), town.now);
    assert_eq!(town.ids(10).keys().collect::<Vec<_>>(), ["a"]);
    town.pools.apply(&Snapshot::default(), town.now);
    assert_eq!(town.pick(None, &[]).unwrap_err(), "unknown_service");
}

#[test]
fn a_missing_service_is_not_available() {
    let town = Town::new(vec![endpoint("a")]);
    town.pools.apply(&Snapshot::default(), town.now);
    assert!(!town.available(None));
}

#[derive(Debug, Clone)]
enum Event {
    Pick { lane: bool },
    Finish(usize, TryResult),
    Drop(usize),
    Wait(u64),
    Apply(Vec<bool>),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let result = prop_oneof![
        3 => Just(TryResult::Success),
        2 => Just(TryResult::Failure),
        1 => Just(TryResult::ConnectFailure)
    ];
    let event = prop_oneof![
        4 => any::<bool>().prop_map(|lane| Event::Pick { lane }),
        3 => (any::<usize>(), result).prop_map(|(n, result)| Event::Finish(n, result)),
        1 => any::<usize>().prop_map(Event::Drop),
        1 => (0u64..20_000).prop_map(Event::Wait),
        1 => proptest::collection::vec(any::<bool>(), 6).prop_map(Event::Apply),
    ];
    proptest::collection::vec(event, 1..200)
}

fn some(present: &[bool]) -> Vec<Endpoint> {
    let all = [endpoint("a"), endpoint("b"), far("c"), far("d"), in_lane("e", "v2"), in_lane("f", "v2")];
    all.into_iter().zip(present).filter(|(_, present)| **present).map(|(endpoint, _)| endpoint).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens: who is picked is there, is in the right lane, and no place is held for ever.
    #[test]
    fn picks_are_always_members_and_places_come_back(events in events()) {
        let mut town = Town::new(some(&[true; 6]));
        let mut present = vec![true; 6];
        let mut held: Vec<Pick> = Vec::new();
        for event in events {
            match event {
                Event::Pick { lane } => {
                    let baseline = present.iter().take(4).any(|p| *p);
                    let gray = present.iter().skip(4).any(|p| *p);
                    match town.pick(lane.then_some("v2"), &[]) {
                        Ok(pick) => {
                            let id = pick.endpoint().id.clone();
                            let position = ["a", "b", "c", "d", "e", "f"].iter().position(|i| **i == *id).unwrap();
                            prop_assert!(present[position], "{id} is gone");
                            prop_assert!(lane || position < 4, "the baseline entered a lane");
                            held.push(pick);
                        }
                        Err(reason) => {
                            prop_assert_eq!(reason, "no_endpoint");
                            prop_assert!(!(baseline || lane && gray), "there was one");
                        }
                    }
                }
                Event::Finish(n, result) if !held.is_empty() => {
                    let pick = held.swap_remove(n % held.len());
                    pick.finish(result, MS, town.now);
                }
                Event::Drop(n) if !held.is_empty() => drop(held.swap_remove(n % held.len())),
                Event::Finish(..) | Event::Drop(_) => {}
                Event::Wait(millis) => town.now += MS * u32::try_from(millis).unwrap(),
                Event::Apply(next) => {
                    town.pools.apply(&snapshot(some(&next)), town.now);
                    present = next;
                }
            }
        }
        town.pools.apply(&snapshot(some(&present)), town.now);
        drop(held);
        prop_assert_eq!(town.pools.in_flight(&key(), PORT), 0);
    }

    /// An ejected endpoint is not picked while a healthy one of its tier exists, unless to probe it.
    #[test]
    fn the_ejected_are_left_alone(failures in proptest::collection::vec(0usize..4, 1..30)) {
        let ids = ["a", "b", "c", "d"];
        let town = Town::new(ids.iter().map(|id| endpoint(id)).collect());
        let mut ejected = std::collections::BTreeSet::new();
        for failure in failures {
            let id = ids[failure];
            if ejected.len() == 3 || ejected.contains(id) {
                continue;
            }
            town.finish(id, TryResult::ConnectFailure);
            ejected.insert(id);
            for picked in town.ids(50).keys() {
                prop_assert!(!ejected.contains(picked.as_str()), "{picked} is ejected");
            }
        }
    }
}
