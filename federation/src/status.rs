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
//! | `peers[]` | see [`peers`] |
//! | `conflicts[]` | services about which clusters disagree, and whose word did not count |

pub mod peers;

use std::sync::Arc;

use serde_json::{Value, json};
use tombolo_core::lifecycle::admin::{Page, Pages};
use tombolo_proto::v1::Health;

use crate::{discovery::DeltaServer, index::Index, state::State};

/// The whole of it.
pub fn status(state: &State, discovery: &DeltaServer) -> Value {
    let generation = state.documents().generation().number;
    let (store_failures, peers) = (state.store_failures(), peers::all(state));
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
            "peers": peers,
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
