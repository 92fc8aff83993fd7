//! AcmeIssuer (`tombolo.dev/v1alpha1`): where certificates are ordered (RFC 8555).

use serde::{Deserialize, Serialize};

/// AcmeIssuer: an account with a certificate authority that speaks ACME.
///
/// A Gateway or ListenerSet in the same namespace uses it by the annotation `tombolo.dev/acme-issuer: NAME`: for each of its listeners
/// that terminate TLS, have a hostname and refer to a Secret that is not there, a certificate is ordered and kept in
/// that Secret's place.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcmeIssuer {
    /// `production` (default) or `staging` of Let's Encrypt, or the `https` URL of a directory.
    #[serde(default)]
    pub directory: Option<String>,
    /// Must be true: the operator has agreed to the authority's terms of service.
    pub terms_of_service_agreed: bool,
    /// Where the authority writes to when something is wrong.
    #[serde(default)]
    pub email: Option<String>,
    /// How control over a name is shown; `http-01` where absent. Wildcards need `dns-01`.
    #[serde(default)]
    pub challenge: AcmeChallengeType,
    /// A ConfigMap with the roots (`ca.crt`) by which the directory is trusted; those of the system where absent.
    #[serde(default)]
    pub ca_bundle_ref: Option<NameRef>,
    /// An account with the authority that this one is bound to (RFC 8555 section 7.3.4).
    #[serde(default)]
    pub external_account: Option<ExternalAccountSpec>,
    /// For `dns-01`: how records are written. Without it, the command that the process was given.
    #[serde(default)]
    pub dns: Option<DnsSpec>,
}

/// How control over a name is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub enum AcmeChallengeType {
    /// By a page on port 80 (RFC 8555 section 8.3).
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    /// By a certificate on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a TXT record (RFC 8555 section 8.4).
    #[serde(rename = "dns-01")]
    Dns01,
}

/// Refers to an object by name, in the namespace of who refers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NameRef {
    /// Its name.
    pub name: String,
}

/// External account binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAccountSpec {
    /// The key's id, as the authority gave it.
    pub key_id: String,
    /// A Secret with the HMAC key under `hmac`, in base64url as the authority gave it.
    pub secret_ref: NameRef,
}

/// How the records of `dns-01` are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsSpec {
    /// By dynamic update (RFC 2136); by the process's command where absent.
    #[serde(default)]
    pub rfc2136: Option<Rfc2136Spec>,
    /// How long to wait between writing a record and asking the authority to look, at most 10m; 0s where absent.
    #[serde(default)]
    pub propagation: Option<String>,
}

/// Dynamic updates, signed where there is a key (RFC 2136, RFC 8945).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rfc2136Spec {
    /// The primary server, `IP:PORT`.
    pub server: String,
    /// The zone that holds the records, e.g. `example.com`.
    pub zone: String,
    /// The key that updates are signed with.
    #[serde(default)]
    pub tsig: Option<TsigSpec>,
}

/// A TSIG key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TsigSpec {
    /// The key's name, as the server knows it.
    pub key_name: String,
    /// `hmac-sha256` where absent.
    #[serde(default)]
    pub algorithm: TsigAlgorithmName,
    /// A Secret with the key under `key`, in base64.
    pub secret_ref: NameRef,
}

/// How updates are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub enum TsigAlgorithmName {
    /// HMAC-SHA256.
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC-SHA384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC-SHA512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}
