//! `tombolo sidecar`.

use std::{net::SocketAddr, path::PathBuf};

use tombolo_core::{member::JoinOptions, model::Locality};
use tombolo_sidecar::{Options, loopback::Range};

use super::process::{self, Common};
use crate::failure::Failure;

/// Arguments of `tombolo sidecar`.
#[derive(clap::Args, Debug)]
pub struct SidecarArgs {
    /// The controller's address, IP:PORT; may be given several times
    #[arg(long, required = true, value_name = "ADDR")]
    controller: Vec<SocketAddr>,
    /// The token from `tombolo join-token`, or @FILE; used once, then the certificate in the state directory counts
    #[arg(long, value_name = "TOKEN", env = "TOMBOLO_JOIN_TOKEN", hide_env_values = true)]
    join_token: Option<String>,
    /// Where certificate and last snapshot are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tombolo/sidecar")]
    state_dir: PathBuf,
    /// The workload's name, unique in its namespace
    #[arg(long, value_name = "NAME")]
    workload: String,
    /// A label, as services select by; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// A port that the application listens on, with its name; may be given several times
    #[arg(long = "app-port", required = true, value_name = "PORT[=NAME]", value_parser = parse_port)]
    app_ports: Vec<(u16, String)>,
    /// Where the application listens
    #[arg(long, default_value = "127.0.0.1")]
    app_address: std::net::IpAddr,
    /// Where other proxies reach this one
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15006")]
    inbound_listen: SocketAddr,
    /// The same as others see it, where that differs
    #[arg(long, value_name = "ADDR")]
    inbound_advertise: Option<SocketAddr>,
    /// Loopback addresses for the services that are called; each sidecar of a machine needs its own
    #[arg(long, value_name = "CIDR", default_value_t = Range::default())]
    outbound_range: Range,
    /// Where the mesh's DNS listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15053")]
    dns_listen: SocketAddr,
    /// A resolver for all other names; the system's by default; may be given several times
    #[arg(long = "resolver", value_name = "ADDR")]
    resolvers: Vec<SocketAddr>,
    /// Region, for locality
    #[arg(long, default_value = "")]
    region: String,
    /// Zone, for locality
    #[arg(long, default_value = "")]
    zone: String,
    /// Addresses of one network reach each other directly
    #[arg(long, default_value = "")]
    network: String,
    #[command(flatten)]
    common: Common,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, e.g. app=checkout")?;
    Ok((key.into(), value.into()))
}

fn parse_port(text: &str) -> Result<(u16, String), String> {
    let (port, name) = text.split_once('=').unwrap_or((text, ""));
    match port.parse() {
        Ok(0) | Err(_) => Err(format!("{port:?} is not a port from 1 to 65535")),
        Ok(port) => Ok((port, name.into())),
    }
}

/// Runs until it is told to end.
pub async fn run(args: SidecarArgs) -> Result<(), Failure> {
    let telemetry = args.common.start()?;
    let join = JoinOptions {
        controllers: args.controller.iter().map(ToString::to_string).collect(),
        token: process::join_token(args.join_token.as_deref())?,
        state_dir: args.state_dir,
    };
    let options = Options {
        labels: args.labels.into_iter().collect(),
        app_address: args.app_address,
        inbound_listen: args.inbound_listen,
        inbound_advertise: args.inbound_advertise,
        outbound_range: args.outbound_range,
        dns_listen: Some(args.dns_listen),
        resolvers: args.resolvers,
        locality: Locality { region: args.region.into(), zone: args.zone.into() },
        network: args.network,
        admin: args.common.admin,
        drain_limit: process::DRAIN_TIME,
        ..Options::new(join, &args.workload, args.app_ports, telemetry)
    };
    let drain = process::drain_on_signal();
    tombolo_sidecar::run(options, drain).await.map_err(|e| Failure::new(e.to_string()))
}
