use std::net::SocketAddr;

use super::*;
use crate::{decide::Compiled, model::Summary};

const SECOND: Duration = Duration::from_secs(1);

fn gateway(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

fn behind(cluster: &str, id: &str, gateways: &[u16]) -> Endpoint {
    let via: Arc<[SocketAddr]> = gateways.iter().map(|port| gateway(*port)).collect();
    Endpoint { cluster: cluster.into(), reach: Reach::Via(via), ..endpoint(id) }
}

fn stale(endpoint: Endpoint) -> Endpoint {
    Endpoint { stale: true, ..endpoint }
}

/// One that calls, and the others that it may fall back on.
struct Sea {
    town: Town,
}

impl Sea {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        Self { town: Town::new(endpoints) }
    }

    /// Probes all gateways once: how far each is away, in milliseconds; none: it does not answer.
    fn probe(&mut self, round_trips: &[(u16, Option<u64>)]) {
        self.town.now += 6 * SECOND;
        let used = self.town.pick(None, &[]);
        for probe in self.town.pools.due_probes(self.town.now, 100) {
            let port = probe.gateway().address().port();
            let (_, round_trip) = round_trips.iter().find(|(known, _)| *known == port).unwrap();
            let now = self.town.pools.paths().nanos(self.town.now);
            let _changed = probe.finish(round_trip.map(|ms| MS * u32::try_from(ms).unwrap()), now);
        }
        drop(used);
        self.town.now += 20 * MS;
        self.town.pools.measure(self.town.now);
    }

    fn says(&self) -> Vec<String> {
        self.town.ids(40).into_keys().collect()
    }
}

