//! How a gateway is started.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tombolo_core::{
    acme::Patience,
    decide::{CookieKey, Named},
    member::JoinOptions,
    model::Locality,
    ocsp::Times,
    proxy::{HttpLimits, ListenLimits, TrustedField},
    telemetry::Telemetry,
};

/// Everything that a gateway is told at its start.
#[derive(Clone)]
pub struct Options {
    /// Where its configuration comes from.
    pub source: Source,
    /// Where listeners without an address of their own are bound; none: every address of this machine.
    pub address: Option<IpAddr>,
    /// The ports of listeners.
    pub ports: Ports,
    /// Where the admin pages are; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// The Unix socket over which the next process takes this one's place, and this one the place of the process that
    /// listens there when it starts; none: sockets are opened anew.
    pub handover: Option<PathBuf>,
    /// How many connections each public listener takes.
    pub limits: ListenLimits,
    /// How OCSP responses are asked for and kept.
    pub ocsp: OcspOptions,
    /// How certificates are ordered, in static mode.
    pub acme: AcmeOptions,
    /// Proxies in front that are trusted to say who the client is; 0: none.
    pub trusted_hops: u8,
    /// Where they say it.
    pub trusted_field: TrustedField,
    /// Headers and cookies whose values are kept in samples of requests, besides those that the configuration decides by.
    pub sampled: Named,
    /// Bytes of a request's body that have to come in each second, see [`tombolo_core::proxy::HttpLimits::body_rate`].
    pub body_rate: u32,
    /// Other processes of the same user may listen on the same addresses, and then share their connections.
    pub share_ports: bool,
    /// Metrics and access log.
    pub telemetry: Arc<Telemetry>,
    /// How long requests that run may take to finish when the gateway drains; then they are cut.
    pub drain_limit: Duration,
}

/// How OCSP responses are asked for and kept.
#[derive(Debug, Clone, Default)]
pub struct OcspOptions {
    /// When they are asked for.
    pub times: Times,
    /// Where they are kept over a restart, mode 0600; none: nowhere.
    pub dir: Option<PathBuf>,
}

/// How certificates of AcmeIssuers are ordered.
#[derive(Debug, Clone)]
pub struct AcmeOptions {
    /// Account keys and certificates are kept in the folder `acme` in here, mode 0600.
    pub state_dir: PathBuf,
    /// The command that writes records for `dns-01`, run as `COMMAND add|remove NAME VALUE`.
    pub dns_hook: Option<PathBuf>,
    /// Bounds of trying again.
    pub patience: Patience,
}

impl Default for AcmeOptions {
    fn default() -> Self {
        let state_dir = "/var/lib/tombolo/gateway".into();
        Self { state_dir, dns_hook: None, patience: Patience::default() }
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files and directories, watched for change. No controller, no identity.
    Static {
        /// Files, or directories of `*.yaml`, `*.yml`, `*.json`.
        paths: Vec<PathBuf>,
        /// How often they are looked at.
        poll: Duration,
        /// What signs the cookies that gray releases issue; none: a key of this process, with which the cookies that
        /// another one issued are not believed.
        cookies: Option<CookieKey>,
    },
    /// A controller, which also gives it its identity.
    Controller {
        /// Identity and the controllers of its cluster.
        join: JoinOptions,
        /// Its name among the cluster's gateways, a DNS label.
        name: String,
        /// Where peers come in.
        mesh_listen: SocketAddr,
        /// Where they reach that; none: found out, see [`tombolo_core::member::advertised`].
        mesh_advertise: Option<SocketAddr>,
        /// Where it runs.
        locality: Locality,
    },
}

/// Which ports listeners get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// As configured, plus this. A port past 65535 cannot be bound.
    Offset(u16),
    /// Free ones; [`crate::Running::listeners`] says which.
    Free,
}

impl Options {
    /// The options of a static gateway; everything else as by default: all addresses, ports as configured, no admin
    /// pages, 30 s to drain, looking for changes every 500 ms.
    pub fn from_files(paths: Vec<PathBuf>, telemetry: Arc<Telemetry>) -> Self {
        Self::new(Source::Static { paths, poll: Duration::from_millis(500), cookies: None }, telemetry)
    }

    /// The options of a gateway with a controller; everything else as by default: named `gateway`, the mesh listener on
    /// every address at port 15008, and as [`Options::from_files`].
    pub fn from_controller(join: JoinOptions, telemetry: Arc<Telemetry>) -> Self {
        let source = Source::Controller {
            join,
            name: "gateway".into(),
            mesh_listen: (Ipv4Addr::UNSPECIFIED, 15008).into(),
            mesh_advertise: None,
            locality: Locality::default(),
        };
        Self::new(source, telemetry)
    }

    fn new(source: Source, telemetry: Arc<Telemetry>) -> Self {
        Self {
            source,
            address: None,
            ports: Ports::Offset(0),
            admin: None,
            handover: None,
            limits: ListenLimits::default(),
            ocsp: OcspOptions::default(),
            acme: AcmeOptions::default(),
            trusted_hops: 0,
            trusted_field: TrustedField::default(),
            sampled: Named::default(),
            body_rate: HttpLimits::default().body_rate,
            share_ports: false,
            telemetry,
            drain_limit: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("source", &self.source)
            .field("address", &self.address)
            .field("ports", &self.ports)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}
