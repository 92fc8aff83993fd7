//! What one service is, in both scopes and towards each peer, from everything the index knows.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;
use tombolo_core::model::opaque_sni;
use tombolo_proto::v1;

use super::{
    Configuration, Index, Link, Name, Peer, PeerPolicy, Registration,
    crossing::{Takes, cross},
    selectors::selects,
};

/// Most bytes of one service as a peer is told of it; a link takes 4 MiB.
const MAX_EXPORT: usize = 3 << 20;

/// A service in one scope, before it has its virtual address.
pub(super) struct Computed {
    pub ports: Vec<v1::ServicePort>,
    pub endpoints: Vec<v1::EndpointList>,
    pub headless: bool,
}

impl Index {
    /// The peer's policy, if it applies: the document's trust domain is the peer's.
    pub(super) fn policy<'a>(
        configuration: &'a Configuration,
        cluster: &str,
        peer: &Peer,
    ) -> Option<&'a PeerPolicy> {
        let policy = configuration.peers.get(cluster)?;
        (policy.trust_domain == peer.identity.trust_domain).then_some(policy)
    }

    /// Whether a peer is to be told of this service.
    pub(super) fn exports_to(&self, name: &Name, cluster: &str, peer: &Peer) -> bool {
        peer.ended.is_none()
            && self.configuration.exports.contains_key(name)
            && Self::policy(&self.configuration, cluster, peer)
                .is_some_and(|p| p.export.cover(&name.namespace, &name.name))
    }

    /// `SVC.NS.svc.cluster.local`: what the Service document selects here.
    pub(super) fn local(&self, name: &Name) -> Option<Computed> {
        let spec = self.configuration.services.get(name)?;
        let exported = self.configuration.exports.contains_key(name)
            && self.peers.iter().any(|(cluster, peer)| self.exports_to(name, cluster, peer));
        let mut lists: BTreeMap<u32, BTreeMap<String, v1::Endpoint>> = BTreeMap::new();
        for port in &spec.ports {
            let list = lists.entry(port.port.into()).or_default();
            for endpoint in spec.fixed.get(&port.port).into_iter().flatten() {
                let mut endpoint = endpoint.clone();
                // A plaintext endpoint has no SNI by which a gateway could pass a peer on to it.
                endpoint.exported = exported && !endpoint.spiffe_id.is_empty();
                if endpoint.network.is_empty() {
                    endpoint.network = self.settings.network.to_string();
                }
                list.insert(endpoint.id.clone(), endpoint);
            }
            if spec.selector.is_empty() {
                continue;
            }
            for workload in self.registrations.in_namespace(&name.namespace) {
                if selects(&spec.selector, &workload.labels)
                    && let Some(target) = workload.port(port)
                {
                    let mut endpoint = self.endpoint(workload, target, exported);
                    if spec.publishes_not_ready && endpoint.health() == v1::Health::Unhealthy {
                        endpoint.health = v1::Health::Healthy.into();
                    }
                    list.insert(endpoint.id.clone(), endpoint);
                }
            }
        }
        let list = |(port, endpoints): (u32, BTreeMap<_, _>)| v1::EndpointList {
            port,
            endpoints: endpoints.into_values().collect(),
            summaries: Vec::new(),
        };
        Some(Computed {
            ports: spec.published_ports(),
            endpoints: lists.into_iter().map(list).collect(),
            headless: spec.headless,
        })
    }

    fn endpoint(&self, workload: &Registration, target: u16, exported: bool) -> v1::Endpoint {
        let trust_domain = &self.settings.trust_domain;
        let network = if workload.network.is_empty() { &*self.settings.network } else { &workload.network };
        v1::Endpoint {
            id: format!("{trust_domain}/{}/{}/{target}", workload.namespace, workload.name),
            address: workload.address.to_string(),
            via: Vec::new(),
            network: network.to_owned(),
            locality: Some(v1::Locality { region: workload.region.clone(), zone: workload.zone.clone() }),
            weight: workload.weight,
            labels: workload.labels.clone(),
            spiffe_id: workload.identity.clone(),
            sni: opaque_sni(trust_domain, &workload.namespace, &workload.name, target),
            health: workload.health,
            cluster: self.settings.cluster.to_string(),
            target_port: target.into(),
            exported,
            stale: false,
            hostname: workload.name.clone(),
        }
    }

    /// What each peer is told of this service; none if it is not to know. Peers on one network are told the same.
    pub(super) fn exports<'a>(
        &'a self,
        name: &Name,
        local: Option<&Computed>,
    ) -> Vec<(Arc<str>, Option<Arc<v1::ExportedService>>)> {
        let mut by_network: BTreeMap<&str, Arc<v1::ExportedService>> = BTreeMap::new();
        let is_told = |cluster, peer| local.is_some() && self.exports_to(name, cluster, peer);
        let told: Vec<bool> = self.peers.iter().map(|(cluster, peer)| is_told(cluster, peer)).collect();
        let capacity = self.configuration.services.get(name).and_then(|spec| spec.capacity);
        let peers = u32::try_from(told.iter().filter(|told| **told).count()).unwrap_or(u32::MAX);
        let takes = capacity.map(|in_all| Takes { in_all, peers });
        let export = |((cluster, peer), told): ((&Arc<str>, &'a Peer), bool)| {
            let export = local.filter(|_| told).map(|local| {
                let message = by_network.entry(&peer.network);
                Arc::clone(
                    message.or_insert_with(|| Arc::new(self.export(name, &peer.network, local, takes))),
                )
            });
            (Arc::clone(cluster), export)
        };
        self.peers.iter().zip(told).map(export).collect()
    }

    fn export(
        &self,
        name: &Name,
        network: &str,
        local: &Computed,
        takes: Option<Takes>,
    ) -> v1::ExportedService {
        let told = |peer: &Peer| peer.exports.get(name).filter(|_| peer.network == network).cloned();
        let before = self.peers.values().find_map(told);
        let before = |port| before.as_ref().and_then(|told| told.endpoints.iter().find(|l| l.port == port));
        let list = |list: &v1::EndpointList| cross(list, network, before(list.port), takes);
        let spec = self.configuration.exports.get(name);
        let mut export = v1::ExportedService {
            revision: 0,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            ports: local.ports.clone(),
            endpoints: local.endpoints.iter().map(list).collect(),
            created_unix: spec.map_or(0, |spec| spec.created),
            headless: local.headless,
            labels: spec.map(|spec| spec.labels.clone()).unwrap_or_default(),
            annotations: spec.map(|spec| spec.annotations.clone()).unwrap_or_default(),
        };
        fit(&mut export);
        export
    }

    /// The gateways that peers are told of: those that live and are not going away.
    pub(super) fn gateway_addresses(&self) -> Vec<String> {
        let live = self.gateways.iter().filter(|(_, gateway, _)| !gateway.draining);
        let mut addresses: Vec<String> = live.map(|(_, gateway, _)| gateway.address.to_string()).collect();
        addresses.sort();
        addresses.dedup();
        addresses.truncate(super::peers::MAX_GATEWAYS);
        addresses
    }

    /// Names that exist anywhere: in this configuration or at a peer.
    pub(super) fn all_names(&self) -> std::collections::BTreeSet<Name> {
        let remote = self.peers.values().flat_map(|peer| peer.services().map(|(name, _)| name.clone()));
        self.configuration.services.keys().cloned().chain(remote).collect()
    }
}

/// A message that is larger than a peer takes would end the link each time: of what is too large only a part is told.
fn fit(export: &mut v1::ExportedService) {
    while export.encoded_len() > MAX_EXPORT {
        let most = export.endpoints.iter().map(|list| list.endpoints.len()).max().unwrap_or(0) / 2;
        tracing::warn!(
            service = format!("{}/{}", export.namespace, export.name),
            "too large for the link: {most} endpoints of a port are told"
        );
        export.endpoints.iter_mut().for_each(|list| list.endpoints.truncate(most));
        if most == 0 {
            return;
        }
    }
}

impl Peer {
    /// The state as it is shown: `synced`, `syncing`, `stale` or `withdrawn`. A link that broke less than a lease ago
    /// changes nothing yet.
    pub fn state(&self) -> &'static str {
        match (self.ended, self.stale, self.link, &self.have) {
            (Some(_), ..) => "withdrawn",
            (_, true, ..) => "stale",
            (_, _, Link::Synced(_), _) | (_, _, Link::Down, Some(_)) => "synced",
            _ => "syncing",
        }
    }
}
