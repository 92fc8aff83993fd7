//! The mesh listener: peers reach exported endpoints of this cluster through it, by server name, and nothing else.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tombolo_core::{
    model::{Endpoint, Reach, Snapshot, Transport},
    proxy::{NameTable, Passthrough},
};

/// Where server names lead.
type Names = HashMap<Arc<str>, Arc<[SocketAddr]>>;

/// The names that peers may ask for.
#[derive(Debug)]
pub(crate) struct MeshNames {
    cluster: Arc<str>,
    names: Arc<ArcSwap<Names>>,
}

impl MeshNames {
    /// None so far. Only endpoints of this cluster are passed on to: a gateway is no way from one peer to another.
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.into(), names: Arc::default() }
    }

    /// Takes over what is exported now.
    pub fn update(&self, snapshot: &Snapshot) {
        let entries = snapshot.services.values();
        let endpoints = entries.flat_map(|entry| entry.endpoints.values().flat_map(|all| all.iter()));
        let names: Names = endpoints.filter_map(|endpoint| self.name(endpoint)).collect();
        self.names.store(Arc::new(names));
    }

    fn name(&self, endpoint: &Endpoint) -> Option<(Arc<str>, Arc<[SocketAddr]>)> {
        let Transport::Mesh { sni, .. } = &endpoint.transport else { return None };
        let Reach::Direct(address) = endpoint.reach else { return None };
        let is_ours = endpoint.exported && endpoint.cluster == self.cluster;
        is_ours.then(|| (Arc::clone(sni), Arc::from([address])))
    }

    /// What serves the listener.
    pub fn passthrough(&self) -> Passthrough {
        let names = Arc::clone(&self.names);
        let table: NameTable = Arc::new(move |name| names.load().get(name).cloned());
        Passthrough::new(table)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use tombolo_core::model::{EndpointHealth, Labels, Locality, ServiceEntry, ServiceKey, SpiffeId};

    use super::*;

    fn endpoint(sni: &str) -> Endpoint {
        Endpoint {
            id: sni.into(),
            reach: Reach::Direct("10.0.0.1:15006".parse().unwrap()),
            transport: Transport::Mesh {
                identity: SpiffeId::parse("spiffe://east.example/ns/shop/sa/web").unwrap(),
                sni: sni.into(),
            },
            cluster: "east".into(),
            locality: Locality::default(),
            weight: 1,
            labels: Labels::new(),
            lane: None,
            health: EndpointHealth::Healthy,
            stale: false,
            target_port: 8080,
            exported: true,
        }
    }

    #[test]
    fn only_exported_endpoints_of_this_cluster_have_names() {
        let all = [
            endpoint("exported"),
            Endpoint { exported: false, ..endpoint("not-exported") },
            Endpoint { cluster: "west".into(), ..endpoint("a-peers") },
            Endpoint {
                reach: Reach::Via(Arc::from([([10, 0, 0, 2], 1).into()])),
                ..endpoint("behind-a-gateway")
            },
            Endpoint { transport: Transport::Plaintext, ..endpoint("plaintext") },
        ];
        let key = ServiceKey::parse("cluster/shop/web").unwrap();
        let endpoints = BTreeMap::from([(80, all.map(Arc::new).into_iter().collect())]);
        let entry = ServiceEntry {
            key: key.clone(),
            ports: Vec::new(),
            vip_index: 1,
            hosts: None,
            endpoints,
            summaries: BTreeMap::new(),
        };
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(key, Arc::new(entry));
        let names = MeshNames::new("east");
        names.update(&snapshot);
        let known: Vec<_> = names.names.load().keys().map(ToString::to_string).collect();
        assert_eq!(known, ["exported"]);
        names.update(&Snapshot::default());
        assert!(names.names.load().is_empty(), "what is no longer exported is closed");
    }
}
