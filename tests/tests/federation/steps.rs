//! Steps: something happens under load, and is held to its budget.

use std::{
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tombolo_tests::wait_until;

use crate::{
    calls::{Call, Callers, now},
    net::outside,
    world::{CLUSTERS, LONG, SERVERS, World, sidecar},
};

/// So many calls in a row of each stream, all as they should be, and a step is over.
const SETTLED: usize = 40;
/// Who takes longer than this is not as it should be.
const QUICK: Duration = Duration::from_millis(500);

/// What a step may cost, for each stream of requests.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Requests that failed. An answer of which a part is missing has failed as well.
    pub failed: usize,
    /// The slowest.
    pub slowest: Duration,
    /// From the beginning until all is as it should be, for good.
    pub settles: Duration,
}

/// Nothing is to be seen of it but for a try on another endpoint: under a second more.
pub const UNSEEN: Budget =
    Budget { failed: 0, slowest: Duration::from_secs(1), settles: Duration::from_secs(2) };

/// The callers' own sidecar restarts. There is a moment in which nobody is left to serve: it is over as soon as it is up.
pub const RESTART: Budget =
    Budget { failed: 150, slowest: Duration::from_secs(3), settles: Duration::from_secs(5) };

/// Two worlds at a time would each be slow on account of the other.
static ONE: Mutex<()> = Mutex::new(());

/// The world under load, and what its steps have cost.
pub struct Scene {
    pub world: World,
    _alone: MutexGuard<'static, ()>,
    streams: Vec<Callers>,
    table: String,
    /// What each cluster knew at the beginning.
    kept: [Value; 3],
}

impl Scene {
    /// Callers in the mesh (by DNS name, captured) and from outside (at the public gateway), all served in their own
    /// cluster.
    pub fn new() -> Option<Self> {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut world = World::new()?;
        let mesh = Callers::start(&mut world, "mesh", "east-client", "server.shop.svc.clusterset.local", 80);
        let public = Callers::start(&mut world, "public", "wan", &outside("east"), 8000);
        let (streams, kept) = (vec![mesh, public], Default::default());
        let mut scene = Self { world, _alone: alone, streams, table: String::new(), kept };
        for one in CLUSTERS {
            for other in CLUSTERS.into_iter().filter(|other| *other != one) {
                scene
                    .world
                    .peer_is(one, other, "there", |peer| peer["state"] == "synced" && peer["imported"] == 1);
            }
        }
        scene.settle(now(), &|call| call.said == "east-1");
        scene.kept = CLUSTERS.map(|cluster| scene.world.kept(cluster));
        Some(scene)
    }

    /// Something happens; then all calls are to be answered by these servers, quickly.
    pub fn step(&mut self, name: &str, budget: Budget, servers: &[&str], act: impl FnOnce(&mut World)) {
        assert!(servers.iter().all(|server| SERVERS.contains(server)));
        let begun = now();
        act(&mut self.world);
        let done = now();
        self.settle(done, &|call| servers.contains(&call.said.as_str()));
        let as_it_should =
            |call: &Call| call.is_ok() && call.took < QUICK && servers.contains(&call.said.as_str());
        self.account(name, budget, begun, Some(&as_it_should));
    }

    /// Something is the matter, and goes on: so many calls of each stream meanwhile have to keep within the budget, but for
    /// the time until all is well.
    pub fn meanwhile(&mut self, name: &str, budget: Budget, calls: usize, act: impl FnOnce(&mut World)) {
        let begun = now();
        act(&mut self.world);
        for stream in &self.streams {
            wait_until("calls", LONG, || stream.since(begun).len() >= calls);
        }
        self.account(name, budget, begun, None);
    }

    /// Something goes and comes back, so many times and each time before long; it is told whether it is to be there.
    pub fn flap(&mut self, name: &str, budget: Budget, times: usize, turn: impl Fn(&World, bool)) {
        let begun = now();
        for is_up in [false, true].repeat(times) {
            let since = now();
            turn(&self.world, is_up);
            wait_until("calls", LONG, || self.streams.iter().all(|stream| stream.since(since).len() >= 30));
        }
        self.account(name, budget, begun, None);
    }

