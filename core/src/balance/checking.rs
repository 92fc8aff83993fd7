//! Checks that are due, of all pools.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{
    Pools,
    health::Standing,
    members::{Member, Members},
    nanos_of,
};
use crate::{
    decide::HealthCheck,
    model::{Endpoint, ServiceKey},
};

/// Endpoints of a service are checked while it was used within this time.
const USED: Duration = Duration::from_secs(600);

/// A check that is to be made. Dropped before it is finished: given up, which says nothing of the endpoint.
#[derive(Debug)]
pub struct Check {
    service: ServiceKey,
    port: u16,
    members: Arc<Members>,
    member: Arc<Member>,
    rules: Arc<HealthCheck>,
    ended: bool,
}

/// What is seen of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// `healthy`, `ejected`, or `probe`: one request at a time may try it again.
    pub standing: &'static str,
    /// Whether it passes its health checks; none: there are none, or none has ended yet.
    pub check: Option<bool>,
    /// Requests in flight.
    pub in_flight: u32,
}

impl Pools {
    /// The checks that are to be made by now, those that are late the longest first, `most` of them.
    pub fn due_checks(&self, now: Instant, most: usize) -> Vec<Check> {
        if !self.checks.load(Relaxed) {
            return Vec::new();
        }
        let now = self.nanos(now);
        let mut due = Vec::new();
        for pool in &self.pools {
            let members = pool.load();
            let Some(rules) = &members.policy.check else { continue };
            if !members.state.is_used(nanos_of(USED), now) {
                continue;
            }
            // Of one behind gateways that are down a check would say nothing.
            for member in members.checked().into_iter().filter(|member| member.is_reachable()) {
                let next = member.health.checks.due(rules, now, self.rng.fraction());
                if let Some(next) = next.filter(|next| *next <= now) {
                    let (service, port) = pool.key().clone();
                    let (members, rules) = (Arc::clone(&members), Arc::clone(rules));
                    due.push((next, Check { service, port, members, member, rules, ended: true }));
                }
            }
        }
        due.sort_by_key(|(next, _)| *next);
        due.truncate(most);
        let begin = |(_, mut check): (u64, Check)| {
            check.member.health.checks.begin(&check.rules, now, self.rng.fraction());
            check.ended = false;
            check
        };
        due.into_iter().map(begin).collect()
    }

    /// How many endpoints of each service with health checks do not pass them.
    pub fn failing_checks(&self) -> HashMap<ServiceKey, usize> {
        let mut out = HashMap::new();
        for pool in &self.pools {
            let members = pool.load();
            if members.policy.check.is_some() {
                let failing = members.checked().iter().filter(|m| m.health.checks.is_failing()).count();
                *out.entry(pool.key().0.clone()).or_default() += failing;
            }
        }
        out
    }

    /// What is seen of the endpoints of a service's port, by their ids.
    pub fn seen(&self, service: &ServiceKey, port: u16, now: Instant) -> HashMap<Arc<str>, Seen> {
        let now = self.nanos(now);
        let Some(members) = self.members(service, port) else { return HashMap::new() };
        let seen = |member: &Arc<Member>| {
            let health = &member.health;
            let standing = match health.standing(now) {
                Standing::Healthy => "healthy",
                Standing::Probe => "probe",
                Standing::Ejected => "ejected",
            };
            let check = members.policy.check.as_ref().and_then(|_| health.checks.verdict());
            (member.endpoint.id.clone(), Seen { standing, check, in_flight: health.in_flight() })
        };
        members.all().iter().map(seen).collect()
    }
}

impl Check {
    /// Whose endpoint it is.
    pub fn service(&self) -> (&ServiceKey, u16) {
        (&self.service, self.port)
    }

    /// Who is asked.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.member.endpoint
    }

    /// What, and for how long.
    pub fn rules(&self) -> &Arc<HealthCheck> {
        &self.rules
    }

    /// Says how it ended. Whether the endpoint is well, where that has changed.
    pub fn finish(mut self, well: bool, now: Instant, pools: &Pools) -> Option<bool> {
        if !well && !self.member.is_reachable() {
            return None;
        }
        self.ended = true;
        let health = &self.member.health;
        let change = health.checks.ended(&self.rules, well)?;
        if change {
            health.begin_slowly(pools.nanos(now));
        }
        self.members.state.changed();
        Some(change)
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        if !self.ended {
            self.member.health.checks.given_up();
        }
    }
}
