//! `tombolo controller`.

use std::{net::SocketAddr, path::PathBuf};

use super::process::{self, Common};
use crate::failure::Failure;

/// Arguments of `tombolo controller`.
#[derive(clap::Args, Debug)]
pub struct ControllerArgs {
    /// The cluster's name, e.g. east
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The cluster's trust domain, e.g. east.example
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: String,
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
    #[command(flatten)]
    common: Common,
}
