//! What a TrafficPolicy says of tokens.

use serde::{Deserialize, Serialize};

/// JSON Web Tokens (RFC 7519) that requests carry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtSpec {
    /// Any of these, 1 to 16; their issuers differ.
    pub providers: Vec<JwtProviderSpec>,
    /// Whether a request without a token is let through; one with an invalid token never is.
    #[serde(default)]
    pub allow_missing: bool,
}

/// Who issues tokens, and how they are verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtProviderSpec {
    /// Unique in the policy.
    pub name: String,
    /// The `iss` that a token must have.
    pub issuer: String,
    /// One of these must be in the token's `aud`; any where empty.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// The keys that sign.
    pub jwks: JwksSpec,
    /// Where the token stands; `Authorization: Bearer` where absent.
    #[serde(default)]
    pub from: TokenSourceSpec,
    /// Claims that are passed on as headers. What a client sends under these names is removed.
    #[serde(default)]
    pub claims_to_headers: Vec<ClaimHeaderSpec>,
    /// Whether the token is passed on; `true` where absent.
    #[serde(default)]
    pub forward: Option<bool>,
    /// How far clocks may be apart, at most 10m; 60s where absent.
    #[serde(default)]
    pub clock_skew: Option<String>,
}

/// A JSON Web Key Set (RFC 7517); exactly one source.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwksSpec {
    /// In a ConfigMap of the policy's namespace.
    #[serde(default)]
    pub config_map: Option<JwksConfigMap>,
    /// A file on each gateway.
    #[serde(default)]
    pub file: Option<String>,
    /// `http` or `https`; its certificate is verified by the system's roots.
    #[serde(default)]
    pub url: Option<String>,
    /// How often a file or URL is read again, 10s to 24h; 10m where absent. A token signed by a key that is not known
    /// makes it be read at once, but not more than once in 10 seconds.
    #[serde(default)]
    pub refresh: Option<String>,
}

/// A key of a ConfigMap.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwksConfigMap {
    /// Its name.
    pub name: String,
    /// `jwks.json` where absent.
    #[serde(default)]
    pub key: Option<String>,
}

/// Where a token stands: at most one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenSourceSpec {
    /// A header that holds nothing but the token.
    #[serde(default)]
    pub header: Option<String>,
    /// A cookie.
    #[serde(default)]
    pub cookie: Option<String>,
    /// A query parameter.
    #[serde(default)]
    pub query: Option<String>,
}

/// A claim as a header.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimHeaderSpec {
    /// Name; nested ones with dots. Texts, numbers and booleans are passed on, lists of them with commas.
    pub claim: String,
    /// Header.
    pub header: String,
}
