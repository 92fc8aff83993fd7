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

/// Checks the name of an object as Kubernetes does: as [`check_dns_subdomain`], but a label may be longer than DNS allows.
pub fn check_object_name(name: &str) -> Result<(), NameError> {
    if name.len() <= 253 && name.split('.').all(has_label_form) {
        return Ok(());
    }
    Err(NameError { name: name.into(), what: "DNS name", rule: SUBDOMAIN_RULE })
}

fn is_label(name: &str) -> bool {
    name.len() <= 63 && has_label_form(name)
}

fn has_label_form(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    edge(bytes.first())
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1123 as a regular expression, to compare with.
    const LABEL: &str = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";

    fn is_match(pattern: &str, text: &str) -> bool {
        regex::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text)
    }

    /// Names, and what is nearly one.
    fn nearly() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9-]{0,66}", "[a-zA-Z0-9.-]{0,12}", "\\PC{0,8}", "([a-z]{1,3}[.-]?){0,90}"]
    }

    proptest! {
        #[test]
        fn labels_are_those_of_rfc_1123(text in nearly()) {
            prop_assert_eq!(check_dns_label(&text).is_ok(), is_match(LABEL, &text));
            prop_assert_eq!(Lane::parse(&text).is_ok(), is_match(LABEL, &text));
        }

        #[test]
        fn subdomains_are_labels_joined_by_dots(text in nearly()) {
            let expected = text.len() <= 253 && is_match(&format!("{LABEL}(\\.{LABEL})*"), &text);
            prop_assert_eq!(check_dns_subdomain(&text).is_ok(), expected);
        }

        #[test]
        fn every_label_is_a_lane_and_keeps_its_text(label in LABEL) {
            prop_assert_eq!(Lane::parse(&label).unwrap().to_string(), label);
        }
    }

    #[test]
    fn the_bounds_are_63_and_253() {
        assert!(check_dns_label(&"a".repeat(63)).is_ok());
        assert!(check_dns_label(&"a".repeat(64)).is_err());
        let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(name.len(), 253);
        assert!(check_dns_subdomain(&name).is_ok());
        assert!(check_dns_subdomain(&format!("{name}d")).is_err());
    }

    #[test]
    fn an_error_says_what_was_wrong_and_what_is_allowed() {
        let error = Lane::parse("No").unwrap_err().to_string();
        assert!(error.starts_with("\"No\" is not a valid lane: use 1 to 63 lowercase letters"), "{error}");
    }
}
