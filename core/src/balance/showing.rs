//! How a service's port is balanced, as `explain` shows it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Pools,
    choose::Tier,
    health::Standing,
    members::{Member, capacity},
    tiers::{NEAR, PEERS, TIERS},
};
use crate::{
    model::{EndpointHealth, Labels, Lane, Reach, ServiceKey},
    proxy::Wanted,
};

/// How the next request for a service's port would go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortShown {
    /// The port.
    pub port: u16,
    /// Its tiers that have endpoints, nearest first.
    pub tiers: Vec<TierShown>,
    /// Gateways in front of endpoints.
    pub gateways: Vec<GatewayShown>,
    /// Where the next request would go, by the code that sends it.
    pub next: NextShown,
}

/// A tier, and why it has its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierShown {
    /// `zone`, `region`, `cluster`, `peer 1` and so on, or `stale and failing`.
    pub name: String,
    /// Of all requests, in percent.
    pub share_percent: f64,
    /// Weight that can serve, and all of it: what stands behind the endpoints too, where a peer says so.
    pub healthy_weight: f64,
    /// See `healthy_weight`.
    pub total_weight: f64,
    /// Why it has that share.
    pub why: String,
    /// Requests a second that the clusters in it take, by cluster; none where they do not say.
    pub capacities: BTreeMap<String, u32>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointShown>,
}

/// An endpoint as it is seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointShown {
    /// Its id.
    pub id: String,
    /// Its cluster.
    pub cluster: String,
    /// Where, or through which gateways.
    pub address: String,
    /// Its lane.
    pub lane: Option<String>,
    /// By discovery: `healthy`, `unhealthy`, `draining`.
    pub health: String,
    /// By what is seen: `healthy`, `probe`, `ejected`, `unreachable` (its gateways are down), `dropped` (by discovery).
    pub seen: String,
    /// Its link was not heard of for long.
    pub stale: bool,
    /// Its weight.
    pub weight: u32,
    /// Requests in flight from here.
    pub in_flight: u32,
    /// Averaged, in milliseconds; of one that has not answered yet a guess.
    pub latency_ms: f64,
}

/// A gateway as it is seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayShown {
    /// Whose.
    pub cluster: String,
    /// Its mesh listener.
    pub address: String,
    /// `up`, `lossy`, `suspect`, `down`.
    pub standing: String,
    /// Averaged, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Of probes and connections, in percent.
    pub loss_percent: f64,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextShown {
    /// The endpoint's id.
    pub endpoint: Option<String>,
    /// Its cluster.
    pub cluster: Option<String>,
    /// Its tier, as among the tiers.
    pub tier: Option<String>,
    /// Why, or why nowhere.
    pub why: String,
}

impl Pools {
    /// How a service's port is balanced for requests of a lane; none: the port is not known. The next request is picked as
    /// any is, and given back: it counts as a use of the service, and against what a peer takes.
    pub fn show(
        &self,
        service: &ServiceKey,
        port: u16,
        lane: Option<&Lane>,
        at: Instant,
    ) -> Option<PortShown> {
        let labels = Labels::new();
        let wanted = Wanted {
            service,
            port,
            labels: &labels,
            lane,
            prefer: None,
            hash: None,
            avoid: &[],
            around: &[],
        };
        let picked = self.pick(&wanted, at).map(|pick| Arc::clone(&pick.member));
        let members = self.members(service, port)?;
        let now = self.nanos(at);
        let lanes = lane.map(Some).into_iter().chain([None]);
        let subsets: Vec<_> = lanes.map(|lane| (lane, members.subset(&labels, lane))).collect();
        let mut tiers = Vec::new();
        for (lane, subset) in &subsets {
            for tier in subset.tiers() {
                let (of, _) = capacity(tier, now);
                let share = subset.shares().share(tier.number);
                let share = if subset.tiers().len() == 1 { 1.0 } else { share };
                let carries = of.carries(&members.policy.localities);
                let clusters = tier.members.iter().map(|m| &m.endpoint.cluster);
                let capacities = clusters.filter_map(|cluster| {
                    Some((cluster.to_string(), members.backings.limit(cluster)?.requests))
                });
                tiers.push(TierShown {
                    name: name(tier, *lane),
                    share_percent: percent(share),
                    healthy_weight: of.healthy,
                    total_weight: of.total,
                    why: why(share, carries),
                    capacities: capacities.collect(),
                    endpoints: tier.members.iter().map(|member| shown(member, now)).collect(),
                });
            }
        }
        let next = match picked {
            Ok(member) => next(&member, lane, now),
            Err(reason) => NextShown { endpoint: None, cluster: None, tier: None, why: refused(reason) },
        };
        Some(PortShown { port, tiers, gateways: self.gateways_of(&members, at), next })
    }

