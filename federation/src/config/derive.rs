//! From documents to what the index and the proxies need of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tombolo_core::{
    model::{
        Endpoint, EndpointHealth, HOST_LABEL, LANE_LABEL, Reach, Scope, ServiceKey, SpiffeId, TrustDomain,
        opaque_sni,
    },
    resources::{AnyObject, ObjectKey, ObjectMeta, ResourceSet, kinds, parse_duration, static_services},
    tls::edge::{OCSP_ANNOTATION, OCSP_KEY},
};
use tombolo_proto::v1;

use crate::index::{
    Configuration, ExportSpec, LeasePolicy, Limits, MAX_LABELS, Name, PeerPolicy, ServiceSpec,
};

/// Kinds that proxies compile. Secrets go to gateways alone, as edge certificates; the rest is the controller's own.
const FOR_PROXIES: &[&str] = &[
    "GatewayClass",
    "Gateway",
    "ListenerSet",
    "XListenerSet",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "BackendTLSPolicy",
    "ReferenceGrant",
    "Namespace",
    "Service",
    "ServiceExport",
    "ServiceImport",
    "GrayRelease",
    "AuthorizationPolicy",
    "TrafficPolicy",
    "Peer",
];

/// One generation as the index takes it.
pub fn configuration(
    generation: u64,
    resources: &ResourceSet,
    cluster: &str,
    trust_domain: &TrustDomain,
) -> Configuration {
    let key_sets = key_sets(resources);
    let documents = resources.documents().filter(|(_, d)| is_for_proxies(&d.object, &key_sets));
    Configuration {
        generation,
        services: services(resources, cluster, trust_domain),
        exports: exports(resources),
        peers: peers(resources),
        documents: documents
            .map(|(key, d)| (key.to_string(), v1::ConfigDocument { json: d.json().to_owned() }))
            .collect(),
        certificates: certificates(resources),
    }
}

/// ConfigMaps that TrafficPolicies take keys of tokens from.
fn key_sets(resources: &ResourceSet) -> BTreeSet<ObjectKey> {
    let of = |(key, policy): (
        &ObjectKey,
        &std::sync::Arc<tombolo_core::resources::Object<kinds::TrafficPolicy>>,
    )| {
        let providers = policy.spec.jwt.iter().flat_map(|jwt| &jwt.providers);
        let maps = providers.filter_map(|provider| provider.jwks.config_map.as_ref());
        maps.map(|map| ObjectKey::new(&key.namespace, &map.name)).collect::<Vec<_>>()
    };
    resources.traffic_policies.iter().flat_map(of).collect()
}

/// Of ConfigMaps only those with certificate authorities, or keys of tokens: proxies use no others.
fn is_for_proxies(object: &AnyObject, key_sets: &BTreeSet<ObjectKey>) -> bool {
    match object {
        AnyObject::ConfigMap(map) => {
            map.spec.data.contains_key("ca.crt") || key_sets.contains(&map.meta.key())
        }
        other => FOR_PROXIES.contains(&other.kind()),
    }
}

fn services(
    resources: &ResourceSet,
    cluster: &str,
    trust_domain: &TrustDomain,
) -> BTreeMap<Name, ServiceSpec> {
    let fixed = static_services(resources, cluster);
    let capacities = capacities(resources);
    let spec = |(key, service): (&tombolo_core::resources::ObjectKey, &std::sync::Arc<_>)| {
        let service: &tombolo_core::resources::Object<kinds::Service> = service;
        let entry =
            ServiceKey::new(Scope::Cluster, &key.namespace, &key.name).ok().and_then(|k| fixed.get(&k));
        let endpoints = entry.map(|entry| &entry.endpoints).into_iter().flatten();
        let list = |(port, list): (&u16, &std::sync::Arc<[std::sync::Arc<Endpoint>]>)| {
            (*port, list.iter().map(|e| meshed(resources, trust_domain, wire(e))).collect())
        };
        let spec = ServiceSpec {
            selector: service.spec.selector.clone(),
            headless: service.spec.is_headless(),
            publishes_not_ready: service.spec.publish_not_ready_addresses.unwrap_or(false),
            ports: service.spec.tcp_ports().cloned().collect(),
            fixed: endpoints.map(list).collect(),
            capacity: capacities.get(key).copied(),
        };
        (Name::new(&key.namespace, &key.name), spec)
    };
    resources.services.iter().map(spec).collect()
}

