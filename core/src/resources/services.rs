//! Services and endpoints from documents alone: Service, EndpointSlice, Endpoints, Workload.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    kinds::{self, EndpointSlice, EndpointSubset, ServicePortSpec, TargetPort, Workload},
    object::{Object, ObjectKey, ObjectMeta, ResourceSet},
};
use crate::model::{
    Endpoint, EndpointHealth, HOST_LABEL, LANE_LABEL, Labels, Lane, Locality, Reach, Scope, ServiceEntry,
    ServiceKey, ServicePort, Transport, check_dns_label,
};

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Every service of the documents with its endpoints, reached in plaintext; those with a ServiceExport in both scopes.
/// Virtual addresses are the controller's to give: `vip_index` is 0.
pub fn static_services(resources: &ResourceSet, cluster: &str) -> HashMap<ServiceKey, Arc<ServiceEntry>> {
    let slices = slices_by_service(resources);
    let mut services = HashMap::new();
    for (key, service) in &resources.services {
        let Ok(in_cluster) = ServiceKey::new(Scope::Cluster, &key.namespace, &key.name) else { continue };
        let mut endpoints = BTreeMap::new();
        for port in service.spec.tcp_ports() {
            let mut list = Vec::new();
            for slice in slices.get(key).into_iter().flatten() {
                list.extend(of_slice(slice, port, cluster));
            }
            for (name, workload) in &resources.workloads {
                if name.namespace == key.namespace && belongs(&workload.spec, &key.name, &service.spec) {
                    list.extend(of_workload(name, workload, port, cluster));
                }
            }
            endpoints.insert(port.port, Arc::from(list));
        }
        let ports = service.spec.tcp_ports().map(port_of).collect();
        let entry = ServiceEntry {
            key: in_cluster.clone(),
            ports,
            vip_index: 0,
            hosts: None,
            endpoints,
            summaries: BTreeMap::new(),
        };
        if resources.service_exports.contains_key(key) {
            let everywhere = ServiceKey { scope: Scope::Clusterset, ..in_cluster.clone() };
            services.insert(everywhere.clone(), Arc::new(ServiceEntry { key: everywhere, ..entry.clone() }));
        }
        services.insert(in_cluster, Arc::new(entry));
    }
    services
}

fn port_of(port: &ServicePortSpec) -> ServicePort {
    ServicePort { name: port.name.as_str().into(), port: port.port, protocol: port.protocol(), sniff: false }
}

/// EndpointSlices; Endpoints alone count where a Service has none, as Kubernetes keeps both for the same pods.
fn slices_by_service(resources: &ResourceSet) -> HashMap<ObjectKey, Vec<Arc<Object<EndpointSlice>>>> {
    let mut slices: HashMap<ObjectKey, Vec<_>> = HashMap::new();
    for (key, slice) in &resources.endpoint_slices {
        if let Some(service) = slice.meta.labels.get(SERVICE_NAME_LABEL) {
            slices.entry(ObjectKey::new(&key.namespace, service)).or_default().push(slice.clone());
        }
    }
    for (key, endpoints) in &resources.endpoints {
        let Entry::Vacant(place) = slices.entry(key.clone()) else { continue };
        let subsets = endpoints.spec.subsets.iter();
        let slice = |(at, subset): (usize, &EndpointSubset)| {
            let meta = ObjectMeta { name: format!("{}-{at}", key.name), ..endpoints.meta.clone() };
            let api_version = endpoints.api_version;
            Arc::new(Object { api_version, meta, spec: subset.to_slice() })
        };
        place.insert(subsets.enumerate().map(slice).collect());
    }
    slices
}

/// By name, or by the service's selector.
fn belongs(workload: &Workload, service: &str, spec: &kinds::Service) -> bool {
    let selected = || {
        !spec.selector.is_empty()
            && spec.selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    };
    workload.services.iter().any(|name| name == service) || selected()
}

