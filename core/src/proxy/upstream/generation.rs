//! Numbered generations of credentials and trust, and the TLS configurations made from each.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use rustls::ClientConfig;

use super::{DialError, MeshProtocol};
use crate::{
    identity::{self, Credentials},
    model::{Snapshot, SpiffeId, TrustBundles},
    tls,
};

/// TLS configurations kept per generation; past it they are made for each connection.
const CONFIGS: usize = 4096;

/// Finds the generation of the moment, and begins a new one when credentials or trust have changed.
pub(super) struct Generations {
    identity: Option<identity::Watch>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    current: ArcSwapOption<Generation>,
}

/// One pair of credentials and trust.
pub(super) struct Generation {
    /// Grows with each change.
    pub number: u64,
    credentials: Arc<Credentials>,
    trust: Arc<TrustBundles>,
    configs: DashMap<(SpiffeId, MeshProtocol), Arc<ClientConfig>>,
}

impl Generations {
    pub fn new(identity: Option<identity::Watch>, snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { identity, snapshot, current: ArcSwapOption::empty() }
    }

    pub fn own_id(&self) -> Option<SpiffeId> {
        self.identity.as_ref().map(|watch| watch.borrow().id().clone())
    }

    pub fn current(&self) -> Result<Arc<Generation>, DialError> {
        let credentials = self.identity.as_ref().map(|w| w.borrow().clone()).ok_or(DialError::NoIdentity)?;
        let trust = self.snapshot.load().trust.clone();
        let last = self.current.load_full();
        match last {
            Some(last) if last.is_of(&credentials, &trust) => Ok(last),
            last => Ok(self.begin(last.as_deref(), credentials, trust)),
        }
    }

    /// Two callers at once may both begin one: then one of the two is used for little more than a request, which is
    /// harmless as both are of the same credentials and trust.
    fn begin(
        &self,
        last: Option<&Generation>,
        credentials: Arc<Credentials>,
        trust: Arc<TrustBundles>,
    ) -> Arc<Generation> {
        let number = last.map_or(1, |last| last.number + 1);
        let next = Arc::new(Generation { number, credentials, trust, configs: DashMap::new() });
        self.current.store(Some(next.clone()));
        next
    }
}

impl Generation {
    /// Bundles are compared by value too: most new snapshots bring the same ones.
    fn is_of(&self, credentials: &Arc<Credentials>, trust: &Arc<TrustBundles>) -> bool {
        Arc::ptr_eq(&self.credentials, credentials)
            && (Arc::ptr_eq(&self.trust, trust) || self.trust == *trust)
    }

    /// The configuration for connections to `expected`.
    pub fn config(
        &self,
        expected: &SpiffeId,
        protocol: MeshProtocol,
    ) -> Result<Arc<ClientConfig>, DialError> {
        let key = (expected.clone(), protocol);
        if let Some(config) = self.configs.get(&key) {
            return Ok(config.clone());
        }
        let (credentials, trust) = (self.credentials.clone(), self.trust.clone());
        let config = tls::mesh_client(credentials, trust, expected.clone(), &[protocol.alpn()])?;
        if self.configs.len() < CONFIGS {
            self.configs.insert(key, config.clone());
        }
        Ok(config)
    }
}
