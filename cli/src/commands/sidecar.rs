//! `tombolo sidecar`.

use std::{net::SocketAddr, path::PathBuf};

use tombolo_core::{decide::Cidr, member::JoinOptions, model::Locality, outgoing::mark_all};
use tombolo_sidecar::{
    Options,
    addresses::{Addresses, Range6},
    capture::{Capture, Unknown, plaintext::Plaintext},
    loopback::Range,
};

use super::{
    process::{self, Common},
    sidecar_init::{self, parse_mark},
    sidecar_wait,
};
use crate::failure::Failure;

/// `tombolo sidecar`, or the command under it.
#[derive(Debug)]
pub enum SidecarCommand {
    /// `tombolo sidecar init`.
    Init(Box<sidecar_init::InitArgs>),
    /// `tombolo sidecar wait`.
    Wait(sidecar_wait::WaitArgs),
    /// The sidecar itself.
    Run(Box<SidecarArgs>),
}

impl clap::FromArgMatches for SidecarCommand {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some(("wait", matches)) => sidecar_wait::WaitArgs::from_arg_matches(matches).map(Self::Wait),
            Some((_, matches)) => {
                sidecar_init::InitArgs::from_arg_matches(matches).map(Box::new).map(Self::Init)
            }
            None => SidecarArgs::from_arg_matches(matches).map(Box::new).map(Self::Run),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for SidecarCommand {
    /// What the sidecar requires, those under it do not.
    fn augment_args(command: clap::Command) -> clap::Command {
        let about = "Have the kernel send the application's traffic to the sidecar: once, as root, by nftables or iptables";
        let init = sidecar_init::InitArgs::augment_args(clap::Command::new("init").about(about));
        let about = "Wait until the sidecar is ready; then run the application, where its command is given";
        let wait = sidecar_wait::WaitArgs::augment_args(clap::Command::new("wait").about(about));
        let run = SidecarArgs::augment_args(command).subcommand(init).subcommand(wait);
        run.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

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
    /// Take the traffic that `tombolo sidecar init` redirects
    #[arg(long)]
    capture: bool,
    /// The port of redirected outbound connections
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    capture_outbound: u16,
    /// The port of redirected inbound connections
    #[arg(long, value_name = "PORT", default_value_t = 15007)]
    capture_inbound: u16,
    /// Addresses for the services that are called, with --capture
    #[arg(long, value_name = "CIDR", default_value_t = Range::captured(), value_parser = Range::parse_captured)]
    virtual_range: Range,
    /// The same for IPv6
    #[arg(long, value_name = "CIDR", default_value_t = Range6::default())]
    virtual_range_ipv6: Range6,
    /// Where a plain HTTP proxy for the application listens (its http_proxy=), e.g. 127.0.0.1:15002; whoever reaches it calls
    /// as this workload
    #[arg(long, value_name = "ADDR")]
    http_proxy_listen: Option<SocketAddr>,
    /// Addresses that the HTTP proxy leads to although they are this machine's, link-local or a cloud's metadata; may be
    /// given several times
    #[arg(long = "http-proxy-allow", value_name = "CIDR", value_parser = Cidr::parse)]
    http_proxy_allow: Vec<Cidr>,
    /// What becomes of connections to others than the mesh: passthrough or refuse
    #[arg(long, value_name = "POLICY", default_value_t = Unknown::Passthrough)]
    outbound_unknown: Unknown,
    /// What comes to the application in plaintext, redirected: strict refuses it, permissive lets it through
    #[arg(long, value_enum, default_value_t = InboundMode::Strict)]
    inbound_mode: InboundMode,
    /// A port of the application that is permissive in any case; may be given several times
    #[arg(long = "permissive-port", value_name = "PORT")]
    permissive_ports: Vec<u16>,
    /// The path of a health check, which reaches the application in plaintext; may be given several times
    #[arg(long = "probe-path", value_name = "PATH")]
    probe_paths: Vec<String>,
    /// A port for health checks alone, open in plaintext; may be given several times
    #[arg(long = "probe-port", value_name = "PORT")]
    probe_ports: Vec<u16>,
    /// Where the mesh's DNS listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15053")]
    dns_listen: SocketAddr,
    /// A resolver for all other names; the system's by default; may be given several times
    #[arg(long = "resolver", value_name = "ADDR")]
    resolvers: Vec<SocketAddr>,
    /// The mark that all connections made by the sidecar bear, e.g. 0x539, for `tombolo sidecar init --mark`; takes
    /// CAP_NET_ADMIN
    #[arg(long, value_name = "NUMBER", value_parser = parse_mark)]
    mark: Option<u32>,
    /// Region, for locality
    #[arg(long, default_value = "")]
    region: String,
    /// Zone, for locality
    #[arg(long, default_value = "")]
    zone: String,
    /// Addresses of one network reach each other directly
    #[arg(long, default_value = "")]
    network: String,
    /// When told to end, take the application's calls until it has gone (its ports are closed, and it calls nobody), within
    /// the time of a drain: where both are told at the same time
    #[arg(long)]
    outlive_app: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tracing: process::Tracing,
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

/// What is admitted of plaintext.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum InboundMode {
    Strict,
    Permissive,
}

impl SidecarArgs {
    fn capture(&self) -> Option<Capture> {
        let addresses = Addresses { v4: self.virtual_range, v6: Some(self.virtual_range_ipv6) };
        let (outbound, inbound) = (self.capture_outbound, self.capture_inbound);
        self.capture.then_some(Capture { outbound, inbound, addresses })
    }

    fn plaintext(&self) -> Plaintext {
        Plaintext {
            permissive: self.inbound_mode == InboundMode::Permissive,
            ports: self.permissive_ports.iter().copied().collect(),
            probe_paths: self.probe_paths.iter().cloned().collect(),
            probe_ports: self.probe_ports.iter().copied().collect(),
        }
    }
}

/// Runs one or the other.
pub async fn run(command: SidecarCommand) -> Result<(), Failure> {
    match command {
        SidecarCommand::Init(args) => sidecar_init::run(&args),
        SidecarCommand::Wait(args) => sidecar_wait::run(args).await,
        SidecarCommand::Run(args) => serve(*args).await,
    }
}

/// Runs until it is told to end.
async fn serve(args: SidecarArgs) -> Result<(), Failure> {
    args.mark.map_or(Ok(()), mark_all).map_err(|e| Failure::new(format!("--mark: {e}")))?;
    let telemetry = args.common.start(args.tracing.start(&args.workload)?)?;
    let join = JoinOptions {
        controllers: args.controller.iter().map(ToString::to_string).collect(),
        token: process::join_token(args.join_token.as_deref())?,
        state_dir: args.state_dir.clone(),
    };
    let options = Options {
        capture: args.capture(),
        plaintext: args.plaintext(),
        unknown: args.outbound_unknown,
        http_proxy: args.http_proxy_listen,
        http_proxy_allow: args.http_proxy_allow.clone(),
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
        outlive_app: args.outlive_app,
        ..Options::new(join, &args.workload, args.app_ports, telemetry.clone())
    };
    let drain = process::drain_on_signal();
    let ran = tombolo_sidecar::run(options, drain).await;
    telemetry.flush(process::FLUSH_TIME).await;
    ran.map_err(|e| Failure::new(e.to_string()))
}
