//! `tombolo apply`.

use std::{net::SocketAddr, path::PathBuf, time::Instant};

use serde_json::{Value, json};
use tombolo_core::{decide::Preview, resources};
use tombolo_proto::v1::{ApplyRequest, ApplyResponse, apply_request::File};

use super::{
    OperatorClient,
    acknowledge::WaitArgs,
    admin,
    check::Output,
    operator::{ControllerSocket, refused},
};
use crate::failure::Failure;

/// Arguments of `tombolo apply`.
#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    /// Files, or directories of *.yaml, *.yml and *.json
    #[arg(short, long = "filename", value_name = "PATH", required_unless_present = "paths")]
    files: Vec<PathBuf>,
    /// The same
    #[arg(value_name = "PATH", conflicts_with = "files")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    prune: PruneArgs,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Apply nothing: try it on the requests that the gateways have seen of late, and say which of them would take another
    /// route, arm or backend, or fail
    #[arg(long, conflicts_with_all = ["dry_run", "if_generation"])]
    preview: bool,
    /// Preview at a gateway that reads files, at its admin listener: these files are taken for all that it reads
    #[arg(long, value_name = "ADDR", requires = "preview", conflicts_with = "prune")]
    admin: Option<SocketAddr>,
    /// Only if this generation, as `tombolo history` lists it, is still in force
    #[arg(long, value_name = "GENERATION")]
    if_generation: Option<u64>,
    /// How to print a preview
    #[arg(short, long, value_enum, default_value_t = Output::Text, requires = "preview")]
    output: Output,
    #[command(flatten)]
    wait: WaitArgs,
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
            if_generation: None,
        })
    }
}

/// Reads the files and hands them to the controller: all of them go in force, or none.
pub async fn run(args: ApplyArgs) -> Result<(), Failure> {
    let dry_run = args.dry_run;
    let files = if args.files.is_empty() { &args.paths } else { &args.files };
    if let Some(gateway) = args.admin {
        return preview_at(gateway, files, args.output).await;
    }
    let request = args.prune.request(files, dry_run)?;
    let request = ApplyRequest { if_generation: args.if_generation, ..request };
    if args.preview {
        let hint = "a gateway without a controller is asked with --admin ADDR, its admin listener";
        let client = args.controller.connect().await;
        let mut client = client.map_err(|failure| failure.or(hint))?;
        return preview(&mut client, request, args.output).await;
    }
    let mut client = args.controller.connect().await?;
    let began = Instant::now();
    let answer = client.apply(request).await.map_err(refused)?.into_inner();
    print_outcome(&answer, dry_run)?;
    if dry_run { Ok(()) } else { args.wait.wait(&mut client, answer.generation, began).await }
}

/// Says what would become of recent requests.
async fn preview(client: &mut OperatorClient, request: ApplyRequest, output: Output) -> Result<(), Failure> {
    let answer = client.preview(request).await.map_err(refused)?.into_inner();
    if !answer.errors.is_empty() {
        let (count, problems) = (answer.errors.len(), answer.errors.join("\n"));
        return Err(Failure::new(format!("it would be refused, {count} problem(s):\n{problems}")));
    }
    let preview = parsed(&answer.json)?;
    if output == Output::Json {
        let json = json!({
            "changes": answer.changes,
            "gateways": answer.gateways,
            "silent": answer.silent,
            "preview": preview,
        });
        return print_json(&json);
    }
    answer.changes.iter().for_each(|change| println!("{change}"));
    print!("{} gateway(s) asked; {preview}", answer.gateways);
    answer.silent.iter().for_each(|id| println!("no answer from {id}"));
    println!("{NOTHING}");
    Ok(())
}

const NOTHING: &str = "this was a preview: nothing was applied";

fn parsed(preview: &str) -> Result<Preview, Failure> {
    serde_json::from_str(preview)
        .map_err(|e| Failure::new(format!("what was answered is not a preview: {e}")))
}

fn print_json(json: &Value) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(json).unwrap_or_default());
    Ok(())
}

/// The same, of the requests of one gateway that reads files.
async fn preview_at(gateway: SocketAddr, files: &[PathBuf], output: Output) -> Result<(), Failure> {
    let (sources, problems) = resources::load(files);
    if !problems.is_empty() {
        return Err(Failure::new(super::check::lines(&problems)));
    }
    let asked = admin::post(gateway, "/preview", json!(sources).to_string()).await;
    match asked.map_err(Failure::new)? {
        (200, body) => {
            let preview = parsed(&body)?;
            if output == Output::Json {
                return print_json(&json!({ "preview": preview }));
            }
            println!("{preview}{NOTHING}");
            Ok(())
        }
        (422, body) => Err(Failure::new(format!("it would be refused:\n{}", body.trim_end()))),
        (_, body) => Err(Failure::new(format!("{gateway} answered: {}", body.trim_end()))),
    }
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
pub fn print_outcome(answer: &ApplyResponse, dry_run: bool) -> Result<(), Failure> {
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
