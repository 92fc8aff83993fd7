//! `tombolo apply`.

use std::path::PathBuf;

use tombolo_core::resources;
use tombolo_proto::v1::{ApplyRequest, apply_request::File};

use super::operator::{ControllerSocket, refused};
use crate::failure::Failure;

/// Arguments of `tombolo apply`.
#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    /// Files, or directories of *.yaml, *.yml and *.json
    #[arg(short, long = "filename", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Reads the files and hands them to the controller: all of them go in force, or none.
pub async fn run(args: ApplyArgs) -> Result<(), Failure> {
    let (sources, problems) = resources::load(&args.files);
    if !problems.is_empty() {
        return Err(Failure::new(super::check::lines(&problems)));
    }
    let files = sources.into_iter().map(|s| File { name: s.name, text: s.text }).collect();
    let author = std::env::var("USER").unwrap_or_default();
    let request = ApplyRequest { files, author, dry_run: args.dry_run };
    let answer = args.controller.connect().await?.apply(request).await.map_err(refused)?.into_inner();
    if !answer.errors.is_empty() {
        let count = answer.errors.len();
        return Err(Failure::new(format!(
            "nothing was applied, {count} problem(s):\n{}",
            answer.errors.join("\n")
        )));
    }
    for change in &answer.changes {
        println!("{change}");
    }
    let verb = if args.dry_run { "would be" } else { "is" };
    println!("generation {} {verb} in force", answer.generation);
    Ok(())
}
