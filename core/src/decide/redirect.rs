//! RequestRedirect as an answer, and the replacement of paths that it shares with URLRewrite.

use std::{borrow::Cow, fmt::Write, sync::Arc};

use http::{HeaderValue, StatusCode, header::LOCATION};

use super::{LocalAnswer, PathRewrite, RequestHead};

/// Gateway API HTTPRequestRedirectFilter.
#[derive(Debug, Clone)]
pub(crate) struct Redirect {
    pub(crate) scheme: Option<Arc<str>>,
    pub(crate) hostname: Option<Arc<str>>,
    pub(crate) path: Option<PathRewrite>,
    pub(crate) port: Option<u16>,
    pub(crate) status: StatusCode,
}

impl Redirect {
    /// The answer to a request for `host` that came in on `port`. The query is kept.
    pub(crate) fn answer(
        &self,
        head: &RequestHead<'_>,
        host: &str,
        port: u16,
        route: &Arc<str>,
    ) -> LocalAnswer {
        let location = self.location(head, host, port);
        // Everything in it was a header or a request target before, so that it is a valid header value; if it is not,
        // no location is better than a wrong one.
        let headers = HeaderValue::try_from(location).map(|value| vec![(LOCATION, value)]);
        match headers {
            Ok(headers) => {
                let (reason, route) = ("redirect", Some(route.clone()));
                LocalAnswer {
                    status: self.status,
                    headers,
                    reason,
                    route,
                    policies: Default::default(),
                    verdict: None,
                    missed: None,
                }
            }
            Err(_) => LocalAnswer {
                status: StatusCode::BAD_REQUEST,
                headers: Vec::new(),
                reason: "redirect_invalid",
                route: Some(route.clone()),
                policies: Default::default(),
                verdict: None,
                missed: None,
            },
        }
    }

    fn location(&self, head: &RequestHead<'_>, host: &str, port: u16) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let well_known = if scheme == "https" { 443 } else { 80 };
        let host = self.hostname.as_deref().unwrap_or(host);
        // A new scheme brings its own well-known port; without one, the listener's stays (HTTPRequestRedirectFilter).
        let port = self.port.unwrap_or(if self.scheme.is_some() { well_known } else { port });
        let brackets = if host.contains(':') { ("[", "]") } else { ("", "") };
        let mut out = format!("{scheme}://{}{host}{}", brackets.0, brackets.1);
        if port != well_known {
            // Writing to a String cannot fail.
            let _ = write!(out, ":{port}");
        }
        match &self.path {
            Some(rewrite) => out.push_str(&rewrite.apply(head.path)),
            None => out.push_str(head.path),
        }
        if let Some(query) = head.query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

impl PathRewrite {
    /// The new path for a request's path (both without query).
    ///
    /// A prefix is replaced by segments, as in the table at Gateway API HTTPPathModifier: trailing slashes of either
    /// prefix mean nothing, and the result always begins with one slash.
    pub fn apply<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        let (matched, replacement) = match self {
            Self::Full(full) => return Cow::Borrowed(full),
            Self::Prefix { matched, replacement } => (trim(matched), trim(replacement)),
        };
        match path.strip_prefix(matched) {
            Some("") if replacement.is_empty() => Cow::Borrowed("/"),
            Some("") => Cow::Borrowed(replacement),
            Some(rest) if rest.starts_with('/') => Cow::Owned(format!("{replacement}{rest}")),
            // Cannot be where the rule was matched by this prefix; the path is then best left alone.
            _ => Cow::Borrowed(path),
        }
    }
}

fn trim(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn head<'a>(
        scheme: &'a str,
        path: &'a str,
        query: Option<&'a str>,
        headers: &'a HeaderMap,
    ) -> RequestHead<'a> {
        RequestHead { scheme, host: "a.com", method: &Method::GET, path, query, headers }
    }

    #[test]
    fn a_prefix_is_replaced_as_the_specification_tabulates() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/a", "/", "/b", "/b/a"),
            ("/", "/", "/b", "/b/"),
        ] {
            let rewrite = PathRewrite::Prefix { matched: matched.into(), replacement: replacement.into() };
            assert_eq!(rewrite.apply(path), expected, "{path} {matched} {replacement}");
        }
        assert_eq!(PathRewrite::Full("/x".into()).apply("/a/b"), "/x");
    }

    #[test]
    fn the_location_keeps_what_the_filter_does_not_change() {
        let plain =
            Redirect { scheme: None, hostname: None, path: None, port: None, status: StatusCode::FOUND };
        let headers = HeaderMap::new();
        let to = |redirect: &Redirect, scheme, port| {
            let answer =
                redirect.answer(&head(scheme, "/p", Some("q=1"), &headers), "a.com", port, &"r".into());
            assert_eq!(answer.status, StatusCode::FOUND);
            answer.headers.first().unwrap().1.to_str().unwrap().to_string()
        };
        let https = Redirect { scheme: Some("https".into()), ..plain.clone() };
        let host = Redirect { hostname: Some("b.com".into()), ..plain.clone() };
        let port = Redirect { port: Some(8443), ..https.clone() };
        let path = Redirect { path: Some(PathRewrite::Full("/new".into())), ..plain.clone() };
        assert_eq!(to(&plain, "http", 80), "http://a.com/p?q=1");
        assert_eq!(to(&plain, "http", 8080), "http://a.com:8080/p?q=1");
        assert_eq!(to(&plain, "https", 443), "https://a.com/p?q=1");
        assert_eq!(to(&https, "http", 8080), "https://a.com/p?q=1");
        assert_eq!(to(&host, "http", 80), "http://b.com/p?q=1");
        assert_eq!(to(&port, "http", 80), "https://a.com:8443/p?q=1");
        assert_eq!(to(&path, "http", 80), "http://a.com/new?q=1");
    }

    #[test]
    fn what_cannot_be_a_header_is_refused() {
        let redirect =
            Redirect { scheme: None, hostname: None, path: None, port: None, status: StatusCode::FOUND };
        let headers = HeaderMap::new();
        let answer = redirect.answer(&head("http", "/a\r\nb: c", None, &headers), "a.com", 80, &"r".into());
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.headers.is_empty());
    }
}
