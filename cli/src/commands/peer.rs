//! `tombolo peer`.

use std::path::PathBuf;

use serde_json::{Value, json};
use tombolo_proto::v1::{
    PeerForgetRequest, PeerJoinRequest, PeerRevokeRequest, PeerShowRequest, PeerTokenRequest, RotateRequest,
    StatusRequest,
};

use super::{
    check::Output,
    operator::{ControllerSocket, refused},
    status::{print_rows, print_value},
};
use crate::{failure::Failure, style};

/// The commands under `tombolo peer`.
#[derive(clap::Subcommand, Debug)]
pub enum PeerCommand {
    /// Print a token with which another cluster can link with this one
    Token {
        /// For how many seconds it can be used
        #[arg(long, default_value_t = 900)]
        ttl: u32,
        /// How many clusters can use it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Link this cluster with the one that printed the token
    Join {
        /// The token, or @FILE
        token: String,
        #[command(flatten)]
        common: Common,
    },
    /// List the peers: state, what they have confirmed, and how far they are behind
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Show one peer with its services
    Show {
        /// The peer's cluster name
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// End the link with a peer for good, on both sides: a new token is needed to link again
    Revoke {
        /// The peer's cluster name
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Take a peer from the list whose link was ended
    Forget {
        /// The peer's cluster name
        name: String,
        /// Also if it does not know yet that it was revoked: it never hears of it then
        #[arg(long)]
        untold: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Replace this cluster's root: publish the next one, sign with it once every peer and proxy knows it, and drop the
    /// old one when nothing that it has signed is valid any more
    Rotate {
        /// For how many seconds peers and proxies that have not confirmed are waited for
        #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
        lead: u32,
        /// Sign with this authority from then on, not with a root that the controller makes: PEM of the issuing
        /// certificate, those above it, the root last
        #[arg(long, value_name = "FILE", requires = "ca_key")]
        ca_cert: Option<PathBuf>,
        /// The issuing certificate's key, PKCS#8 in PEM
        #[arg(long, value_name = "FILE", requires = "ca_cert")]
        ca_key: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
}

/// What all of them take.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    controller: ControllerSocket,
}

impl Common {
    /// Prints an answer: as JSON, or as `text` puts it.
    fn print(&self, answer: &Value, text: impl FnOnce(&Value)) {
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(answer).unwrap_or_default()),
            Output::Text => text(answer),
        }
    }
}

/// Runs one of them.
pub async fn run(command: PeerCommand) -> Result<(), Failure> {
    match command {
        PeerCommand::Token { ttl, uses, common } => {
            let request = PeerTokenRequest { ttl_seconds: ttl, uses };
            let answer = common.controller.connect().await?.peer_token(request).await.map_err(refused)?;
            let token = answer.into_inner().token;
            common.print(&json!({ "token": token }), |_| println!("{token}"));
        }
        PeerCommand::Join { token, common } => {
            let request = PeerJoinRequest { token: super::token::read(&token)? };
            let answer = common.controller.connect().await?.peer_join(request).await.map_err(refused)?;
            let answer = answer.into_inner();
            let (cluster, domain) = (&answer.cluster, &answer.trust_domain);
            common.print(&json!({ "cluster": cluster, "trustDomain": domain }), |_| {
                println!("linked with cluster {cluster} (trust domain {domain})");
                println!("what crosses the link is for a Peer document named {cluster} to say, on each side");
            });
        }
        PeerCommand::List { common } => {
            let peers = peers(&common).await?;
            common.print(&peers, print_peers);
        }
        PeerCommand::Show { name, common } => {
            let request = PeerShowRequest { cluster: name };
            let answer = common.controller.connect().await?.peer_show(request).await.map_err(refused)?;
            common.print(&parse(&answer.into_inner().json)?, |peer| print_value(peer, 0));
        }
        PeerCommand::Revoke { name, common } => {
            let request = PeerRevokeRequest { cluster: name.clone() };
            common.controller.connect().await?.peer_revoke(request).await.map_err(refused)?;
            common.print(&json!({ "cluster": name, "state": "withdrawn" }), |_| {
                println!(
                    "revoked {name}: nothing of it is trusted or used any more; it is told when it is reached"
                );
            });
        }
        PeerCommand::Forget { name, untold, common } => {
            let request = PeerForgetRequest { cluster: name.clone(), untold };
            common.controller.connect().await?.peer_forget(request).await.map_err(refused)?;
            common.print(&json!({ "cluster": name }), |_| println!("forgot {name}"));
        }
        PeerCommand::Rotate { lead, ca_cert, ca_key, common } => {
            let mut next = Vec::new();
            for file in ca_cert.iter().chain(&ca_key) {
                let read = std::fs::read(file);
                next.extend(read.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?);
                next.push(b'\n');
            }
            let request = RotateRequest { lead_seconds: lead, next_pem: next.into() };
            let answer = common.controller.connect().await?.rotate(request).await.map_err(refused)?;
            common.print(&parse(&answer.into_inner().json)?, |authority| {
                println!("the next root is published; `tombolo status` shows how far its rotation is");
                print_value(authority, 1);
            });
        }
    }
    Ok(())
}

fn parse(json: &str) -> Result<Value, Failure> {
    serde_json::from_str(json).map_err(|e| Failure::new(format!("the controller's answer is not JSON: {e}")))
}

async fn peers(common: &Common) -> Result<Value, Failure> {
    let answer = common.controller.connect().await?.status(StatusRequest {}).await.map_err(refused)?;
    let status = parse(&answer.into_inner().json)?;
    Ok(status.get("peers").cloned().unwrap_or_else(|| json!([])))
}

/// The peers as a table.
pub fn print_peers(peers: &Value) {
    let rows: Vec<Vec<String>> = peers.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        println!(
            "{}",
            style::dim(
                "no peers; `tombolo peer token` on one side and `tombolo peer join` on the other link two clusters"
            )
        );
        return;
    }
    let headings = [
        "NAME",
        "TRUST DOMAIN",
        "STATE",
        "CONNECTED",
        "CONFIRMED",
        "LAG",
        "ROUND TRIP",
        "SENT",
        "RECEIVED",
        "IMPORTED",
        "EXPORTED",
        "REFUSED",
    ];
    print_rows(&headings, rows.iter().map(Vec::as_slice));
}

fn row(peer: &Value) -> Vec<String> {
    let text = |name: &str| match peer.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let number = |name: &str| peer.get(name).and_then(Value::as_f64);
    let state = match (peer.get("staleSince"), peer.get("endedBy")) {
        (Some(Value::String(since)), _) => format!("stale since {since}"),
        (_, Some(Value::String(by))) if by == "peer" => "withdrawn by the peer".into(),
        (_, Some(_)) if peer["told"] == false => "withdrawn (revoked here, not told yet)".into(),
        (_, Some(_)) => "withdrawn (revoked here)".into(),
        _ => text("state"),
    };
    let connected = if peer["connected"] == true { "yes" } else { "no" };
    vec![
        text("name"),
        text("trustDomain"),
        state,
        connected.into(),
        format!("{}/{}", text("confirmed"), text("revision")),
        number("lagSeconds").map_or("-".into(), |lag| format!("{lag:.1}s")),
        number("roundTripMillis").map_or("-".into(), |millis| format!("{millis:.1}ms")),
        number("sentBytes").map_or("-".into(), bytes),
        number("receivedBytes").map_or("-".into(), bytes),
        text("imported"),
        text("exported"),
        text("refused"),
    ]
}

/// For people: three digits are enough.
fn bytes(count: f64) -> String {
    match count {
        count if count < 10_000.0 => format!("{count}B"),
        count if count < 10_000_000.0 => format!("{:.0}kB", count / 1e3),
        count => format!("{:.0}MB", count / 1e6),
    }
}
