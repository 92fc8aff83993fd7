//! Hostnames of listeners and routes: exact, `*.suffix`, or any (Gateway API `Hostname`).

use std::{borrow::Cow, fmt, sync::Arc};

/// Which hosts a listener or a route serves.
///
/// Sorts by precedence: exact, then the longer wildcard, then any; the text breaks ties, so that an order is total.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum HostPattern {
    /// One host.
    Exact(Arc<str>),
    /// `.suffix`, with its dot: any host that ends so and has at least one more character before it (`*.x` covers
    /// `a.x` and `a.b.x`, never the apex `x`).
    Wildcard(Arc<str>),
    /// Every host.
    Any,
}

impl HostPattern {
    /// From what a user wrote; nothing and `*` are every host. Compared in lower case.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            None | Some("" | "*") => Self::Any,
            Some(text) => {
                let lower = text.to_ascii_lowercase();
                match lower.strip_prefix('*') {
                    Some(suffix) => Self::Wildcard(suffix.into()),
                    None => Self::Exact(lower.into()),
                }
            }
        }
    }

    /// True if a request for this host (lower case, no port) is served.
    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *host,
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }

    /// The hosts that both serve, if there are any: the more specific of the two.
    pub(crate) fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, other) => Some(other.clone()),
            (this, Self::Any) => Some(this.clone()),
            (Self::Exact(exact), pattern) | (pattern, Self::Exact(exact)) => {
                pattern.matches(exact).then(|| Self::Exact(exact.clone()))
            }
            (Self::Wildcard(a), Self::Wildcard(b)) if a.ends_with(&**b) => Some(Self::Wildcard(a.clone())),
            (Self::Wildcard(a), Self::Wildcard(b)) if b.ends_with(&**a) => Some(Self::Wildcard(b.clone())),
            (Self::Wildcard(_), Self::Wildcard(_)) => None,
        }
    }

    /// As a user would write it; none for every host.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Exact(exact) => Some(exact.to_string()),
            Self::Wildcard(suffix) => Some(format!("*{suffix}")),
        }
    }

    fn rank(&self) -> (u8, usize, &str) {
        match self {
            Self::Exact(exact) => (0, 0, exact),
            Self::Wildcard(suffix) => (1, usize::MAX - suffix.len(), suffix),
            Self::Any => (2, 0, ""),
        }
    }
}

impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// The host of an authority as it is compared: without port and trailing dot, in lower case. Allocates only where
/// there are capitals.
pub(crate) fn normalize_host(authority: &str) -> Cow<'_, str> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(authority, |(inside, _)| inside),
        // More than one colon without brackets is a bare IPv6 address.
        None => match authority.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => authority,
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Cow::Owned(host.to_ascii_lowercase());
    }
    Cow::Borrowed(host)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn p(text: &str) -> HostPattern {
        HostPattern::parse(Some(text))
    }

    #[test]
    fn a_wildcard_covers_any_depth_but_never_the_apex() {
        for (pattern, host, expected) in [
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "aexample.com", false),
            ("Example.com", "example.com", true),
            ("example.com", "a.example.com", false),
            ("*", "anything", true),
        ] {
            assert_eq!(p(pattern).matches(host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn the_intersection_is_the_more_specific_of_two() {
        for (a, b, expected) in [
            ("*", "a.com", Some("a.com")),
            ("*.com", "a.com", Some("a.com")),
            ("*.a.com", "*.com", Some("*.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "*.b.com", None),
            ("a.com", "b.com", None),
            ("a.com", "a.com", Some("a.com")),
            ("*.a.com", "*.ba.com", None),
        ] {
            assert_eq!(p(a).intersect(&p(b)), expected.map(p), "{a} {b}");
            assert_eq!(p(b).intersect(&p(a)), expected.map(p), "{b} {a}");
        }
    }

    #[test]
    fn precedence_is_exact_then_the_longest_wildcard_then_any() {
        let mut all = [p("*"), p("*.com"), p("z.com"), p("*.b.com"), p("a.b.com")];
        all.sort();
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a.b.com", "z.com", "*.b.com", "*.com", "*"]);
    }

    #[test]
    fn an_authority_loses_port_dot_and_capitals() {
        for (authority, expected) in [
            ("a.com", "a.com"),
            ("A.com:8080", "a.com"),
            ("a.com.", "a.com"),
            ("a.com.:80", "a.com"),
            ("[::1]:80", "::1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("", ""),
            ("[", "["),
        ] {
            assert_eq!(normalize_host(authority), expected, "{authority}");
        }
    }
}
