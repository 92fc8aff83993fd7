//! A sidecar that runs.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tombolo_core::{
    lifecycle::{self, Drain, Readiness, admin::Admin},
    member::{JoinError, Member, MeshServerConfig, Registration, RegistrationParts, advertised},
    model::{NameError, ServiceKey},
    proxy::{Acceptor, EngineError, Entry, ListenLimits, MeshProtocol, bind, serve},
    tls::TlsError,
};
use tombolo_proto::v1;

use crate::{
    capture::{Listening, own_ipv6},
    dns::{Directory, Dns, DnsError},
    following::Following,
    health::Probe,
    living::Living,
    local,
    loopback::Called,
    options::Options,
    pages::{Served, SidecarPages},
    parts::{Core, Parts},
};

/// What may be spoken on the inbound listener.
const INBOUND_ALPN: &[&str] =
    &[MeshProtocol::Http2.alpn(), MeshProtocol::Http1.alpn(), MeshProtocol::Tcp.alpn()];
/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The workload's name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no identity.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// An address cannot be listened on, or found out.
    #[error("{what} on {address}: {source}")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no DNS.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// TLS refuses.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A task of its own ended by a panic.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Where a sidecar listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Mesh traffic.
    pub inbound: SocketAddr,
    /// DNS, by UDP and TCP.
    pub dns: Option<SocketAddr>,
    /// The HTTP proxy.
    pub http_proxy: Option<SocketAddr>,
    /// Ports of captured traffic: outbound and inbound.
    pub captured: Option<(u16, u16)>,
    /// Admin pages.
    pub admin: Option<SocketAddr>,
}

/// A sidecar that runs, on tasks of its own.
pub struct Running {
    addresses: Addresses,
    readiness: Readiness,
    served: Arc<ArcSwap<Served>>,
    changed: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Where the application reaches a service's port; none while there is no listener for it.
    pub fn outbound(&self, service: &ServiceKey, port: u16) -> Option<SocketAddr> {
        let called = Called { service: service.clone(), port, host: None };
        self.served.load().outbound.get(&called).copied()
    }

    /// Waits until the sidecar serves: it is registered, and has a snapshot.
    pub async fn ready(&mut self) {
        while !self.readiness.is_ready() && self.changed.changed().await.is_ok() {}
    }

    /// Waits for the next change of what is served.
    pub async fn changed(&mut self) {
        // An error means that the sidecar has ended; there is no next change.
        let _ended = self.changed.changed().await;
    }

