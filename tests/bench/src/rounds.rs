//! Rounds: each proxy in turn under the same load.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use crate::{
    Failure,
    documents::{CALL, GRPC_HOST, request, requests},
    load::{Load, Protocol, Until},
    measure::{callgrind_control, cpu_time, dumped, median, resident},
    proxy::{Kind, Proxy, World},
};

const ONE: Kind = Kind::Gateway { routes: 1, log: false };
const LOGGED: Kind = Kind::Gateway { routes: 1, log: true };
const MANY: Kind = Kind::Gateway { routes: 10_000, log: false };

/// A case: its name, what is spoken, connections, and who is measured.
type Case = (&'static str, Protocol, usize, &'static [Kind]);

const CASES: &[Case] = &[
    ("h1", Protocol::Plain, 64, &[Kind::Floor, ONE, LOGGED, MANY]),
    ("tls-h1", Protocol::Tls, 64, &[Kind::Floor, ONE]),
    ("tls-h2", Protocol::Http2, 8, &[Kind::Floor, ONE]),
    ("grpc", Protocol::Grpc, 8, &[ONE]),
];

/// Arguments of `cpu`.
#[derive(clap::Args, Debug)]
pub struct Cpu {
    /// How often each proxy has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one turn
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only this case: h1, tls-h1, tls-h2, grpc
    #[arg(long)]
    case: Option<String>,
}

/// Arguments of `instructions`.
#[derive(clap::Args, Debug)]
pub struct Instructions {
    /// Requests that are counted
    #[arg(long, default_value_t = 3_000)]
    requests: usize,
    /// Only this case: h1, tls-h1, tls-h2, grpc
    #[arg(long)]
    case: Option<String>,
    /// Only what has this in its name
    #[arg(long)]
    only: Option<String>,
    /// Callgrind's profiles are kept in this directory, for callgrind_annotate
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn cases(wanted: Option<&str>) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(move |(name, ..)| wanted.is_none_or(|wanted| wanted == *name))
}

