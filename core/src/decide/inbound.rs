//! What documents say of calls that come in to a workload: whether in plaintext, and how many at a time.

use std::{fmt, sync::Arc};

use super::{InboundWorkload, Policies, hash::NameMap};
use crate::model::{Labels, Snapshot};

/// Who may call a port of a workload whose connections are redirected to its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundMode {
    /// Only the mesh, by mutual TLS; and health checks.
    Strict,
    /// Also callers in plaintext, within the AuthorizationPolicies.
    Permissive,
}

impl fmt::Display for InboundMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
        })
    }
}

/// What a TrafficPolicy says of what comes in to the workloads of its Services.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundPolicy {
    /// `NAMESPACE/NAME` of the TrafficPolicy.
    pub policy: Arc<str>,
    /// Of all ports of the Service; none: as the sidecar was told at its start.
    pub mode: Option<InboundMode>,
    /// Of single ports of the Service, by the number that callers use.
    pub ports: Box<[(u16, InboundMode)]>,
    /// Health checks that are admitted in plaintext, whatever the mode.
    pub probe_paths: Box<[Box<str>]>,
    /// How much each workload takes at a time.
    pub limits: Policies,
}

/// The policies of Services by their namespace, in the order of the Services' names.
#[derive(Debug, Default)]
pub(crate) struct InboundTable(pub(crate) NameMap<Arc<str>, Vec<InboundService>>);

/// A Service with such a policy.
#[derive(Debug)]
pub(crate) struct InboundService {
    /// Labels of its workloads; never empty.
    pub(crate) selector: Labels,
    pub(crate) ports: Box<[InboundPort]>,
    pub(crate) policy: Arc<InboundPolicy>,
}

/// One port of such a Service.
#[derive(Debug)]
pub(crate) struct InboundPort {
    pub(crate) target: InboundTarget,
    pub(crate) mode: Option<InboundMode>,
}

/// A workload's port, as its Service names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InboundTarget {
    Number(u16),
    Name(Box<str>),
}

impl InboundService {
    /// Its ports that lead to this one of the workload.
    fn ports<'a>(
        &'a self,
        workload: &'a InboundWorkload,
        port: u16,
    ) -> impl Iterator<Item = &'a InboundPort> {
        let selects = self.selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value));
        let leads = move |own: &&InboundPort| match &own.target {
            InboundTarget::Number(number) => *number == port,
            InboundTarget::Name(name) => {
                workload.ports.get(&port).is_some_and(|own| !own.is_empty() && **own == **name)
            }
        };
        self.ports.iter().filter(move |_| selects).filter(leads)
    }
}

impl InboundTable {
    fn of<'a>(
        &'a self,
        workload: &'a InboundWorkload,
        port: u16,
    ) -> impl Iterator<Item = (&'a InboundPort, &'a InboundPolicy)> {
        let all = if self.0.is_empty() { None } else { self.0.get(&workload.namespace) };
        let services = all.map(Vec::as_slice).unwrap_or_default().iter();
        services.flat_map(move |service| service.ports(workload, port).map(|port| (port, &*service.policy)))
    }
}

/// What documents say of plaintext that comes in on a port of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaintextRule<'a> {
    /// None: nothing. Where several Services have the port, strict wins.
    pub mode: Option<InboundMode>,
    /// `NAMESPACE/NAME` of the TrafficPolicy that says it.
    pub policy: Option<&'a str>,
    /// Paths of health checks that are admitted.
    pub probe_paths: Vec<&'a str>,
}

/// What documents say of plaintext that comes in on `port` of a workload.
pub fn inbound_plaintext<'a>(
    snapshot: &'a Snapshot,
    workload: &'a InboundWorkload,
    port: u16,
) -> PlaintextRule<'a> {
    let mut rule = PlaintextRule::default();
    for (at, policy) in snapshot.config.inbound.of(workload, port) {
        let stricter = at.mode == Some(InboundMode::Strict) && rule.mode != at.mode;
        if stricter || rule.mode.is_none() && at.mode.is_some() {
            (rule.mode, rule.policy) = (at.mode, Some(&*policy.policy));
        }
        let new =
            policy.probe_paths.iter().map(|path| &**path).filter(|path| !rule.probe_paths.contains(path));
        let new: Vec<&str> = new.collect();
        rule.probe_paths.extend(new);
    }
    rule
}

/// How much comes in to `port` of a workload at a time. Where several Services have the port, the first by name that
/// bounds anything counts.
pub fn inbound_limits(snapshot: &Snapshot, workload: &InboundWorkload, port: u16) -> Policies {
    let mut all = snapshot.config.inbound.of(workload, port).map(|(_, policy)| &policy.limits);
    all.find(|limits| !limits.is_empty()).cloned().unwrap_or_default()
}
