//! A snapshot as the admin pages show it.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};

use crate::{
    balance::{Pools, Seen},
    model::{Endpoint, EndpointHealth, Host, Reach, ServiceEntry, Snapshot, Transport},
    quota::{Quotas, Use, WHOLE},
};

/// Services with their endpoints and what is seen of them, and trust domains. Nothing in it is secret.
pub fn view(snapshot: &Snapshot, pools: &Pools) -> Value {
    let mut services: Vec<_> = snapshot.services.values().collect();
    services.sort_by(|a, b| a.key.cmp(&b.key));
    let mut trust: Vec<_> = snapshot.trust.iter().collect();
    trust.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    let bundle = |bundle: &crate::model::TrustBundle| {
        json!({
            "trustDomain": bundle.trust_domain.as_str(),
            "sequence": bundle.sequence,
            "roots": bundle.roots.len(),
        })
    };
    json!({
        "version": snapshot.version,
        "objects": snapshot.config.status,
        "services": services.iter().map(|entry| service(entry, pools)).collect::<Vec<_>>(),
        "trust": trust.iter().map(|b| bundle(b)).collect::<Vec<_>>(),
    })
}

/// The shares that this process works with of limits that the cluster holds together, in percent.
pub fn shares(quotas: &Quotas) -> Value {
    let percent = |part: u64| part as f64 * 100.0 / f64::from(WHOLE);
    let share = |used: Use| {
        json!({
            "policy": &*used.policy,
            "sharePercent": percent(used.share.into()),
            "demandPercent": percent(used.demand),
            "leased": used.lease > 0,
        })
    };
    quotas.uses(Instant::now()).into_iter().map(share).collect()
}

fn service(entry: &ServiceEntry, pools: &Pools) -> Value {
    let ports = entry.ports.iter().map(|port| {
        let endpoints = entry.endpoints.get(&port.port);
        let seen = pools.seen(&entry.key, port.port, Instant::now());
        let endpoint = |e: &Arc<Endpoint>| endpoint(e, seen.get(&e.id));
        json!({
            "name": &*port.name,
            "port": port.port,
            "protocol": format!("{:?}", port.protocol).to_ascii_lowercase(),
            "endpoints": endpoints.map(|all| all.iter().map(endpoint).collect::<Vec<_>>()),
        })
    });
    json!({
        "name": entry.key.to_string(),
        "dnsName": entry.key.dns_name(),
        "vipIndex": entry.vip_index,
        "hosts": entry.hosts.as_ref().map(|hosts| hosts.iter().map(host).collect::<Vec<_>>()),
        "ports": ports.collect::<Vec<_>>(),
    })
}

fn host(host: &Host) -> Value {
    json!({ "name": &*host.full_name(), "vipIndex": host.vip_index, "ready": host.ready })
}

fn endpoint(endpoint: &Endpoint, seen: Option<&Seen>) -> Value {
    let (address, via) = match &endpoint.reach {
        Reach::Direct(address) => (Some(address.to_string()), Vec::new()),
        Reach::Via(gateways) => (None, gateways.iter().map(ToString::to_string).collect()),
    };
    let identity = match &endpoint.transport {
        Transport::Plaintext => None,
        Transport::Mesh { identity, .. } => Some(identity.to_string()),
    };
    let health = match endpoint.health {
        EndpointHealth::Healthy => "healthy",
        EndpointHealth::Unhealthy => "unhealthy",
        EndpointHealth::Draining => "draining",
    };
    json!({
        "id": &*endpoint.id,
        "cluster": &*endpoint.cluster,
        "address": address,
        "via": via,
        "identity": identity,
        "region": &*endpoint.locality.region,
        "zone": &*endpoint.locality.zone,
        "weight": endpoint.weight,
        "labels": endpoint.labels,
        "lane": endpoint.lane.as_ref().map(|lane| lane.as_str()),
        "health": health,
        "seen": seen.map(|seen| json!({
            "standing": seen.standing,
            "healthChecks": seen.check.map(|passes| if passes { "passing" } else { "failing" }),
            "inFlight": seen.in_flight,
        })),
        "stale": endpoint.stale,
        "exported": endpoint.exported,
    })
}
