//! Addresses that are one Gateway's alone: a socket for every address does not answer there.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use socket2::SockRef;

use super::{
    ConnectionService,
    listen::{Accepted, ListenStats},
};

/// A service on a socket for every address, whose connections to some of them are reset, as if nobody listened there.
/// The kernel gives it such a connection where the one whose address it is has no socket for that port.
pub struct Apart {
    /// Those addresses. Read at each accept.
    pub addresses: Arc<ArcSwap<BTreeSet<IpAddr>>>,
    /// Who serves the other connections.
    pub service: Arc<dyn ConnectionService>,
}

impl ConnectionService for Apart {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        let addresses = self.addresses.load();
        let is_theirs = !addresses.is_empty()
            && accepted.tcp.local_addr().is_ok_and(|to| addresses.contains(&to.ip().to_canonical()));
        if !is_theirs {
            return Arc::clone(&self.service).serve(accepted);
        }
        ListenStats::count(&accepted.stats.refused);
        // It fails only where the client is already gone.
        let _ = SockRef::from(&accepted.tcp).set_linger(Some(Duration::ZERO));
        Box::pin(std::future::ready(()))
    }
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
