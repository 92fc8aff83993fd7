//! Ports and loopback ranges that nobody else uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::failure::Failure;

/// Hands out ports: free ones, or one after the other.
pub struct Ports {
    next: Option<u16>,
    /// Held until all are handed out, so that no port is given twice.
    held: Vec<TcpListener>,
}

impl Ports {
    /// From `base` on, or free ones.
    pub fn new(base: Option<u16>) -> Self {
        Self { next: base, held: Vec::new() }
    }

    /// The next address on 127.0.0.1.
    pub fn next(&mut self) -> Result<SocketAddr, Failure> {
        let wanted = self.next.unwrap_or(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).map_err(|e| {
            Failure::new(format!("port {wanted} is not free: {e}; choose another --port-base"))
        })?;
        let address = listener.local_addr().map_err(|e| Failure::new(e.to_string()))?;
        if let Some(next) = &mut self.next {
            *next = next.checked_add(1).ok_or_else(|| Failure::usage("--port-base is too high"))?;
        }
        self.held.push(listener);
        Ok(address)
    }

    /// An offset for a gateway's port 443. It is what a listener's port moves by.
    pub fn offset_for_443(&mut self) -> Result<(u16, SocketAddr), Failure> {
        let address = self.next()?;
        // Free ports and --port-base are above 1024.
        Ok((address.port().saturating_sub(443), address))
    }
}

/// A /16 of the loopback net for one cluster's sidecars, claimed by a socket as long as this lives.
pub struct LoopbackNet {
    octet: u8,
    _claim: TcpListener,
}

impl LoopbackNet {
    /// Finds one that no other quickstart uses.
    pub fn claim() -> Result<Self, Failure> {
        const CLAIM_PORT: u16 = 15_053;
        // 127.64 and up: clear of what systems use (127.0.0.1, 127.0.1.1, 127.0.0.53) and of the default range.
        (65..=254)
            .find_map(|octet| {
                let listener = TcpListener::bind((Ipv4Addr::new(127, octet, 255, 254), CLAIM_PORT)).ok()?;
                Some(Self { octet, _claim: listener })
            })
            .ok_or_else(|| Failure::new("no free loopback range between 127.65.0.0 and 127.254.0.0"))
    }

    /// The range of the sidecar in this position (0 to 14): 4,096 addresses.
    pub fn range(&self, position: u8) -> String {
        format!("127.{}.{}.0/20", self.octet, position * 16)
    }

    /// Where that sidecar's DNS listens: the last address of its range but one, which no service gets here.
    pub fn dns(&self, position: u8) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, self.octet, position * 16 + 15, 253), 1053))
    }
}
