//! Services of the cluster set, by the rules of Multi-Cluster Services: what several clusters export under one name is one
//! service. Where they disagree the oldest export counts, and each cluster shows the conflict on its own.

use std::{collections::BTreeMap, sync::Arc};

use tombolo_proto::v1;

use super::{Index, Kind, Name, Peer, Resource, services::Computed};

/// Who contributes to a service of the cluster set.
struct Contribution {
    /// Seconds since the Unix epoch; unknown is the youngest.
    created: i64,
    cluster: String,
    headless: bool,
    ports: Vec<v1::ServicePort>,
    lists: BTreeMap<u32, v1::EndpointList>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Two clusters disagree about the same service: the older export wins.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// The service, `NAMESPACE/NAME`.
    pub service: String,
    /// The cluster that was not followed.
    pub cluster: String,
    /// `PortConflict`, `TypeConflict`, `LabelsConflict` or `AnnotationsConflict`.
    pub kind: &'static str,
    /// What they disagree about.
    pub reason: String,
}

/// A service of the cluster set as it is shown (ServiceImport).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its name.
    pub name: Name,
    /// Ports of all exports.
    pub ports: Vec<(String, u32, String)>,
    /// It has no address of its own.
    pub headless: bool,
    /// Position of its virtual address; 0: it has none.
    pub vip_index: u32,
    /// Who exports it, by age of the export.
    pub clusters: Vec<String>,
    /// The oldest export's.
    pub labels: BTreeMap<String, String>,
    /// The oldest export's.
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// `SVC.NS.svc.clusterset.local`: this cluster's endpoints if it exports the service, and those imported from peers.
    pub(super) fn clusterset(
        &self,
        name: &Name,
        local: Option<&Computed>,
    ) -> (Option<Computed>, Vec<Conflict>) {
        let contributions = self.contributions(name, local);
        if contributions.is_empty() {
            return (None, Vec::new());
        }
        let (computed, conflicts) = merge(name, contributions);
        (Some(computed), conflicts)
    }

    /// From the oldest export on. All clusters order them in the same way, so that they agree without asking.
    fn contributions(&self, name: &Name, local: Option<&Computed>) -> Vec<Contribution> {
        let mut contributions = Vec::new();
        if let (Some(local), Some(export)) = (local, self.configuration.exports.get(name)) {
            contributions.push(Contribution {
                created: known(export.created),
                cluster: self.settings.cluster.to_string(),
                headless: local.headless,
                ports: local.ports.clone(),
                lists: local.endpoints.iter().map(|list| (list.port, list.clone())).collect(),
                labels: export.labels.clone(),
                annotations: export.annotations.clone(),
            });
        }
        for cluster in self.holders.get(name).into_iter().flatten() {
            let peer = self.peers.get(cluster);
            contributions.extend(peer.and_then(|peer| self.contribution(name, cluster, peer)));
        }
        contributions.sort_by(|a, b| (a.created, &a.cluster).cmp(&(b.created, &b.cluster)));
        contributions
    }

    fn contribution(&self, name: &Name, cluster: &Arc<str>, peer: &Peer) -> Option<Contribution> {
        let policy = Self::policy(&self.configuration, cluster, peer)?;
        if peer.ended.is_some() || !policy.import.cover(&name.namespace, &name.name) {
            return None;
        }
        let service = peer.service(name)?;
        let list = |list: v1::EndpointList| (list.port, peer.reached(cluster, &self.settings.network, list));
        Some(Contribution {
            created: known(service.created_unix),
            cluster: cluster.to_string(),
            headless: service.headless,
            ports: service.ports,
            lists: service.endpoints.into_iter().map(list).collect(),
            labels: service.labels,
            annotations: service.annotations,
        })
    }

    /// A service of the cluster set; none: nobody exports it to here.
    pub fn import(&self, name: &Name) -> Option<Import> {
        let local = self.local(name);
        let contributions = self.contributions(name, local.as_ref());
        let oldest = contributions.first()?;
        let (labels, annotations) = (oldest.labels.clone(), oldest.annotations.clone());
        let clusters = contributions.iter().map(|contribution| contribution.cluster.clone()).collect();
        let vip_index = match self.published.get(Kind::Service, &format!("clusterset/{name}")) {
            Some(Resource::Service(service)) => service.vip_index,
            _ => 0,
        };
        let (computed, _) = merge(name, contributions);
        let port = |port: v1::ServicePort| (port.name, port.port, port.app_protocol);
        Some(Import {
            name: name.clone(),
            ports: computed.ports.into_iter().map(port).collect(),
            headless: computed.headless,
            vip_index,
            clusters,
            labels,
            annotations,
        })
    }

    /// Names of the services of the cluster set.
    pub fn import_names(&self) -> impl Iterator<Item = Name> {
        self.published.of_kind(Kind::Service).filter_map(|(key, _)| {
            let (namespace, name) = key.strip_prefix("clusterset/")?.split_once('/')?;
            Some(Name::new(namespace, name))
        })
    }

    /// Where clusters disagree about a service.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values().flatten()
    }

    /// Where clusters disagree about this one.
    pub fn conflicts_of(&self, name: &Name) -> &[Conflict] {
        self.conflicts.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Peers that are told of this service.
    pub fn told_to(&self, name: &Name) -> impl Iterator<Item = &Arc<str>> {
        self.peers.iter().filter(|(_, peer)| peer.exports.get(name).is_some()).map(|(cluster, _)| cluster)
    }
}

/// An unknown creation is younger than every known one.
fn known(created: i64) -> i64 {
    if created > 0 { created } else { i64::MAX }
}

fn merge(name: &Name, contributions: Vec<Contribution>) -> (Computed, Vec<Conflict>) {
    let mut ports: Vec<v1::ServicePort> = Vec::new();
    let mut lists: BTreeMap<u32, (BTreeMap<String, v1::Endpoint>, Vec<v1::Summary>)> = BTreeMap::new();
    let mut conflicts = Vec::new();
    let service = name.to_string();
    let oldest = contributions.first();
    let headless = oldest.is_some_and(|oldest| oldest.headless);
    let said = oldest.map(|oldest| (oldest.labels.clone(), oldest.annotations.clone())).unwrap_or_default();
    for contribution in contributions {
        let Contribution { cluster, ports: theirs, lists: mut told, labels, annotations, .. } = contribution;
        let mut conflict = |kind, reason: String| {
            let (service, cluster) = (service.clone(), cluster.clone());
            conflicts.push(Conflict { service, cluster, kind, reason });
        };
        if contribution.headless != headless {
            let reason = if headless { "headless" } else { "not headless" };
            conflict("TypeConflict", format!("the service is {reason} in an older export"));
        }
        if labels != said.0 {
            conflict("LabelsConflict", "an older export has other labels".into());
        }
        if annotations != said.1 {
            conflict("AnnotationsConflict", "an older export has other annotations".into());
        }
        for port in theirs {
            if let Err(reason) = agree(&ports, &port) {
                conflict("PortConflict", reason);
                continue;
            }
            let (list, behind) = lists.entry(port.port).or_default();
            let told = told.remove(&port.port).unwrap_or_default();
            list.extend(told.endpoints.into_iter().map(|endpoint| (endpoint.id.clone(), endpoint)));
            behind.extend(told.summaries);
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
