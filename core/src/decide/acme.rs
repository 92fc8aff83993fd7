//! Certificates that are ordered from authorities that speak ACME: what is wanted, as far as documents tell it.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

pub use crate::resources::kinds::{AcmeChallengeType, TsigAlgorithmName};

/// The annotation of a Gateway by which an AcmeIssuer of its namespace orders certificates for it; also that of a
/// Secret that was made so, which may be ordered anew.
pub const ACME_ISSUER: &str = "tombolo.dev/acme-issuer";

/// A certificate that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// `NAMESPACE/NAME` of the Secret that it stands in for.
    pub secret: Arc<str>,
    /// The names that it has to be for, sorted, 1 to 100 of them.
    pub names: Vec<Arc<str>>,
    /// Where it is ordered.
    pub authority: Arc<AcmeAuthority>,
}

/// An AcmeIssuer that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeAuthority {
    /// `NAMESPACE/NAME` of the AcmeIssuer.
    pub issuer: Arc<str>,
    /// The URL of its directory.
    pub directory: Arc<str>,
    /// Where it writes to.
    pub email: Option<Arc<str>>,
    /// Roots in PEM by which the directory is trusted; none: those of the system.
    pub roots_pem: Option<Arc<str>>,
    /// Key id and HMAC key of the account that ours is bound to.
    pub external: Option<(Arc<str>, Hidden)>,
    /// How control over names is shown.
    pub challenge: AcmeChallengeType,
    /// How records are written, for `dns-01`; none: by the process's command.
    pub update: Option<DnsUpdate>,
    /// How long records take until the authority sees them.
    pub propagation: Duration,
}

/// Dynamic DNS updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsUpdate {
    /// The primary server.
    pub server: SocketAddr,
    /// The zone, without a dot at its end.
    pub zone: Arc<str>,
    /// The key that updates are signed with.
    pub tsig: Option<TsigKey>,
}

/// A TSIG key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TsigKey {
    /// Its name.
    pub name: Arc<str>,
    /// How it signs.
    pub algorithm: TsigAlgorithmName,
    /// The key.
    pub key: Hidden,
}

/// Bytes that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(
    /// The bytes.
    pub Arc<[u8]>,
);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// How near its end a certificate is that should have been renewed long before (renewal begins at two thirds of the life,
/// or in the authority's window).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum AcmeUrgency {
    /// Not near.
    #[default]
    None,
    /// Less than a fifth of its life is left, and orders fail: 18 days of 90.
    NearExpiry,
    /// Less than a twentieth is left: 4.5 days of 90.
    Critical,
    /// It has expired.
    Expired,
}

impl AcmeUrgency {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// How a certificate is, as the process that orders it writes it into the AcmeIssuer's `status.certificates`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcmeProgress {
    /// `NAMESPACE/NAME` of the Secret.
    pub secret: String,
    /// When the one in use expires, RFC 3339; none: there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// When the next order is begun, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    /// Why the last order failed; none: it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Orders that failed in a row.
    #[serde(default)]
    pub failures: u32,
    /// How near its end the one in use is.
    #[serde(default, skip_serializing_if = "AcmeUrgency::is_none")]
    pub urgency: AcmeUrgency,
}