    fn gateways_of(&self, members: &super::members::Members, at: Instant) -> Vec<GatewayShown> {
        let now = self.paths.nanos(at);
        let mut all = BTreeMap::new();
        for (cluster, gateway) in members.ways.iter().flat_map(|(c, ways)| ways.iter().map(move |w| (c, w))) {
            let seen = gateway.show(now);
            all.insert(
                (cluster.clone(), gateway.address()),
                GatewayShown {
                    cluster: cluster.to_string(),
                    address: gateway.address().to_string(),
                    standing: seen.standing.name().into(),
                    round_trip_ms: seen.round_trip.map(millis),
                    loss_percent: percent(seen.loss),
                },
            );
        }
        all.into_values().collect()
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn percent(part: f64) -> f64 {
    (part * 1e4).round() / 1e2
}

fn name(tier: &Tier, lane: Option<&Lane>) -> String {
    let place = match tier.number {
        0 => "zone".into(),
        1 => "region".into(),
        2 => "cluster".into(),
        far if far == TIERS - 1 => "stale and failing".into(),
        far if far - NEAR == PEERS - 1 => format!("peer {PEERS} and further"),
        far => format!("peer {}", far - NEAR + 1),
    };
    lane.map_or_else(|| place.clone(), |lane| format!("{place}, lane {}", lane.as_str()))
}

fn why(share: f64, carries: f64) -> String {
    let can = percent(carries);
    match (share, carries) {
        (_, carries) if carries <= 0.0 => "nobody in it can serve".into(),
        (share, _) if share <= 0.0 => format!("it can carry {can}%, but nearer tiers carry all"),
        (share, carries) if share > carries + 1e-6 => {
            format!("it can carry {can}%, and all tiers together not everything")
        }
        (share, carries) if share + 1e-6 < carries => {
            format!("it can carry {can}%: nearer tiers have the rest, or it takes its load back by and by")
        }
        _ => format!("it can carry {can}%"),
    }
}

fn shown(member: &Member, now: u64) -> EndpointShown {
    let (endpoint, health) = (&member.endpoint, &member.health);
    let seen = match health.standing(now) {
        _ if member.dropped > 0 => "dropped",
        Standing::Ejected => "ejected",
        _ if !member.is_reachable() => "unreachable",
        Standing::Probe => "probe",
        Standing::Healthy => "healthy",
    };
    let address = match &endpoint.reach {
        Reach::Direct(address) => address.to_string(),
        Reach::Via(gateways) => {
            let all: Vec<String> = gateways.iter().map(ToString::to_string).collect();
            format!("via {}", all.join(", "))
        }
    };
    EndpointShown {
        id: endpoint.id.to_string(),
        cluster: endpoint.cluster.to_string(),
        address,
        lane: endpoint.lane.as_ref().map(|lane| lane.as_str().into()),
        health: match endpoint.health {
            EndpointHealth::Healthy => "healthy",
            EndpointHealth::Unhealthy => "unhealthy",
            EndpointHealth::Draining => "draining",
        }
        .into(),
        seen: seen.into(),
        stale: endpoint.stale,
        weight: endpoint.weight,
        in_flight: health.in_flight(),
        latency_ms: (health.latency_now(now) / 1e3).round() / 1e3,
    }
}

fn next(member: &Arc<Member>, lane: Option<&Lane>, now: u64) -> NextShown {
    let seen = shown(member, now);
    let in_lane = lane.filter(|lane| member.endpoint.lane.as_ref() == Some(lane));
    let tier = Tier::new(member.tier, vec![Arc::clone(member)], None);
    let why = match seen.seen.as_str() {
        "healthy" if seen.health == "healthy" => {
            "its tier's turn by the shares, and then the endpoint's by the service's rule"
        }
        "ejected" | "probe" if seen.health == "healthy" => {
            "it was ejected: this finds out whether it answers again, or nobody else is left"
        }
        _ => "nobody is healthy: failing with certainty would be worse than a try",
    };
    let baseline = lane.is_some() && in_lane.is_none();
    let why = if baseline { format!("nobody in the lane is healthy; {why}") } else { why.into() };
    NextShown { endpoint: Some(seen.id), cluster: Some(seen.cluster), tier: Some(name(&tier, in_lane)), why }
}

fn refused(reason: &str) -> String {
    let means = match reason {
        "peer_capacity" => {
            "only other clusters could serve it, and they get as much as they say that they can take"
        }
        "overloaded" => "as much is under way as the service's TrafficPolicy lets through at a time",
        "no_endpoint" => "it has no endpoint",
        _ => "the service is not known here, or not synced yet",
    };
    format!("503 {reason}: {means}")
}
