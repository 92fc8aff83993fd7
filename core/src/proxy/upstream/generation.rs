//! Numbered generations of credentials and trust, and the TLS configurations made from each.

use std::{sync::Arc, time::Instant};

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
    ages: DashMap<SpiffeId, Age>,
}

/// The connections to one peer, that are used together.
struct Age {
    /// How many there were before.
    turn: u64,
    /// When a certificate that one of them was made with ends; none: there are none yet.
    until: Option<Instant>,
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
        let next = Arc::new(Generation {
            number,
            credentials,
            trust,
            configs: DashMap::new(),
            ages: DashMap::new(),
        });
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

    /// What tells pooled connections to a peer apart that may be used from those that may not: its certificate has ended
    /// since. What runs on them then has a while to end, see `tenure`.
    pub fn turn(&self, peer: &SpiffeId, now: Instant) -> u64 {
        match self.ages.get(peer) {
            None => return 0,
            Some(age) if age.until.is_none_or(|until| now < until) => return age.turn,
            Some(_) => {}
        }
        let mut age = self.ages.entry(peer.clone()).or_insert(Age { turn: 0, until: None });
        if age.until.is_some_and(|until| until <= now) {
            (age.turn, age.until) = (age.turn + 1, None);
        }
        age.turn
    }

    /// A connection was made with a peer whose certificate ends then.
    pub fn made(&self, peer: &SpiffeId, expires: Instant) {
        if self.ages.len() >= CONFIGS && !self.ages.contains_key(peer) {
            return;
        }
        let mut age = self.ages.entry(peer.clone()).or_insert(Age { turn: 0, until: None });
        age.until = Some(age.until.map_or(expires, |until| until.min(expires)));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::identity::testing::{FakeCa, trust};

    #[test]
    fn connections_to_a_peer_are_given_up_when_its_certificate_ends_and_those_to_others_are_not() {
        let ca = FakeCa::new("east.example");
        let snapshot = Snapshot { trust: trust(&[&ca]), ..Snapshot::default() };
        let (_renew, identity) = watch::channel(ca.credentials("shop", "front"));
        let generations = Generations::new(Some(identity), Arc::new(ArcSwap::from_pointee(snapshot)));
        let generation = generations.current().unwrap();
        let (one, other, now) = (ca.id("shop", "one"), ca.id("shop", "other"), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(generation.turn(&one, now), 0);
        generation.made(&one, now + 2 * second);
        generation.made(&one, now + 3 * second);
        generation.made(&other, now + 9 * second);
        assert_eq!(generation.turn(&one, now + second), 0);
        assert_eq!(generation.turn(&one, now + 2 * second), 1, "the first that ends counts");
        assert_eq!(generation.turn(&one, now + 4 * second), 1, "once");
        assert_eq!(generation.turn(&other, now + 4 * second), 0);
    }
}
