//! Ends connections through a gateway that has stopped to answer: nobody else would tell those who wait on them.

use std::{fmt, future::Future, net::SocketAddr, pin::Pin};

use dashmap::DashMap;
use tokio::sync::watch;

/// Gateways with connections that can be cut; connections through those of more are not.
const MAX_GATEWAYS: usize = 1024;

/// Resolves when a connection is cut.
pub(in crate::proxy) type Cut = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Who is told, by the address of the gateway.
#[derive(Default)]
pub(super) struct Cuts(DashMap<SocketAddr, watch::Sender<()>>);

impl Cuts {
    /// For a connection that was just made.
    pub fn of(&self, address: SocketAddr) -> Option<Cut> {
        if self.0.len() >= MAX_GATEWAYS && !self.0.contains_key(&address) {
            self.0.retain(|_, told| told.receiver_count() > 0);
            if self.0.len() >= MAX_GATEWAYS {
                return None;
            }
        }
        let mut told = self.0.entry(address).or_insert_with(|| watch::channel(()).0).subscribe();
        Some(Box::pin(async move {
            if told.changed().await.is_err() {
                // Forgotten, as nobody can be told any more.
                std::future::pending::<()>().await;
            }
        }))
    }

    /// Ends the connections that were made through it.
    pub fn cut(&self, address: SocketAddr) {
        if let Some(told) = self.0.get(&address) {
            told.send_replace(());
        }
    }
}

impl fmt::Debug for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuts").field("gateways", &self.0.len()).finish()
    }
}
