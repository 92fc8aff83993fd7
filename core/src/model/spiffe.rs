//! SPIFFE identities, after the SPIFFE-ID standard (section 2) and Tombolo's path `/ns/NAMESPACE/sa/ACCOUNT`.

use std::{fmt, str::FromStr, sync::Arc};

use super::name::check_dns_label;

/// Why a text is no SPIFFE ID or trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct SpiffeError {
    text: String,
    what: &'static str,
    rule: &'static str,
}

/// The trust domain of a cluster, e.g. `east.example`: what one CA vouches for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain: 1 to 255 of `[a-z0-9._-]`.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let valid = (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
        if valid {
            return Ok(Self(text.into()));
        }
        Err(SpiffeError {
            text: clip(text),
            what: "trust domain",
            rule: "use 1 to 255 lowercase letters, digits, '.', '-' and '_'",
        })
    }

    /// The trust domain's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The namespace of Tombolo's own processes.
pub const SYSTEM_NAMESPACE: &str = "tombolo-system";

/// Who a workload is: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`. No other path form is accepted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    account: Arc<str>,
}

impl SpiffeId {
    /// Puts an identity together. The namespace and account are DNS labels.
    pub fn new(trust_domain: TrustDomain, namespace: &str, account: &str) -> Result<Self, SpiffeError> {
        if check_dns_label(namespace).is_err() || check_dns_label(account).is_err() {
            return Err(SpiffeError {
                text: clip(&format!("/ns/{namespace}/sa/{account}")),
                what: "SPIFFE ID path",
                rule: "namespace and account are DNS labels",
            });
        }
        Ok(Self { trust_domain, namespace: namespace.into(), account: account.into() })
    }

    /// Parses `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`; 2,048 bytes at most, nothing percent-encoded.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let refuse = |rule| SpiffeError { text: clip(text), what: "SPIFFE ID", rule };
        if text.len() > 2048 {
            return Err(refuse("longer than 2048 bytes"));
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| refuse("begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let trust_domain = TrustDomain::parse(parts.next().unwrap_or_default())?;
        let form = "use spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT";
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(trust_domain, namespace, account)
            }
            _ => Err(refuse(form)),
        }
    }

    /// The controller of a trust domain: `/ns/tombolo-system/sa/controller`.
    pub fn controller(trust_domain: &TrustDomain) -> Self {
        Self::system(trust_domain, "controller")
    }

    /// The gateways of a trust domain: `/ns/tombolo-system/sa/gateway`.
    pub fn gateway(trust_domain: &TrustDomain) -> Self {
        Self::system(trust_domain, "gateway")
    }

    /// True for the account `gateway` or any `gateway-*` of the system's namespace.
    pub fn is_gateway(&self) -> bool {
        &*self.namespace == SYSTEM_NAMESPACE
            && (&*self.account == "gateway" || self.account.starts_with("gateway-"))
    }

    /// `account` must be a DNS label.
    fn system(trust_domain: &TrustDomain, account: &str) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            namespace: SYSTEM_NAMESPACE.into(),
            account: account.into(),
        }
    }

    /// The trust domain, whose bundle alone may verify this identity's certificate.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn account(&self) -> &str {
        &self.account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.account)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What comes from outside is shown shortened.
fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}
