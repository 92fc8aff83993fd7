//! Tombolo beside its peers: everybody in turn under the same load, in several rounds.

mod case;
mod contender;
mod ground;
mod mesh;
mod plot;
mod results;
mod tables;
mod tombolo;
mod turn;

use std::{fs, path::PathBuf, process::Command};

use self::{
    case::{CASES, Case, REMEMBERED},
    contender::{Contender, Running},
    ground::Ground,
    results::Results,
    turn::Turns,
};
use crate::{Failure, rounds::runtime};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Compare {
    /// Only these cases, or those that begin so (tls, pair): h1, h1-100k, tls-h1, tls-h2, handshake, grpc,
    /// passthrough, routes-10k, pair-h1, pair-grpc, pair-tcp, memory
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only those with one of these in their name: no proxy, bare pingora, nginx, HAProxy, Envoy, tombolo
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How often each has its turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one turn
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// One round of half a second: shows that everything works, not how fast
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    short: bool,
    /// Envoy's binary
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    /// Writes all figures of all rounds to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the tables to this file
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Draws CPU time a request to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

impl Compare {
    /// Measures, prints, and fails if anything did not work.
    pub fn run(mut self) -> Result<(), Failure> {
        if self.short {
            (self.rounds, self.seconds) = (1, 0.5);
        }
        let runtime = runtime()?;
        let ground = runtime.block_on(Ground::new(self.envoy.clone()))?;
        let mut results = Results::default();
        about(&ground, &mut results);
        results.about.insert("rounds", format!("{} of {} s", self.rounds, self.seconds));
        let turns = Turns { runtime: &runtime, ground: &ground, seconds: self.seconds };
        let cases: Vec<&Case> = CASES.iter().filter(|case| self.wants(case.name)).collect();
        for together in cases.chunk_by(|one, next| one.stage == next.stage) {
            self.stage(together, &turns, &mut results);
        }
        if self.wants("memory") {
            for who in REMEMBERED.iter().filter(|who| self.invites(**who)) {
                eprintln!("memory: {}", who.name());
                if let Err(error) = turns.memory(*who, &mut results) {
                    results.fail(format!("memory, {}: {error}", who.name()));
                }
            }
        }
        self.write(&results)
    }

    fn wants(&self, case: &str) -> bool {
        let is_name = |only: &str| only == "memory" || CASES.iter().any(|case| case.name == only);
        let means = |only: &String| only == case || (!is_name(only) && case.starts_with(only.as_str()));
        self.only.is_empty() || self.only.iter().any(means)
    }

    fn invites(&self, who: Contender) -> bool {
        let name = who.name().to_lowercase();
        self.peers.is_empty() || self.peers.iter().any(|peer| name.contains(&peer.to_lowercase()))
    }

    /// All cases of one stage, on processes that serve all of them.
    fn stage(&self, cases: &[&Case], turns: &Turns<'_>, results: &mut Results) {
        let Some(stage) = cases.first().map(|case| case.stage) else { return };
        let mut running: Vec<(Contender, Running)> = Vec::new();
        let mut invited: Vec<Contender> = Vec::new();
        for who in cases.iter().flat_map(|case| case.contenders) {
            if self.invites(*who) && !invited.contains(who) {
                invited.push(*who);
            }
        }
        for who in invited {
            match who.start(stage, turns.ground) {
                Ok(started) => running.push((who, started)),
                Err(error) => results.fail(format!("{stage:?}, {}: {error}", who.name())),
            }
        }
        for case in cases {
            self.case(case, &running, turns, results);
        }
    }

    /// In each round everybody has a turn; who fails once has none any more.
    fn case(&self, case: &Case, running: &[(Contender, Running)], turns: &Turns<'_>, results: &mut Results) {
        let mut there: Vec<_> = running.iter().filter(|(who, _)| case.contenders.contains(who)).collect();
        there.retain(|(who, running)| self.worked(case, *who, turns.warm(case, running), results));
        for round in 1..=self.rounds {
            eprintln!("{}: round {round} of {}", case.name, self.rounds);
            there.retain(|(who, running)| {
                let turn = turns.saturate(case, *who, running, results);
                self.worked(case, *who, turn, results)
            });
            for rate in case.rates {
                there.retain(|(who, running)| {
                    let turn = turns.steady(case, *rate, *who, running, results);
                    self.worked(case, *who, turn, results)
                });
            }
        }
    }

    fn worked(&self, case: &Case, who: Contender, turn: Result<(), Failure>, results: &mut Results) -> bool {
        match turn {
            Ok(()) => true,
            Err(error) => {
                results.fail(format!("{}, {}: {error}", case.name, who.name()));
                false
            }
        }
    }

    fn write(&self, results: &Results) -> Result<(), Failure> {
        let tables = tables::all(results);
        println!("{tables}");
        if let Some(file) = &self.markdown {
            fs::write(file, tables)?;
        }
        if let Some(file) = &self.json {
            fs::write(file, serde_json::to_string_pretty(&results.json())?)?;
        }
        if let Some(file) = &self.svg {
            fs::write(file, plot::svg(results))?;
        }
        match results.failures.len() {
            0 => Ok(()),
            some => Err(format!("{some} did not work, as said above").into()),
        }
    }
}

/// What a reader has to know of the machine and of the versions.
fn about(ground: &Ground, results: &mut Results) {
    let versions = [("nginx", "-v"), ("haproxy", "-v"), ("envoy", "--version"), ("tombolo", "--version")];
    for (name, flag) in versions {
        let version = ground.version(name, flag).unwrap_or_else(|| "not there".into());
        results.about.insert(name, version);
    }
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find(|line| line.starts_with("model name")).and_then(|l| l.split_once(": "));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let model = model.map_or("unknown", |(_, model)| model);
    results.about.insert("machine", format!("{cores} of {model}, {}", said("uname", "-sr")));
    results.about.insert("date", said("date", "-uI"));
}

fn said(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
