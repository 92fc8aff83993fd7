//! How each peer is: `tombolo peer list` and `show`, and `peers[]` of the status.
//!
//! | field | meaning |
//! |---|---|
//! | `state` | `synced`; `syncing`: not all is said yet; `stale`: silent past its lease, its endpoints are used last; `withdrawn`: the link was ended for good |
//! | `staleSince` | of a stale one: its last sign of life, RFC 3339 |
//! | `endedBy`, `told` | of a withdrawn one: `here` or `peer`; whether the peer knows |
//! | `connected` | the link is up, and the peer has confirmed something within its lease: of the changes that wait, or, where none does, that it is there |
//! | `linkFailure` | why this side cannot open the link |
//! | `heardSecondsAgo` | the last sign of life |
//! | `confirmed`, `revision` | how much of what this side exports the peer has taken, of how much there is |
//! | `lagSeconds` | for how long the oldest change has waited that is not confirmed |
//! | `roundTripMillis` | of the last question over the link, and its answer |
//! | `sentBytes`, `receivedBytes`, `sentMessages`, `receivedMessages` | over its links since the process started |
//! | `imported`, `exported`, `refused` | services; what was not taken of what it said |
//! | `refusedByKind` | the same by kind: `malformed`, `policy`, `identity`, `address`, `limit`, `outdated` |
//! | `throttledSeconds` | for how long its link was read more slowly than it spoke, by its `limits` |
//! | `gateways` | its mesh listeners |
//! | `deprioritizeAfterSeconds`, `dropAfterSeconds` | its lease |
//!
//! `show` has besides: `network`, `addresses`, `dials` (this side opens the link), `bundle`, and `services[]` with `state`
//! (as above; `withdrawn` ones are told for a while), `since` and `endpoints`; `refusals[]`, the latest eight.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tombolo_core::{telemetry::PeerStatus, tls};

use super::hex;
use crate::{
    index::{Ended, Index, Moment, Peer},
    state::State,
};

/// All of them, without their services.
pub fn all(state: &State) -> Vec<Value> {
    let now = state.now();
    let all = |index: &Index| {
        let peers = index.peers();
        peers.map(|(name, peer)| summary(state, index, name, peer, now)).collect()
    };
    state.with_index(all)
}

/// One with its services; none: there is no such peer.
pub fn show(state: &State, name: &str) -> Option<Value> {
    let now = state.now();
    state.with_index(|index| {
        let peer = index.peer(name)?;
        let mut shown = summary(state, index, name, peer, now);
        let roots = peer.identity.bundle.roots_der.iter();
        shown["network"] = peer.network.clone().into();
        shown["addresses"] = json!(peer.identity.addresses);
        shown["dials"] = peer.identity.dials.into();
        shown["bundle"] = json!({
            "sequence": peer.identity.bundle.sequence,
            "roots": roots.map(|root| hex(&tls::fingerprint(root))).collect::<Vec<_>>(),
        });
        shown["services"] = services(peer).into();
        shown["refusals"] = refusals(peer).into();
        Some(shown)
    })
}

/// The same as metrics.
pub fn gauge(state: &State) {
    let now = state.now();
    let seconds = |millis: i64| millis as f64 / 1000.0;
    let all: Vec<_> = state.with_index(|index| {
        let status = |(name, peer): (&Arc<str>, &Peer)| {
            let status = PeerStatus {
                state: peer.state(),
                connected: peer.is_connected(index.lease_of(name), now),
                lag: if peer.ended.is_some() { 0.0 } else { seconds(peer.contact.lag(now)) },
                silence: seconds(peer.contact.silence(now)),
                revisions: [peer.acked, peer.exports.revision()],
                services: [peer.service_count(), peer.exports.len()],
                refused: peer.refusals.by_kind(),
                ..PeerStatus::default()
            };
            (Arc::clone(name), status)
        };
        index.peers().map(status).collect()
    });
    let with_traffic = |(name, status): &(Arc<str>, PeerStatus)| {
        let stats = state.link_stats(name);
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        PeerStatus {
            throttled: count(&stats.throttled_micros) as f64 / 1e6,
            round_trip: count(&stats.round_trip_micros) as f64 / 1e6,
            bytes: [count(&stats.received_bytes), count(&stats.sent_bytes)],
            messages: [count(&stats.received_messages), count(&stats.sent_messages)],
            ..*status
        }
    };
    state.telemetry.peers().show(all.iter().map(|peer| (&*peer.0, with_traffic(peer))));
}

fn summary(state: &State, index: &Index, name: &str, peer: &Peer, now: Moment) -> Value {
    let (lease, stats) = (index.lease_of(name), state.link_stats(name));
    let micros = stats.round_trip_micros.load(Relaxed);
    let seconds = |millis: i64| millis as f64 / 1000.0;
    let mut status = json!({
        "name": name,
        "trustDomain": peer.identity.trust_domain.as_str(),
        "state": peer.state(),
        "connected": peer.is_connected(lease, now),
        "heardSecondsAgo": peer.contact.silence(now) / 1000,
        "confirmed": peer.acked,
        "revision": peer.exports.revision(),
        "lagSeconds": seconds(peer.contact.lag(now)),
        "roundTripMillis": (micros > 0).then_some(micros as f64 / 1000.0),
        "imported": peer.service_count(),
        "exported": peer.exports.len(),
        "refused": peer.refusals.total(),
        "refusedByKind": peer.refusals.by_kind().into_iter().filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>(),
        "throttledSeconds": stats.throttled_micros.load(Relaxed) as f64 / 1e6,
        "gateways": peer.gateways,
        "sentMessages": stats.sent_messages.load(Relaxed),
        "sentBytes": stats.sent_bytes.load(Relaxed),
        "receivedMessages": stats.received_messages.load(Relaxed),
        "receivedBytes": stats.received_bytes.load(Relaxed),
        "deprioritizeAfterSeconds": lease.stale_after / 1000,
        "dropAfterSeconds": lease.drop_after / 1000,
    });
    if let Some(failure) = stats.failure().filter(|_| peer.session().is_none()) {
        status["linkFailure"] = failure.into();
    }
    if peer.state() == "stale" {
        status["staleSince"] = rfc3339(peer.contact.last_heard()).into();
    }
    if let Some(ended) = peer.ended {
        let here = ended == Ended::Revoked;
        status["endedBy"] = if here { "here" } else { "peer" }.into();
        status["told"] = (!here || peer.told).into();
        status["lagSeconds"] = 0.into();
    }
    status
}

fn refusals(peer: &Peer) -> Vec<Value> {
    let latest = peer.refusals.latest().map(|(when, refusal)| {
        let (object, kind) = (&refusal.object, refusal.kind.as_str());
        json!({ "object": object, "kind": kind, "reason": refusal.reason, "last": rfc3339(*when) })
    });
    latest.collect()
}

fn services(peer: &Peer) -> Vec<Value> {
    let state = peer.state();
    let held = peer.services().map(|(name, endpoints)| {
        let mut shown = json!({ "namespace": &*name.namespace, "name": &*name.name, "state": state, "endpoints": endpoints });
        if state == "stale" {
            shown["since"] = rfc3339(peer.contact.last_heard()).into();
        }
        shown
    });
    let gone = peer.withdrawn.iter().map(|(name, when)| {
        json!({ "namespace": &*name.namespace, "name": &*name.name, "state": "withdrawn", "since": rfc3339(*when), "endpoints": 0 })
    });
    held.chain(gone).collect()
}

fn rfc3339(moment: Moment) -> String {
    let time = OffsetDateTime::from_unix_timestamp(moment.unix_seconds()).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
