//! GatewayClass and Gateway (`gateway.networking.k8s.io/v1`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::GatewayTls;

/// GatewayClass: whose gateways these are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayClass {
    /// Ours is `tombolo.dev/gateway-controller`.
    pub controller_name: String,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Not used.
    #[serde(default)]
    pub parameters_ref: Option<Value>,
}

/// Gateway: addresses and listeners.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// Name of the GatewayClass.
    pub gateway_class_name: String,
    /// Listeners, 1 to 64, names unique.
    pub listeners: Vec<ListenerSpec>,
    /// Where they bind; the process's `--address` where absent.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// For what is made of it.
    #[serde(default)]
    pub infrastructure: Option<Infrastructure>,
    /// What clients have to show, and what is shown to backends.
    #[serde(default)]
    pub tls: Option<GatewayTls>,
    /// Which ListenerSets may add listeners; none where absent.
    #[serde(default)]
    pub allowed_listeners: Option<AllowedListeners>,
    /// `All` or `None`: which scope a default Gateway has; not used.
    #[serde(default)]
    pub default_scope: Option<String>,
}

/// For what an implementation makes of a Gateway (Gateway API GatewayInfrastructure). A `tombolo gateway` is started by
/// its operator and makes nothing: labels and annotations are only checked, parameters are not supported.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrastructure {
    /// At most 8.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// At most 8.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Refused in status: there are no parameters.
    #[serde(default)]
    pub parameters_ref: Option<Value>,
}

/// Which ListenerSets may add listeners to a Gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedListeners {
    /// From which namespaces; none where absent.
    #[serde(default)]
    pub namespaces: Option<RouteNamespaces>,
}

/// ListenerSet: listeners that are added to a Gateway (also the experimental XListenerSet).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerSet {
    /// The Gateway.
    pub parent_ref: ParentGatewayRef,
    /// Listeners, 1 to 64, names unique within the set.
    pub listeners: Vec<ListenerSpec>,
}

/// The Gateway of a ListenerSet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentGatewayRef {
    /// `gateway.networking.k8s.io` where absent.
    #[serde(default)]
    pub group: Option<String>,
    /// `Gateway` where absent.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// The set's own where absent.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// An address of a Gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayAddress {
    /// `IPAddress` (default); others are not supported.
    #[serde(default)]
    pub r#type: Option<String>,
    /// The address; one is chosen where absent.
    #[serde(default)]
    pub value: Option<String>,
}

/// A listener.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerSpec {
    /// Unique in the Gateway.
    pub name: String,
    /// Exact, or `*.suffix`; every host where absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// 1 to 65535.
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`.
    pub protocol: String,
    /// For HTTPS and TLS.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    #[serde(default)]
    pub allowed_routes: Option<AllowedRoutes>,
}

/// TLS of a listener.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Terminate (default) or Passthrough.
    #[serde(default)]
    pub mode: Option<TlsMode>,
    /// Secrets with certificates.
    #[serde(default)]
    pub certificate_refs: Vec<CertificateRef>,
    /// Not used yet.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// What is done with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// Ended here.
    Terminate,
    /// Passed on.
    Passthrough,
}

/// Refers to a Secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRef {
    /// Empty: core.
    #[serde(default)]
    pub group: Option<String>,
    /// `Secret` where absent.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// The Gateway's own where absent; another one needs a ReferenceGrant.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// Which routes may attach to a listener.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedRoutes {
    /// From which namespaces; the Gateway's own where absent.
    #[serde(default)]
    pub namespaces: Option<RouteNamespaces>,
    /// Which kinds; those of the protocol where absent.
    #[serde(default)]
    pub kinds: Vec<RouteGroupKind>,
}

/// Namespaces of routes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteNamespaces {
    /// `Same` where absent.
    #[serde(default)]
    pub from: Option<FromNamespaces>,
    /// For `Selector`.
    #[serde(default)]
    pub selector: Option<NamespaceSelector>,
}

/// Which namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNamespaces {
    /// Every one.
    All,
    /// The Gateway's.
    Same,
    /// By labels.
    Selector,
    /// None.
    None,
}

/// A label selector (`meta/v1` LabelSelector).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSelector {
    /// All of these.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// And all of these.
    #[serde(default)]
    pub match_expressions: Vec<LabelExpression>,
}

/// One expression of a label selector.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

impl NamespaceSelector {
    /// True if these labels are selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| {
                let value = labels.get(&expression.key);
                let listed = value.is_some_and(|value| expression.values.contains(value));
                match expression.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}

/// A kind of route.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteGroupKind {
    /// `gateway.networking.k8s.io` where absent.
    #[serde(default)]
    pub group: Option<String>,
    /// e.g. `HTTPRoute`.
    pub kind: String,
}
