//! Metrics of the ways to other clusters.

use std::fmt;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::peers::{Peer, Shown};
use crate::{balance::PeerSeen, paths::Standing};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gateways {
    peer: String,
    standing: &'static str,
}

/// `tombolo_gateway_probes...` and `tombolo_peer_...`.
#[derive(Default)]
pub struct PathMetrics {
    probes: Family<Result, Counter>,
    gateways: Family<Gateways, Gauge>,
    round_trip: Family<Peer, Gauge>,
    rank: Family<Peer, Gauge>,
    shown: Shown,
}

const STANDINGS: [Standing; 4] = [Standing::Up, Standing::Lossy, Standing::Suspect, Standing::Down];

impl PathMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "gateway_probes",
            "Probes of peers' gateways, and of endpoints that stand for peers on this network",
            metrics.probes.clone(),
        );
        registry.register(
            "peer_gateways",
            "Gateways of a peer by how they stand, as seen from here",
            metrics.gateways.clone(),
        );
        registry.register(
            "peer_gateway_round_trip_microseconds",
            "Round trip to the nearest gateway of a peer that is up, or of endpoints that stand for it on this network",
            metrics.round_trip.clone(),
        );
        registry.register(
            "peer_failover_rank",
            "Position of a peer in the order of failover, from 1",
            metrics.rank.clone(),
        );
        metrics
    }

    /// Counts a probe.
    pub fn probed(&self, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.probes.get_or_create(&Result { result }).inc();
    }

    /// Shows these peers, and no others any more.
    pub fn show(&self, peers: &[PeerSeen]) {
        for peer in self.shown.turn(peers.iter().map(|peer| &*peer.cluster)) {
            let label = Peer { peer: peer.clone() };
            self.round_trip.remove(&label);
            self.rank.remove(&label);
            for standing in STANDINGS {
                self.gateways.remove(&Gateways { peer: peer.clone(), standing: standing.name() });
            }
        }
        let whole = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        for (rank, peer) in peers.iter().enumerate().filter(|(_, peer)| self.shown.has(&peer.cluster)) {
            let label = Peer { peer: peer.cluster.to_string() };
            self.rank.get_or_create(&label).set(whole(rank + 1));
            if let Some(time) = peer.round_trip {
                let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
                self.round_trip.get_or_create(&label).set(micros);
            }
            for standing in STANDINGS {
                let count = peer.gateways.iter().filter(|(_, seen)| seen.standing == standing).count();
                let label = Gateways { peer: label.peer.clone(), standing: standing.name() };
                self.gateways.get_or_create(&label).set(whole(count));
            }
        }
    }
}

impl fmt::Debug for PathMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathMetrics").finish_non_exhaustive()
    }
}
