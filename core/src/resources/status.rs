//! Status in the form that Kubernetes holds it.

use serde::Serialize;

/// One object and its status stanza.
#[derive(Debug, Clone, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// e.g. `gateway.networking.k8s.io/v1`.
    pub api_version: String,
    /// e.g. `HTTPRoute`.
    pub kind: String,
    /// Namespace and name.
    pub metadata: serde_json::Value,
    /// The stanza, e.g. `{"conditions": [...]}` or `{"parents": [...]}`.
    pub status: serde_json::Value,
}

/// A Kubernetes condition (`meta/v1`).
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// e.g. `Accepted`.
    pub r#type: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// A CamelCase word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Which generation of the object this is about.
    pub observed_generation: i64,
    /// RFC 3339; fixed at the epoch where no clock is passed in.
    pub last_transition_time: String,
}
