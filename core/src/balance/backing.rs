//! What other clusters say of what stands behind the endpoints that they name: how much of it is healthy, and how much they
//! can take.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use super::{members::Member, tiers::Capacity};
use crate::{decide::SharedLimit, model::Summary};

/// Of a service port, by cluster.
#[derive(Debug, Default)]
pub(super) struct Backings {
    of: BTreeMap<Arc<str>, Backing>,
    summaries: Vec<Summary>,
}

#[derive(Debug, Default)]
struct Backing {
    healthy: f64,
    total: f64,
    /// On the requests of all callers in this cluster together.
    limit: Option<SharedLimit>,
}

impl Backings {
    /// `name` is that of the service port.
    pub(super) fn new(name: &dyn Display, summaries: &[Summary]) -> Self {
        let mut of: BTreeMap<Arc<str>, Backing> = BTreeMap::new();
        let mut capacities: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        for summary in summaries {
            let backing = of.entry(summary.cluster.clone()).or_default();
            backing.healthy += summary.healthy_weight as f64;
            backing.total += summary.total_weight as f64;
            let capacity = capacities.entry(summary.cluster.clone()).or_default();
            *capacity = capacity.saturating_add(summary.capacity);
        }
        for (cluster, requests) in capacities.into_iter().filter(|(_, requests)| *requests > 0) {
            // No policy of a user has such a name.
            let policy = format!("peer/{cluster}/{name}").into();
            let burst = (requests / 2).max(1);
            let limit = SharedLimit { policy, requests, per: Duration::from_secs(1), burst };
            of.entry(cluster).or_default().limit = Some(limit);
        }
        Self { of, summaries: summaries.to_vec() }
    }

    /// True if they were made of these.
    pub(super) fn are(&self, summaries: &[Summary]) -> bool {
        self.summaries == summaries
    }

    /// What stands behind the members of a tier; none where no cluster among theirs says so.
    pub(super) fn behind(&self, members: &[Arc<Member>]) -> Option<Capacity> {
        if self.of.is_empty() {
            return None;
        }
        let mut clusters: Vec<&Arc<str>> = members.iter().map(|member| &member.endpoint.cluster).collect();
        clusters.sort_unstable();
        clusters.dedup();
        let mut all = Capacity::default();
        for cluster in clusters {
            let backing = self.of.get(cluster)?;
            all.healthy += backing.healthy;
            all.total += backing.total;
        }
        (all.total > 0.0).then_some(all)
    }

    /// On requests to a cluster.
    pub(super) fn limit(&self, cluster: &Arc<str>) -> Option<&SharedLimit> {
        self.of.get(cluster)?.limit.as_ref()
    }

    pub(super) fn limits(&self) -> impl Iterator<Item = &SharedLimit> {
        self.of.values().filter_map(|backing| backing.limit.as_ref())
    }
}
