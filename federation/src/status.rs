//! `tombolo status`: how the cluster is, as JSON. Also the admin page `/config`.
//!
//! | field | meaning |
//! |---|---|
//! | `cluster`, `trustDomain`, `network` | who this is |
//! | `generation` | number of the configuration in force |
//! | `proxies` | open discovery streams |
//! | `refusals` | responses that proxies have refused since the start |
//! | `storeFailures` | writes to the disk that failed since the start |
//! | `workloads[]`, `gateways[]` | what is registered; `connected`: its stream is open, else its lease runs out |
//! | `peers[]` | see below |
//! | `conflicts[]` | services about which clusters disagree, and whose word did not count |
//!
//! A peer has `state`: `synced`; `syncing` (not all is said yet); `stale` (silent past its lease, `staleSince` in RFC 3339:
//! its endpoints are used last); `withdrawn` (the link was ended for good, `endedBy` `here` or `peer`). `connected`: the
//! link is up. `heardSecondsAgo`: the last sign of life. `imported` and `exported` count services; `confirmed` of
//! `revision` is how much of what this side exports the peer has taken. `refused` counts what was not taken from it.

use std::sync::Arc;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tombolo_core::lifecycle::admin::{Page, Pages};
use tombolo_proto::v1::Health;

use crate::{
    discovery::DeltaServer,
    index::{Ended, Index, Moment, Peer},
    state::State,
};

/// The whole of it.
pub fn status(state: &State, discovery: &DeltaServer) -> Value {
    let generation = state.documents().generation().number;
    let (now, store_failures) = (state.now(), state.store_failures());
    state.with_index(|index| {
        json!({
            "cluster": &*state.cluster,
            "trustDomain": state.trust_domain.as_str(),
            "network": state.network,
            "generation": generation,
            "proxies": discovery.streams(),
            "refusals": discovery.nacks(),
            "storeFailures": store_failures,
            "workloads": workloads(index),
            "gateways": gateways(index),
            "peers": index.peers().map(|(name, peer)| peer_status(name, peer, now)).collect::<Vec<_>>(),
            "conflicts": index.conflicts().collect::<Vec<_>>(),
        })
    })
}

fn workloads(index: &Index) -> Vec<Value> {
    let all = index.workloads().map(|(name, registration, open)| {
        let health = Health::try_from(registration.health).unwrap_or_default();
        json!({
            "name": name.to_string(),
            "address": registration.address.to_string(),
            "identity": registration.identity,
            "connected": open,
            "health": health.as_str_name().trim_start_matches("HEALTH_").to_lowercase(),
        })
    });
    all.collect()
}

fn gateways(index: &Index) -> Vec<Value> {
    let all = index.gateways().map(|(name, gateway, open)| {
        json!({ "name": name.to_string(), "meshAddress": gateway.address.to_string(), "connected": open })
    });
    all.collect()
}

fn peer_status(name: &str, peer: &Peer, now: Moment) -> Value {
    let mut status = json!({
        "name": name,
        "trustDomain": peer.identity.trust_domain.as_str(),
        "state": peer.state(),
        "connected": peer.session().is_some(),
        "heardSecondsAgo": now.unix_seconds() - peer.heard.unix_seconds(),
        "imported": peer.service_count(),
        "exported": peer.exports.len(),
        "confirmed": peer.acked,
        "revision": peer.exports.revision(),
        "gateways": peer.gateways,
        "refused": peer.refused,
    });
    if peer.state() == "stale" {
        status["staleSince"] = rfc3339(peer.heard).into();
    }
    if let Some(ended) = peer.ended {
        status["endedBy"] = if ended == Ended::Revoked { "here" } else { "peer" }.into();
    }
    status
}

fn rfc3339(moment: Moment) -> String {
    let time = OffsetDateTime::from_unix_timestamp(moment.unix_seconds()).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// The controller's admin pages.
pub struct ControllerPages {
    /// What is shared.
    pub state: Arc<State>,
    /// For its counters.
    pub discovery: DeltaServer,
}

impl Pages for ControllerPages {
    fn page(&self, path: &str, _: Option<&str>) -> Option<Page> {
        match path {
            "/config" => Some(Page::json(&status(&self.state, &self.discovery))),
            "/explain" => Some(Page::error(
                http::StatusCode::NOT_FOUND,
                "a controller decides no request; ask a gateway's or a sidecar's admin listener",
            )),
            _ => None,
        }
    }
}