#[test]
fn what_is_behind_gateways_that_gave_no_answer_comes_last() {
    let all = vec![behind("west", "w1", &[1]), behind("west", "w2", &[2]), behind("north", "n", &[3])];
    let sea = Sea::new(all);
    let says = |avoid: &[&str], around: &[&str]| {
        let around: Vec<Arc<str>> = around.iter().map(|cluster| (*cluster).into()).collect();
        let pick = |_| sea.town.pick_around(None, avoid, &around).unwrap().endpoint().id.to_string();
        (0..40).map(pick).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(says(&["n"], &[]), ["w1", "w2"]);
    assert_eq!(says(&["w1"], &["west"]), ["n"], "another cluster, not another gateway");
    assert_eq!(says(&["w1", "n"], &["west"]), ["w2"], "nobody else is left");
    assert_eq!(says(&["w1", "n"], &["west", "north"]), ["w2"]);
}

#[test]
fn clusters_are_fallen_back_on_one_after_the_other_by_round_trip() {
    let all = vec![behind("west", "w", &[1]), behind("south", "s", &[2]), behind("north", "n", &[3])];
    let mut sea = Sea::new(all);
    sea.probe(&[(1, Some(30)), (2, Some(20)), (3, Some(80))]);
    assert_eq!(sea.says(), ["s"]);
    sea.probe(&[(1, Some(30)), (2, None), (3, Some(80))]);
    sea.probe(&[(1, Some(30)), (2, None), (3, Some(80))]);
    assert_eq!(sea.says(), ["w"], "its gateway is down");
    sea.probe(&[(1, None), (2, None), (3, Some(80))]);
    sea.probe(&[(1, None), (2, None), (3, Some(80))]);
    assert_eq!(sea.says(), ["n"]);
    // Nobody can be reached: better a try than none.
    sea.probe(&[(1, None), (2, None), (3, None)]);
    sea.probe(&[(1, None), (2, None), (3, None)]);
    assert_eq!(sea.says(), ["s"]);
    for _ in 0..10 {
        sea.probe(&[(1, Some(30)), (2, Some(20)), (3, Some(80))]);
    }
    assert_eq!(sea.says(), ["s"], "nothing was ejected on the way");
}

#[test]
fn documents_go_before_measures() {
    let mut sea = Sea::new(Vec::new());
    let order = BTreeMap::from([(Arc::from("north"), 1), (Arc::from("west"), 2)]);
    let all = vec![behind("west", "w", &[1]), behind("south", "s", &[2]), behind("north", "n", &[3])];
    let config = Arc::new(Compiled { failover_order: order, ..Compiled::default() });
    sea.town.pools.apply(&Snapshot { config, ..snapshot(all) }, sea.town.now);
    sea.probe(&[(1, Some(1)), (2, Some(1)), (3, Some(90))]);
    assert_eq!(sea.says(), ["n"]);
    let clusters = |sea: &Sea| -> Vec<String> {
        sea.town.pools.peers(sea.town.now).iter().map(|peer| peer.cluster.to_string()).collect()
    };
    assert_eq!(clusters(&sea), ["north", "west", "south"]);
}

#[test]
fn who_was_not_heard_of_keeps_its_place_while_it_answers() {
    let all = |old: bool| {
        let near = behind("south", "s", &[2]);
        vec![behind("west", "w", &[1]), if old { stale(near) } else { near }]
    };
    let mut sea = Sea::new(all(false));
    sea.probe(&[(1, Some(30)), (2, Some(20))]);
    assert_eq!(sea.says(), ["s"]);
    sea.town.pools.apply(&snapshot(all(true)), sea.town.now);
    assert_eq!(sea.says(), ["s"], "stale alone moves nothing");
    // It loses half of what is sent, and nobody vouches for it.
    for _ in 0..40 {
        sea.probe(&[(1, Some(30)), (2, None)]);
        sea.probe(&[(1, Some(30)), (2, Some(20))]);
    }
    assert_eq!(sea.says(), ["w"]);
    // Heard of again, it has its place, lossy or not.
    sea.town.pools.apply(&snapshot(all(false)), sea.town.now);
    sea.town.now += 20 * SECOND;
    assert_eq!(sea.says(), ["s"]);
}

#[test]
fn failing_back_to_a_peer_ramps() {
    let all = vec![behind("west", "w", &[1]), behind("south", "s", &[2])];
    let mut sea = Sea::new(all);
    sea.probe(&[(1, Some(20)), (2, Some(90))]);
    assert_eq!(sea.says(), ["w"]);
    sea.probe(&[(1, None), (2, Some(90))]);
    sea.probe(&[(1, None), (2, Some(90))]);
    assert_eq!(sea.says(), ["s"]);
    let west = sea.town.pools.paths().get(gateway(1)).unwrap();
    for _ in 0..2 {
        sea.town.pools.paths().answered(gateway(1), sea.town.now);
    }
    assert!(!west.is_down());
    let share = |sea: &Sea| sea.town.ids(2000).get("w").copied().unwrap_or_default();
    assert!(share(&sea) < 200);
    sea.town.now += 3 * SECOND;
    let ramped = share(&sea);
    assert!((400..800).contains(&ramped), "ten percent a second: {ramped} of 2000");
    sea.town.now += 8 * SECOND;
    assert_eq!(share(&sea), 2000);
}

#[test]
fn more_clusters_than_tiers_share_the_last() {
    let names: Vec<String> = (0..12).map(|n| format!("c{n:02}")).collect();
    let all = names.iter().zip(1..).map(|(name, port)| behind(name, name, &[port])).collect();
    let mut sea = Sea::new(all);
    let mut dead: Vec<_> = (1..13).map(|port| (port, Some(u64::from(port) * 10))).collect();
    sea.probe(&dead);
    assert_eq!(sea.says(), ["c00"]);
    for gone in dead.iter_mut().take(7) {
        gone.1 = None;
    }
    sea.probe(&dead);
    sea.probe(&dead);
    assert_eq!(sea.says(), ["c07", "c08", "c09", "c10", "c11"]);
}

#[test]
fn a_gateway_that_is_down_ejects_nobody_behind_it_and_one_bad_endpoint_is_ejected_alone() {
    let all = vec![behind("west", "w1", &[1]), behind("west", "w2", &[1])];
    let mut sea = Sea::new(all);
    sea.probe(&[(1, Some(5))]);
    for _ in 0..20 {
        sea.town.pick(None, &[]).unwrap().finish(TryResult::Unreached, MS, sea.town.now);
    }
    assert_eq!(sea.says(), ["w1", "w2"]);
    sea.town.finish("w2", TryResult::ConnectFailure);
    assert_eq!(sea.says(), ["w1"]);
    assert!(!sea.town.pools.paths().get(gateway(1)).unwrap().is_down());
}

#[test]
fn gateways_of_services_that_nobody_uses_are_not_probed() {
    let mut sea = Sea::new(vec![behind("west", "w", &[1, 2])]);
    assert!(sea.town.pools.due_probes(sea.town.now, 100).is_empty());
    sea.probe(&[(1, Some(5)), (2, Some(5))]);
    sea.town.now += 6 * SECOND;
    assert_eq!(sea.town.pools.due_probes(sea.town.now, 100).len(), 2);
    sea.town.now += 700 * SECOND;
    assert!(sea.town.pools.due_probes(sea.town.now, 100).is_empty());
}

#[test]
fn where_more_gateways_are_due_than_may_be_probed_each_has_its_turn() {
    let mut sea = Sea::new(vec![behind("west", "w", &[1, 2, 3, 4, 5])]);
    let _used = sea.town.pick(None, &[]);
    let mut asked = std::collections::BTreeMap::new();
    for _ in 0..10 {
        sea.town.now += 6 * SECOND;
        let probes = sea.town.pools.due_probes(sea.town.now, 2);
        for probe in probes {
            *asked.entry(probe.gateway().address().port()).or_insert(0) += 1;
            let _changed = probe.finish(Some(MS), sea.town.pools.paths().nanos(sea.town.now));
        }
    }
    assert!(asked.len() == 5 && asked.values().all(|times| *times >= 3), "{asked:?}");
}

/// On this network, so that no gateway is in between.
fn beside(cluster: &str, id: &str, port: u16) -> Endpoint {
    let identity = crate::model::SpiffeId::parse(&format!("spiffe://{cluster}.example/ns/shop/sa/checkout"));
    let transport = Transport::Mesh { identity: identity.unwrap(), sni: "a.t".into() };
    Endpoint { cluster: cluster.into(), reach: Reach::Direct(gateway(port)), transport, ..endpoint(id) }
}

#[test]
fn clusters_on_this_network_are_ordered_by_the_round_trip_to_their_endpoints() {
    let all = vec![beside("west", "w", 1), beside("south", "s", 2), behind("north", "n", &[3])];
    let mut sea = Sea::new(all);
    sea.probe(&[(1, Some(30)), (2, Some(2)), (3, Some(10))]);
    assert_eq!(sea.says(), ["s"]);
    let seen = |sea: &Sea| -> Vec<(String, Option<Duration>)> {
        let peers = sea.town.pools.peers(sea.town.now).into_iter();
        peers.map(|peer| (peer.cluster.to_string(), peer.round_trip)).collect()
    };
    let ms = |number: u32| Some(MS * number);
    assert_eq!(seen(&sea), [("south".into(), ms(2)), ("north".into(), ms(10)), ("west".into(), ms(30))]);
    // One that does not answer is not out for that: it is its requests that tell.
    sea.probe(&[(1, Some(30)), (2, None), (3, Some(10))]);
    sea.probe(&[(1, Some(30)), (2, None), (3, Some(10))]);
    assert_eq!(sea.says(), ["s"]);
}

#[test]
fn who_was_not_heard_of_and_does_not_answer_on_this_network_comes_last() {
    let all = |old: bool| {
        let near = (10..20).map(|port| beside("south", &format!("s{port}"), port));
        let near = near.map(|endpoint| if old { stale(endpoint) } else { endpoint });
        near.chain([behind("west", "w", &[1])]).collect::<Vec<_>>()
    };
    let probed = |south: Option<u64>| -> Vec<_> {
        (10..20).map(|port| (port, south)).chain([(1, Some(90))]).collect()
    };
    let mut sea = Sea::new(all(false));
    sea.probe(&probed(Some(2)));
    assert_eq!(sea.says().len(), 10);
    sea.town.pools.apply(&snapshot(all(true)), sea.town.now);
    assert_eq!(sea.says().len(), 10, "not heard of alone moves nothing");
    sea.probe(&probed(None));
    sea.probe(&probed(None));
    assert_eq!(sea.says(), ["w"], "no request has to find out");
    for _ in 0..4 {
        sea.probe(&probed(Some(2)));
    }
    sea.town.now += 20 * SECOND;
    assert_eq!(sea.says().len(), 10, "it answers again");
    sea.probe(&probed(None));
    sea.probe(&probed(None));
    sea.town.pools.apply(&snapshot(all(false)), sea.town.now);
    sea.town.now += 20 * SECOND;
    assert_eq!(sea.says().len(), 10, "its controller vouches for it");
}

#[test]
fn of_many_endpoints_on_this_network_a_few_are_probed() {
    let all: Vec<_> = (1..100).map(|port| beside("west", &format!("w{port}"), port)).collect();
    let all =
        all.into_iter().chain([Endpoint { transport: Transport::Plaintext, ..beside("south", "s", 200) }]);
    let mut sea = Sea::new(all.collect());
    assert!(sea.town.pools.due_probes(sea.town.now, 100).is_empty(), "nobody calls anything");
    let _used = sea.town.pick(None, &[]);
    let ports = |sea: &Sea| -> Vec<u16> {
        let probes = sea.town.pools.due_probes(sea.town.now, 100);
        probes.iter().map(|probe| probe.gateway().address().port()).collect()
    };
    let first = ports(&sea);
    assert_eq!(first.len(), 3);
    assert!(!first.contains(&200), "no application is knocked at");
    sea.town.now += 6 * SECOND;
    assert_eq!(ports(&sea), first, "always the same");
}

fn summary(cluster: &str, healthy: u32, total: u32, capacity: u32) -> Summary {
    Summary {
        cluster: cluster.into(),
        locality: Locality::default(),
        healthy,
        total,
        healthy_weight: healthy.into(),
        total_weight: total.into(),
        capacity,
    }
}

fn summed(endpoints: Vec<Endpoint>, summaries: &[Summary]) -> Snapshot {
    let mut snapshot = snapshot(endpoints);
    let mut entry = (*snapshot.services[&key()]).clone();
    entry.summaries = BTreeMap::from([(PORT, summaries.into())]);
    snapshot.services.insert(key(), Arc::new(entry));
    snapshot
}

/// Of so many requests at a time, how many each endpoint got; `-` those that were refused for the peers' capacity.
fn sent(sea: &Sea, count: usize) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for _ in 0..count {
        let to = match sea.town.pick(None, &[]) {
            Ok(pick) => pick.endpoint().id.to_string(),
            Err("peer_capacity") => "-".into(),
            Err(other) => panic!("{other}"),
        };
        *out.entry(to).or_default() += 1;
    }
    out
}

