//! Conditions on a request: texts, headers, query parameters, paths. Each says why it does not hold.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName, Method};
use regex::bytes::{Regex, RegexBuilder};

use super::RequestHead;

/// Compiled size that one expression may take, in bytes: with room to spare over what documents are checked with, as
/// anchors come on top.
const REGEX_SIZE_LIMIT: usize = 512 * 1024;

/// A condition on a text.
#[derive(Debug, Clone)]
pub(crate) enum TextMatch {
    /// Equal, byte for byte.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Matches; whether anchored was settled when it was compiled.
    Regex(Regex),
    /// Is there, whatever it is.
    Present,
    /// Is one of these.
    In(Box<[Box<str>]>),
}

impl TextMatch {
    /// An expression that must cover the whole text (HTTPRoute).
    pub(crate) fn whole(pattern: &str) -> Result<Self, regex::Error> {
        // Compiled alone first: what is wrong is then told in the user's own words, and `a)|(b` cannot slip out of
        // the group.
        regex(pattern)?;
        Ok(Self::Regex(regex(&format!("^(?:{pattern})$"))?))
    }

    /// An expression that may match anywhere in the text (GrayRelease).
    pub(crate) fn anywhere(pattern: &str) -> Result<Self, regex::Error> {
        Ok(Self::Regex(regex(pattern)?))
    }

    /// True if the condition holds for this text.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Regex(regex) => regex.is_match(text),
            Self::Present => true,
            Self::In(several) => several.iter().any(|one| one.as_bytes() == text),
        }
    }
}

fn regex(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(REGEX_SIZE_LIMIT).build()
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "= {exact:?}"),
            Self::Prefix(prefix) => write!(f, "begins with {prefix:?}"),
            Self::Regex(regex) => write!(f, "matches {:?}", regex.as_str()),
            Self::Present => f.write_str("is present"),
            Self::In(several) => write!(f, "is one of {several:?}"),
        }
    }
}

/// A condition on a header: holds if one of its values does.
#[derive(Debug, Clone)]
pub(crate) struct HeaderMatch {
    /// Name, in lower case as in all of `http`.
    pub(crate) name: HeaderName,
    /// What its value must be.
    pub(crate) value: TextMatch,
}

impl HeaderMatch {
    /// True if some value of the header meets the condition.
    pub(crate) fn matches(&self, headers: &HeaderMap) -> bool {
        headers.get_all(&self.name).iter().any(|value| self.value.matches(value.as_bytes()))
    }
}

/// A condition on a query parameter: on the first of that name, percent-decoded.
#[derive(Debug, Clone)]
pub(crate) struct QueryMatch {
    /// Name, case-sensitive.
    pub(crate) name: Box<str>,
    /// What its value must be.
    pub(crate) value: TextMatch,
}

impl QueryMatch {
    /// True if the first parameter of that name meets the condition.
    pub(crate) fn matches(&self, query: Option<&str>) -> bool {
        query_value(query, &self.name).is_some_and(|value| self.value.matches(&value))
    }
}

/// The first value of a query parameter, decoded as `application/x-www-form-urlencoded`.
fn query_value<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, [u8]>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*form_decode(key) == *name.as_bytes()).then(|| form_decode(value))
    })
}

fn form_decode(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text.as_bytes());
    }
    let spaced: Vec<u8> = text.bytes().map(|b| if b == b'+' { b' ' } else { b }).collect();
    Cow::Owned(percent_decode(&spaced))
}

/// Decodes `%XX`; what is no valid escape stays as it is.
pub(crate) fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escape = (first == b'%').then_some(after).and_then(|after| match after {
            [high, low, tail @ ..] => Some((hex(*high)? << 4 | hex(*low)?, tail)),
            _ => None,
        });
        let (byte, tail) = escape.unwrap_or((first, after));
        out.push(byte);
        rest = tail;
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// A condition on the path (Gateway API HTTPPathMatch).
#[derive(Debug, Clone)]
pub(crate) enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(Box<str>),
    /// By segments: without its trailing `/`, so that `""` is every path, and `/a` covers `/a` and `/a/b`, not `/ab`.
    Prefix(Box<str>),
    /// An expression for the whole path.
    Regex(Regex),
}

impl PathMatch {
    /// A prefix; its trailing slash means nothing (Gateway API PathMatchPathPrefix).
    pub(crate) fn prefix(text: &str) -> Self {
        Self::Prefix(text.strip_suffix('/').unwrap_or(text).into())
    }

