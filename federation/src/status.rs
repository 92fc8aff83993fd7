//! `tombolo status`: how the cluster is, as JSON. Also the admin page `/config`.
//!
//! | field | meaning |
//! |---|---|
//! | `cluster`, `trustDomain`, `network` | who this is |
//! | `generation` | number of the configuration in force |
//! | `problems[]` | what is wrong with the controller's own files as they are now (the first 100): the last good state of those documents is in force |
//! | `proxies` | open discovery streams |
//! | `refusals` | responses that proxies have refused since the start |
//! | `storeFailures` | writes to the disk that failed since the start |
//! | `workloads[]`, `gateways[]` | what is registered; `connected`: its stream is open, else its lease runs out |
//! | `peers[]` | see [`peers`] |
//! | `ca` | of the certificate authority: `phase` of a rotation (`steady`, `published`, `signing`), `sequence` and `roots` (SHA-256) of the bundle, `signing` (the root that signs), while the next root is published `waitingFor` and `leadSecondsLeft`, while the old one is still trusted `retiresInSeconds` |
//! | `bundles[]` | trust bundles that come from SPIFFE endpoints: `state` `held`, `failing` (the last good one is in force, `error` says why there is no newer one) or `missing`; a bundle that comes over a link counts before them |
//! | `conflicts[]` | services about which clusters disagree, and whose word did not count |

pub mod peers;

use std::sync::Arc;

use serde_json::{Value, json};
use tombolo_core::{
    lifecycle::admin::{Page, Pages},
    tls,
};
use tombolo_proto::v1::Health;

use crate::{
    ca::{Phase, Progress},
    discovery::DeltaServer,
    index::Index,
    state::State,
};

/// Problems of documents that are shown; the log has all.
const MOST_PROBLEMS: usize = 100;

/// The whole of it.
pub fn status(state: &State, discovery: &DeltaServer) -> Value {
    let generation = state.documents().generation().number;
    let (store_failures, peers, problems) = (state.store_failures(), peers::all(state), state.problems());
    let authority = authority(state, discovery);
    state.with_index(|index| {
        json!({
            "cluster": &*state.cluster,
            "trustDomain": state.trust_domain.as_str(),
            "network": state.network,
            "generation": generation,
            "problems": problems.iter().take(MOST_PROBLEMS).collect::<Vec<_>>(),
            "proxies": discovery.streams(),
            "refusals": discovery.nacks(),
            "storeFailures": store_failures,
            "workloads": workloads(index),
            "gateways": gateways(index),
            "peers": peers,
            "ca": authority,
            "bundles": state.foreign(),
            "conflicts": index.conflicts().collect::<Vec<_>>(),
        })
    })
}

/// The certificate authority, and where a rotation of its root stands.
pub fn authority(state: &State, discovery: &DeltaServer) -> Value {
    let (bundle, progress) = (state.ca.bundle(), state.ca.progress());
    let Progress { rotation, limits, signing } = progress;
    let left = |limit: std::time::Duration| limit.saturating_sub(rotation.spent).as_secs();
    let mut shown = json!({
        "phase": rotation.phase,
        "sequence": bundle.sequence,
        "signing": hex(&signing),
        "roots": bundle.roots.iter().map(|root| hex(&tls::fingerprint(root))).collect::<Vec<_>>(),
    });
    match rotation.phase {
        Phase::Steady => {}
        Phase::Published => {
            shown["waitingFor"] = unconfirmed(state, discovery).into();
            shown["leadSecondsLeft"] = left(limits.lead).into();
        }
        Phase::Signing => shown["retiresInSeconds"] = left(limits.outlive).into(),
    }
    shown
}

/// Who does not hold this cluster's bundle of now: peers, and proxies that are connected.
pub fn unconfirmed(state: &State, discovery: &DeltaServer) -> Vec<String> {
    let sequence = state.ca.bundle().sequence;
    let mut all: Vec<String> = state.with_index(|index| {
        let late = index.peers().filter(|(_, peer)| peer.ended.is_none() && peer.holds_bundle < sequence);
        let own = (index.own_sequence() < sequence).then(|| "this controller".to_owned());
        own.into_iter().chain(late.map(|(name, _)| format!("peer {name}"))).collect()
    });
    all.extend(discovery.without_trust().into_iter().map(|id| format!("proxy {id}")));
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