/// Loads and the application run in this runtime, on the second core where there is one.
pub fn runtime() -> Result<Runtime, Failure> {
    let own = std::process::id().to_string();
    // It fails where there is one core only: then both share it.
    let _pinned = std::process::Command::new("taskset").args(["-a", "-p", "-c", "1", &own]).output();
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

fn is_tls(protocol: Protocol) -> bool {
    !matches!(protocol, Protocol::Plain | Protocol::Grpc)
}

fn load(case: &Case, kind: Kind, proxy: &Proxy, world: &World) -> Result<Load, Failure> {
    let (_, protocol, connections, _) = *case;
    let address = if is_tls(protocol) { proxy.tls } else { proxy.plain };
    let routes = if let Kind::Gateway { routes, .. } = kind { routes } else { 1 };
    let requests = match protocol {
        Protocol::Grpc => vec![request(GRPC_HOST, CALL)],
        _ => requests(routes),
    };
    Load::new(address, protocol, connections, requests, &world.certificate)
}

/// Until every route has been taken: what is done once for each is not what a request costs.
fn warm(kind: Kind) -> Until {
    let routes = if let Kind::Gateway { routes, .. } = kind { routes } else { 1 };
    Until::Requests(routes.max(2_000))
}

impl Cpu {
    /// Measures and prints.
    pub fn run(self) -> Result<(), Failure> {
        let runtime = runtime()?;
        let world = runtime.block_on(World::new())?;
        println!("| case | proxy | CPU us/request: median | min | max | of bare pingora | RSS MiB |");
        println!("|---|---|---|---|---|---|---|");
        for case in cases(self.case.as_deref()) {
            let (name, protocol, _, kinds) = case;
            let mut costs: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
            let mut memory = BTreeMap::new();
            let started: Result<Vec<_>, Failure> = kinds
                .iter()
                .map(|kind| Ok((*kind, Proxy::start(*kind, &world, is_tls(*protocol), false)?)))
                .collect();
            let proxies = started?;
            for _ in 0..self.rounds {
                for (kind, proxy) in &proxies {
                    let load = load(case, *kind, proxy, &world)?;
                    runtime.block_on(load.run(warm(*kind)))?;
                    let before = cpu_time(proxy.id())?;
                    let until = Until::Time(Instant::now() + Duration::from_secs(self.seconds));
                    let served = runtime.block_on(load.run(until))?.len();
                    let used = cpu_time(proxy.id())? - before;
                    costs.entry(*kind).or_default().push(used / served as f64);
                    memory.insert(*kind, resident(proxy.id())?);
                }
            }
            let floor = costs.get_mut(&Kind::Floor).map(|costs| median(costs)).unwrap_or(1.0);
            for (kind, mut costs) in costs {
                let middle = median(&mut costs);
                let (least, most) = (costs.first().unwrap_or(&0.0), costs.last().unwrap_or(&0.0));
                println!(
                    "| {name} | {} | {middle:.1} | {least:.1} | {most:.1} | {:.2} | {:.1} |",
                    kind.name(),
                    middle / floor,
                    memory.get(&kind).copied().unwrap_or_default() as f64 / 1024.0
                );
            }
        }
        Ok(())
    }
}

impl Instructions {
    /// Measures and prints.
    pub fn run(self) -> Result<(), Failure> {
        let runtime = runtime()?;
        let world = runtime.block_on(World::new())?;
        println!("| case | proxy | user instructions/request | of bare pingora |");
        println!("|---|---|---|---|");
        for case in cases(self.case.as_deref()) {
            let (name, .., kinds) = case;
            let mut floor = None;
            for kind in *kinds {
                if self.only.as_ref().is_some_and(|only| !kind.name().contains(only.as_str())) {
                    continue;
                }
                let each = counted(case, *kind, self.requests, &world, &runtime, self.keep.as_deref())?;
                let base = *floor.get_or_insert(each);
                println!("| {name} | {} | {each:.0} | {:.2} |", kind.name(), each / base);
            }
        }
        Ok(())
    }
}

/// User instructions of one request.
fn counted(
    case: &Case,
    kind: Kind,
    requests: usize,
    world: &World,
    runtime: &Runtime,
    keep: Option<&Path>,
) -> Result<f64, Failure> {
    let (name, protocol, ..) = *case;
    let proxy = Proxy::start(kind, world, is_tls(protocol), true)?;
    let load = load(case, kind, &proxy, world)?;
    runtime.block_on(load.run(warm(kind)))?;
    callgrind_control(proxy.id(), &["-i", "on"])?;
    let mut dump = 0;
    per_one(requests, |requests| {
        dump += 1;
        callgrind_control(proxy.id(), &["-z"])?;
        runtime.block_on(load.run(Until::Requests(requests)))?;
        callgrind_control(proxy.id(), &["-d"])?;
        if let Some(keep) = keep {
            std::fs::create_dir_all(keep)?;
            let file = format!("{name}-{}-{requests}", kind.name().replace([' ', ','], "-"));
            std::fs::copy(proxy.dump(dump), keep.join(file))?;
        }
        dumped(&proxy.dump(dump))
    })
}

/// What one costs, by counting so many and twice as many: what is done once (connections, say) is in both, and falls out of
/// the difference.
pub fn per_one(number: usize, mut count: impl FnMut(usize) -> Result<u64, Failure>) -> Result<f64, Failure> {
    let (one, two) = (count(number)?, count(2 * number)?);
    Ok(two.saturating_sub(one) as f64 / number as f64)
}

/// What the guard counts of a whole request: without TLS, as what ciphers cost is the processor's affair.
pub fn guarded(requests: usize) -> Result<Vec<(String, f64)>, Failure> {
    let runtime = runtime()?;
    let world = runtime.block_on(World::new())?;
    let mut counts = Vec::new();
    for (name, kind) in [("h1", ONE), ("h1", LOGGED), ("grpc", ONE)] {
        for case in cases(Some(name)) {
            let each = counted(case, kind, requests, &world, &runtime, None)?;
            counts.push((format!("{name}: {}", kind.name()), each));
        }
    }
    Ok(counts)
}