/// What other clusters may send to a Service: of several TrafficPolicies the oldest says it.
fn capacities(resources: &ResourceSet) -> BTreeMap<ObjectKey, kinds::CapacitySpec> {
    let mut policies: Vec<_> = resources.traffic_policies.iter().collect();
    policies.sort_by_key(|(_, policy)| created(&policy.meta).unwrap_or(i64::MAX));
    let mut all = BTreeMap::new();
    for (key, policy) in policies {
        let Some(capacity) = policy.spec.capacity else { continue };
        for target in policy.spec.target_refs.iter().filter(|target| target.kind == "Service") {
            all.entry(ObjectKey::new(&key.namespace, &target.name)).or_insert(capacity);
        }
    }
    all
}

/// When an object was created, in seconds since the Unix epoch.
fn created(meta: &ObjectMeta) -> Option<i64> {
    let text = meta.creation_timestamp.as_deref()?;
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// The endpoint as it is known in the mesh: its id is unique over all clusters, and where a sidecar stands before its
/// workload it has an identity and a server name.
fn meshed(resources: &ResourceSet, trust_domain: &TrustDomain, mut endpoint: v1::Endpoint) -> v1::Endpoint {
    let workload = {
        let mut parts = endpoint.id.split('/');
        let (namespace, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        // An EndpointSlice's ids end in an address, a Workload's in a port.
        let port: Option<u16> = parts.next().and_then(|port| port.parse().ok());
        port.and_then(|port| Some((resources.workloads.get(&ObjectKey::new(namespace, name))?, port)))
    };
    if let Some((workload, port)) = workload {
        endpoint.network.clone_from(&workload.spec.network);
        let (meta, account) = (&workload.meta, workload.spec.account.as_deref());
        let identity = account.map(|account| SpiffeId::new(trust_domain.clone(), &meta.namespace, account));
        if let Some(Ok(identity)) = identity {
            endpoint.spiffe_id = identity.to_string();
            endpoint.sni = opaque_sni(trust_domain, &meta.namespace, &meta.name, port);
        }
    }
    endpoint.id = format!("{trust_domain}/{}", endpoint.id);
    endpoint
}

/// An endpoint from documents, without a sidecar.
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
        labels: labels(endpoint),
        health: health.into(),
        cluster: endpoint.cluster.to_string(),
        target_port: endpoint.target_port.into(),
        hostname: endpoint.labels.get(HOST_LABEL).map(ToString::to_string).unwrap_or_default(),
        ..Default::default()
    }
}

/// Proxies refuse a whole service for one endpoint in a lane that is none, or with too many labels.
fn labels(endpoint: &Endpoint) -> BTreeMap<String, String> {
    let fits = |key: &str| key != HOST_LABEL && (key != LANE_LABEL || endpoint.lane.is_some());
    let labels = endpoint.labels.iter().filter(|(key, _)| fits(key)).take(MAX_LABELS);
    labels.map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn exports(resources: &ResourceSet) -> BTreeMap<Name, ExportSpec> {
    let export = |(key, export): (&tombolo_core::resources::ObjectKey, &std::sync::Arc<_>)| {
        let export: &tombolo_core::resources::Object<kinds::ServiceExport> = export;
        let spec = ExportSpec {
            created: created(&export.meta).unwrap_or(0),
            labels: export.spec.exported_labels.clone(),
            annotations: export.spec.exported_annotations.clone(),
        };
        (Name::new(&key.namespace, &key.name), spec)
    };
    resources.service_exports.iter().map(export).collect()
}

fn peers(resources: &ResourceSet) -> BTreeMap<String, PeerPolicy> {
    let mut all = BTreeMap::new();
    for (key, peer) in &resources.peers {
        // Checked when the document was read.
        let Ok(trust_domain) = TrustDomain::parse(&peer.spec.trust_domain) else { continue };
        let policy = PeerPolicy {
            trust_domain,
            export: peer.spec.export.clone(),
            import: peer.spec.import.clone(),
            lease: lease(&peer.spec.lease),
            network: peer.spec.network.clone(),
            limits: Limits::said(&peer.spec.limits),
            bundle_endpoint: peer.spec.bundle_endpoint.clone().map(Arc::new),
        };
        all.insert(key.name.clone(), policy);
    }
    all
}

fn lease(said: &kinds::PeerLease) -> LeasePolicy {
    let millis = |text: &Option<String>| {
        let duration = parse_duration(text.as_deref()?).ok()?;
        i64::try_from(duration.as_millis()).ok()
    };
    LeasePolicy { stale_after: millis(&said.deprioritize_after), drop_after: millis(&said.drop_after) }
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
                ocsp_response: secret.spec.value(OCSP_KEY).unwrap_or_default().into(),
                ocsp_fetch: secret.meta.annotations.get(OCSP_ANNOTATION).is_some_and(|how| how == "fetch"),
            };
            all.insert(key.to_string(), certificate);
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_core::resources::{Source, parse};

    use super::*;

    const TEXT: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: ledger, namespace: bank }
