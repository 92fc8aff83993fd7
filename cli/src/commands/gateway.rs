//! `tombolo gateway`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use tombolo_core::{
    decide::{CookieKey, Named},
    identity::files::kept_secret,
    member::JoinOptions,
    model::Locality,
    proxy::{HttpLimits, ListenLimits, TrustedField},
};
use tombolo_gateway::{AcmeOptions, OcspOptions, Options, Ports, Source};

use super::process::{self, Common};
use crate::failure::Failure;

/// Arguments of `tombolo gateway`.
#[derive(clap::Args, Debug)]
pub struct GatewayArgs {
    /// Configuration from these files or directories, watched for change: no controller
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "controller", conflicts_with = "controller")]
    config: Vec<PathBuf>,
    /// Configuration from this controller, IP:PORT; may be given several times
    #[arg(long, value_name = "ADDR")]
    controller: Vec<SocketAddr>,
    /// The token from `tombolo join-token`, or @FILE; used once, then the certificate in the state directory counts
    #[arg(long, value_name = "TOKEN", env = "TOMBOLO_JOIN_TOKEN", hide_env_values = true)]
    join_token: Option<String>,
    /// Where certificate, last snapshot and OCSP responses are kept; without a controller, what was ordered by ACME and the
    /// key of issued cookies
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tombolo/gateway")]
    state_dir: PathBuf,
    /// The command that writes DNS records for ACME's dns-01, run as COMMAND add|remove NAME VALUE
    #[arg(long, value_name = "COMMAND")]
    acme_dns_hook: Option<PathBuf>,
    /// The name to register with
    #[arg(long, default_value = "gateway")]
    name: String,
    /// Where peers reach the services of this cluster (with --controller)
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15008")]
    mesh_listen: SocketAddr,
    /// The same as peers see it, where that differs
    #[arg(long, value_name = "ADDR")]
    mesh_advertise: Option<SocketAddr>,
    /// Where listeners bind whose Gateway names no address
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    address: IpAddr,
    /// A Unix socket over which a new process takes the place of this one without closing a port: start the new one with
    /// the same flags, or send this one SIGUSR2 when its binary was replaced
    #[arg(long, value_name = "PATH")]
    handover: Option<PathBuf>,
    /// How long requests and WebSockets may take to finish when this process is told to end or is replaced, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = process::DRAIN_TIME.as_secs())]
    drain_time: u64,
    /// Added to every listener's port: 8000 makes 8080 of 80
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
    /// Connections that each listener takes at a time; more are closed at once
    #[arg(long, value_name = "N", default_value_t = ListenLimits::default().connections)]
    max_connections: usize,
    /// Connections that each listener takes at a time from one client (IPv4 address or IPv6 /64; the one that a PROXY header
    /// names, where such headers are expected). Raise it behind a load balancer that hides its clients
    #[arg(long, value_name = "N", default_value_t = ListenLimits::default().per_client)]
    max_connections_per_client: usize,
    /// Proxies in front of this gateway that are trusted to say who the client is, by --trusted-field; 0: nobody
    #[arg(long, value_name = "N", default_value_t = 0)]
    trusted_hops: u8,
    /// The field that these proxies write; the other one is never believed, as clients could write it past them
    #[arg(long, value_name = "FIELD", value_enum, default_value_t = Told::XForwardedFor)]
    trusted_field: Told,
    /// A header whose values may be kept in the sample of recent requests that `tombolo apply --preview` tries changes on;
    /// may be given several times. Those that the configuration decides by are kept anyway, and no others
    #[arg(long, value_name = "NAME")]
    sample_header: Vec<HeaderName>,
    /// The same for a cookie
    #[arg(long, value_name = "NAME")]
    sample_cookie: Vec<Box<str>>,
    /// Bytes of a request's body that have to come in each second, after a grace of half a minute: slower clients get 408.
    /// Only the time in which the client is waited for counts; gRPC and tunnels have no such bound. 0: none has
    #[arg(long, value_name = "BYTES", default_value_t = HttpLimits::default().body_rate)]
    min_body_rate: u32,
    /// Let other gateways of this user listen on the same addresses, each getting a share of the connections
    #[arg(long)]
    share_ports: bool,
    /// Region, for locality
    #[arg(long, default_value = "")]
    region: String,
    /// Zone, for locality
    #[arg(long, default_value = "")]
    zone: String,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    tracing: process::Tracing,
}

/// Where trusted proxies say who the client is.
#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Told {
    /// With X-Forwarded-Proto and X-Forwarded-Host
    XForwardedFor,
    /// RFC 7239
    Forwarded,
}

/// Runs until it is told to end.
pub async fn run(args: GatewayArgs) -> Result<(), Failure> {
    let telemetry = args.common.start(args.tracing.start("tombolo-gateway")?)?;
    let acme = AcmeOptions {
        state_dir: args.state_dir.clone(),
        dns_hook: args.acme_dns_hook,
        ..AcmeOptions::default()
    };
    let ocsp = OcspOptions { dir: Some(args.state_dir.join("ocsp")), ..OcspOptions::default() };
    let mut options = if args.controller.is_empty() {
        let mut options = Options::from_files(args.config, telemetry.clone());
        if let Source::Static { cookies, .. } = &mut options.source {
            *cookies = cookie_key(&args.state_dir);
        }
        options
    } else {
        let join = JoinOptions {
            controllers: args.controller.iter().map(ToString::to_string).collect(),
            token: process::join_token(args.join_token.as_deref())?,
            state_dir: args.state_dir,
        };
        let source = Source::Controller {
            join: join.clone(),
            name: args.name,
            mesh_listen: args.mesh_listen,
            mesh_advertise: args.mesh_advertise,
            locality: Locality { region: args.region.into(), zone: args.zone.into() },
        };
        Options { source, ..Options::from_controller(join, telemetry.clone()) }
    };
    options.address = (!args.address.is_unspecified()).then_some(args.address);
    options.ports = Ports::Offset(args.port_offset);
    options.acme = acme;
    options.ocsp = ocsp;
    options.admin = args.common.admin;
    options.drain_limit = Duration::from_secs(args.drain_time);
    if args.handover.is_some() {
        process::replace_on_signal();
    }
    options.handover = args.handover;
    options.limits =
        ListenLimits { connections: args.max_connections, per_client: args.max_connections_per_client };
    options.trusted_hops = args.trusted_hops;
    options.trusted_field = match args.trusted_field {
        Told::XForwardedFor => TrustedField::XForwardedFor,
        Told::Forwarded => TrustedField::Forwarded,
    };
    options.sampled = Named {
        headers: args.sample_header.into_iter().collect(),
        cookies: args.sample_cookie.into_iter().collect(),
    };
    options.body_rate = args.min_body_rate;
    options.share_ports = args.share_ports;
    let drain = process::drain_on_signal();
    let ran = tombolo_gateway::run(options, drain).await;
    telemetry.flush(process::FLUSH_TIME).await;
    ran.map_err(|e| Failure::new(e.to_string()))
}

/// The key that signs issued cookies, kept over restarts. A gateway that can keep none serves all the same.
fn cookie_key(state_dir: &Path) -> Option<CookieKey> {
    let path = state_dir.join("cookie.key");
    match kept_secret(&path) {
        Ok(secret) => Some(CookieKey::derive(&secret)),
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "the key of issued cookies cannot be kept: after a restart users of gray releases get new ones, and sessions begin anew"
            );
            None
        }
    }
}
