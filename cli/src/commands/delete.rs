//! `tombolo delete`.

use std::{path::PathBuf, time::Instant};

use tombolo_proto::v1::{DeleteRequest, delete_request::Named};

use super::{
    acknowledge::WaitArgs,
    apply::{author, print_outcome, read},
    operator::{ControllerSocket, refused},
};
use crate::failure::Failure;

/// Arguments of `tombolo delete`.
#[derive(clap::Args, Debug)]
pub struct DeleteArgs {
    /// httproutes, gateways, services, grayreleases ...
    #[arg(required_unless_present = "files", requires = "names")]
    kind: Option<String>,
    /// Which of them
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Their namespace, where it is not `default`
    #[arg(short, long, default_value = "")]
    namespace: String,
    /// Whatever is in these files, or directories of *.yaml, *.yml and *.json
    #[arg(short, long = "filename", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Do not fail where something is not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Has the controller delete all of them, or none.
pub async fn run(args: DeleteArgs) -> Result<(), Failure> {
    let kind = args.kind.unwrap_or_default();
    let named = |name| Named { kind: kind.clone(), namespace: args.namespace.clone(), name };
    let request = DeleteRequest {
        named: args.names.into_iter().map(named).collect(),
        files: if args.files.is_empty() { Vec::new() } else { read(&args.files)? },
        author: author(),
        dry_run: args.dry_run,
        missing_is_fine: args.ignore_not_found,
        if_generation: None,
    };
    let mut client = args.controller.connect().await?;
    let began = Instant::now();
    let answer = client.delete(request).await.map_err(refused)?.into_inner();
    print_outcome(&answer, args.dry_run)?;
    if args.dry_run { Ok(()) } else { args.wait.wait(&mut client, answer.generation, began).await }
}
