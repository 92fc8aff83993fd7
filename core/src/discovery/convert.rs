//! From the wire to the model: everything is checked before it is believed.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use tombolo_proto::v1;

use crate::model::{
    AppProtocol, Endpoint, EndpointHealth, HOST_LABEL, Host, LANE_LABEL, Labels, Lane, Locality, MAX_HOSTS,
    Reach, Scope, ServiceKey, ServicePort, SpiffeId, Summary, Transport, TrustBundle, TrustDomain,
    check_dns_label,
};

/// Ports of a service, endpoints of a port, labels of an endpoint, gateways of an endpoint: a resource with more is
/// refused.
const MAX_PORTS: usize = 256;
const MAX_ENDPOINTS: usize = 20_000;
const MAX_LABELS: usize = 64;
const MAX_GATEWAYS: usize = 64;
/// Summaries of a port, one for each locality of each other cluster: a resource with more is refused.
const MAX_SUMMARIES: usize = 20_000;

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ResourceError(pub(super) String);

/// By service port: endpoints, and what stands behind those of other clusters.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct EndpointTable {
    pub(super) endpoints: BTreeMap<u16, Arc<[Arc<Endpoint>]>>,
    pub(super) summaries: BTreeMap<u16, Arc<[Summary]>>,
}

/// A service without its endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceParts {
    pub(super) key: ServiceKey,
    pub(super) ports: Vec<ServicePort>,
    pub(super) vip_index: u32,
    pub(super) hosts: Option<Arc<[Host]>>,
}

fn refuse<T>(message: impl Into<String>) -> Result<T, ResourceError> {
    Err(ResourceError(message.into()))
}

fn port(number: u32) -> Result<u16, ResourceError> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => refuse(format!("{number} is not a port")),
    }
}

/// The key that a resource's name says; the message must say the same.
fn key(name: &str, scope: i32, namespace: &str, service: &str) -> Result<ServiceKey, ResourceError> {
    let key = ServiceKey::parse(name).map_err(|e| ResourceError(e.to_string()))?;
    let said = match v1::Scope::try_from(scope) {
        Ok(v1::Scope::Cluster) => Scope::Cluster,
        Ok(v1::Scope::Clusterset) => Scope::Clusterset,
        Ok(v1::Scope::Unspecified) | Err(_) => return refuse("the scope is not known"),
    };
    if key.scope != said || &*key.namespace != namespace || &*key.name != service {
        return refuse(format!("it is named {name} but says {namespace}/{service}"));
    }
    Ok(key)
}

pub(super) fn service(name: &str, message: &v1::Service) -> Result<ServiceParts, ResourceError> {
    let key = key(name, message.scope, &message.namespace, &message.name)?;
    if message.ports.len() > MAX_PORTS {
        return refuse(format!("{} ports, at most {MAX_PORTS} are taken", message.ports.len()));
    }
    let mut ports: Vec<ServicePort> = Vec::with_capacity(message.ports.len());
    for p in &message.ports {
        let number = port(p.port)?;
        if ports.iter().any(|other| other.port == number) {
            return refuse(format!("port {number} stands twice"));
        }
        let said = AppProtocol::of_port(&p.app_protocol, &p.name);
        let (protocol, sniff) = (said.unwrap_or_default(), said.is_none());
        ports.push(ServicePort { name: p.name.as_str().into(), port: number, protocol, sniff });
    }
    let hosts = if message.headless { Some(hosts(&message.hosts)?) } else { None };
    Ok(ServiceParts { key, ports, vip_index: message.vip_index, hosts })
}

fn hosts(messages: &[v1::Host]) -> Result<Arc<[Host]>, ResourceError> {
    if messages.len() > MAX_HOSTS {
        return refuse(format!("{} hosts, at most {MAX_HOSTS} are taken", messages.len()));
    }
    let mut hosts = messages.iter().map(host).collect::<Result<Vec<_>, _>>()?;
    hosts.sort_by(|a, b| (&a.cluster, &a.name).cmp(&(&b.cluster, &b.name)));
    if hosts.windows(2).any(|pair| matches!(pair, [a, b] if (&a.cluster, &a.name) == (&b.cluster, &b.name))) {
        return refuse("a host stands twice");
    }
    Ok(hosts.into())
}

fn host(message: &v1::Host) -> Result<Host, ResourceError> {
    for part in [&message.name, &message.cluster] {
        check_dns_label(part).map_err(|error| ResourceError(format!("a host: {error}")))?;
    }
    if message.ports.len() > MAX_PORTS {
        return refuse(format!("{} ports of a host, at most {MAX_PORTS} are taken", message.ports.len()));
    }
    let ports = message.ports.iter().map(|p| Ok((port(p.port)?, port(p.target_port)?)));
    Ok(Host {
        name: message.name.as_str().into(),
        cluster: message.cluster.as_str().into(),
        vip_index: message.vip_index,
        ready: message.ready,
        ports: ports.collect::<Result<_, ResourceError>>()?,
    })
}

