//! Metrics of the links with other clusters' controllers.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::listeners::store;

/// Peers that have metrics of their own; further ones have none.
const MAX_PEERS: usize = 1_000;

/// Which peers are shown.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<BTreeSet<String>>);

impl Shown {
    /// From now on the first [`MAX_PEERS`] of these are. Gives those that are not any more.
    pub fn turn<'a>(&self, peers: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let now = peers.take(MAX_PEERS).map(str::to_owned).collect();
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *shown, now);
        before.difference(&shown).cloned().collect()
    }

    pub fn has(&self, peer: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }
}

/// What a peer's state may be.
const STATES: [&str; 4] = ["synced", "syncing", "stale", "withdrawn"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Peer {
    pub peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerState {
    peer: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    peer: String,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    peer: String,
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    peer: String,
    kind: &'static str,
}

/// How a peer is.
#[derive(Debug, Clone, Copy, Default)]
pub struct PeerStatus {
    /// `synced`, `syncing`, `stale` or `withdrawn`.
    pub state: &'static str,
    /// It has confirmed something within its lease.
    pub connected: bool,
    /// For how long the oldest change has waited that it has not confirmed, in seconds.
    pub lag: f64,
    /// For how long it was not heard, in seconds: what is held of it is as old as that.
    pub silence: f64,
    /// Of what it is told: the version that it has confirmed last, and the latest.
    pub revisions: [u64; 2],
    /// How long its last answer took, in seconds; 0: none yet.
    pub round_trip: f64,
    /// Services: taken from it, and told to it.
    pub services: [usize; 2],
    /// Bytes: received from it, and sent to it.
    pub bytes: [u64; 2],
    /// Messages: received from it, and sent to it.
    pub messages: [u64; 2],
    /// What was not taken of what it said, by kind.
    pub refused: [(&'static str, u64); 6],
    /// For how long its link was read more slowly than it spoke, in seconds.
    pub throttled: f64,
}

type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// `tombolo_peer_...`.
#[derive(Default)]
pub struct PeerMetrics {
    state: Family<PeerState, Gauge>,
    connected: Family<Peer, Gauge>,
    lag: Family<Peer, Seconds>,
    silence: Family<Peer, Seconds>,
    revisions: Family<Version, Gauge>,
    round_trip: Family<Peer, Seconds>,
    services: Family<Direction, Gauge>,
    bytes: Family<Direction, Counter>,
    messages: Family<Direction, Counter>,
    refused: Family<Refused, Counter>,
    throttled: Family<Peer, Seconds>,
    shown: Shown,
}

impl PeerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("peer_state", "1 for the state that a peer is in", all.state.clone());
        registry.register(
            "peer_connected",
            "1: the peer has confirmed something within its lease",
            all.connected.clone(),
        );
        registry.register(
            "peer_lag_seconds",
            "How long the oldest change has waited that the peer has not confirmed",
            all.lag.clone(),
        );
        registry.register(
            "peer_silence_seconds",
            "For how long the peer was not heard: what is held of it is as old as that",
            all.silence.clone(),
        );
        registry.register(
            "peer_exports_revision",
            "Of what the peer is told: the version that it has confirmed, and the latest",
            all.revisions.clone(),
        );
        registry.register(
            "peer_round_trip_seconds",
            "How long the peer's last answer took",
            all.round_trip.clone(),
        );
        registry.register("peer_services", "Services told to and taken from a peer", all.services.clone());
        registry.register("peer_link_bytes", "Bytes over the links with a peer", all.bytes.clone());
        registry.register("peer_link_messages", "Messages over the links with a peer", all.messages.clone());
        registry.register(
            "peer_throttled_seconds",
            "For how long a peer's link was read more slowly than it spoke",
            all.throttled.clone(),
        );
        registry.register("peer_refused", "What was not taken of what a peer said", all.refused.clone());
        all
    }

    /// Shows these peers, and no others any more.
    pub fn show<'a>(&self, peers: impl Iterator<Item = (&'a str, PeerStatus)> + Clone) {
        if !self.shown.turn(peers.clone().map(|(name, _)| name)).is_empty() {
            self.clear();
        }
        for (name, status) in peers.filter(|(name, _)| self.shown.has(name)) {
            self.show_one(name, &status);
        }
    }

    /// What is still shown is set anew right away.
    fn clear(&self) {
        self.state.clear();
        self.connected.clear();
        for seconds in [&self.lag, &self.silence, &self.round_trip, &self.throttled] {
            seconds.clear();
        }
        self.revisions.clear();
        self.services.clear();
        self.bytes.clear();
        self.messages.clear();
        self.refused.clear();
    }

    fn show_one(&self, name: &str, status: &PeerStatus) {
        for state in STATES {
            let labels = PeerState { peer: name.to_owned(), state };
            self.state.get_or_create_owned(&labels).set(i64::from(state == status.state));
        }
        let peer = Peer { peer: name.to_owned() };
        self.connected.get_or_create_owned(&peer).set(i64::from(status.connected));
        self.lag.get_or_create_owned(&peer).set(status.lag);
        self.silence.get_or_create_owned(&peer).set(status.silence);
        for (version, revision) in ["confirmed", "latest"].into_iter().zip(status.revisions) {
            let labels = Version { peer: name.to_owned(), version };
            self.revisions.get_or_create_owned(&labels).set(i64::try_from(revision).unwrap_or(i64::MAX));
        }
        self.round_trip.get_or_create_owned(&peer).set(status.round_trip);
        self.throttled.get_or_create_owned(&peer).set(status.throttled);
        for (kind, count) in status.refused.into_iter().filter(|(kind, _)| !kind.is_empty()) {
            let labels = Refused { peer: name.to_owned(), kind };
            store(&self.refused.get_or_create_owned(&labels), count);
        }
        for (place, direction) in ["received", "sent"].into_iter().enumerate() {
            let labels = Direction { peer: name.to_owned(), direction };
            let of = |counts: [u64; 2]| counts.get(place).copied().unwrap_or_default();
            let services = status.services.get(place).copied().unwrap_or_default();
            self.services.get_or_create_owned(&labels).set(i64::try_from(services).unwrap_or(i64::MAX));
            store(&self.bytes.get_or_create_owned(&labels), of(status.bytes));
            store(&self.messages.get_or_create_owned(&labels), of(status.messages));
        }
    }
}

