//! TrafficPolicies: what they target, who wins, and their status.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderName;
use serde_json::{Value, json};

use super::{
    auth::external_auth,
    inbound,
    jwt::jwt,
    refs::{GATEWAY_GROUP, OWN_GROUP, Referrer, by_age},
    status::{CONTROLLER, Conditions, Problem, object_status},
    traffic_service,
};
use crate::{
    decide::{
        ProxyVersion,
        inbound::InboundTable,
        policy::{
            Blocks, Cidr, Coding, Compression, CountLimit, EdgePolicy, IpAccess, Layers, PolicyTable,
            RateKey, RateLimit, RequestLimits, ServiceFields, ServicePolicies, SharedLimit,
        },
    },
    model::{Scope, ServiceKey},
    resources::{
        Object, ObjectKey, ObjectStatus, ResourceSet,
        kinds::{
            CompressionAlgorithm, CompressionSpec, IpAccessSpec, ProxyProtocolVersion, RateLimitSpec,
            SharedRateLimitSpec, TrafficPolicy, TrafficTargetRef,
        },
        parse_duration,
    },
};

/// Compressed where a policy names no content types.
const TYPES: &[&str] = &[
    "text/",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/xhtml+xml",
    "application/rss+xml",
    "application/atom+xml",
    "application/manifest+json",
    "application/problem+json",
    "application/ld+json",
    "application/graphql-response+json",
    "application/wasm",
    "image/svg+xml",
];

/// What a targetRef leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Target {
    Gateway(Arc<str>, Option<Arc<str>>),
    Set(Arc<str>, Option<Arc<str>>),
    Route(Arc<str>, Option<Arc<str>>),
    Service(ServiceKey),
}

/// What the TrafficPolicies of one target say, each field as a whole.
#[derive(Debug, Clone, Default)]
struct Said {
    of_requests: EdgePolicy,
    of_service: ServiceFields,
}

impl Said {
    /// Takes what is not yet said from a policy with the same target; the names of the fields that both say.
    fn take(&mut self, younger: &Self) -> Vec<&'static str> {
        let mut both = self.of_requests.take(&younger.of_requests);
        both.extend(self.of_service.take(&younger.of_service));
        both
    }

    /// How many fields it has.
    fn count(&self) -> usize {
        self.clone().take(self).len()
    }
}

/// All policies, for those who go by them.
pub(super) struct TrafficPolicies {
    /// By what they target.
    pub edge: PolicyTable,
    /// What they say of services to those who call them.
    pub services: ServicePolicies,
    /// The same to those who are called.
    pub inbound: InboundTable,
    pub status: Vec<ObjectStatus>,
}

/// Compiles them all.
pub(super) fn traffic_policies(resources: &ResourceSet) -> TrafficPolicies {
    let mut found: HashMap<Target, Said> = HashMap::new();
    let mut status = HashMap::new();
    // The oldest first: what it says stays.
    for (key, object) in by_age(&resources.traffic_policies) {
        let (compiled, unresolved) = compile(resources, key, &object.spec);
        let ancestors: Vec<Value> = object
            .spec
            .target_refs
            .iter()
            .map(|reference| {
                let at = find(resources, &key.namespace, reference);
                let taken = at.map(|at| found.entry(at).or_default().take(&compiled));
                let ports = missing_ports(resources, &object.spec, &key.namespace, reference);
                ancestor(object, reference, taken, &compiled, &[&*unresolved, &ports].concat())
            })
            .collect();
        status.insert(key, object_status("TrafficPolicy", object, json!({ "ancestors": ancestors })));
    }
    let status = resources.traffic_policies.keys().filter_map(|key| status.remove(key)).collect();
    let services = found.iter().filter_map(|(target, policy)| match target {
        Target::Service(key) => Some((key.clone(), Arc::new(policy.of_service.policy()?))),
        Target::Gateway(..) | Target::Set(..) | Target::Route(..) => None,
    });
    let services = ServicePolicies(services.collect());
    let inbound = found.iter().filter_map(|(target, policy)| match target {
        Target::Service(key) => {
            Some((ObjectKey::new(&*key.namespace, &*key.name), policy.of_service.inbound.as_ref()?))
        }
        Target::Gateway(..) | Target::Set(..) | Target::Route(..) => None,
    });
    let inbound = inbound::table(resources, inbound);
    TrafficPolicies { edge: table(found), services, inbound, status }
}

/// Ports that a policy names, and that the Service it targets has not got.
fn missing_ports(
    resources: &ResourceSet,
    spec: &TrafficPolicy,
    namespace: &str,
    reference: &TrafficTargetRef,
) -> Vec<Problem> {
    let key = ObjectKey::new(namespace, &reference.name);
    let service = resources.services.get(&key).filter(|_| reference.kind == "Service");
    let of = |(inbound, service)| inbound::missing_ports(inbound, &key, service);
    spec.inbound.as_ref().zip(service.map(|object| &object.spec)).map(of).unwrap_or_default()
}

