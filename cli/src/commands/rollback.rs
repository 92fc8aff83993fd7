//! `tombolo rollback`.

use std::time::Instant;

use tombolo_proto::v1::RollbackRequest;

use super::{
    acknowledge::WaitArgs,
    apply::{author, print_outcome},
    operator::{ControllerSocket, refused},
};
use crate::failure::Failure;

/// Arguments of `tombolo rollback`.
#[derive(clap::Args, Debug)]
pub struct RollbackArgs {
    /// The generation to go back to, as `tombolo history` lists it; without it: the one before that in force
    generation: Option<u64>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Has the controller put an earlier generation's documents in force again.
pub async fn run(args: RollbackArgs) -> Result<(), Failure> {
    let request = RollbackRequest {
        generation: args.generation,
        author: author(),
        dry_run: args.dry_run,
        if_generation: None,
    };
    let mut client = args.controller.connect().await?;
    let began = Instant::now();
    let answer = client.rollback(request).await.map_err(refused)?.into_inner();
    print_outcome(&answer, args.dry_run)?;
    if args.dry_run { Ok(()) } else { args.wait.wait(&mut client, answer.generation, began).await }
}
