//! The allocator with real holders, in a world whose time is made up.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use proptest::prelude::*;
use tombolo_core::{decide::SharedLimit, quota::Quotas};

use super::*;

const POLICY: &str = "shop/p";
/// A step of the simulation.
const STEP: Duration = Duration::from_millis(50);
const LEASE: Duration = Duration::from_secs(2);

fn limit(requests: u32) -> SharedLimit {
    SharedLimit { policy: POLICY.into(), requests, per: Duration::from_secs(1), burst: requests }
}

/// A proxy: how many requests a second come, and what it has let through.
struct Proxy {
    quotas: Arc<Quotas>,
    /// Requests a second.
    asked: f64,
    due: f64,
    allowed: u32,
    /// It hears the controller, and is heard.
    linked: bool,
    leases: VecDeque<Lease>,
}

struct World {
    limit: SharedLimit,
    allocator: Allocator<usize>,
    proxies: Vec<Option<Proxy>>,
    begin: Instant,
    now: Duration,
}

impl World {
    fn new(requests: u32, demands: &[f64]) -> Self {
        let allocator = Allocator::new(LEASE, Duration::ZERO);
        let mut world = Self {
            limit: limit(requests),
            allocator,
            proxies: Vec::new(),
            begin: Instant::now(),
            now: Duration::ZERO,
        };
        demands.iter().for_each(|asked| world.join(*asked));
        world
    }

    fn join(&mut self, asked: f64) {
        let quotas = Quotas::together();
        self.proxies.push(Some(Proxy {
            quotas,
            asked,
            due: 0.0,
            allowed: 0,
            linked: true,
            leases: VecDeque::new(),
        }));
    }

    fn proxy(&mut self, at: usize) -> &mut Proxy {
        self.proxies[at].as_mut().unwrap()
    }

    fn report(&mut self, at: usize) {
        let now = self.begin + self.now;
        let uses = self.proxy(at).quotas.uses(now);
        let uses = uses.into_iter().map(|used| Used {
            policy: used.policy.to_string(),
            demand: used.demand,
            share: used.share,
            lease: used.lease,
        });
        self.allocator.report(&at, uses.collect(), self.now);
    }

    /// Requests come, leases of the last step arrive, reports of those who have something to say, new leases go out.
    fn step(&mut self) {
        self.now += STEP;
        let now = self.begin + self.now;
        let reports = self.now.as_millis().is_multiple_of(250);
        for at in 0..self.proxies.len() {
            let limit = self.limit.clone();
            let Some(proxy) = &mut self.proxies[at] else { continue };
            proxy.due += proxy.asked * STEP.as_secs_f64();
            while proxy.due >= 1.0 {
                proxy.due -= 1.0;
                proxy.allowed += u32::from(proxy.quotas.take(&limit, now).unwrap().allowed);
            }
            if !proxy.linked {
                proxy.leases.clear();
                continue;
            }
            let told = !proxy.leases.is_empty();
            for lease in proxy.leases.drain(..) {
                proxy.quotas.lease(&lease.policy, lease.share, lease.number, now);
            }
            if told || reports {
                self.report(at);
            }
        }
        for (at, lease) in self.allocator.tick(self.now) {
            if let Some(proxy) = &mut self.proxies[at] {
                proxy.leases.push_back(lease);
            }
        }
    }

    fn run(&mut self, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.step();
        }
    }

    /// Requests a second that each lets through from now on.
    fn measure(&mut self, seconds: f64) -> Vec<f64> {
        self.proxies.iter_mut().flatten().for_each(|proxy| proxy.allowed = 0);
        self.run(seconds);
        self.proxies.iter().flatten().map(|proxy| f64::from(proxy.allowed) / seconds).collect()
    }

    fn restart(&mut self) {
        self.allocator = Allocator::new(LEASE, self.now);
        for proxy in self.proxies.iter_mut().flatten() {
            proxy.quotas.forget_numbers();
            proxy.leases.clear();
        }
    }

    /// The shares that are in force.
    fn shares(&self) -> u64 {
        let held = self.proxies.iter().flatten();
        held.flat_map(|proxy| proxy.quotas.uses(self.begin + self.now))
            .map(|used| u64::from(used.share))
            .sum()
    }
}

