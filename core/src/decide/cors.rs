//! Cross-origin requests (Gateway API HTTPCORSFilter, the CORS protocol of the Fetch standard): preflights are answered
//! here, answers of the backend say who may read them.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};

use super::{LocalAnswer, RequestHead};

/// What a CORS filter says.
#[derive(Debug, Clone, PartialEq)]
pub struct Cors {
    pub(crate) origins: Vec<OriginPattern>,
    pub(crate) credentials: bool,
    pub(crate) methods: Allowed,
    pub(crate) headers: Allowed,
    /// The value of `Access-Control-Expose-Headers`.
    pub(crate) expose: Option<HeaderValue>,
    /// Seconds.
    pub(crate) max_age: HeaderValue,
}

/// Methods or headers that are allowed.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Allowed {
    /// Nothing is said: what needs no permission.
    #[default]
    Unsaid,
    /// Every one.
    Any,
    /// These, as a header's value.
    These(HeaderValue),
}

/// `*`, or `SCHEME://HOST[:PORT]` with one `*` in the host, which stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OriginPattern {
    /// Every origin.
    Any,
    /// Origins of this form.
    Like {
        scheme: Box<str>,
        /// The host before and after its `*`; the second is none where there is no `*`.
        host: (Box<str>, Option<Box<str>>),
        port: u16,
    },
}

impl OriginPattern {
    /// None: it has not the form of an origin.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (scheme, host, port) = split(text)?;
        let host = match host.split_once('*') {
            Some((before, after)) if !after.contains('*') => (before.into(), Some(after.into())),
            Some(_) => return None,
            None => (host.into(), None),
        };
        Some(Self::Like { scheme: scheme.into(), host, port })
    }

    fn matches(&self, origin: &str) -> bool {
        let Self::Like { scheme, host: (before, after), port } = self else { return true };
        let Some(parts) = split(origin) else { return false };
        if parts.0 != &**scheme || parts.2 != *port {
            return false;
        }
        match after {
            None => parts.1.eq_ignore_ascii_case(before),
            Some(after) => {
                let host = parts.1.to_ascii_lowercase();
                host.len() > before.len() + after.len()
                    && host.starts_with(&before.to_ascii_lowercase())
                    && host.ends_with(&after.to_ascii_lowercase())
            }
        }
    }
}

/// Scheme, host and port of an origin; the port is the scheme's own where it is not said.
fn split(origin: &str) -> Option<(&str, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let well_known = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    // A bracketed IPv6 address has colons of its own.
    let in_brackets = rest.rfind(']').unwrap_or(0);
    let (host, port) = match rest.rfind(':').filter(|at| *at > in_brackets) {
        Some(at) => (rest.get(..at)?, rest.get(at + 1..)?.parse().ok()?),
        None => (rest, well_known),
    };
    let is_host = !host.is_empty() && !host.contains(['/', '?', '#', '@']);
    is_host.then_some((scheme, host, port))
}

impl Cors {
    /// The answer to a preflight; none: the request is none.
    pub(crate) fn preflight(&self, head: &RequestHead<'_>, route: &Arc<str>) -> Option<LocalAnswer> {
        let wanted = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = head.headers.get(ORIGIN)?;
        if head.method != Method::OPTIONS {
            return None;
        }
        let mut headers = vec![(VARY, HeaderValue::from_static("origin, access-control-request-method"))];
        if self.allows(origin) {
            headers.extend(self.permission(origin));
            headers.extend(self.allowed(&self.methods, ACCESS_CONTROL_ALLOW_METHODS, Some(wanted)));
            let wanted = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
            headers.extend(self.allowed(&self.headers, ACCESS_CONTROL_ALLOW_HEADERS, wanted));
            headers.push((ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        }
        let route = Some(route.clone());
        Some(LocalAnswer {
            status: StatusCode::OK,
            headers,
            reason: "cors_preflight",
            route,
            policies: Default::default(),
            verdict: None,
            missed: None,
        })
    }

    fn allowed(
        &self,
        allowed: &Allowed,
        name: HeaderName,
        wanted: Option<&HeaderValue>,
    ) -> Option<(HeaderName, HeaderValue)> {
        let value = match allowed {
            Allowed::Unsaid => return None,
            // `*` means nothing where credentials go along: then what is asked for is allowed by its name.
            Allowed::Any if self.credentials => wanted?.clone(),
            Allowed::Any => HeaderValue::from_static("*"),
            Allowed::These(value) => value.clone(),
        };
        Some((name, value))
    }

    /// What the answer to any other request says to this origin. What the backend itself says of it is not passed on:
    /// one of the two has to decide.
    pub(crate) fn answer_for(&self, head: &RequestHead<'_>) -> CorsAnswer {
        let origin = head.headers.get(ORIGIN).filter(|origin| self.allows(origin));
        let varies = self.credentials || !self.origins.contains(&OriginPattern::Any);
        CorsAnswer { fields: origin.map(|origin| self.permission(origin)).unwrap_or_default(), varies }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|pattern| pattern.matches(origin)))
    }

