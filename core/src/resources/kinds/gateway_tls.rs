//! `spec.tls` of a Gateway: what its clients have to show, and what it shows to backends.

use serde::{Deserialize, Serialize};

use super::CertificateRef;

/// TLS of a Gateway as a whole (Gateway API GatewayTLSConfig).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayTls {
    /// Towards backends.
    #[serde(default)]
    pub backend: Option<GatewayBackendTls>,
    /// Towards clients.
    #[serde(default)]
    pub frontend: Option<FrontendTls>,
}

/// What is shown to backends that speak TLS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayBackendTls {
    /// A Secret of type `kubernetes.io/tls`.
    #[serde(default)]
    pub client_certificate_ref: Option<CertificateRef>,
}

/// What clients have to show.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTls {
    /// On every port that `perPort` does not name.
    pub default: FrontendTlsConfig,
    /// On single ports, each once, at most 64.
    #[serde(default)]
    pub per_port: Vec<FrontendPortTls>,
}

/// What clients have to show on one port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendPortTls {
    /// Of listeners.
    pub port: u16,
    /// Instead of the default.
    pub tls: FrontendTlsConfig,
}

/// What clients have to show.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTlsConfig {
    /// Nothing where absent.
    #[serde(default)]
    pub validation: Option<FrontendValidation>,
}

/// How clients' certificates are judged.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendValidation {
    /// ConfigMaps with `ca.crt`, 1 to 8; group and kind have to be given.
    pub ca_certificate_refs: Vec<CertificateRef>,
    /// `AllowValidOnly` where absent.
    #[serde(default)]
    pub mode: Option<FrontendValidationMode>,
}

/// What becomes of clients without a valid certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FrontendValidationMode {
    /// They are refused in the handshake.
    #[default]
    AllowValidOnly,
    /// They are let in all the same.
    AllowInsecureFallback,
}
