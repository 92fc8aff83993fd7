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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOMAIN: &str = "[a-z0-9._-]{1,40}";
    const LABEL: &str = "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?";

    proptest! {
        #[test]
        fn what_is_written_is_read_back(domain in DOMAIN, namespace in LABEL, account in LABEL) {
            let id = SpiffeId::new(TrustDomain::parse(&domain).unwrap(), &namespace, &account).unwrap();
            let text = id.to_string();
            prop_assert_eq!(&text, &format!("spiffe://{domain}/ns/{namespace}/sa/{account}"));
            let read = SpiffeId::parse(&text).unwrap();
            prop_assert_eq!((read.trust_domain().as_str(), read.namespace(), read.account()),
                (domain.as_str(), namespace.as_str(), account.as_str()));
            prop_assert_eq!(read, id);
        }

        /// An identity has one spelling: whatever parses, prints as it was.
        #[test]
        fn nothing_but_the_one_spelling_parses(text in prop_oneof![
            "spiffe://[a-zA-Z0-9._:@%-]{0,12}/ns/[a-zA-Z0-9.%-]{0,8}/sa/[a-zA-Z0-9.%/?#-]{0,8}",
            "(spiffe|SPIFFE|https)://[a-z]{0,3}(/[a-z]{0,3}){0,6}",
            "\\PC{0,40}",
        ]) {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn trust_domains_have_only_these_characters(text in prop_oneof!["[a-z0-9._-]{0,300}", "\\PC{0,10}"]) {
            let valid = regex::Regex::new("^[a-z0-9._-]{1,255}$").unwrap().is_match(&text);
            prop_assert_eq!(TrustDomain::parse(&text).is_ok(), valid);
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe:///ns/a/sa/b",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/NS/a/sa/b",
            "spiffe://td/sa/b/ns/a",
            "spiffe://TD/ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "spiffe://td:443/ns/a/sa/b",
            "spiffe://user@td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?q",
            "spiffe://td/ns/a/sa/b#f",
            "spiffe://td/ns/%61/sa/b",
            "spiffe://td/ns/../sa/b",
            " spiffe://td/ns/a/sa/b",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
        assert!(SpiffeId::parse(&format!("spiffe://td/ns/a/sa/{}", "b".repeat(3000))).is_err());
    }

    #[test]
    fn an_error_shows_no_more_than_a_part_of_what_came() {
        let error = SpiffeId::parse(&"x".repeat(100_000)).unwrap_err().to_string();
        assert!(error.len() < 400, "{}", error.len());
    }
}
