//! The application's own connections, wherever they were going.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use tombolo_core::proxy::{Accepted, ConnectionService, Entry, Observer, original_destination};

use super::{Passing, refuse};
use crate::{addresses::Addresses, way::Ways};

/// Serves what is redirected on its way out. The original destination alone decides.
pub(crate) struct Outbound {
    pub ways: Arc<ArcSwap<Ways>>,
    pub addresses: Addresses,
    pub passing: Arc<Passing>,
    pub observer: Arc<dyn Observer>,
}

impl Outbound {
    async fn run(&self, accepted: Accepted) {
        let to = match original_destination(&accepted.tcp) {
            Ok(Some(to)) => to,
            // It came to this very port: there is nowhere to pass it on to but here.
            Ok(None) => return refuse(accepted, Entry::Passed, None, "not_redirected", &*self.observer),
            Err(error) => {
                tracing::warn!(%error, "where a captured connection was going cannot be found out");
                return refuse(accepted, Entry::Passed, None, "no_destination", &*self.observer);
            }
        };
        match self.addresses.index_of(to.ip()) {
            Some(index) => match self.ways.load().by_index(index, to.port()) {
                Some(way) => way.serve(accepted).await,
                // Nobody else has these addresses.
                None => refuse(accepted, Entry::Passed, Some(to), "no_service", &*self.observer),
            },
            None => self.passing.pass(accepted, to).await,
        }
    }
}

impl ConnectionService for Outbound {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.run(accepted).await })
    }
}