fn of_slice(slice: &Object<EndpointSlice>, port: &ServicePortSpec, cluster: &str) -> Vec<Arc<Endpoint>> {
    // A slice's ports are named as the service's; a single unnamed port serves any.
    let wanted = Some(port.name.as_str()).filter(|name| !name.is_empty());
    let named = slice.spec.ports.iter().find(|p| p.name.as_deref().filter(|n| !n.is_empty()) == wanted);
    let only = slice.spec.ports.first().filter(|p| slice.spec.ports.len() == 1 && p.name.is_none());
    let Some(number) = named.or(only).map(|p| p.port) else { return Vec::new() };
    let slice_labels = labels_of(&slice.meta.labels);
    let endpoints = slice.spec.endpoints.iter().filter_map(|endpoint| {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let conditions = &endpoint.conditions;
        let health = match (conditions.ready.unwrap_or(true), conditions.terminating.unwrap_or(false)) {
            (true, false) => EndpointHealth::Healthy,
            (_, true) if conditions.serving.unwrap_or(false) => EndpointHealth::Draining,
            _ => EndpointHealth::Unhealthy,
        };
        let locality =
            Locality { zone: endpoint.zone.as_deref().unwrap_or_default().into(), ..Default::default() };
        let id = format!("{}/{}/{}", slice.meta.namespace, slice.meta.name, SocketAddr::new(address, number));
        let mut labels = slice_labels.clone();
        labels.insert(HOST_LABEL.into(), hostname(endpoint.hostname.as_deref(), address).into());
        Some(Arc::new(Endpoint {
            health,
            locality,
            ..plaintext(id, SocketAddr::new(address, number), labels, cluster)
        }))
    });
    endpoints.collect()
}

/// As a headless service names it: what is said if it can be a name, else made of its address.
fn hostname(said: Option<&str>, address: IpAddr) -> String {
    match (said.filter(|said| check_dns_label(said).is_ok()), address) {
        (Some(said), _) => said.to_owned(),
        (None, IpAddr::V4(ip)) => ip.to_string().replace('.', "-"),
        (None, IpAddr::V6(ip)) => ip.segments().map(|part| format!("{part:x}")).join("-"),
    }
}

fn of_workload(
    name: &ObjectKey,
    workload: &Object<Workload>,
    port: &ServicePortSpec,
    cluster: &str,
) -> Option<Arc<Endpoint>> {
    let spec = &workload.spec;
    let number = match &port.target_port {
        // By number where nothing is named: a workload's only port serves a service's only port.
        None if spec.ports.len() == 1 => spec.ports.first().map(|p| p.port),
        Some(TargetPort::Number(_)) | Some(TargetPort::Name(_)) | None => spec.target_port(port),
    };
    // A workload that does not listen there is no endpoint; the service's own number may also be meant by name.
    let number = number.filter(|n| spec.ports.iter().any(|p| p.port == *n)).or_else(|| {
        let named = spec.ports.iter().find(|p| !p.name.is_empty() && p.name == port.name);
        named.map(|p| p.port)
    })?;
    let address = SocketAddr::new(spec.address.parse().ok()?, number);
    let locality = Locality { region: spec.region.as_str().into(), zone: spec.zone.as_str().into() };
    let id = format!("{name}/{number}");
    let mut labels = labels_of(&spec.labels);
    labels.insert(HOST_LABEL.into(), name.name.as_str().into());
    Some(Arc::new(Endpoint {
        locality,
        weight: spec.weight.unwrap_or(1).max(1),
        ..plaintext(id, address, labels, cluster)
    }))
}

fn labels_of(labels: &BTreeMap<String, String>) -> Labels {
    labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

fn plaintext(id: String, address: SocketAddr, labels: Labels, cluster: &str) -> Endpoint {
    let lane = labels.get(LANE_LABEL).and_then(|lane| Lane::parse(lane).ok());
    Endpoint {
        id: id.into(),
        reach: Reach::Direct(address),
        transport: Transport::Plaintext,
        cluster: cluster.into(),
        locality: Locality::default(),
        weight: 1,
        labels,
        lane,
        health: EndpointHealth::Healthy,
        stale: false,
        target_port: address.port(),
        exported: false,
    }
}
