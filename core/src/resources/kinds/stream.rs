//! TLSRoute and TCPRoute: routes for bytes that are not parsed, and BackendTLSPolicy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BackendRef, ParentRef};

/// TLSRoute (`gateway.networking.k8s.io`): by server name, decrypted or not, as the listener says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRoute {
    /// Gateways.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Server names: exact, or `*.suffix`; 1 to 16. Only `v1alpha2` lets them be absent: the listener's then.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// 1 to 16; only the first is used, as nothing tells them apart.
    pub rules: Vec<StreamRule>,
    /// Not used.
    #[serde(default)]
    pub use_default_gateways: Option<String>,
}

/// TCPRoute (`gateway.networking.k8s.io`): everything that comes in on a listener.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRoute {
    /// Gateways.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// 1 to 16; only the first is used, as nothing tells them apart.
    pub rules: Vec<StreamRule>,
    /// Not used.
    #[serde(default)]
    pub use_default_gateways: Option<String>,
}

/// A rule of a TLSRoute or TCPRoute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRule {
    /// Unique in the route.
    #[serde(default)]
    pub name: Option<String>,
    /// Where it goes, 1 to 16, without filters.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
}

/// BackendTLSPolicy (`gateway.networking.k8s.io`): how a gateway speaks TLS to a Service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsPolicy {
    /// Services of its own namespace, 1 to 16.
    pub target_refs: Vec<PolicyTargetRef>,
    /// Who has to answer.
    pub validation: BackendTlsValidation,
    /// Not used.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// What a policy is for (Gateway API LocalPolicyTargetReferenceWithSectionName).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTargetRef {
    /// Empty: core.
    pub group: String,
    /// e.g. `Service`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// A Service's port, by name; every port where absent.
    #[serde(default)]
    pub section_name: Option<String>,
}

/// Who has to answer: one of `caCertificateRefs` and `wellKnownCACertificates`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsValidation {
    /// ConfigMaps of the policy's namespace with `ca.crt`, at most 8.
    #[serde(default, rename = "caCertificateRefs")]
    pub ca_certificate_refs: Vec<LocalRef>,
    /// `System`: the roots of the machine.
    #[serde(default, rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    /// The server name that is asked for, and that the certificate must have where `subjectAltNames` is empty.
    pub hostname: String,
    /// The certificate must have one of these, at most 5.
    #[serde(default)]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// An object of the same namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalRef {
    /// Empty: core.
    pub group: String,
    /// e.g. `ConfigMap`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A name in a certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectAltName {
    /// Which of the two.
    pub r#type: SubjectAltNameType,
    /// A DNS name; `*.suffix` means that very wildcard or a name that it covers.
    #[serde(default)]
    pub hostname: Option<String>,
    /// A URI, e.g. a SPIFFE ID; compared as it is.
    #[serde(default)]
    pub uri: Option<String>,
}

/// Kinds of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubjectAltNameType {
    /// A DNS name.
    Hostname,
    /// A URI.
    #[serde(rename = "URI")]
    Uri,
}
