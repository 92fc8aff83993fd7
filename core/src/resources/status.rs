//! Status in the form that Kubernetes holds it.

use std::sync::Arc;

use serde::Serialize;

use super::{ApiVersion, ObjectKey};

/// One object and its status stanza.
#[derive(Debug, Clone, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// e.g. `gateway.networking.k8s.io/v1`.
    pub api_version: ApiVersion,
    /// e.g. `HTTPRoute`.
    pub kind: &'static str,
    /// Namespace and name.
    pub metadata: ObjectKey,
    /// The stanza, e.g. `{"conditions": [...]}` or `{"parents": [...]}`. Objects of which the same is to be said share it.
    pub status: Arc<serde_json::Value>,
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
