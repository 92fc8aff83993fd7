//! The sockets of captured traffic, on both families.

use std::{
    io,
    iter::Sum,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::watch;
use tombolo_core::{
    proxy::{ConnectionService, ListenLimits, Serving, bind_of_family, serve},
    telemetry::Telemetry,
};

/// How many connections are open, and how many there were so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Used {
    pub open: usize,
    pub ever: u64,
}

impl Used {
    /// Of one listener.
    pub fn of(serving: &Serving) -> Self {
        Self { open: serving.open(), ever: serving.stats().accepted.load(Ordering::Relaxed) }
    }
}

impl Sum for Used {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self { open: sum.open + one.open, ever: sum.ever + one.ever })
    }
}

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

    /// Connections that are open now, and those that ever were.
    pub fn used(&self) -> Used {
        self.0.iter().map(Used::of).sum()
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