/// The target, if it is there.
fn find(resources: &ResourceSet, namespace: &str, reference: &TrafficTargetRef) -> Result<Target, Problem> {
    let key = ObjectKey::new(namespace, &reference.name);
    let missing = |what: String| Problem::new("TargetNotFound", format!("there is no {what}"));
    let section: Option<Arc<str>> = reference.section_name.as_deref().map(Into::into);
    let absent = || missing(format!("{} {key}", reference.kind));
    let has = |mut names: Box<dyn Iterator<Item = &str> + '_>| match &section {
        Some(section) if names.all(|name| name != &**section) => {
            Err(missing(format!("section {section:?} in {} {key}", reference.kind)))
        }
        _ => Ok(()),
    };
    match (reference.group.as_str(), reference.kind.as_str()) {
        (GATEWAY_GROUP, "Gateway") => {
            let gateway = resources.gateways.get(&key).ok_or_else(absent)?;
            has(Box::new(gateway.spec.listeners.iter().map(|listener| listener.name.as_str())))?;
            Ok(Target::Gateway(key.to_string().into(), section))
        }
        (GATEWAY_GROUP, "ListenerSet") => {
            let set = resources.listener_sets.get(&key).ok_or_else(absent)?;
            has(Box::new(set.spec.listeners.iter().map(|listener| listener.name.as_str())))?;
            Ok(Target::Set(key.to_string().into(), section))
        }
        (GATEWAY_GROUP, "HTTPRoute") => {
            let route = resources.http_routes.get(&key).ok_or_else(absent)?;
            has(Box::new(route.spec.rules.iter().filter_map(|rule| rule.name.as_deref())))?;
            Ok(Target::Route(format!("httproute/{key}").into(), section))
        }
        (GATEWAY_GROUP, "GRPCRoute") => {
            let route = resources.grpc_routes.get(&key).ok_or_else(absent)?;
            has(Box::new(route.spec.rules.iter().filter_map(|rule| rule.name.as_deref())))?;
            Ok(Target::Route(format!("grpcroute/{key}").into(), section))
        }
        ("", "Service") => {
            resources.services.get(&key).ok_or_else(absent)?;
            ServiceKey::new(Scope::Cluster, &key.namespace, &key.name)
                .map(Target::Service)
                .map_err(|_| absent())
        }
        _ => Err(absent()),
    }
}

/// The status at one target (Gateway API PolicyAncestorStatus). `taken` are the fields that an older policy says.
fn ancestor(
    object: &Object<TrafficPolicy>,
    reference: &TrafficTargetRef,
    taken: Result<Vec<&'static str>, Problem>,
    compiled: &Said,
    unresolved: &[Problem],
) -> Value {
    let mut conditions = Conditions::new(object.meta.generation);
    match taken {
        Err(problem) => conditions.good("Accepted", &[problem]),
        Ok(fields) if fields.is_empty() => conditions.good("Accepted", &[]),
        Ok(fields) => {
            let message = format!("an older TrafficPolicy with this target has {}", fields.join(", "));
            let nothing_left = fields.len() == compiled.count();
            let accepted =
                if nothing_left { &[Problem::new("Conflicted", message.clone())][..] } else { &[] };
            conditions.good("Accepted", accepted);
            conditions.add("Conflicted", "True", "Conflicted", message);
        }
    }
    conditions.good("ResolvedRefs", unresolved);
    let mut ancestor = json!({
        "group": reference.group,
        "kind": reference.kind,
        "namespace": object.meta.namespace,
        "name": reference.name,
    });
    if let (Some(section), Some(ancestor)) = (&reference.section_name, ancestor.as_object_mut()) {
        ancestor.insert("sectionName".into(), section.as_str().into());
    }
    json!({ "ancestorRef": ancestor, "controllerName": CONTROLLER, "conditions": conditions.value() })
}

fn table(found: HashMap<Target, Said>) -> PolicyTable {
    let mut out = PolicyTable::default();
    let mut all: Vec<_> = found.into_iter().map(|(target, said)| (target, said.of_requests)).collect();
    // A whole before its sections.
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (target, policy) in all {
        match target {
            Target::Gateway(key, section) => add(out.gateways.entry(key).or_default(), section, policy),
            Target::Set(key, section) => add(out.sets.entry(key).or_default(), section, policy),
            Target::Route(key, section) => add(out.routes.entry(key).or_default(), section, policy),
            Target::Service(key) => {
                out.mesh.extend(policy.in_mesh().map(|within| (key.clone(), Arc::new(within))));
                if policy != EdgePolicy::default() {
                    out.services.insert(key, Arc::new(policy));
                }
            }
        }
    }
    out
}

fn add(layers: &mut Layers, section: Option<Arc<str>>, policy: EdgePolicy) {
    match (section, &layers.whole) {
        (None, _) => layers.whole = Some(Arc::new(policy)),
        (Some(name), Some(whole)) => drop(layers.sections.insert(name, Arc::new(policy.or(whole)))),
        (Some(name), None) => drop(layers.sections.insert(name, Arc::new(policy))),
    }
}