#[test]
fn what_is_asked_for_is_given_and_the_rest_is_shared() {
    let whole = u64::from(WHOLE);
    let shares = |demands: &[u64]| -> Vec<u32> {
        let demands: Vec<u64> = demands.iter().map(|percent| percent * whole / 100).collect();
        targets(&demands).iter().map(|share| (f64::from(*share) / 1e7).round() as u32).collect()
    };
    assert_eq!(shares(&[0]), [100]);
    assert_eq!(shares(&[0, 0, 0, 0]), [25, 25, 25, 25]);
    assert_eq!(shares(&[900, 900]), [50, 50]);
    assert_eq!(shares(&[1000, 10, 10]), [79, 11, 11], "who asks for little has it");
    assert_eq!(shares(&[40, 20]), [61, 40], "and what nobody asks for is for all");
    assert_eq!(shares(&[500, 0]), [99, 1]);
}

#[test]
fn uneven_demand_gets_the_whole_and_no_more() {
    for demands in [&[400.0, 0.0, 0.0, 0.0][..], &[10.0, 20.0, 300.0, 300.0], &[200.0; 4], &[50.0, 60.0]] {
        let mut world = World::new(200, demands);
        world.run(6.0);
        let got = world.measure(10.0);
        let (all, possible) = (got.iter().sum::<f64>(), demands.iter().sum::<f64>().min(200.0));
        assert!(all >= possible * 0.93 && all <= 200.0 * 1.02, "{demands:?}: {got:?}");
        for (got, asked) in got.iter().zip(demands) {
            let fair = asked.min(200.0 / demands.len() as f64);
            assert!(*got >= fair * 0.9, "{demands:?}: {got:?}");
        }
    }
}

#[test]
fn demand_that_moves_is_followed() {
    let mut world = World::new(100, &[300.0, 0.0, 5.0]);
    world.run(6.0);
    assert!(world.measure(5.0)[0] > 85.0);
    (world.proxy(0).asked, world.proxy(1).asked) = (0.0, 300.0);
    world.run(4.0);
    let got = world.measure(5.0);
    assert!(got[1] > 85.0 && got.iter().sum::<f64>() < 102.0, "{got:?}");
}

#[test]
fn a_restart_changes_nothing_and_takes_nothing() {
    let mut world = World::new(100, &[300.0, 30.0]);
    world.run(6.0);
    world.restart();
    let got = world.measure(LEASE.as_secs_f64() + 6.0);
    assert!((93.0..=102.0).contains(&got.iter().sum::<f64>()), "{got:?}");
    world.proxies.iter_mut().flatten().for_each(|proxy| proxy.linked = false);
    let got = world.measure(60.0);
    assert!((93.0..=102.0).contains(&got.iter().sum::<f64>()), "nobody hears anything: {got:?}");
}

#[test]
fn who_is_gone_leaves_its_share_after_the_lease() {
    let mut world = World::new(100, &[300.0, 300.0]);
    world.run(6.0);
    world.proxies[0] = None;
    assert!(world.measure(LEASE.as_secs_f64())[0] < 60.0, "it may be there and unheard");
    world.run(3.0);
    assert!(world.measure(5.0)[0] > 93.0);
    // Who says that it goes leaves its share at once.
    world.join(300.0);
    world.run(3.0);
    world.proxies[1] = None;
    world.allocator.report(&1, Vec::new(), world.now);
    world.run(0.5);
    assert!(world.measure(1.0)[0] > 90.0);
    // Who comes begins with what it is given.
    world.join(300.0);
    world.run(3.0);
    let got = world.measure(5.0);
    assert!(got[1] > 45.0 && got.iter().sum::<f64>() < 102.0, "{got:?}");
}