    /// Waits until the sidecar has drained and ended.
    pub async fn finished(self) -> Result<(), Error> {
        self.task.await.map_err(|error| Error::Internal(error.to_string()))
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Starts a sidecar, says on standard output when it is `ready`, and waits until it has drained.
pub async fn run(options: Options, drain: Drain) -> Result<(), Error> {
    let mut stop = drain.clone();
    let starting = build(options, drain);
    let mut running = tokio::select! {
        running = starting => running?,
        () = stop.signalled() => return Ok(()),
    };
    tokio::select! {
        () = running.ready() => {
            lifecycle::notify_ready();
            let Addresses { inbound, dns, captured, .. } = running.addresses();
            let dns = dns.map(|dns| format!(", DNS on {dns}")).unwrap_or_default();
            let captured = captured.map(|(outbound, inbound)| format!(", captured traffic on {outbound} and {inbound}"));
            lifecycle::say(format_args!("tombolo sidecar ready: inbound on {inbound}{dns}{}", captured.unwrap_or_default()));
        }
        () = stop.signalled() => {}
    }
    running.finished().await
}

/// Starts a sidecar. Waits for its identity and the name of its cluster, which both outlive a process; after that
/// everything goes on by itself, until `drain` begins: then it deregisters, finishes what runs, and ends.
pub async fn build(options: Options, drain: Drain) -> Result<Running, Error> {
    options.check()?;
    let member = Member::join(options.join.clone()).await?;
    let (listener, inbound) = bind_inbound(&options).await?;
    let probe = Probe::start(options.app_address, options.ports.iter().map(|(port, _)| *port).collect());
    let mut registration = register(&options, &member, inbound, &probe).await?;
    let registered = registration.registered().await;
    let core = Core::new(&options, &member, &registered);
    let parts = Parts::new(&options, &member, &core, registration.watch())?;
    let config = MeshServerConfig::follow(
        member.credentials(),
        Arc::clone(core.discovery.snapshot()),
        core.discovery.changes(),
        INBOUND_ALPN,
    )?;
    // Stopped by the drain's own order, not by its beginning.
    let (stop, stopped) = watch::channel(false);
    let service = parts.inbound.http(Acceptor::Tls(Arc::clone(config.config())), Entry::Inbound);
    let serving = serve(listener, service, ListenLimits::default(), stopped.clone());
    let serving = serving.map_err(listen("inbound", inbound))?;
    options.telemetry.watch_listener("inbound", false, Arc::clone(serving.stats()));
    let captured = local::capture(&options, &parts, &stopped)?;
    let http_proxy = local::http_proxy(&options, &parts, &stopped)?;
    let dns = start_dns(&options, &core).await?;
    let served: Arc<ArcSwap<Served>> = Arc::default();
    let readiness = Readiness::default();
    member.show_certificate(&readiness, &options.telemetry);
    let pages = SidecarPages {
        id: member.id().clone(),
        admissions: Arc::clone(&parts.admissions),
        inbound,
        dns: dns.as_ref().map(Dns::address),
        names: Arc::clone(&parts.names),
        snapshot: Arc::clone(core.discovery.snapshot()),
        served: Arc::clone(&served),
        pools: Arc::clone(core.feeder.pools()),
        quotas: Arc::clone(&core.quotas),
    };
    let admin = serve_admin(&options, &readiness, pages, stopped.clone()).await?;
    let ports = captured.as_ref().and_then(|captured| captured.ports());
    let addresses = Addresses {
        inbound,
        dns: dns.as_ref().map(Dns::address),
        http_proxy: http_proxy.as_ref().and_then(Listening::address),
        captured: ports,
        admin,
    };
    let (tell, changed) = watch::channel(());
    let following = Following::new(&options, &core, &parts, &readiness, Arc::clone(&served), tell, stopped);
    let living = Living {
        options,
        member,
        core,
        probe,
        registration,
        config,
        dns,
        serving,
        captured,
        http_proxy,
        stop,
        following,
        checking: parts.checking,
        probing: parts.probing,
    };
    Ok(Running { addresses, readiness, served, changed, task: tokio::spawn(living.run(drain)) })
}

fn listen(what: &'static str, address: SocketAddr) -> impl Fn(io::Error) -> Error {
    move |source| Error::Listen { what, address, source }
}

async fn bind_inbound(options: &Options) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = listen("inbound", options.inbound_listen);
    let listener = bind(options.inbound_listen).map_err(&failed)?;
    let address = listener.local_addr().map_err(&failed)?;
    Ok((listener, address))
}

async fn register(
    options: &Options,
    member: &Member,
    inbound: SocketAddr,
    probe: &Probe,
) -> Result<Registration, Error> {
    let address = advertised(inbound, options.inbound_advertise, &options.join.controllers).await;
    let address = address.map_err(listen("the address to advertise for inbound", inbound))?;
    let port = |(port, name): &(u16, String)| v1::WorkloadPort { port: (*port).into(), name: name.clone() };
    let request = v1::RegisterRequest {
        name: options.workload.clone(),
        address: address.to_string(),
        labels: options.labels.clone().into_iter().collect(),
        ports: options.ports.iter().map(port).collect(),
        locality: Some(v1::Locality {
            region: options.locality.region.to_string(),
            zone: options.locality.zone.to_string(),
        }),
        network: options.network.clone(),
        weight: options.weight,
        ..Default::default()
    };
    Ok(Registration::start(RegistrationParts {
        connect: member.connect(),
        request,
        health: probe.health(),
        state_dir: options.join.state_dir.clone(),
    }))
}

async fn start_dns(options: &Options, core: &Core) -> Result<Option<Dns>, DnsError> {
    let Some(listen) = options.dns_listen else { return Ok(None) };
    let directory = Directory {
        snapshot: Arc::clone(core.discovery.snapshot()),
        synced: core.discovery.confirmed(),
        addresses: local::virtual_addresses(options),
    };
    // Captured questions come to the loopback address of their family.
    let beside = match (options.capture, listen.ip()) {
        (Some(_), IpAddr::V4(ip)) => own_ipv6(ip),
        _ => None,
    };
    Dns::start(listen, beside, &options.resolvers, directory, Arc::clone(&options.telemetry)).await.map(Some)
}

async fn serve_admin(
    options: &Options,
    readiness: &Readiness,
    pages: SidecarPages,
    stop: watch::Receiver<bool>,
) -> Result<Option<SocketAddr>, Error> {
    let Some(address) = options.admin else { return Ok(None) };
    let shown = Admin {
        readiness: readiness.clone(),
        telemetry: Arc::clone(&options.telemetry),
        pages: Arc::new(pages),
    };
    let bound = lifecycle::admin::serve(address, shown, stop).await;
    bound.map(Some).map_err(listen("admin pages", address))
}
