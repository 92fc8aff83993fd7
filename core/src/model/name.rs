//! Kubernetes names and lanes.

use std::{fmt, sync::Arc};

/// Why a name is not valid. The text says what is wrong and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a valid {what}: {rule}")]
pub struct NameError {
    /// The offending text.
    pub name: String,
    /// What it was meant to be.
    pub what: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
}

const LABEL_RULE: &str =
    "use 1 to 63 lowercase letters, digits and '-', beginning and ending with a letter or digit";
const SUBDOMAIN_RULE: &str =
    "use at most 253 characters: labels of lowercase letters, digits and '-', joined by '.'";

/// Checks an RFC 1123 label: 1 to 63 of `[a-z0-9-]`, not beginning or ending with `-`.
pub fn check_dns_label(name: &str) -> Result<(), NameError> {
    if is_label(name) {
        return Ok(());
    }
    Err(NameError { name: name.into(), what: "DNS label", rule: LABEL_RULE })
}

/// Checks an RFC 1123 subdomain: labels joined by `.`, 253 characters at most.
pub fn check_dns_subdomain(name: &str) -> Result<(), NameError> {
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(NameError { name: name.into(), what: "DNS name", rule: SUBDOMAIN_RULE })
}

fn is_label(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// A tag that follows a request through every service, e.g. `v2`. A DNS label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(Arc<str>);

impl Lane {
    /// Parses a lane. Refuses what is not a DNS label.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if is_label(text) {
            return Ok(Self(text.into()));
        }
        Err(NameError { name: text.into(), what: "lane", rule: LABEL_RULE })
    }

    /// The lane's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