#[test]
fn what_stands_behind_the_named_endpoints_counts() {
    let all = || vec![behind("west", "w", &[1]), behind("south", "s", &[2])];
    let mut sea = Sea::new(all());
    sea.probe(&[(1, Some(20)), (2, Some(90))]);
    // One in four of those in west is healthy, though the named one is: it carries 35 percent.
    sea.town.pools.apply(&summed(all(), &[summary("west", 250, 1000, 0)]), sea.town.now);
    let got = sent(&sea, 4000);
    assert!((1200..1600).contains(&got["w"]) && got["w"] + got["s"] == 4000, "{got:?}");
    // The named one does not answer: neither do the others, as far as is known.
    sea.town.finish("w", TryResult::ConnectFailure);
    assert_eq!(sent(&sea, 100), BTreeMap::from([("s".into(), 100)]));
}

#[test]
fn no_peer_gets_more_than_it_can_take() {
    let all = || vec![behind("west", "w", &[1]), behind("south", "s", &[2])];
    let mut sea = Sea::new(all());
    sea.probe(&[(1, Some(20)), (2, Some(90))]);
    let takes = |west, south| [summary("west", 10, 10, west), summary("south", 10, 10, south)];
    sea.town.pools.apply(&summed(all(), &takes(100, 40)), sea.town.now);
    let mut total = BTreeMap::new();
    for _ in 0..50 {
        sea.town.now += 100 * MS;
        for (to, count) in sent(&sea, 30) {
            *total.entry(to).or_insert(0) += count;
        }
    }
    // 300 a second for five seconds, and half a second's worth that was saved up at the begin.
    assert!((500..=560).contains(&total["w"]), "{total:?}");
    assert!((200..=225).contains(&total["s"]), "{total:?}");
    assert_eq!(total["w"] + total["s"] + total["-"], 1500);
    // One says nothing of it: it gets what is over.
    sea.town.pools.apply(&summed(all(), &takes(100, 0)), sea.town.now);
    let got = sent(&sea, 300);
    assert!(got["s"] > 200 && !got.contains_key("-"), "{got:?}");
}

