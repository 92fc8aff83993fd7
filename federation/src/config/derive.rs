//! From documents to what the index and the proxies need of them.

use std::collections::BTreeMap;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tombolo_core::{
    model::{Endpoint, EndpointHealth, Reach, Scope, ServiceKey, TrustDomain},
    resources::{ResourceSet, kinds, static_services},
};
use tombolo_proto::v1;

use crate::index::{Configuration, Name, PeerPolicy, ServiceSpec};

/// Kinds that proxies compile. Secrets go to gateways alone, as edge certificates; the rest is the controller's own.
const FOR_PROXIES: &[&str] = &[
    "GatewayClass",
    "Gateway",
    "HTTPRoute",
    "ReferenceGrant",
    "Namespace",
    "Service",
    "ServiceExport",
    "ServiceImport",
    "GrayRelease",
    "AuthorizationPolicy",
];

/// One generation as the index takes it.
pub fn configuration(generation: u64, resources: &ResourceSet, cluster: &str) -> Configuration {
    let documents =
        resources.documents().filter(|(_, document)| FOR_PROXIES.contains(&document.object.kind()));
    Configuration {
        generation,
        services: services(resources, cluster),
        exports: exports(resources),
        peers: peers(resources),
        documents: documents
            .map(|(key, d)| (key.clone(), v1::ConfigDocument { json: d.to_json() }))
            .collect(),
        certificates: certificates(resources),
    }
}

fn services(resources: &ResourceSet, cluster: &str) -> BTreeMap<Name, ServiceSpec> {
    let fixed = static_services(resources, cluster);
    let spec = |(key, service): (&tombolo_core::resources::ObjectKey, &std::sync::Arc<_>)| {
        let service: &tombolo_core::resources::Object<kinds::Service> = service;
        let entry =
            ServiceKey::new(Scope::Cluster, &key.namespace, &key.name).ok().and_then(|k| fixed.get(&k));
        let endpoints = entry.map(|entry| &entry.endpoints).into_iter().flatten();
        let list = |(port, list): (&u16, &std::sync::Arc<[std::sync::Arc<Endpoint>]>)| {
            (*port, list.iter().map(|endpoint| wire(endpoint)).collect())
        };
        let spec = ServiceSpec {
            selector: service.spec.selector.clone(),
            ports: service.spec.ports.clone(),
            fixed: endpoints.map(list).collect(),
        };
        (Name::new(&key.namespace, &key.name), spec)
    };
    resources.services.iter().map(spec).collect()
}

/// An endpoint from documents: without a sidecar.
fn wire(endpoint: &Endpoint) -> v1::Endpoint {
    let address = match &endpoint.reach {
        Reach::Direct(address) => address.to_string(),
        Reach::Via(_) => String::new(),
    };
    let health = match endpoint.health {
        EndpointHealth::Healthy => v1::Health::Healthy,
        EndpointHealth::Unhealthy => v1::Health::Unhealthy,
        EndpointHealth::Draining => v1::Health::Draining,
    };
    v1::Endpoint {
        id: endpoint.id.to_string(),
        address,
        locality: Some(v1::Locality {
            region: endpoint.locality.region.to_string(),
            zone: endpoint.locality.zone.to_string(),
        }),
        weight: endpoint.weight,
        labels: endpoint.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        health: health.into(),
        cluster: endpoint.cluster.to_string(),
        target_port: endpoint.target_port.into(),
        ..Default::default()
    }
}

fn exports(resources: &ResourceSet) -> BTreeMap<Name, i64> {
    let created =
        |text: &str| OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp);
    let export = |(key, export): (&tombolo_core::resources::ObjectKey, &std::sync::Arc<_>)| {
        let export: &tombolo_core::resources::Object<kinds::ServiceExport> = export;
        let created = export.meta.creation_timestamp.as_deref().map_or(0, created);
        (Name::new(&key.namespace, &key.name), created)
    };
    resources.service_exports.iter().map(export).collect()
}

fn peers(resources: &ResourceSet) -> BTreeMap<String, PeerPolicy> {
    let mut all = BTreeMap::new();
    for (key, peer) in &resources.peers {
        // Checked when the document was read.
        let Ok(trust_domain) = TrustDomain::parse(&peer.spec.trust_domain) else { continue };
        let policy =
            PeerPolicy { trust_domain, export: peer.spec.export.clone(), import: peer.spec.import.clone() };
        all.insert(key.name.clone(), policy);
    }
    all
}

fn certificates(resources: &ResourceSet) -> BTreeMap<String, v1::EdgeCertificate> {
    let mut all = BTreeMap::new();
    for (key, secret) in &resources.secrets {
        if let (Some(certificate), Some(private)) =
            (secret.spec.value("tls.crt"), secret.spec.value("tls.key"))
        {
            let certificate = v1::EdgeCertificate {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                certificate_pem: certificate.into(),
                key_pem: private.into(),
            };
            all.insert(key.to_string(), certificate);
        }
    }
    all
}
