//! HTTPRoute (`gateway.networking.k8s.io/v1`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ExternalAuthSpec;

/// HTTPRoute.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRoute {
    /// Gateways (the edge), or Services and ServiceImports (the mesh).
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Exact, or `*.suffix`; the listener's where absent.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Rules; one that sends nowhere where absent.
    #[serde(default)]
    pub rules: Vec<RouteRule>,
    /// `All` by default; not used.
    #[serde(default)]
    pub use_default_gateways: Option<String>,
}

/// What a route is attached to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// `gateway.networking.k8s.io` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Gateway` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The route's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// One listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Listeners of this port; a Service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A rule.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteRule {
    /// Unique in the route; what a GrayRelease's `sectionName` names.
    #[serde(default)]
    pub name: Option<String>,
    /// Any of these; everything where empty.
    #[serde(default)]
    pub matches: Vec<RouteMatch>,
    /// What is changed.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where it goes.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// Bounds of time.
    #[serde(default)]
    pub timeouts: Option<Box<RouteTimeouts>>,
    /// What may be tried again.
    #[serde(default)]
    pub retry: Option<Box<RouteRetry>>,
    /// Keeps a client on its endpoint.
    #[serde(default)]
    pub session_persistence: Option<Box<SessionPersistence>>,
}

/// A match: all of its parts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// Every path where absent.
    #[serde(default)]
    pub path: Option<PathMatchSpec>,
    /// All of these.
    #[serde(default)]
    pub headers: Vec<HeaderMatchSpec>,
    /// All of these.
    #[serde(default)]
    pub query_params: Vec<QueryMatchSpec>,
    /// Every method where absent.
    #[serde(default)]
    pub method: Option<String>,
    /// Any of these; the first is also [`method`](Self::method), if that is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
}

/// A path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatchSpec {
    /// How.
    #[serde(default)]
    pub r#type: PathMatchType,
    /// What.
    #[serde(default = "slash")]
    pub value: String,
}

fn slash() -> String {
    "/".into()
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PathMatchType {
    /// Equal.
    Exact,
    /// By segments.
    #[default]
    PathPrefix,
    /// The whole path.
    RegularExpression,
}

/// A header.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatchSpec {
    /// How.
    #[serde(default)]
    pub r#type: HeaderMatchType,
    /// Name, in any case.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A query parameter.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatchSpec {
    /// How.
    #[serde(default)]
    pub r#type: HeaderMatchType,
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// How a header or query parameter is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HeaderMatchType {
    /// Equal.
    #[default]
    Exact,
    /// The whole value.
    RegularExpression,
}

/// A filter: a type, and the field that goes with it. In boxes, since only one of them is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// Which of the others counts.
    pub r#type: FilterType,
    /// For `RequestHeaderModifier`.
    #[serde(default)]
    pub request_header_modifier: Option<Box<HeaderFilter>>,
    /// For `ResponseHeaderModifier`.
    #[serde(default)]
    pub response_header_modifier: Option<Box<HeaderFilter>>,
    /// For `RequestRedirect`.
    #[serde(default)]
    pub request_redirect: Option<Box<RedirectFilter>>,
    /// For `URLRewrite`.
    #[serde(default)]
    pub url_rewrite: Option<Box<RewriteFilter>>,
    /// For `RequestMirror`.
    #[serde(default)]
    pub request_mirror: Option<Box<MirrorFilter>>,
    /// For `CORS`.
    #[serde(default)]
    pub cors: Option<Box<Cors>>,
    /// For `ExternalAuth`.
    #[serde(default)]
    pub external_auth: Option<Box<ExternalAuthSpec>>,
}

/// Kinds of filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterType {
    /// Changes request headers.
    RequestHeaderModifier,
    /// Changes response headers.
    ResponseHeaderModifier,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes host and path.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Sends a copy elsewhere.
    RequestMirror,
    /// Cross-origin requests.
    #[serde(rename = "CORS")]
    Cors,
    /// Asks a server whether the request may go on.
    ExternalAuth,
}

