//! In which order other clusters are fallen back on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::nanos_of;

/// A cluster passes another one that is before it if its round trip is shorter by both of these, for so long.
const BETTER: f64 = 0.8;
const BETTER_BY: f64 = 2e6;
const HELD: Duration = Duration::from_secs(10);

/// What is known of another cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// By its Peer document: lower first, before all that have none.
    pub order: Option<u32>,
    /// As measured.
    pub round_trip: Option<Duration>,
}

/// Clusters in the order in which they are fallen back on. Those that a document orders come first, in its order; the others
/// by measured round trip, and those of which it is not known by name. A measure changes the order only where it is clearly
/// better for some time.
#[derive(Debug, Default)]
pub struct Order {
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    cluster: Arc<str>,
    order: Option<u32>,
    /// Nanoseconds.
    round_trip: Option<f64>,
    /// Since when it has been clearly better than the one before it.
    better_since: Option<u64>,
}

impl Peer {
    /// Only among those of the same class the round trip decides.
    fn class(&self) -> (bool, Option<u32>) {
        (self.order.is_none(), self.order)
    }

    fn is_better_than(&self, other: &Self) -> bool {
        let (Some(mine), Some(theirs)) = (self.round_trip, other.round_trip) else { return false };
        self.class() == other.class() && mine < theirs * BETTER && mine + BETTER_BY < theirs
    }
}

impl Order {
    /// Takes note of what is known now. True if the order has changed.
    pub fn update(&mut self, seen: &BTreeMap<Arc<str>, Seen>, now: u64) -> bool {
        let before: Vec<Arc<str>> = self.clusters().cloned().collect();
        let mut anew = Vec::new();
        self.peers.retain(|peer| seen.contains_key(&peer.cluster));
        for (cluster, seen) in seen {
            let round_trip = seen.round_trip.map(|time| nanos_of(time) as f64);
            let at = self.peers.iter().position(|peer| peer.cluster == *cluster);
            let known = at.and_then(|at| self.peers.get_mut(at));
            match (known, at) {
                // What is measured for the first time finds its place at once.
                (Some(known), Some(at)) if known.round_trip.is_none() && round_trip.is_some() => {
                    known.round_trip = round_trip;
                    known.order = seen.order;
                    anew.push(self.peers.remove(at));
                }
                (Some(known), _) => {
                    known.order = seen.order;
                    // Of who is down the last measure counts.
                    known.round_trip = round_trip.or(known.round_trip);
                }
                (None, _) => anew.push(Peer {
                    cluster: Arc::clone(cluster),
                    order: seen.order,
                    round_trip,
                    better_since: None,
                }),
            }
        }
        self.peers.sort_by_key(Peer::class);
        for peer in anew {
            self.insert(peer);
        }
        self.pass(now);
        !self.clusters().eq(before.iter())
    }

    fn insert(&mut self, peer: Peer) {
        let time = |peer: &Peer| peer.round_trip.unwrap_or(f64::INFINITY);
        let is_after = |other: &Peer| match other.class().cmp(&peer.class()) {
            std::cmp::Ordering::Equal => {
                time(other).total_cmp(&time(&peer)).then_with(|| other.cluster.cmp(&peer.cluster)).is_gt()
            }
            other => other.is_gt(),
        };
        let at = self.peers.iter().position(is_after).unwrap_or(self.peers.len());
        self.peers.insert(at, peer);
    }

    /// Who has been better for long enough goes before who was before it: one place at a time, but no place twice.
    fn pass(&mut self, now: u64) {
        for at in 1..self.peers.len() {
            let Some([before, peer]) = self.peers.get_mut(at - 1..=at) else { return };
            if !peer.is_better_than(before) {
                peer.better_since = None;
                continue;
            }
            let since = *peer.better_since.get_or_insert(now);
            if now.saturating_sub(since) >= nanos_of(HELD) {
                before.better_since = None;
                self.peers.swap(at - 1, at);
            }
        }
        if let Some(first) = self.peers.first_mut() {
            first.better_since = None;
        }
    }

    /// From the first on.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.peers.iter().map(|peer| &peer.cluster)
    }
}
