//! `tombolo controller`.

use std::{net::SocketAddr, path::PathBuf};

use tombolo_core::{decide::Cidr, model::TrustDomain};
use tombolo_federation::{BundleListener, Options};

use super::process::{self, Common};
use crate::failure::Failure;

/// Arguments of `tombolo controller`.
#[derive(clap::Args, Debug)]
pub struct ControllerArgs {
    /// The cluster's name, e.g. east
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The cluster's trust domain, e.g. east.example
    #[arg(long, value_name = "DOMAIN", value_parser = parse_domain)]
    trust_domain: TrustDomain,
    /// Where the CA, configuration and registrations are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tombolo/controller")]
    state_dir: PathBuf,
    /// Where proxies and peers reach it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15010")]
    listen: SocketAddr,
    /// The same as they see it, where that differs; goes into tokens; may be given several times
    #[arg(long, value_name = "ADDR")]
    advertise: Vec<SocketAddr>,
    /// Configuration from these files or directories, watched for change, besides `tombolo apply`
    #[arg(long, value_name = "PATH", num_args = 1..)]
    config: Vec<PathBuf>,
    /// Addresses of one network reach each other directly; peers on another go through gateways
    #[arg(long, default_value = "")]
    network: String,
    /// Addresses that only this cluster has, e.g. those of its pods and services: no peer may name one; may be given several times
    #[arg(long, value_name = "CIDR", value_parser = parse_range)]
    own_range: Vec<Cidr>,
    /// Serve the trust bundle here over HTTPS, for SPIFFE federation: with the controller's own certificate
    /// (https_spiffe), or with --bundle-cert (https_web)
    #[arg(long, value_name = "ADDR")]
    bundle_listen: Option<SocketAddr>,
    /// The certificate of the bundle endpoint, PEM, with its chain
    #[arg(long, value_name = "FILE", requires_all = ["bundle_listen", "bundle_key"])]
    bundle_cert: Option<PathBuf>,
    /// The key of --bundle-cert, PEM
    #[arg(long, value_name = "FILE", requires = "bundle_cert")]
    bundle_key: Option<PathBuf>,
    /// The command that writes DNS records for ACME's dns-01, run as COMMAND add|remove NAME VALUE
    #[arg(long, value_name = "COMMAND")]
    acme_dns_hook: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

fn parse_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|e| e.to_string())
}

fn parse_range(text: &str) -> Result<Cidr, String> {
    Cidr::parse(text).map_err(|e| e.to_string())
}

/// Runs until it is told to end.
pub async fn run(args: ControllerArgs) -> Result<(), Failure> {
    let telemetry = args.common.start(None)?;
    let options = Options {
        cluster: args.cluster,
        trust_domain: args.trust_domain,
        state_dir: args.state_dir,
        listen: args.listen,
        advertise: args.advertise.iter().map(ToString::to_string).collect(),
        config: args.config,
        network: args.network,
        own_ranges: args.own_range,
        bundle_endpoint: args
            .bundle_listen
            .map(|listen| BundleListener { listen, web: args.bundle_cert.zip(args.bundle_key) }),
        acme_dns_hook: args.acme_dns_hook,
        admin: args.common.admin,
        telemetry,
    };
    let mut drain = process::drain_on_signal();
    let running = tombolo_federation::start(options).await.map_err(|e| Failure::new(e.to_string()))?;
    tombolo_core::lifecycle::say(format_args!(
        "ready: controller on {}, operators' socket {}",
        running.address,
        running.socket.display()
    ));
    drain.signalled().await;
    if !running.shutdown().await {
        tracing::warn!("the end takes too long: what was not saved yet is lost");
    }
    Ok(())
}