/// Header changes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderFilter {
    /// Replaced or created.
    #[serde(default)]
    pub set: Vec<HeaderValueSpec>,
    /// Appended.
    #[serde(default)]
    pub add: Vec<HeaderValueSpec>,
    /// Removed.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A header with its value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderValueSpec {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A redirect.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedirectFilter {
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Option<String>,
    /// Host.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Path.
    #[serde(default)]
    pub path: Option<PathModifier>,
    /// Port.
    #[serde(default)]
    pub port: Option<u16>,
    /// 301, 302 (default), 303, 307, 308.
    #[serde(default)]
    pub status_code: Option<u16>,
}

/// A rewrite.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RewriteFilter {
    /// Host.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Path.
    #[serde(default)]
    pub path: Option<PathModifier>,
}

/// How a path is replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// Which of the others counts.
    pub r#type: PathModifierType,
    /// The whole path.
    #[serde(default)]
    pub replace_full_path: Option<String>,
    /// The matched prefix.
    #[serde(default)]
    pub replace_prefix_match: Option<String>,
}

/// Kinds of path changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathModifierType {
    /// The whole path.
    ReplaceFullPath,
    /// The matched prefix.
    ReplacePrefixMatch,
}

/// A copy of the request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorFilter {
    /// Where the copy goes.
    pub backend_ref: BackendRef,
    /// Share in percent.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Share as a fraction.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// A fraction.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// At most the denominator.
    pub numerator: u32,
    /// 100 where absent.
    #[serde(default)]
    pub denominator: Option<u32>,
}

/// Cross-origin requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins, `*` in them.
    #[serde(default)]
    pub allow_origins: Vec<String>,
    /// Credentials.
    #[serde(default)]
    pub allow_credentials: Option<bool>,
    /// Methods.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// Request headers.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// Response headers.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// Seconds.
    #[serde(default)]
    pub max_age: Option<u32>,
}

/// A backend.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Empty (core) where absent; `multicluster.x-k8s.io` for a ServiceImport.
    #[serde(default)]
    pub group: Option<String>,
    /// `Service` where absent; `ServiceImport` for all clusters' endpoints.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// The route's own where absent; another one needs a ReferenceGrant.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The service's port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Share; 1 where absent, 0 is none.
    #[serde(default)]
    pub weight: Option<u32>,
    /// Changes for this backend alone.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Only in arms of a GrayRelease: labels that the endpoint must have.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Bounds of time, as Gateway API durations (GEP-2257).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTimeouts {
    /// Of the whole request.
    #[serde(default)]
    pub request: Option<String>,
    /// Of one try.
    #[serde(default)]
    pub backend_request: Option<String>,
}

/// What may be tried again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteRetry {
    /// Status codes.
    #[serde(default)]
    pub codes: Vec<u16>,
    /// Tries besides the first.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// How long a further try waits at least.
    #[serde(default)]
    pub backoff: Option<String>,
}

/// Keeps a client on its backend.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// Cookie or header name.
    #[serde(default)]
    pub session_name: Option<String>,
    /// Duration.
    #[serde(default)]
    pub absolute_timeout: Option<String>,
    /// Duration.
    #[serde(default)]
    pub idle_timeout: Option<String>,
    /// What carries the session.
    #[serde(default)]
    pub r#type: Option<SessionPersistenceType>,
    /// Of the cookie.
    #[serde(default)]
    pub cookie_config: Option<CookieConfig>,
}

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SessionPersistenceType {
    /// A cookie.
    #[default]
    Cookie,
    /// A header.
    Header,
}

/// The cookie of a session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// `Session` where absent.
    #[serde(default)]
    pub lifetime_type: Option<CookieLifetime>,
}

/// How long a cookie lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CookieLifetime {
    /// As long as the browser runs.
    Session,
    /// As long as `absoluteTimeout`.
    Permanent,
}
