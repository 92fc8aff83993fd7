//! What one service is, in both scopes and towards each peer, from everything the index knows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tombolo_core::model::opaque_sni;
use tombolo_proto::v1;

use super::{Configuration, Index, Link, Name, Peer, PeerPolicy, Registration, crossing::cross};

/// A service in one scope, before it has its virtual address.
pub(super) struct Computed {
    pub ports: Vec<v1::ServicePort>,
    pub endpoints: Vec<v1::EndpointList>,
    pub headless: bool,
}

/// Who contributes to a service of the cluster set.
struct Contribution {
    /// Seconds since the Unix epoch; unknown is the youngest.
    created: i64,
    cluster: String,
    headless: bool,
    ports: Vec<v1::ServicePort>,
    endpoints: BTreeMap<u32, Vec<v1::Endpoint>>,
    summaries: BTreeMap<u32, Vec<v1::Summary>>,
}

/// Two clusters disagree about a port of the same service, or about whether it is headless: the older export wins (Multi-Cluster Services).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// The service, `NAMESPACE/NAME`.
    pub service: String,
    /// The cluster that was not followed.
    pub cluster: String,
    /// What they disagree about.
    pub reason: String,
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
        let exported = self.peers.iter().any(|(cluster, peer)| self.exports_to(name, cluster, peer));
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
                    let endpoint = self.endpoint(workload, target, exported);
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
            labels: workload.labels.clone().into_iter().collect::<HashMap<_, _>>(),
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

    /// `SVC.NS.svc.clusterset.local`: this cluster's endpoints if it exports the service, and those imported from peers.
    pub(super) fn clusterset(
        &self,
        name: &Name,
        local: Option<&Computed>,
    ) -> (Option<Computed>, Vec<Conflict>) {
        let mut contributions = Vec::new();
        if let (Some(local), Some(created)) = (local, self.configuration.exports.get(name)) {
            contributions.push(Contribution {
                created: known(*created),
                cluster: self.settings.cluster.to_string(),
                headless: local.headless,
                ports: local.ports.clone(),
                endpoints: local.endpoints.iter().map(|l| (l.port, l.endpoints.clone())).collect(),
                summaries: BTreeMap::new(),
            });
        }
        for (cluster, peer) in &self.peers {
            contributions.extend(self.import(name, cluster, peer));
        }
        if contributions.is_empty() {
            return (None, Vec::new());
        }
        // Both sides order them in the same way, so that they agree without asking.
        contributions.sort_by(|a, b| (a.created, &a.cluster).cmp(&(b.created, &b.cluster)));
        let (computed, conflicts) = merge(name, contributions);
        (Some(computed), conflicts)
    }

    fn import(&self, name: &Name, cluster: &Arc<str>, peer: &Peer) -> Option<Contribution> {
        let service = peer.service(name)?;
        let policy = Self::policy(&self.configuration, cluster, peer)?;
        if peer.ended.is_some() || !policy.import.cover(&name.namespace, &name.name) {
            return None;
        }
        let list =
            |list: &v1::EndpointList| (list.port, peer.endpoints(cluster, &self.settings.network, list));
        Some(Contribution {
            created: known(service.created_unix),
            cluster: cluster.to_string(),
            headless: service.headless,
            ports: service.ports.clone(),
            endpoints: service.endpoints.iter().map(list).collect(),
            summaries: service.endpoints.iter().map(|l| (l.port, peer.summaries(cluster, l))).collect(),
        })
    }

    /// What each peer is told of this service; none if it is not to know. Peers on one network are told the same.
    pub(super) fn exports<'a>(
        &'a self,
        name: &Name,
        local: Option<&Computed>,
    ) -> Vec<(Arc<str>, Option<Arc<v1::ExportedService>>)> {
        let mut by_network: BTreeMap<&str, Arc<v1::ExportedService>> = BTreeMap::new();
        let export = |(cluster, peer): (&Arc<str>, &'a Peer)| {
            let export = local.filter(|_| self.exports_to(name, cluster, peer)).map(|local| {
                let message = by_network.entry(&peer.network);
                Arc::clone(message.or_insert_with(|| Arc::new(self.export(name, &peer.network, local))))
            });
            (Arc::clone(cluster), export)
        };
        self.peers.iter().map(export).collect()
    }

    fn export(&self, name: &Name, network: &str, local: &Computed) -> v1::ExportedService {
        let capacity = self.configuration.services.get(name).and_then(|spec| spec.capacity);
        let told = |peer: &Peer| peer.exports.get(name).filter(|_| peer.network == network).cloned();
        let before = self.peers.values().find_map(told);
        let before = |port| before.as_ref().and_then(|told| told.endpoints.iter().find(|l| l.port == port));
        let list = |list: &v1::EndpointList| cross(list, network, before(list.port), capacity);
        v1::ExportedService {
            revision: 0,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            ports: local.ports.clone(),
            endpoints: local.endpoints.iter().map(list).collect(),
            created_unix: self.configuration.exports.get(name).copied().unwrap_or(0),
            headless: local.headless,
        }
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

/// Whether labels have all that a selector asks for.
fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// An unknown creation is younger than every known one.
fn known(created: i64) -> i64 {
    if created > 0 { created } else { i64::MAX }
}

fn merge(name: &Name, contributions: Vec<Contribution>) -> (Computed, Vec<Conflict>) {
    let mut ports: Vec<v1::ServicePort> = Vec::new();
    let mut lists: BTreeMap<u32, (BTreeMap<String, v1::Endpoint>, Vec<v1::Summary>)> = BTreeMap::new();
    let mut conflicts = Vec::new();
    let headless = contributions.first().is_some_and(|oldest| oldest.headless);
    for contribution in contributions {
        let Contribution { cluster, ports: theirs, mut endpoints, mut summaries, .. } = contribution;
        if contribution.headless != headless {
            let reason = if headless { "headless" } else { "not headless" };
            let reason = format!("the service is {reason} in an older export");
            conflicts.push(Conflict { service: name.to_string(), cluster: cluster.clone(), reason });
        }
        for port in theirs {
            if let Err(reason) = agree(&ports, &port) {
                let service = name.to_string();
                conflicts.push(Conflict { service, cluster: cluster.clone(), reason });
                continue;
            }
            let (list, behind) = lists.entry(port.port).or_default();
            for endpoint in endpoints.remove(&port.port).unwrap_or_default() {
                list.insert(endpoint.id.clone(), endpoint);
            }
            behind.extend(summaries.remove(&port.port).unwrap_or_default());
            if !ports.iter().any(|known| known.port == port.port) {
                ports.push(port);
            }
        }
    }
    ports.sort_by_key(|port| port.port);
    let list = |(port, (endpoints, summaries)): (u32, (BTreeMap<_, _>, _))| v1::EndpointList {
        port,
        endpoints: endpoints.into_values().collect(),
        summaries,
    };
    (Computed { ports, endpoints: lists.into_iter().map(list).collect(), headless }, conflicts)
}

/// Whether a port fits those of older exports.
fn agree(older: &[v1::ServicePort], port: &v1::ServicePort) -> Result<(), String> {
    if let Some(same) = older.iter().find(|known| known.port == port.port) {
        if same.name != port.name || same.app_protocol != port.app_protocol {
            return Err(format!("port {} has another name or protocol in an older export", port.port));
        }
    } else if !port.name.is_empty() && older.iter().any(|known| known.name == port.name) {
        return Err(format!("the port name {} is another port in an older export", port.name));
    }
    Ok(())
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