#[test]
fn after_a_pause_there_is_no_more_than_before_it() {
    let mut world = World::new(60, &[90.0, 90.0, 90.0, 8.0, 1.0]);
    world.run(6.0);
    let before = world.measure(4.0);
    let demands: Vec<f64> =
        world.proxies.iter_mut().flatten().map(|p| std::mem::take(&mut p.asked)).collect();
    world.run(1.0);
    world.proxies[0] = None;
    world.allocator.report(&0, Vec::new(), world.now);
    for (proxy, asked) in world.proxies.iter_mut().zip(demands) {
        if let Some(proxy) = proxy {
            proxy.asked = asked;
        }
    }
    world.run(1.5);
    let after = world.measure(4.0);
    assert!(after.iter().sum::<f64>() < 63.0, "{before:?} {after:?}");
}

#[test]
fn who_alone_is_cut_off_adds_no_more_than_its_share() {
    let mut world = World::new(100, &[300.0, 300.0]);
    world.run(6.0);
    world.proxy(0).linked = false;
    world.run(10.0);
    let got = world.measure(5.0);
    assert!(got.iter().sum::<f64>() < 152.0, "{got:?}");
    world.proxy(0).linked = true;
    world.proxy(0).quotas.forget_numbers();
    world.run(4.0);
    let got = world.measure(5.0);
    assert!((93.0..=102.0).contains(&got.iter().sum::<f64>()), "{got:?}");
}

#[test]
fn nothing_is_kept_of_what_nobody_uses() {
    let mut allocator = Allocator::new(LEASE, Duration::ZERO);
    let used = |policy: &str| Used { policy: policy.into(), demand: 1, share: 0, lease: 0 };
    allocator.report(&1, vec![used("a/a"), used("a/b")], Duration::ZERO);
    allocator.report(&1, vec![used("a/b")], Duration::ZERO);
    assert_eq!(allocator.limits.len(), 1);
    assert!(allocator.tick(LEASE).is_empty() && allocator.limits.is_empty());
    let many = (0..MOST_LIMITS + 10).map(|n| used(&n.to_string())).collect();
    allocator.report(&1, many, Duration::ZERO);
    assert_eq!(allocator.limits.len(), MOST_LIMITS);
}

#[derive(Debug, Clone)]
enum Event {
    Demand(usize, f64),
    Stop(usize),
    Join(f64),
    Run(u8),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let demand = prop_oneof![Just(0.0), 0.0f64..500.0];
    prop_oneof![
        3 => (0usize..6, demand.clone()).prop_map(|(at, asked)| Event::Demand(at, asked)),
        1 => (0usize..6).prop_map(Event::Stop),
        1 => demand.prop_map(Event::Join),
        4 => (1u8..40).prop_map(Event::Run),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, goes and restarts: what is dealt out is never more than the whole, besides what those who join take
    /// for themselves until they are told.
    #[test]
    fn shares_never_add_up_to_more_than_the_whole(
        demands in prop::collection::vec(1.0f64..300.0, 1..5),
        events in prop::collection::vec(event(), 1..30),
    ) {
        let mut world = World::new(100, &demands);
        world.run(LEASE.as_secs_f64() + 3.0);
        let mut joined = 0;
        for event in events {
            match event {
                Event::Demand(at, asked) => {
                    if let Some(Some(proxy)) = world.proxies.get_mut(at) {
                        proxy.asked = asked;
                    }
                }
                Event::Stop(at) => {
                    if let Some(proxy) = world.proxies.get_mut(at) {
                        *proxy = None;
                    }
                }
                Event::Join(asked) => {
                    world.join(asked);
                    joined += 1;
                }
                Event::Restart => world.restart(),
                Event::Run(steps) => for _ in 0..steps {
                    world.step();
                    let most = u64::from(WHOLE) + joined * u64::from(tombolo_core::quota::INITIAL);
                    prop_assert!(world.shares() <= most, "{} of {most}", world.shares());
                },
            }
        }
        // Once nothing happens any more, those who joined are in it as well.
        world.run(LEASE.as_secs_f64() * 2.0 + 3.0);
        prop_assert!(world.shares() <= u64::from(WHOLE) && world.allocator.in_use(POLICY) <= u64::from(WHOLE));
    }
}
