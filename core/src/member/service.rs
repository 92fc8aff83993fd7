//! The admin page `/explain` of a service: `/explain?service=NAMESPACE/NAME&scope=clusterset&lane=v2`.

use std::{collections::BTreeMap, fmt, time::Instant};

use serde::{Deserialize, Serialize};

use super::explain::{QuestionError, fields};
use crate::{
    balance::{Pools, PortShown, TierShown},
    model::{Lane, Scope, ServiceKey, Snapshot},
};

/// How requests for a service go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceShown {
    /// `SCOPE/NAMESPACE/NAME`.
    pub service: String,
    /// Other clusters in the order in which they are fallen back on.
    pub peers: Vec<PeerShown>,
    /// Its ports; without those whose endpoints are not known here (yet).
    pub ports: Vec<PortShown>,
    /// Ports whose endpoints are not known here: nobody has called them through this proxy.
    pub unknown_ports: Vec<u16>,
}

/// A cluster among those that are fallen back on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerShown {
    /// Its name.
    pub cluster: String,
    /// From its Peer document.
    pub order: Option<u32>,
    /// To the nearest of its gateways, or of the endpoints that stand for it on this network, in milliseconds.
    pub round_trip_ms: Option<f64>,
}

/// Answers the query of the admin page if it asks about a service; none: it asks about a request. An error says what is wrong
/// with it, or that the service is not known.
pub fn explain_service(
    snapshot: &Snapshot,
    pools: &Pools,
    query: &str,
) -> Option<Result<ServiceShown, QuestionError>> {
    let fields = match fields(query) {
        Ok(fields) => fields,
        Err(error) => return Some(Err(error)),
    };
    let one = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    one("service").map(|service| show(snapshot, pools, service, one("scope"), one("lane")))
}

fn show(
    snapshot: &Snapshot,
    pools: &Pools,
    service: &str,
    scope: Option<&str>,
    lane: Option<&str>,
) -> Result<ServiceShown, QuestionError> {
    let scope = match scope {
        None | Some("cluster") => Scope::Cluster,
        Some("clusterset") => Scope::Clusterset,
        Some(other) => {
            return Err(QuestionError::new(format!("{other:?} is no scope: cluster or clusterset")));
        }
    };
    let (namespace, name) = service
        .split_once('/')
        .ok_or_else(|| QuestionError::new(format!("{service:?} is no service; use NAMESPACE/NAME")))?;
    let key =
        ServiceKey::new(scope, namespace, name).map_err(|error| QuestionError::new(error.to_string()))?;
    let lane = lane.map(Lane::parse).transpose().map_err(|error| QuestionError::new(error.to_string()))?;
    let entry = snapshot.services.get(&key);
    let entry = entry.ok_or_else(|| QuestionError::new(format!("the service {key} is not known here")))?;
    let at = Instant::now();
    let known: BTreeMap<u16, Option<PortShown>> =
        entry.ports.iter().map(|p| (p.port, pools.show(&key, p.port, lane.as_ref(), at))).collect();
    let peer = |peer: crate::balance::PeerSeen| PeerShown {
        cluster: peer.cluster.to_string(),
        order: peer.order,
        round_trip_ms: peer.round_trip.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3),
    };
    Ok(ServiceShown {
        service: key.to_string(),
        peers: pools.peers(at).into_iter().map(peer).collect(),
        unknown_ports: known.iter().filter(|(_, port)| port.is_none()).map(|(port, _)| *port).collect(),
        ports: known.into_values().flatten().collect(),
    })
}

impl fmt::Display for ServiceShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "service   {}", self.service)?;
        for (rank, peer) in self.peers.iter().enumerate() {
            let order = peer.order.map_or("by round trip".into(), |order| format!("order {order}"));
            let trip = peer.round_trip_ms.map_or("not measured".into(), |ms| format!("{ms} ms"));
            writeln!(f, "peer {}    {} ({order}, {trip})", rank + 1, peer.cluster)?;
        }
        for port in &self.ports {
            write_port(f, port)?;
        }
        for port in &self.unknown_ports {
            writeln!(f, "port {port}\n  not known here: nobody has called it through this proxy")?;
        }
        Ok(())
    }
}

fn write_port(f: &mut fmt::Formatter<'_>, port: &PortShown) -> fmt::Result {
    writeln!(f, "port {}", port.port)?;
    let next = &port.next;
    match (&next.endpoint, &next.cluster, &next.tier) {
        (Some(endpoint), Some(cluster), Some(tier)) => {
            writeln!(f, "  next      {endpoint} in {cluster} ({tier}): {}", next.why)?;
        }
        _ => writeln!(f, "  next      {}", next.why)?,
    }
    for tier in &port.tiers {
        write_tier(f, tier)?;
    }
    for gateway in &port.gateways {
        let trip = gateway.round_trip_ms.map_or("not measured".into(), |ms| format!("{ms} ms"));
        writeln!(
            f,
            "  gateway   {} of {}: {}, {trip}, {}% lost",
            gateway.address, gateway.cluster, gateway.standing, gateway.loss_percent
        )?;
    }
    Ok(())
}

fn write_tier(f: &mut fmt::Formatter<'_>, tier: &TierShown) -> fmt::Result {
    writeln!(
        f,
        "  tier      {}: {}% of requests, {} of {} healthy by weight; {}",
        tier.name, tier.share_percent, tier.healthy_weight, tier.total_weight, tier.why
    )?;
    for (cluster, capacity) in &tier.capacities {
        writeln!(f, "            {cluster} takes {capacity} requests a second")?;
    }
    for endpoint in &tier.endpoints {
        let stale = if endpoint.stale { ", stale" } else { "" };
        let health = if endpoint.health == endpoint.seen {
            String::new()
        } else {
            format!(" (told {})", endpoint.health)
        };
        writeln!(
            f,
            "            {} {}: {}{health}{stale}, {} ms, {} in flight",
            endpoint.id, endpoint.address, endpoint.seen, endpoint.latency_ms, endpoint.in_flight
        )?;
    }
    Ok(())
}
