//! What the three kinds of process share: logging, the admin listener's address, shutdown.

use std::{net::SocketAddr, time::Duration};

/// How long a process that was told to end finishes what runs.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Arguments of every process.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// Where /live, /ready, /metrics, /config and /explain are served
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Which log lines: error, warn, info, debug, trace, or a filter such as info,tombolo_core::discovery=debug
    #[arg(long, value_name = "FILTER", default_value = "info", env = "TOMBOLO_LOG")]
    pub log: String,
    /// Log lines as JSON
    #[arg(long)]
    pub log_json: bool,
}