spec: { selector: { app: ledger }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: { name: old, namespace: bank }
spec: { address: 192.0.2.1, ports: [{ port: 8080 }], labels: { app: ledger, tombolo.dev/lane: No_Lane } }
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: { name: vm, namespace: bank }
spec: { address: 192.0.2.2, ports: [{ port: 8080 }], labels: { app: ledger }, account: ledger, network: dmz }
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: { name: ledger, namespace: bank, creationTimestamp: "1970-01-01T00:01:40Z" }
---
apiVersion: v1
kind: Secret
metadata: { name: cert, namespace: bank }
type: kubernetes.io/tls
stringData: { tls.crt: c, tls.key: k }
---
apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: { name: west }
spec: { trustDomain: west.example, import: { services: [{ namespace: bank, name: "*" }] } }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: keys, namespace: bank }
data: { k: "{}" }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: other, namespace: bank }
data: { k: "{}" }
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: tokens, namespace: bank }
spec:
  targetRefs: [{ kind: Service, name: ledger }]
  jwt: { providers: [{ name: a, issuer: i, jwks: { configMap: { name: keys, key: k } } }] }
"#;

    fn derived() -> Configuration {
        let parsed = parse(&[Source { name: "t".into(), text: TEXT.into() }]);
        assert_eq!(parsed.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        configuration(7, &parsed.resources, "east", &TrustDomain::parse("east.example").unwrap())
    }

    #[test]
    fn workloads_of_documents_are_endpoints_with_an_identity_where_they_have_an_account() {
        let configuration = derived();
        let endpoints = &configuration.services[&Name::new("bank", "ledger")].fixed[&80];
        let find = |id: &str| endpoints.iter().find(|e| e.id == id).unwrap();
        let old = find("east.example/bank/old/8080");
        assert_eq!(
            (old.spiffe_id.as_str(), old.sni.as_str(), old.address.as_str()),
            ("", "", "192.0.2.1:8080")
        );
        assert!(!old.labels.contains_key(LANE_LABEL) && old.labels.contains_key("app"));
        let vm = find("east.example/bank/vm/8080");
        assert_eq!(vm.spiffe_id, "spiffe://east.example/ns/bank/sa/ledger");
        let domain = TrustDomain::parse("east.example").unwrap();
        assert_eq!(vm.sni, opaque_sni(&domain, "bank", "vm", 8080));
        assert_eq!(vm.network, "dmz");
    }

    #[test]
    fn what_proxies_do_not_use_is_not_among_their_documents() {
        let configuration = derived();
        let names: Vec<_> = configuration.documents.keys().map(String::as_str).collect();
        let expected = [
            "/ConfigMap/bank/keys",
            "/Service/bank/ledger",
            "multicluster.x-k8s.io/ServiceExport/bank/ledger",
            "tombolo.dev/Peer//west",
            "tombolo.dev/TrafficPolicy/bank/tokens",
        ];
        assert_eq!(names, expected);
        assert_eq!(configuration.certificates["bank/cert"].key_pem.as_ref(), b"k");
        assert_eq!(configuration.exports[&Name::new("bank", "ledger")].created, 100);
        assert!(configuration.peers["west"].import.cover("bank", "x"));
        assert_eq!(configuration.generation, 7);
    }
}