    /// An expression that must cover the whole path.
    pub(crate) fn regex(pattern: &str) -> Result<Self, regex::Error> {
        match TextMatch::whole(pattern)? {
            TextMatch::Regex(regex) => Ok(Self::Regex(regex)),
            _ => Ok(Self::Exact(pattern.into())),
        }
    }

    /// True if the path (without query) meets the condition.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "Exact {exact}"),
            Self::Prefix(prefix) if prefix.is_empty() => f.write_str("PathPrefix /"),
            Self::Prefix(prefix) => write!(f, "PathPrefix {prefix}"),
            Self::Regex(regex) => write!(f, "RegularExpression {}", regex.as_str()),
        }
    }
}

/// All conditions of one HTTPRouteMatch.
#[derive(Debug, Clone)]
pub(crate) struct RequestMatch {
    pub(crate) path: PathMatch,
    pub(crate) method: Option<Method>,
    pub(crate) headers: Box<[HeaderMatch]>,
    pub(crate) query: Box<[QueryMatch]>,
}

impl RequestMatch {
    /// Every condition but the path's, which an index has already met.
    pub(crate) fn check_rest(&self, head: &RequestHead<'_>) -> Result<(), Mismatch<'_>> {
        match &self.method {
            Some(method) if method != head.method => return Err(Mismatch::Method(method)),
            _ => {}
        }
        if let Some(header) = self.headers.iter().find(|header| !header.matches(head.headers)) {
            return Err(Mismatch::Header(header));
        }
        match self.query.iter().find(|query| !query.matches(head.query)) {
            Some(query) => Err(Mismatch::Query(query)),
            None => Ok(()),
        }
    }

    /// Every condition; the first that does not hold.
    pub(crate) fn check(&self, head: &RequestHead<'_>) -> Result<(), Mismatch<'_>> {
        if !self.path.matches(head.path) {
            return Err(Mismatch::Path(&self.path));
        }
        self.check_rest(head)
    }
}

/// The condition that did not hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mismatch<'a> {
    Path(&'a PathMatch),
    Method(&'a Method),
    Header(&'a HeaderMatch),
    Query(&'a QueryMatch),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "path is not {path}"),
            Self::Method(method) => write!(f, "method is not {method}"),
            Self::Header(h) => write!(f, "no header {} that {}", h.name, h.value),
            Self::Query(q) => write!(f, "no query parameter {} that {}", q.name, q.value),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_compared_by_segments() {
        for (prefix, path, expected) in [
            ("/", "/", true),
            ("/", "/a", true),
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/", "/a", true),
            ("/a/", "/ab", false),
            ("/a/b", "/a", false),
            ("/a", "/A", false),
        ] {
            assert_eq!(PathMatch::prefix(prefix).matches(path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn expressions_of_routes_cover_the_whole_text_and_those_of_releases_do_not() {
        let whole = TextMatch::whole("b|bc").unwrap();
        assert!(whole.matches(b"b") && whole.matches(b"bc"));
        assert!(!whole.matches(b"abc") && !whole.matches(b"b\n"));
        assert!(TextMatch::anywhere("bot").unwrap().matches(b"Googlebot/2.1"));
        assert!(TextMatch::whole("a)|(b").is_err());
        assert!(TextMatch::whole("(").is_err());
        assert!(TextMatch::anywhere("(a{1000}){1000}").is_err(), "too large");
    }

    #[test]
    fn the_first_query_parameter_of_a_name_counts_decoded() {
        let exact = |value: &str| QueryMatch { name: "q r".into(), value: TextMatch::Exact(value.into()) };
        assert!(exact("a b").matches(Some("x=1&q%20r=a+b&q+r=c")));
        assert!(!exact("c").matches(Some("q+r=a&q+r=c")));
        assert!(exact("").matches(Some("q+r")));
        assert!(!exact("").matches(None));
        assert_eq!(percent_decode(b"%41%zz%4"), b"A%zz%4");
    }

    #[test]
    fn a_header_matches_by_any_of_its_values() {
        let mut headers = HeaderMap::new();
        headers.append("x-env", "one".parse().unwrap());
        headers.append("x-env", "two".parse().unwrap());
        let header = |value| HeaderMatch { name: HeaderName::from_static("x-env"), value };
        assert!(header(TextMatch::Exact("two".into())).matches(&headers));
        assert!(header(TextMatch::Prefix("on".into())).matches(&headers));
        assert!(header(TextMatch::Present).matches(&headers));
        assert!(header(TextMatch::In(["x".into(), "one".into()].into())).matches(&headers));
        assert!(!header(TextMatch::Exact("three".into())).matches(&headers));
        assert!(!header(TextMatch::Present).matches(&HeaderMap::new()));
    }
}
