//! External authorization: in HTTPRoutes and in TrafficPolicies.

use serde::{Deserialize, Serialize};

use super::BackendRef;

/// A server that is asked whether a request may go on (Gateway API HTTPExternalAuthFilter, GEP-1494). Where it does
/// not answer, requests are refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAuthSpec {
    /// What it speaks.
    pub protocol: ExternalAuthProtocol,
    /// The server.
    pub backend_ref: BackendRef,
    /// Only for GRPC.
    #[serde(default)]
    pub grpc: Option<GrpcAuthSpec>,
    /// Only for HTTP.
    #[serde(default)]
    pub http: Option<HttpAuthSpec>,
    /// Whether the body is sent along.
    #[serde(default)]
    pub forward_body: Option<ForwardBodySpec>,
    /// Only in a TrafficPolicy: how long it may take, at most 60s; 2s where absent.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Only in a TrafficPolicy: let requests through where it cannot be asked.
    #[serde(default)]
    pub fail_open: Option<bool>,
}

/// What an authorization server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExternalAuthProtocol {
    /// 200 lets through, anything else is the answer to the client.
    #[serde(rename = "HTTP")]
    Http,
    /// Envoy's `envoy.service.auth.v3.Authorization`.
    #[serde(rename = "GRPC")]
    Grpc,
}

/// Of a server that speaks gRPC.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcAuthSpec {
    /// Headers that it gets; all where empty.
    #[serde(default)]
    pub allowed_headers: Option<Vec<String>>,
}

/// Of a server that speaks HTTP.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpAuthSpec {
    /// Stands before the request's own path.
    #[serde(default)]
    pub path: Option<String>,
    /// Headers that it gets, besides Host, Content-Length and Authorization.
    #[serde(default)]
    pub allowed_headers: Option<Vec<String>>,
    /// Headers of its answer that are passed on with the request; all but those of the connection and the body where
    /// empty.
    #[serde(default)]
    pub allowed_response_headers: Option<Vec<String>>,
}

/// The body for the authorization server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardBodySpec {
    /// Bytes, at most 65535; a longer body is refused with 413. 0: none is sent.
    #[serde(default)]
    pub max_size: Option<u32>,
}
