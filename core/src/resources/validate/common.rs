//! Walking an object with the path in hand, and the checks that many kinds share.

use std::{collections::BTreeMap, fmt::Display, net::IpAddr};

use crate::{
    model::{check_dns_label, check_dns_subdomain},
    resources::{duration::parse_duration, typed::FieldProblem},
};

/// Compiled size that a regular expression may take, in bytes.
const REGEX_SIZE_LIMIT: usize = 256 * 1024;

/// Collects problems with the path of the field in hand.
#[derive(Default)]
pub(super) struct Checker {
    path: Vec<String>,
    pub(super) problems: Vec<FieldProblem>,
}

impl Checker {
    /// Goes into a field.
    pub(super) fn at(&mut self, field: &str, check: impl FnOnce(&mut Self)) {
        self.path.push(field.to_owned());
        check(self);
        self.path.pop();
    }

    /// Goes into each item of a list.
    pub(super) fn each<T>(&mut self, field: &str, items: &[T], mut check: impl FnMut(&mut Self, &T)) {
        for (index, item) in items.iter().enumerate() {
            self.at(&format!("{field}[{index}]"), |c| check(c, item));
        }
    }

    /// Notes a problem of the field in hand.
    pub(super) fn fail(&mut self, message: impl Display, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.problems.push(FieldProblem { field: self.path.join("."), message: message.to_string(), hint });
    }

    /// Notes the problem if the condition does not hold.
    pub(super) fn require(&mut self, holds: bool, message: impl Display, hint: &str) {
        if !holds {
            self.fail(message, hint);
        }
    }

    pub(super) fn dns_label(&mut self, field: &str, text: &str) {
        if let Err(error) = check_dns_label(text) {
            self.at(field, |c| c.fail(error, ""));
        }
    }

    pub(super) fn dns_name(&mut self, field: &str, text: &str) {
        if let Err(error) = check_dns_subdomain(text) {
            self.at(field, |c| c.fail(error, ""));
        }
    }

    /// Exact, or `*.suffix` (Gateway API Hostname).
    pub(super) fn hostname(&mut self, field: &str, text: &str) {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_address = text.parse::<IpAddr>().is_ok();
        if is_address || check_dns_subdomain(name).is_err() {
            let message = format!("{text:?} is not a host name");
            self.at(field, |c| {
                c.fail(message, "use lower case, no port and no address; `*.` may stand at the front")
            });
        }
    }

    pub(super) fn address(&mut self, field: &str, text: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.at(field, |c| {
                c.fail(format!("{text:?} is not an IP address"), "write one such as 10.0.0.1 or fd00::1")
            });
        }
    }

    pub(super) fn port(&mut self, field: &str, port: u16) {
        self.at(field, |c| c.require(port != 0, "0 is not a port", "use 1 to 65535"));
    }

    pub(super) fn regex(&mut self, field: &str, pattern: &str) {
        if let Err(error) = regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE_LIMIT).build() {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            self.at(field, |c| c.fail(format!("is not a regular expression: {reason}"), ""));
        }
    }

    pub(super) fn header_name(&mut self, field: &str, name: &str) {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            self.at(field, |c| {
                c.fail(format!("{name:?} is not a header name"), "use letters, digits and '-'")
            });
        }
    }

    pub(super) fn header_value(&mut self, field: &str, value: &str) {
        if http::HeaderValue::from_str(value).is_err() {
            self.at(field, |c| c.fail("is not a header value", "use visible ASCII letters"));
        }
    }

    pub(super) fn duration(&mut self, field: &str, text: Option<&String>) {
        if let Some(Err(message)) = text.map(|text| parse_duration(text)) {
            self.at(field, |c| c.fail(message, "write one such as 500ms, 10s, 1m30s (GEP-2257)"));
        }
    }

    pub(super) fn labels(&mut self, field: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            self.label_key(field, key);
            if !value.is_empty() && !is_label_part(value) {
                self.at(field, |c| {
                    c.fail(
                        format!("{value:?} is not a label's value"),
                        "at most 63 of a-z A-Z 0-9 - _ . with a letter or digit at both ends",
                    )
                });
            }
        }
    }

    /// The key of a label or annotation: `NAME`, or `DNS-NAME/NAME`.
    pub(super) fn label_key(&mut self, field: &str, key: &str) {
        let fits = match key.split_once('/') {
            Some((prefix, name)) => check_dns_subdomain(prefix).is_ok() && is_label_part(name),
            None => is_label_part(key),
        };
        if !fits {
            self.at(field, |c| {
                c.fail(
                    format!("{key:?} is not a label's key"),
                    "write NAME or example.com/NAME, NAME at most 63 of a-z A-Z 0-9 - _ . with a letter or digit at both ends",
                )
            });
        }
    }

    /// Notes names that occur twice.
    pub(super) fn unique<'a>(&mut self, field: &str, what: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = std::collections::HashSet::new();
        for name in names {
            if !seen.insert(name) {
                self.at(field, |c| {
                    c.fail(format!("two {what}s are named {name:?}"), "give each its own name")
                });
            }
        }
    }

    /// Notes a list that is too long.
    pub(super) fn at_most(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.at(field, |c| {
                c.fail(format!("has {count} entries"), &format!("at most {most} are allowed"))
            });
        }
    }
}

/// The form of a label's value, and of its key without prefix (Kubernetes, "labels and selectors: syntax").
fn is_label_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}
