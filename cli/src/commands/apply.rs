//! `tombolo apply`.

use std::path::PathBuf;

use tombolo_core::resources;
use tombolo_proto::v1::{ApplyRequest, ApplyResponse, apply_request::File};

use super::operator::{ControllerSocket, refused};
use crate::failure::Failure;

/// Arguments of `tombolo apply`.
#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    /// Files, or directories of *.yaml, *.yml and *.json
    #[arg(short, long = "filename", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    prune: PruneArgs,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// What an apply takes away.
#[derive(clap::Args, Debug)]
pub struct PruneArgs {
    /// Also delete whatever was applied earlier and is not in these files
    #[arg(long)]
    prune: bool,
    /// Prune only in this namespace (may be repeated)
    #[arg(long, requires = "prune", value_name = "NAMESPACE")]
    prune_namespace: Vec<String>,
}

impl PruneArgs {
    /// What applying these files would be.
    pub fn request(self, files: &[PathBuf], dry_run: bool) -> Result<ApplyRequest, Failure> {
        Ok(ApplyRequest {
            files: read(files)?,
            author: author(),
            dry_run,
            prune: self.prune,
            prune_namespaces: self.prune_namespace,
        })
    }
}

/// Reads the files and hands them to the controller: all of them go in force, or none.
pub async fn run(args: ApplyArgs) -> Result<(), Failure> {
    let dry_run = args.dry_run;
    let request = args.prune.request(&args.files, dry_run)?;
    let answer = args.controller.connect().await?.apply(request).await.map_err(refused)?.into_inner();
    print_outcome(answer, dry_run)
}

/// The texts of files, or every problem in reading them.
pub fn read(paths: &[PathBuf]) -> Result<Vec<File>, Failure> {
    let (sources, problems) = resources::load(paths);
    if !problems.is_empty() {
        return Err(Failure::new(super::check::lines(&problems)));
    }
    Ok(sources.into_iter().map(|s| File { name: s.name, text: s.text }).collect())
}

/// Whose change it is, for the history.
pub fn author() -> String {
    std::env::var("USER").unwrap_or_default()
}

/// What became of a change, or would become.
pub fn print_outcome(answer: ApplyResponse, dry_run: bool) -> Result<(), Failure> {
    if !answer.errors.is_empty() {
        let (count, problems) = (answer.errors.len(), answer.errors.join("\n"));
        return Err(Failure::new(format!("nothing was changed, {count} problem(s):\n{problems}")));
    }
    for change in &answer.changes {
        println!("{change}");
    }
    let still = if dry_run { "; this was a dry run" } else { "" };
    println!("generation {} is in force{still}", answer.generation);
    Ok(())
}