    fn permission(&self, origin: &HeaderValue) -> Vec<(HeaderName, HeaderValue)> {
        let everyone = !self.credentials && self.origins.contains(&OriginPattern::Any);
        let origin = if everyone { HeaderValue::from_static("*") } else { origin.clone() };
        let mut out = vec![(ACCESS_CONTROL_ALLOW_ORIGIN, origin)];
        if self.credentials {
            out.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        out.extend(self.expose.clone().map(|names| (ACCESS_CONTROL_EXPOSE_HEADERS, names)));
        out
    }
}

/// What an answer says to its origin.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CorsAnswer {
    /// Fields that are set.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Whether the answer differs from origin to origin (`Vary`).
    pub varies: bool,
}

/// Fields that the filter alone decides about: what the backend says in them is removed.
pub const CORS_FIELDS: [HeaderName; 3] =
    [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn matches(pattern: &str, origin: &str) -> bool {
        OriginPattern::parse(pattern).unwrap().matches(origin)
    }

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        for (pattern, origin) in [
            ("*", "null"),
            ("*", "https://a.example:1"),
            ("https://a.example", "https://a.example"),
            ("https://a.example", "https://A.example:443"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:8080", "http://a.example:8080"),
            ("https://*.example", "https://a.example"),
            ("https://*.example", "https://a.b.example"),
            ("https://*", "https://anything.test"),
            ("http://a.*.example", "http://a.b.c.example"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert!(matches(pattern, origin), "{pattern} {origin}");
        }
        for (pattern, origin) in [
            ("https://a.example", "http://a.example"),
            ("https://a.example", "https://a.example:8443"),
            ("https://a.example", "https://a.example.evil"),
            ("https://*.example", "https://example"),
            ("https://*.example", "https://.example"),
            ("https://*.example", "https://evil.test/.example"),
            ("https://*.example", "null"),
            ("https://*", "http://anything.test"),
        ] {
            assert!(!matches(pattern, origin), "{pattern} {origin}");
        }
        for odd in ["a.example", "ftp://a.example", "https://", "https://a.*.*", "https://a:b", "https://a/b"]
        {
            assert_eq!(OriginPattern::parse(odd), None, "{odd}");
        }
    }

    fn cors(origin: &str, credentials: bool) -> Cors {
        Cors {
            origins: vec![OriginPattern::parse(origin).unwrap()],
            credentials,
            methods: Allowed::Any,
            headers: Allowed::Any,
            expose: None,
            max_age: HeaderValue::from_static("5"),
        }
    }

    fn head(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn ask<'a>(method: &'a Method, headers: &'a HeaderMap) -> RequestHead<'a> {
        RequestHead { scheme: "https", host: "x", method, path: "/", query: None, headers }
    }

    fn of<'a>(answer: &'a LocalAnswer, name: &HeaderName) -> Option<&'a str> {
        answer.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.to_str().unwrap())
    }

    #[test]
    fn with_credentials_nothing_is_allowed_by_a_star() {
        let headers = head(&[
            ("origin", "https://a.test"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-one, x-two"),
        ]);
        let route = Arc::from("r");
        let with = cors("*", true).preflight(&ask(&Method::OPTIONS, &headers), &route).unwrap();
        assert_eq!(of(&with, &ACCESS_CONTROL_ALLOW_ORIGIN), Some("https://a.test"));
        assert_eq!(of(&with, &ACCESS_CONTROL_ALLOW_METHODS), Some("PUT"));
        assert_eq!(of(&with, &ACCESS_CONTROL_ALLOW_HEADERS), Some("x-one, x-two"));
        assert_eq!(of(&with, &ACCESS_CONTROL_ALLOW_CREDENTIALS), Some("true"));
        let without = cors("*", false).preflight(&ask(&Method::OPTIONS, &headers), &route).unwrap();
        assert_eq!(of(&without, &ACCESS_CONTROL_ALLOW_ORIGIN), Some("*"));
        assert_eq!(of(&without, &ACCESS_CONTROL_ALLOW_METHODS), Some("*"));
        assert_eq!(of(&without, &ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
    }

    #[test]
    fn strangers_get_no_permission_and_other_requests_no_preflight() {
        let route = Arc::from("r");
        let cors = cors("https://a.test", true);
        let stranger = head(&[("origin", "https://b.test"), ("access-control-request-method", "PUT")]);
        let refused = cors.preflight(&ask(&Method::OPTIONS, &stranger), &route).unwrap();
        assert!(refused.headers.iter().all(|(name, _)| name == VARY), "{:?}", refused.headers);
        assert!(cors.preflight(&ask(&Method::GET, &stranger), &route).is_none());
        let plain = head(&[("origin", "https://a.test")]);
        assert!(cors.preflight(&ask(&Method::OPTIONS, &plain), &route).is_none());
        assert!(cors.answer_for(&ask(&Method::GET, &stranger)).fields.is_empty());
        let answer = cors.answer_for(&ask(&Method::GET, &plain));
        assert_eq!(
            answer.fields[0],
            (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://a.test"))
        );
        assert!(answer.varies);
    }
}
