//! The TLS configuration of a mesh listener, made anew with each change of the certificate or of trust.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    identity,
    model::{Snapshot, TrustBundles},
    tls::{TlsError, mesh_server},
};

/// A configuration that follows its sources until it is dropped.
pub struct MeshServerConfig {
    config: Arc<ArcSwap<ServerConfig>>,
    task: JoinHandle<()>,
}

/// What a configuration is made from.
struct Sources {
    credentials: identity::Watch,
    snapshot: Arc<ArcSwap<Snapshot>>,
    alpn: &'static [&'static str],
}

impl Sources {
    /// The trust comes along, as it tells whether anything has changed.
    fn make(&mut self) -> (Arc<TrustBundles>, Result<Arc<ServerConfig>, TlsError>) {
        let trust = Arc::clone(&self.snapshot.load().trust);
        let credentials = Arc::clone(&self.credentials.borrow_and_update());
        let config = mesh_server(credentials, Arc::clone(&trust), self.alpn);
        (trust, config)
    }
}

impl MeshServerConfig {
    /// Makes the first configuration and follows. `changes` tells of each new snapshot. A change that gives no usable
    /// configuration is logged, and the last one stays.
    pub fn follow(
        credentials: identity::Watch,
        snapshot: Arc<ArcSwap<Snapshot>>,
        mut changes: watch::Receiver<u64>,
        alpn: &'static [&'static str],
    ) -> Result<Self, TlsError> {
        let mut sources = Sources { credentials, snapshot, alpn };
        changes.mark_unchanged();
        let (mut trust, first) = sources.make();
        let config = Arc::new(ArcSwap::new(first?));
        let served = Arc::clone(&config);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    Ok(()) = changes.changed() => {
                        if Arc::ptr_eq(&trust, &sources.snapshot.load().trust) {
                            continue;
                        }
                    }
                    Ok(()) = sources.credentials.changed() => {}
                    else => return,
                }
                let (newer, made) = sources.make();
                trust = newer;
                match made {
                    Ok(config) => served.store(config),
                    Err(error) => {
                        tracing::error!(%error, "the mesh listener keeps its last TLS configuration")
                    }
                }
            }
        });
        Ok(Self { config, task })
    }

    /// What acceptors take: read at each accept.
    pub fn config(&self) -> &Arc<ArcSwap<ServerConfig>> {
        &self.config
    }
}

impl Drop for MeshServerConfig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for MeshServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshServerConfig")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::testing::{FakeCa, trust};

    /// Waits until the configuration is another one.
    async fn changed(config: &MeshServerConfig, before: &Arc<ServerConfig>) -> Arc<ServerConfig> {
        let changing = async {
            loop {
                let now = config.config().load_full();
                if !Arc::ptr_eq(&now, before) {
                    return now;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), changing).await.expect("a new configuration")
    }

    #[tokio::test]
    async fn follows_the_certificate_and_trust() {
        let (east, west) = (FakeCa::new("east.example"), FakeCa::new("west.example"));
        let (renew, credentials) = watch::channel(east.credentials("shop", "checkout"));
        let first = Snapshot { trust: trust(&[&east]), ..Snapshot::default() };
        let snapshot = Arc::new(ArcSwap::from_pointee(first));
        let (tell, changes) = watch::channel(1);
        let config =
            MeshServerConfig::follow(credentials, Arc::clone(&snapshot), changes, &["mesh-h1"]).unwrap();
        let before = config.config().load_full();

        renew.send_replace(east.credentials("shop", "checkout"));
        let renewed = changed(&config, &before).await;

        snapshot.store(Arc::new(Snapshot {
            version: 2,
            trust: trust(&[&east, &west]),
            ..Snapshot::default()
        }));
        tell.send_replace(2);
        changed(&config, &renewed).await;
    }
}