pub(super) fn endpoint_set(
    name: &str,
    message: &v1::EndpointSet,
) -> Result<(ServiceKey, EndpointTable), ResourceError> {
    let key = key(name, message.scope, &message.namespace, &message.name)?;
    if message.ports.len() > MAX_PORTS {
        return refuse(format!("{} ports, at most {MAX_PORTS} are taken", message.ports.len()));
    }
    let (mut table, mut texts) = (EndpointTable::default(), Texts::default());
    for list in &message.ports {
        if list.endpoints.len() > MAX_ENDPOINTS {
            return refuse(format!("{} endpoints, at most {MAX_ENDPOINTS} are taken", list.endpoints.len()));
        }
        let endpoints = list
            .endpoints
            .iter()
            .map(|e| endpoint(e, &mut texts).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let port = port(list.port)?;
        if table.endpoints.insert(port, endpoints.into()).is_some() {
            return refuse(format!("port {port} stands twice"));
        }
        if !list.summaries.is_empty() {
            table.summaries.insert(port, summaries(&list.summaries)?);
        }
    }
    Ok((key, table))
}

fn summaries(messages: &[v1::Summary]) -> Result<Arc<[Summary]>, ResourceError> {
    if messages.len() > MAX_SUMMARIES {
        return refuse(format!("{} summaries, at most {MAX_SUMMARIES} are taken", messages.len()));
    }
    let summary = |message: &v1::Summary| {
        if message.healthy > message.total || message.healthy_weight > message.total_weight {
            return refuse(format!("a summary of {:?}: more is healthy than there is", message.cluster));
        }
        let place = message.locality.clone().unwrap_or_default();
        Ok(Summary {
            cluster: message.cluster.as_str().into(),
            locality: Locality { region: place.region.into(), zone: place.zone.into() },
            healthy: message.healthy,
            total: message.total,
            healthy_weight: message.healthy_weight,
            total_weight: message.total_weight,
            capacity: message.capacity,
        })
    };
    messages.iter().map(summary).collect()
}

/// Texts that the endpoints of a service have in common: clusters, places, labels. Each is held once.
#[derive(Default)]
struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.0.insert(Arc::clone(&text));
        text
    }
}

fn endpoint(message: &v1::Endpoint, texts: &mut Texts) -> Result<Endpoint, ResourceError> {
    let about = |what: &str| ResourceError(format!("endpoint {:?}: {what}", message.id));
    if message.id.is_empty() || message.id.len() > 1024 {
        return Err(about("the id has 1 to 1024 letters"));
    }
    let address =
        |text: &str| text.parse::<SocketAddr>().map_err(|_| about(&format!("{text:?} is not IP:PORT")));
    let reach = match (message.address.is_empty(), message.via.as_slice()) {
        (false, []) => Reach::Direct(address(&message.address)?),
        (true, via) if (1..=MAX_GATEWAYS).contains(&via.len()) => {
            Reach::Via(via.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?.into())
        }
        _ => return Err(about(&format!("it has an address, or 1 to {MAX_GATEWAYS} gateways"))),
    };
    let transport = match (message.spiffe_id.as_str(), message.sni.as_str()) {
        ("", "") => Transport::Plaintext,
        (id, sni) if !sni.is_empty() && sni.len() <= 253 => {
            let identity = SpiffeId::parse(id).map_err(|e| about(&e.to_string()))?;
            Transport::Mesh { identity, sni: sni.into() }
        }
        _ => return Err(about("identity and SNI go together")),
    };
    if matches!((&reach, &transport), (Reach::Via(_), Transport::Plaintext)) {
        return Err(about("behind a gateway there is no plaintext"));
    }
    if message.labels.len() > MAX_LABELS {
        return Err(about("too many labels"));
    }
    let lane = match message.labels.get(LANE_LABEL) {
        Some(lane) => Some(Lane::parse(lane).map_err(|e| about(&e.to_string()))?),
        None => None,
    };
    let health = match v1::Health::try_from(message.health) {
        Ok(v1::Health::Unhealthy) => EndpointHealth::Unhealthy,
        Ok(v1::Health::Draining) => EndpointHealth::Draining,
        Ok(v1::Health::Healthy | v1::Health::Unspecified) | Err(_) => EndpointHealth::Healthy,
    };
    let mut place = |of: fn(&v1::Locality) -> &str| texts.shared(message.locality.as_ref().map_or("", of));
    let locality = Locality { region: place(|l| &l.region), zone: place(|l| &l.zone) };
    Ok(Endpoint {
        id: message.id.as_str().into(),
        reach,
        transport,
        cluster: texts.shared(&message.cluster),
        locality,
        weight: message.weight.max(1),
        labels: labels(message, texts),
        lane,
        health,
        stale: message.stale,
        target_port: u16::try_from(message.target_port).unwrap_or(0),
        exported: message.exported,
    })
}

/// Which host it is, the controller says, and no label of the workload.
fn labels(message: &v1::Endpoint, texts: &mut Texts) -> Labels {
    let own = message.labels.iter().filter(|(key, _)| *key != HOST_LABEL);
    let mut labels: Labels = own.map(|(key, value)| (texts.shared(key), texts.shared(value))).collect();
    if !message.hostname.is_empty() {
        let host = format!("{}.{}", message.hostname, message.cluster);
        labels.insert(texts.shared(HOST_LABEL), host.into());
    }
    labels
}

pub(super) fn trust_bundle(name: &str, message: &v1::TrustBundle) -> Result<TrustBundle, ResourceError> {
    if message.trust_domain != name {
        return refuse(format!("it is named {name} but says {}", message.trust_domain));
    }
    let domain = TrustDomain::parse(name).map_err(|e| ResourceError(e.to_string()))?;
    let roots = message.roots_der.iter().map(|der| Arc::from(der.as_ref())).collect();
    let bundle =
        TrustBundle::new(domain, roots, message.sequence).map_err(|e| ResourceError(e.to_string()))?;
    crate::tls::check_bundle(&bundle).map_err(|e| ResourceError(e.to_string()))?;
    Ok(bundle)
}
