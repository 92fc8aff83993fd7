//! What TrafficPolicies say of calls that come in, from their documents to what sidecars look up.

use std::sync::Arc;

use super::status::Problem;
use crate::{
    decide::{
        CountLimit, EdgePolicy, InboundMode, InboundPolicy, Policies,
        inbound::{InboundPort, InboundService, InboundTable, InboundTarget},
    },
    resources::{
        ObjectKey, ResourceSet,
        kinds::{InboundModeSpec, InboundSpec, Service, TargetPort},
    },
};

fn mode(spec: InboundModeSpec) -> InboundMode {
    match spec {
        InboundModeSpec::Strict => InboundMode::Strict,
        InboundModeSpec::Permissive => InboundMode::Permissive,
    }
}

pub(super) fn policy(policy: &Arc<str>, spec: &InboundSpec) -> InboundPolicy {
    let limit = |most: Option<u32>| most.map(|most| Arc::new(CountLimit { policy: policy.clone(), most }));
    let (connections, requests) = (limit(spec.max_connections), limit(spec.max_requests));
    let bounded = connections.is_some() || requests.is_some();
    let limits = EdgePolicy { connections, requests, ..EdgePolicy::default() };
    InboundPolicy {
        policy: policy.clone(),
        mode: spec.mode.map(mode),
        ports: spec.ports.iter().map(|port| (port.port, mode(port.mode))).collect(),
        probe_paths: spec.probe_paths.iter().map(|path| path.as_str().into()).collect(),
        limits: if bounded { Policies::all(limits) } else { Policies::default() },
    }
}

/// Ports of a policy that its Service has not got.
pub(super) fn missing_ports(spec: &InboundSpec, key: &ObjectKey, service: &Service) -> Vec<Problem> {
    let missing = spec.ports.iter().filter(|port| service.tcp_ports().all(|own| own.port != port.port));
    let problem = |port: u16| Problem::new("PortNotFound", format!("Service {key} has no port {port}"));
    missing.map(|port| problem(port.port)).collect()
}

/// All Services that have workloads and such a policy, in the order of their names.
pub(super) fn table<'a>(
    resources: &ResourceSet,
    found: impl Iterator<Item = (ObjectKey, &'a Arc<InboundPolicy>)>,
) -> InboundTable {
    let mut all: Vec<_> = found.collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut out = InboundTable::default();
    for (key, policy) in all {
        let Some(object) = resources.services.get(&key).filter(|object| !object.spec.selector.is_empty())
        else {
            continue;
        };
        let service = &object.spec;
        let ports = service.tcp_ports().map(|port| InboundPort {
            target: match &port.target_port {
                Some(TargetPort::Name(name)) => InboundTarget::Name(name.as_str().into()),
                Some(TargetPort::Number(number)) => InboundTarget::Number(*number),
                None => InboundTarget::Number(port.port),
            },
            mode: policy
                .ports
                .iter()
                .find(|(own, _)| *own == port.port)
                .map(|(_, mode)| *mode)
                .or(policy.mode),
        });
        let selector =
            service.selector.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
        out.0.entry(key.namespace.as_str().into()).or_default().push(InboundService {
            selector: selector.collect(),
            ports: ports.collect(),
            policy: policy.clone(),
        });
    }
    out
}
