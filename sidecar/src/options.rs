//! How a sidecar is started.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tombolo_core::{
    decide::Cidr,
    member::JoinOptions,
    model::{Locality, NameError, check_dns_label},
    telemetry::Telemetry,
};

use crate::{
    capture::{Capture, Unknown, plaintext::Plaintext},
    loopback::Range,
};

/// Everything that a sidecar is told at its start.
#[derive(Clone)]
pub struct Options {
    /// Identity and the controllers of its cluster.
    pub join: JoinOptions,
    /// The workload's name, a DNS label; unique in the namespace of its identity.
    pub workload: String,
    /// The workload's labels, by which services select it.
    pub labels: BTreeMap<String, String>,
    /// The application's ports with their names; a name may be empty.
    pub ports: Vec<(u16, String)>,
    /// Where the application listens.
    pub app_address: IpAddr,
    /// Where mesh traffic comes in.
    pub inbound_listen: SocketAddr,
    /// Where others reach that; none: found out, see [`tombolo_core::member::advertised`].
    pub inbound_advertise: Option<SocketAddr>,
    /// Where services have their virtual addresses. Two sidecars on one machine need two ranges.
    pub outbound_range: Range,
    /// Takes redirected traffic; none: the application uses loopback addresses and the HTTP proxy.
    pub capture: Option<Capture>,
    /// What of redirected inbound connections is admitted.
    pub plaintext: Plaintext,
    /// Where a plain HTTP proxy for the application listens; none: nowhere. Whoever reaches it calls as this workload.
    pub http_proxy: Option<SocketAddr>,
    /// Addresses that the HTTP proxy leads to although they are this machine's or a cloud's own.
    pub http_proxy_allow: Vec<Cidr>,
    /// What becomes of the application's connections to others than the mesh, where they come through here.
    pub unknown: Unknown,
    /// Where names are resolved; none: nowhere.
    pub dns_listen: Option<SocketAddr>,
    /// Who resolves names outside the mesh; none: the resolvers of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// Where the workload runs.
    pub locality: Locality,
    /// Its network; empty: the cluster's.
    pub network: String,
    /// Its share of traffic among its equals.
    pub weight: u32,
    /// Where the admin pages are; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// Metrics and access log.
    pub telemetry: Arc<Telemetry>,
    /// How long requests that run may take to finish when the sidecar drains; then they are cut.
    pub drain_limit: Duration,
    /// Within that, a sidecar that drains takes the application's calls until the application has gone.
    pub outlive_app: bool,
}

impl Options {
    /// Options for a workload; everything else as by default: the application on 127.0.0.1, inbound on every address at
    /// port 15006, virtual addresses in 127.64.0.0/16, DNS on 127.0.0.1:15053, no admin pages, 30 s to drain.
    pub fn new(
        join: JoinOptions,
        workload: &str,
        ports: Vec<(u16, String)>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self {
            join,
            workload: workload.into(),
            labels: BTreeMap::new(),
            ports,
            app_address: Ipv4Addr::LOCALHOST.into(),
            inbound_listen: (Ipv4Addr::UNSPECIFIED, 15006).into(),
            inbound_advertise: None,
            outbound_range: Range::default(),
            capture: None,
            plaintext: Plaintext::default(),
            unknown: Unknown::default(),
            http_proxy: None,
            http_proxy_allow: Vec::new(),
            dns_listen: Some((Ipv4Addr::LOCALHOST, 15053).into()),
            resolvers: Vec::new(),
            locality: Locality::default(),
            network: String::new(),
            weight: 1,
            admin: None,
            telemetry,
            drain_limit: Duration::from_secs(30),
            outlive_app: false,
        }
    }

    /// Checks what can be checked at once.
    pub(crate) fn check(&self) -> Result<(), NameError> {
        check_dns_label(&self.workload)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("workload", &self.workload)
            .field("labels", &self.labels)
            .field("ports", &self.ports)
            .field("inbound_listen", &self.inbound_listen)
            .field("outbound_range", &self.outbound_range)
            .finish_non_exhaustive()
    }
}
