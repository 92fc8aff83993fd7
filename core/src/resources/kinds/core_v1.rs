//! Core Kubernetes kinds, EndpointSlice, and the Gateway API's ReferenceGrant.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::AppProtocol;

/// `v1` Namespace. Only its labels matter here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// Ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Value>,
}

/// `v1` Service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Labels of the workloads behind it.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Ports, each once.
    #[serde(default)]
    pub ports: Vec<ServicePortSpec>,
    /// `None` makes a headless service.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// Ignored.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Option<Value>,
    /// Ignored, but for what it refuses: ExternalName is not supported.
    #[serde(default)]
    pub r#type: Option<String>,
    /// Ignored.
    #[serde(default)]
    pub ip_families: Option<Value>,
    /// Ignored.
    #[serde(default)]
    pub ip_family_policy: Option<Value>,
    /// Ignored.
    #[serde(default)]
    pub session_affinity: Option<Value>,
    /// Ignored.
    #[serde(default)]
    pub session_affinity_config: Option<Value>,
    /// Ignored.
    #[serde(default)]
    pub internal_traffic_policy: Option<Value>,
    /// Ignored.
    #[serde(default)]
    pub external_traffic_policy: Option<Value>,
    /// Ignored.
    #[serde(default, rename = "externalIPs")]
    pub external_ips: Option<Value>,
    /// Workloads count as ready although they are not, e.g. so that members of a database find each other before they are. Of
    /// EndpointSlices, what they say of themselves counts: whoever writes them has taken this into account.
    #[serde(default)]
    pub publish_not_ready_addresses: Option<bool>,
}

impl Service {
    /// True if it has no address of its own, but each of its endpoints has one.
    pub fn is_headless(&self) -> bool {
        self.cluster_ip.as_deref() == Some("None")
    }

    /// The ports that can be proxied: those of protocol TCP.
    pub fn tcp_ports(&self) -> impl Iterator<Item = &ServicePortSpec> {
        self.ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
    }
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePortSpec {
    /// Needed where there is more than one.
    #[serde(default)]
    pub name: String,
    /// What callers use.
    pub port: u16,
    /// The workload's port, by number or name; as `port` where absent.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
    /// TCP only.
    #[serde(default)]
    pub protocol: Option<String>,
    /// What is spoken; see [`crate::model::AppProtocol`].
    #[serde(default)]
    pub app_protocol: Option<String>,
    /// Ignored.
    #[serde(default)]
    pub node_port: Option<u16>,
}

impl ServicePortSpec {
    /// What HTTP requests to it are sent as: by its `appProtocol`; without one by its name where that says HTTP/2 (`grpc`,
    /// `grpc-admin`, `h2c`).
    pub fn protocol(&self) -> AppProtocol {
        match (&self.app_protocol, AppProtocol::of_port("", &self.name)) {
            (None, Some(AppProtocol::Http2)) => AppProtocol::Http2,
            (said, _) => AppProtocol::parse(said.as_deref().unwrap_or_default()),
        }
    }
}

/// A workload's port, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// `v1` Secret. Its values never appear in `Debug` or in an error.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secret {
    /// `kubernetes.io/tls` for certificates.
    #[serde(default)]
    pub r#type: String,
    /// Base64.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
    /// Plain text; wins over `data`.
    #[serde(default)]
    pub string_data: BTreeMap<String, String>,
    /// Ignored.
    #[serde(default)]
    pub immutable: Option<bool>,
}

impl Secret {
    /// The value under this key, decoded; none where it is absent or not base64.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        if let Some(text) = self.string_data.get(key) {
            return Some(text.clone().into_bytes());
        }
        let text: String = self.data.get(key)?.split_whitespace().collect();
        STANDARD.decode(text).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().chain(self.string_data.keys()).collect();
        f.debug_struct("Secret").field("type", &self.r#type).field("keys", &keys).finish_non_exhaustive()
    }
}

/// `v1` ConfigMap.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMap {
    /// Texts.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
    /// Ignored.
    #[serde(default)]
    pub binary_data: BTreeMap<String, String>,
    /// Ignored.
    #[serde(default)]
    pub immutable: Option<bool>,
}

/// `discovery.k8s.io/v1` EndpointSlice. Belongs to the Service named by the label `kubernetes.io/service-name`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSlice {
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// Endpoints.
    #[serde(default)]
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports, of each endpoint.
    #[serde(default)]
    pub ports: Vec<EndpointPort>,
}

/// One endpoint of an EndpointSlice.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SliceEndpoint {
    /// Addresses; the first counts.
    pub addresses: Vec<String>,
    /// Whether it serves.
    #[serde(default)]
    pub conditions: EndpointConditions,
    /// Zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Its name among those of a headless service, a DNS label; made of its address where absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Ignored.
    #[serde(default)]
    pub node_name: Option<String>,
    /// Ignored.
    #[serde(default)]
    pub target_ref: Option<Value>,
    /// Ignored.
    #[serde(default)]
    pub hints: Option<Value>,
    /// Ignored.
    #[serde(default)]
    pub deprecated_topology: Option<Value>,
}

/// Conditions of an endpoint; absent is true for `ready` (as Kubernetes has it).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointConditions {
    /// Ready for traffic.
    #[serde(default)]
    pub ready: Option<bool>,
    /// Serves, even if it is going away.
    #[serde(default)]
    pub serving: Option<bool>,
    /// Going away.
    #[serde(default)]
    pub terminating: Option<bool>,
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointPort {
    /// Matches the Service port's name.
    #[serde(default)]
    pub name: Option<String>,
    /// The endpoint's port.
    pub port: u16,
    /// TCP only.
    #[serde(default)]
    pub protocol: Option<String>,
    /// What is spoken.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

/// `gateway.networking.k8s.io` ReferenceGrant: who may refer into this namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrant {
    /// Who may.
    pub from: Vec<ReferenceGrantFrom>,
    /// To what.
    pub to: Vec<ReferenceGrantTo>,
}

/// Who may refer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantTo {
    /// API group, empty for core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// One object; all where absent.
    #[serde(default)]
    pub name: Option<String>,
}
