//! `tombolo join-token`.

use tombolo_proto::v1::JoinTokenRequest;

use super::operator::{ControllerSocket, refused};
use crate::failure::Failure;

/// Arguments of `tombolo join-token`.
#[derive(clap::Args, Debug)]
pub struct JoinTokenArgs {
    /// The namespace that the token is good for
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The service account that the token is good for; `gateway` in `tombolo-system` for gateways
    #[arg(short, long)]
    account: String,
    /// For how many seconds it can be used
    #[arg(long, default_value_t = 3600)]
    ttl: u32,
    /// How often it can be used
    #[arg(long, default_value_t = 1)]
    uses: u32,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Prints a fresh token.
pub async fn run(args: JoinTokenArgs) -> Result<(), Failure> {
    let request = JoinTokenRequest {
        namespace: args.namespace,
        account: args.account,
        ttl_seconds: args.ttl,
        uses: args.uses,
    };
    let answer = args.controller.connect().await?.join_token(request).await.map_err(refused)?;
    println!("{}", answer.into_inner().token);
    Ok(())
}

/// A token on the command line: itself, or `@FILE` (kept out of the process list and the shell's history).
pub fn read(argument: &str) -> Result<String, Failure> {
    match argument.strip_prefix('@') {
        None => Ok(argument.trim().to_owned()),
        Some(path) => std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|e| Failure::new(format!("cannot read the token in {path}: {e}"))),
    }
}
