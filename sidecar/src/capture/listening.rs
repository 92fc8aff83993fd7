//! The sockets of captured traffic, on both families.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tombolo_core::{
    proxy::{ConnectionService, ListenLimits, Serving, bind_of_family, serve},
    telemetry::Telemetry,
};

/// Listeners of one purpose.
#[derive(Debug)]
pub(crate) struct Listening(Vec<Serving>);

impl Listening {
    /// Listens on these addresses, on the port of the first, and serves until `stop`.
    pub fn start(
        name: &'static str,
        addresses: &[IpAddr],
        port: u16,
        service: &Arc<dyn ConnectionService>,
        telemetry: &Telemetry,
        stop: &watch::Receiver<bool>,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let (mut port, mut all) = (port, Vec::new());
        for ip in addresses {
            let address = SocketAddr::new(*ip, port);
            let failed = |error| (address, error);
            let listener = bind_of_family(address).map_err(failed)?;
            port = listener.local_addr().map_err(failed)?.port();
            let serving = serve(listener, Arc::clone(service), ListenLimits::default(), stop.clone());
            let serving = serving.map_err(failed)?;
            let name = if ip.is_ipv6() { format!("{name} (IPv6)") } else { name.to_string() };
            telemetry.watch_listener(name, false, Arc::clone(serving.stats()));
            all.push(serving);
        }
        Ok(Self(all))
    }

    /// The first address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.first().map(Serving::address)
    }

    /// Takes no more connections.
    pub fn stop(&self) {
        self.0.iter().for_each(Serving::stop);
    }

    /// Waits for those that are open. False: some is left after `limit`.
    pub async fn drained(&self, limit: Duration) -> bool {
        let drained = self.0.iter().map(|serving| serving.drained(limit));
        futures::future::join_all(drained).await.into_iter().all(|all| all)
    }
}

/// The IPv6 address beside an IPv4 one, where this machine has IPv6: loopback or all addresses.
pub(crate) fn own_ipv6(beside: Ipv4Addr) -> Option<IpAddr> {
    // An address is there as soon as IPv6 is on: that of the loopback interface.
    let on = std::fs::read_to_string(Path::new("/proc/net/if_inet6")).is_ok_and(|text| !text.is_empty());
    let ip = if beside.is_unspecified() { Ipv6Addr::UNSPECIFIED } else { Ipv6Addr::LOCALHOST };
    on.then_some(ip.into())
}
