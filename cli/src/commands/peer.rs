//! `tombolo peer token` and `tombolo peer join`.

use tombolo_proto::v1::{PeerJoinRequest, PeerTokenRequest};

use super::operator::{ControllerSocket, refused};
use crate::failure::Failure;

/// The commands under `tombolo peer`.
#[derive(clap::Subcommand, Debug)]
pub enum PeerCommand {
    /// Print a single-use token with which another cluster can link with this one
    Token {
        /// For how many seconds it can be used
        #[arg(long, default_value_t = 900)]
        ttl: u32,
        #[command(flatten)]
        controller: ControllerSocket,
    },
    /// Link this cluster with the one that printed the token
    Join {
        /// The token, or @FILE
        token: String,
        #[command(flatten)]
        controller: ControllerSocket,
    },
}

/// Runs one of them.
pub async fn run(command: PeerCommand) -> Result<(), Failure> {
    match command {
        PeerCommand::Token { ttl, controller } => {
            let request = PeerTokenRequest { ttl_seconds: ttl };
            let answer = controller.connect().await?.peer_token(request).await.map_err(refused)?;
            println!("{}", answer.into_inner().token);
        }
        PeerCommand::Join { token, controller } => {
            let request = PeerJoinRequest { token: super::token::read(&token)? };
            let answer = controller.connect().await?.peer_join(request).await.map_err(refused)?.into_inner();
            println!("linked with cluster {} (trust domain {})", answer.cluster, answer.trust_domain);
            println!(
                "what crosses the link is for a Peer document named {} to say, on each side",
                answer.cluster
            );
        }
    }
    Ok(())
}