    /// Once all is well again, every cluster knows what it knew at the beginning.
    pub fn nothing_is_lost(&self) {
        for (cluster, before) in CLUSTERS.into_iter().zip(&self.kept) {
            let what = format!("{cluster} knows what it knew: {before:#}");
            wait_until(&what, LONG, || self.world.kept(cluster) == *before);
        }
    }

    /// Writes down what happened since then, and holds it to the budget; to the time until all is as it should be only
    /// where it is said how that is.
    fn account(
        &mut self,
        name: &str,
        budget: Budget,
        begun: Duration,
        as_it_should: Option<&dyn Fn(&Call) -> bool>,
    ) {
        for stream in &self.streams {
            let calls = stream.since(begun);
            let is_bad = |call: &&Call| as_it_should.is_some_and(|as_it_should| !as_it_should(call));
            let last_bad = calls.iter().filter(is_bad).map(Call::ended).max();
            let settled = last_bad.unwrap_or(begun).saturating_sub(begun);
            let failed: Vec<_> = calls.iter().filter(|call| !call.is_ok()).collect();
            let slowest = calls.iter().map(|call| call.took).max().unwrap_or_default();
            let mut line = format!(
                "{name:44} {:6} {:5} calls {:3} failed  slowest {:5} ms",
                stream.name,
                calls.len(),
                failed.len(),
                slowest.as_millis(),
            );
            if as_it_should.is_some() {
                write!(line, "  settled in {:5} ms", settled.as_millis()).unwrap();
            }
            eprintln!("{line}");
            writeln!(self.table, "{line}").unwrap();
            let is_kept =
                failed.len() <= budget.failed && slowest <= budget.slowest && settled <= budget.settles;
            assert!(is_kept, "{name}: over {budget:?}\n{}\n{failed:#?}\n{}", self.table, self.logs());
        }
    }

    /// Waits until the last calls of each stream, begun since then, are as wanted and quick.
    fn settle(&self, then: Duration, wanted: &dyn Fn(&Call) -> bool) {
        for stream in &self.streams {
            let settled = || {
                let calls = stream.since(then);
                let last = calls.iter().rev().filter(|call| call.begun >= then).take(SETTLED);
                let good = last.filter(|call| call.is_ok() && call.took < QUICK && wanted(call)).count();
                good == SETTLED
            };
            let deadline = std::time::Instant::now() + LONG;
            while !settled() {
                if std::time::Instant::now() > deadline {
                    let calls = stream.since(then);
                    let last = &calls[calls.len().saturating_sub(5)..];
                    panic!("{}: does not settle: {last:#?}\n{}\n{}", stream.name, self.table, self.logs());
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }

    /// Waits until a server has answered in a stream.
    pub fn answers(&self, server: &str, then: Duration) -> Duration {
        let first = |stream: &Callers| stream.since(then).into_iter().find(|call| call.said == server);
        let mesh = &self.streams[0];
        wait_until(&format!("an answer of {server}"), LONG, || first(mesh).is_some());
        first(mesh).unwrap().ended().saturating_sub(then)
    }

    /// What is worth knowing where a step has failed.
    fn logs(&self) -> String {
        let mut text = String::new();
        let access = |name: &str| self.world.path(&format!("{name}-sidecar")).join("access");
        let log = |name: &str| self.world.processes.log(name);
        for file in [
            log("east-controller"),
            log("east-gateway"),
            log(&sidecar("east-client")),
            self.world.path("east-gateway.access"),
            access("east-client"),
            access("east-1"),
            access("west-1"),
        ] {
            let log = std::fs::read_to_string(&file).unwrap_or_default();
            let lines = log.lines().filter(|line| !line.contains(",\"status\":200,"));
            let lines: Vec<&str> = lines.collect::<Vec<_>>().into_iter().rev().take(15).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            writeln!(text, "== {}\n{}", file.display(), lines.join("\n")).unwrap();
        }
        text
    }
}
