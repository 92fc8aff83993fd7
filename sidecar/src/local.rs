//! What listens for the application behind the sidecar, besides the loopback addresses of services.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use tokio::sync::watch;
use tombolo_core::proxy::ConnectionService;

use crate::{
    addresses::Addresses,
    capture::{Capture, Inbound, Listening, Outbound, own_ipv6},
    http_proxy::HttpProxy,
    options::Options,
    parts::Parts,
    running::Error,
};

/// Where services have their virtual addresses.
pub(crate) fn virtual_addresses(options: &Options) -> Addresses {
    options.capture.map_or_else(|| Addresses::from(options.outbound_range), |capture| capture.addresses)
}

/// The HTTP proxy, if there is to be one.
pub(crate) fn http_proxy(
    options: &Options,
    parts: &Parts,
    stop: &watch::Receiver<bool>,
) -> Result<Option<Listening>, Error> {
    let Some(listen) = options.http_proxy else { return Ok(None) };
    let proxy: Arc<dyn ConnectionService> = Arc::new(HttpProxy {
        ways: Arc::clone(&parts.ways),
        addresses: virtual_addresses(options),
        passing: Arc::clone(&parts.passing),
        allowed: options.http_proxy_allow.clone(),
    });
    let name = "HTTP proxy";
    Listening::start(name, &[listen.ip()], listen.port(), &proxy, &options.telemetry, stop)
        .map(Some)
        .map_err(|(address, source)| Error::Listen { what: name, address, source })
}

/// The listeners of captured traffic.
pub(crate) struct Captured {
    pub outbound: Listening,
    pub inbound: Listening,
}

impl Captured {
    /// Of outbound and inbound connections.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let port = |listening: &Listening| listening.address().map(|address| address.port());
        port(&self.outbound).zip(port(&self.inbound))
    }
}

/// The listeners of captured traffic, if there is to be any.
pub(crate) fn capture(
    options: &Options,
    parts: &Parts,
    stop: &watch::Receiver<bool>,
) -> Result<Option<Captured>, Error> {
    let Some(Capture { outbound, inbound, addresses }) = options.capture else { return Ok(None) };
    let out: Arc<dyn ConnectionService> = Arc::new(Outbound {
        ways: Arc::clone(&parts.ways),
        addresses,
        passing: Arc::clone(&parts.passing),
        observer: Arc::clone(&options.telemetry) as _,
    });
    let coming: Arc<dyn ConnectionService> = Arc::new(Inbound {
        engine: Arc::clone(&parts.inbound),
        snapshot: Arc::clone(&parts.snapshot),
        admissions: Arc::clone(&parts.admissions),
        observer: Arc::clone(&options.telemetry) as _,
    });
    let start = |name, ip: Ipv4Addr, port, service| {
        let ips: Vec<IpAddr> = std::iter::once(ip.into()).chain(own_ipv6(ip)).collect();
        Listening::start(name, &ips, port, service, &options.telemetry, stop)
            .map_err(|(address, source)| Error::Listen { what: name, address, source })
    };
    Ok(Some(Captured {
        outbound: start("captured outbound", Ipv4Addr::LOCALHOST, outbound, &out)?,
        inbound: start("captured inbound", Ipv4Addr::UNSPECIFIED, inbound, &coming)?,
    }))
}
