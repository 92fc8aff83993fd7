//! `tombolo status`: how the cluster is, as JSON.
//!
//! `cluster`, `trustDomain`, `generation`; `proxies` (open discovery streams) and `refusals` (responses that proxies
//! refused); `workloads` and `gateways` with whether their stream is open; `peers` with `state` (`synced`, `syncing`,
//! `down`, `stale`, `revoked`, `withdrawn`), services imported and exported, and the last revision that the peer confirmed
//! against the last one there is; `conflicts`.

use serde_json::{Value, json};

use crate::{
    discovery::DeltaServer,
    index::{Ended, Index, Link, Moment, Peer},
    state::State,
};

/// The whole of it.
pub fn status(state: &State, discovery: &DeltaServer) -> Value {
    let generation = state.with_documents(|documents| documents.generation().number);
    let now = state.now();
    state.with_index(|index| {
        json!({
            "cluster": &*state.cluster,
            "trustDomain": state.trust_domain.as_str(),
            "network": state.network,
            "generation": generation,
            "proxies": discovery.streams(),
            "refusals": discovery.nacks(),
            "workloads": workloads(index),
            "gateways": gateways(index),
            "peers": index.peers().map(|(name, peer)| peer_status(name, peer, now)).collect::<Vec<_>>(),
        })
    })
}

fn workloads(index: &Index) -> Vec<Value> {
    let one = |(name, registration, open): (
        &crate::index::Name,
        &std::sync::Arc<crate::index::Registration>,
        bool,
    )| {
        json!({
            "name": name.to_string(),
            "address": registration.address.to_string(),
            "identity": registration.identity,
            "connected": open,
            "health": tombolo_proto::v1::Health::try_from(registration.health)
                .map_or("", |h| h.as_str_name()).trim_start_matches("HEALTH_").to_lowercase(),
        })
    };
    index.workloads().map(one).collect()
}

fn gateways(index: &Index) -> Vec<Value> {
    let one = |(name, gateway, open): (&crate::index::Name, &crate::index::Gateway, bool)| json!({ "name": name.to_string(), "meshAddress": gateway.address.to_string(), "connected": open });
    index.gateways().map(one).collect()
}

fn peer_status(name: &str, peer: &Peer, now: Moment) -> Value {
    json!({
        "name": name,
        "trustDomain": peer.identity.trust_domain.as_str(),
        "state": state_of(peer),
        "heardSecondsAgo": now.unix_seconds() - peer.heard.unix_seconds(),
        "imported": peer.service_count(),
        "exported": peer.exports.len(),
        "confirmed": peer.acked,
        "revision": peer.exports.revision(),
        "gateways": peer.gateways,
        "refused": peer.refused,
    })
}

fn state_of(peer: &Peer) -> &'static str {
    match (peer.ended, peer.link, peer.stale) {
        (Some(Ended::Revoked), ..) => "revoked",
        (Some(Ended::Withdrawn), ..) => "withdrawn",
        (None, Link::Synced(_), _) => "synced",
        (None, Link::Syncing(_), _) => "syncing",
        (None, Link::Down, true) => "stale",
        (None, Link::Down, false) => "down",
    }
}
