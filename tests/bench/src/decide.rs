//! A decision alone, in this process.

use std::{hint::black_box, net::SocketAddr, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Method};
use tombolo_core::{
    decide::{Caller, Outcome, RequestHead, SnapshotAvailability, compile, decide_edge},
    model::Snapshot,
    resources::{Source, load, parse, static_services},
};

use crate::{
    Failure,
    documents::{self, Certificate},
    measure::median,
};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Decide {
    /// Batches of 1,000 decisions, of whose times the median is taken
    #[arg(long, default_value_t = 500)]
    batches: usize,
}

const BATCH: usize = 1_000;

/// Of the route that the first host's first path takes.
const RELEASE: &str = "
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: { name: v2, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: route-0 }]
  arms: [{ name: v2, backendRefs: [{ name: app, port: 80, labels: { version: v2 } }] }]
  rules: [{ arm: v2, headers: [{ name: x-gray, value: v2 }] }]
  split: { key: { cookie: uid }, weights: { v2: 20 } }
";

/// A request as a client of an API sends it.
struct Ask {
    host: String,
    path: String,
    headers: HeaderMap,
}

impl Ask {
    fn of(route: usize) -> Self {
        let (host, path) = documents::target(route);
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("bench/1.0"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("cookie", HeaderValue::from_static("uid=abcdef0123456789"));
        Self { host, path, headers }
    }

    fn decide(&self, snapshot: &Snapshot) -> Option<Outcome> {
        let head = RequestHead {
            scheme: "http",
            host: &self.host,
            method: &Method::GET,
            path: &self.path,
            query: None,
            headers: &self.headers,
        };
        let address = [127, 0, 0, 1].into();
        let caller = Caller { address, identity: None, sni: None, claimed_lane: None, random: 7, now: 0 };
        let bind = snapshot.config.binds.first()?.key;
        Some(decide_edge(snapshot, bind, &head, &caller, &SnapshotAvailability(snapshot)))
    }
}

fn snapshot(routes: usize, more: &str) -> Result<Snapshot, Failure> {
    let dir = tempfile::tempdir()?;
    let certificate = Certificate::make(dir.path())?;
    documents::write(dir.path(), routes, SocketAddr::from(([127, 0, 0, 1], 1)), &certificate)?;
    let (mut sources, problems) = load(&[dir.path().to_owned()]);
    sources.push(Source { name: "release".into(), text: more.into() });
    let parsed = parse(&sources);
    if let Some(problem) = problems.iter().chain(&parsed.problems).next() {
        return Err(problem.to_string().into());
    }
    Ok(Snapshot {
        config: Arc::new(compile(&parsed.resources)),
        services: static_services(&parsed.resources, "east"),
        ..Snapshot::default()
    })
}

/// Decisions among so many routes, of which the first may have a gray release.
struct Course {
    snapshot: Snapshot,
    asks: Vec<Ask>,
}

impl Course {
    fn new(routes: usize, release: &str) -> Result<Self, Failure> {
        let snapshot = snapshot(routes, release)?;
        // 7,919 is prime: every route has its turn, in an order that jumps.
        let asks: Vec<Ask> = (0..routes).map(|n| Ask::of(n * 7_919 % routes)).collect();
        if !asks.iter().all(|ask| matches!(ask.decide(&snapshot), Some(Outcome::Forward(_)))) {
            return Err("a request has no route".into());
        }
        Ok(Self { snapshot, asks })
    }
}

/// Arguments of `decisions`.
#[derive(clap::Args, Debug)]
pub struct Decisions {
    /// Routes
    routes: usize,
    /// With a gray release
    #[arg(long)]
    gray: bool,
}

impl Decisions {
    /// Makes as many decisions as each line of the input says, and says when they are made. For who counts what they cost.
    pub fn run(self) -> Result<(), Failure> {
        let course = Course::new(self.routes, if self.gray { RELEASE } else { "" })?;
        println!("ready");
        let mut each = course.asks.iter().cycle();
        for line in std::io::stdin().lines() {
            for ask in each.by_ref().take(line?.parse()?) {
                black_box(ask.decide(&course.snapshot));
            }
            println!("made");
        }
        Ok(())
    }
}

impl Decide {
    /// Measures and prints.
    pub fn run(self) -> Result<(), Failure> {
        println!("| decision | ns: median | min | max |");
        println!("|---|---|---|---|");
        for (routes, release, name) in [
            (1, "", "1 route"),
            (1, RELEASE, "1 route with a gray split"),
            (100, "", "100 routes"),
            (10_000, "", "10,000 routes"),
        ] {
            let Course { snapshot, asks } = Course::new(routes, release)?;
            let mut each = asks.iter().cycle();
            let mut times: Vec<f64> = (0..self.batches)
                .map(|_| {
                    let begun = Instant::now();
                    for ask in each.by_ref().take(BATCH) {
                        black_box(ask.decide(&snapshot));
                    }
                    begun.elapsed().as_secs_f64() * 1e9 / BATCH as f64
                })
                .collect();
            let middle = median(&mut times);
            let (least, most) = (times.first().unwrap_or(&0.0), times.last().unwrap_or(&0.0));
            println!("| {name} | {middle:.0} | {least:.0} | {most:.0} |");
        }
        Ok(())
    }
}
