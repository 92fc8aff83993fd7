//! GRPCRoute (`gateway.networking.k8s.io/v1`).

use serde::{Deserialize, Serialize};

use super::{BackendRef, Filter, HeaderMatchSpec, HeaderMatchType, ParentRef, SessionPersistence};

/// GRPCRoute.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRoute {
    /// Gateways (the edge), or Services and ServiceImports (the mesh).
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Exact, or `*.suffix`; the listener's where absent.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Rules, at most 16 in the published API and 64 here; one that sends nowhere where absent.
    #[serde(default)]
    pub rules: Vec<GrpcRule>,
    /// `All` by default; not used.
    #[serde(default)]
    pub use_default_gateways: Option<String>,
}

/// A rule.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRule {
    /// Unique in the route.
    #[serde(default)]
    pub name: Option<String>,
    /// Any of these; everything where empty.
    #[serde(default)]
    pub matches: Vec<GrpcMatch>,
    /// What is changed: header modifiers and mirrors.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where it goes.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// Keeps a client on its endpoint.
    #[serde(default)]
    pub session_persistence: Option<Box<SessionPersistence>>,
}

/// A match: all of its parts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// Every method where absent.
    #[serde(default)]
    pub method: Option<GrpcMethodMatch>,
    /// All of these.
    #[serde(default)]
    pub headers: Vec<HeaderMatchSpec>,
}

/// What is called, by the path `/SERVICE/METHOD`. At least one of both is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMethodMatch {
    /// How both are compared.
    #[serde(default)]
    pub r#type: HeaderMatchType,
    /// With its package, e.g. `shop.v1.Checkout`; any where absent.
    #[serde(default)]
    pub service: Option<String>,
    /// e.g. `Buy`; any where absent.
    #[serde(default)]
    pub method: Option<String>,
}