/// With what is wrong with its references.
fn compile(resources: &ResourceSet, key: &ObjectKey, spec: &TrafficPolicy) -> (Said, Vec<Problem>) {
    let policy: Arc<str> = key.to_string().into();
    let from = Referrer { group: OWN_GROUP, kind: "TrafficPolicy", namespace: &key.namespace };
    let mut unresolved = Vec::new();
    let external_auth = spec.external_auth.as_ref().map(|spec| {
        let (auth, problem) = external_auth(resources, from, spec);
        unresolved.extend(problem);
        Arc::new(auth)
    });
    let jwt = spec.jwt.as_ref().map(|spec| {
        let (jwt, problems) = jwt(resources, &key.namespace, spec);
        unresolved.extend(problems);
        Arc::new(jwt)
    });
    let of_requests = EdgePolicy {
        access: spec.ip_access.as_ref().map(|access| Arc::new(ip_access(access))),
        limits: spec.request_limits.as_ref().map(|limits| RequestLimits {
            body_bytes: limits.body_bytes,
            header_bytes: limits.header_bytes,
            header_count: limits.header_count,
        }),
        connections: spec.max_connections.map(|most| Arc::new(CountLimit { policy: policy.clone(), most })),
        rate: spec.rate_limit.as_ref().map(|limit| Arc::new(rate_limit(policy.clone(), limit))),
        shared: spec.shared_rate_limit.as_ref().map(|limit| Arc::new(shared_limit(policy.clone(), limit))),
        requests: None,
        jwt,
        external_auth,
        compression: spec.compression.as_ref().map(|spec| Arc::new(compression(spec))),
    };
    let of_service = ServiceFields {
        balancing: spec.load_balancer.as_ref().map(traffic_service::balancing),
        localities: spec.locality.as_ref().map(traffic_service::localities),
        outliers: spec.outlier_detection.as_ref().map(traffic_service::outliers),
        check: spec.health_check.as_ref().map(|spec| Arc::new(traffic_service::health_check(spec))),
        breaker: spec.circuit_breaker.as_ref().map(traffic_service::breaker),
        retries: spec.retry_budget.as_ref().map(traffic_service::retries),
        timeouts: spec.timeouts.as_ref().map(super::rules::timeouts),
        fault: spec.fault.as_ref().map(|spec| Arc::new(traffic_service::fault(spec))),
        announce: spec.proxy_protocol.map(|version| match version {
            ProxyProtocolVersion::V1 => ProxyVersion::V1,
            ProxyProtocolVersion::V2 => ProxyVersion::V2,
        }),
        inbound: spec.inbound.as_ref().map(|spec| Arc::new(inbound::policy(&policy, spec))),
        capacity: spec.capacity,
    };
    (Said { of_requests, of_service }, unresolved)
}

fn ip_access(spec: &IpAccessSpec) -> IpAccess {
    // What is no block was refused with its document.
    let blocks = |texts: &[String]| Blocks::new(texts.iter().filter_map(|text| Cidr::parse(text).ok()));
    IpAccess { allow: blocks(&spec.allow), deny: blocks(&spec.deny) }
}

fn per(text: Option<&str>) -> Duration {
    text.and_then(|per| parse_duration(per).ok()).unwrap_or(Duration::from_secs(1))
}

fn shared_limit(policy: Arc<str>, spec: &SharedRateLimitSpec) -> SharedLimit {
    SharedLimit {
        policy,
        requests: spec.requests.max(1),
        per: per(spec.per.as_deref()),
        burst: spec.burst.unwrap_or(spec.requests).max(1),
    }
}

fn rate_limit(policy: Arc<str>, spec: &RateLimitSpec) -> RateLimit {
    let header = spec.key.header.as_ref().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    RateLimit {
        policy,
        requests: spec.requests.max(1),
        per: per(spec.per.as_deref()),
        burst: spec.burst.unwrap_or(spec.requests).max(1),
        key: match (header, &spec.key.cookie, &spec.key.jwt_claim) {
            (Some(name), _, _) => RateKey::Header(name),
            (None, Some(name), _) => RateKey::Cookie(name.as_str().into()),
            (None, None, Some(name)) => RateKey::Claim(name.as_str().into()),
            (None, None, None) => RateKey::Client,
        },
    }
}

fn compression(spec: &CompressionSpec) -> Compression {
    let coding = |algorithm: &CompressionAlgorithm| match algorithm {
        CompressionAlgorithm::Zstd => Coding::Zstd,
        CompressionAlgorithm::Br => Coding::Brotli,
        CompressionAlgorithm::Gzip => Coding::Gzip,
    };
    let algorithms: Vec<Coding> = match spec.algorithms.as_slice() {
        [] => vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
        some => some.iter().map(coding).collect(),
    };
    let content_types: Vec<Box<str>> = match spec.content_types.as_slice() {
        [] => TYPES.iter().map(|text| (*text).into()).collect(),
        some => some.iter().map(|text| text.to_ascii_lowercase().trim_end_matches('*').into()).collect(),
    };
    Compression {
        algorithms: algorithms.into(),
        content_types: content_types.into(),
        min_bytes: spec.min_bytes.unwrap_or(1024),
    }
}