impl fmt::Debug for PeerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerMetrics").field("shown", &self.shown).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{AccessLog, Telemetry};

    #[test]
    fn peers_beyond_the_bound_and_those_that_are_gone_have_no_metrics() {
        let telemetry = Telemetry::new(AccessLog::off());
        let status = PeerStatus {
            state: "synced",
            lag: 1.5,
            revisions: [6, 7],
            bytes: [3, 4],
            ..PeerStatus::default()
        };
        let names: Vec<String> = (0..=MAX_PEERS).map(|number| format!("p{number:04}")).collect();
        let all = names.iter().map(|name| (name.as_str(), status));
        telemetry.peers().show(all.clone());
        let text = telemetry.encode();
        for line in [
            "tombolo_peer_state{peer=\"p0000\",state=\"synced\"} 1",
            "tombolo_peer_state{peer=\"p0000\",state=\"stale\"} 0",
            "tombolo_peer_lag_seconds{peer=\"p0999\"} 1.5",
            "tombolo_peer_exports_revision{peer=\"p0000\",version=\"confirmed\"} 6",
            "tombolo_peer_exports_revision{peer=\"p0000\",version=\"latest\"} 7",
            "tombolo_peer_link_bytes_total{peer=\"p0000\",direction=\"sent\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        assert!(!text.contains("peer=\"p1000\""));
        telemetry.peers().show(all.skip(1));
        let text = telemetry.encode();
        assert!(text.contains("peer=\"p1000\"") && !text.contains("peer=\"p0000\""));
    }
}