#[test]
fn what_a_peer_cannot_take_goes_back_only_to_who_can_carry_it() {
    let near = || vec![endpoint("e1"), endpoint("e2"), endpoint("e3"), endpoint("e4")];
    let all = || near().into_iter().chain([behind("west", "w", &[1])]).collect::<Vec<_>>();
    let mut sea = Sea::new(all());
    sea.town.pools.apply(&summed(all(), &[summary("west", 1, 1, 10)]), sea.town.now);
    for id in ["e1", "e2", "e3"] {
        sea.town.finish(id, TryResult::ConnectFailure);
    }
    sea.town.now += 20 * MS;
    let got = sent(&sea, 1000);
    // 35 percent stay; the rest would be for west, which takes ten a second.
    assert!((280..420).contains(&got["e4"]) && got["w"] <= 10 && got["-"] > 500, "{got:?}");
    // All are well again: while its share comes back by and by, what west does not take goes there at once.
    for id in ["e1", "e2", "e3"] {
        let pools = &sea.town.pools;
        let members = pools.members(&key(), PORT).unwrap();
        let member = members.all().iter().find(|m| &*m.endpoint.id == id).unwrap();
        assert!(member.health.succeed(pools.nanos(sea.town.now), 1, pools.nanos(sea.town.now)));
        members.state.changed();
    }
    sea.town.now += 20 * MS;
    let got = sent(&sea, 1000);
    assert!(!got.contains_key("-") && got["e1"] > 100, "{got:?}");
}
