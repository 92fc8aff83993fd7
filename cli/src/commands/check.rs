//! `tombolo check`.

use std::{net::IpAddr, path::PathBuf};

use tombolo_core::{
    decide,
    member::place_of,
    resources::{self, Problem},
};

use crate::failure::Failure;

/// Arguments of `tombolo check`.
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// Files, or directories of *.yaml, *.yml and *.json
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Where the gateway listens for Gateways that name no address (its own --address), to be shown in their status
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
}

/// Text for people, JSON for tools.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq)]
pub enum Output {
    /// For people
    Text,
    /// For tools
    Json,
}

/// Exit code 0: clean; 1: something is not Accepted or does not parse.
pub fn run(args: CheckArgs) -> Result<(), Failure> {
    let (sources, unreadable) = resources::load(&args.paths);
    let mut parsed = resources::parse(&sources);
    parsed.problems.splice(0..0, unreadable);
    let place = decide::Place { listens: args.address, ..place_of(&parsed.resources) };
    let compiled = decide::compile_at(&parsed.resources, &place);
    let report = resources::report(&parsed, &compiled.status);
    match args.output {
        Output::Text => print!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default()),
    }
    // The report itself was the message.
    if report.is_clean() { Ok(()) } else { Err(Failure::new("")) }
}

/// Problems, a line each.
pub fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
