//! Tokens that requests have to carry.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderName;

use crate::jwt::KeySet;

/// JSON Web Tokens of any of some providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// Each with an issuer of its own.
    pub providers: Box<[JwtProvider]>,
    /// A request without a token is let through; one with an invalid token never is.
    pub allow_missing: bool,
}

/// Who issues tokens, and how they are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtProvider {
    /// The `iss` that a token must have.
    pub issuer: Box<str>,
    /// One of these must be in the token's `aud`; any where empty.
    pub audiences: Box<[Box<str>]>,
    /// The keys that sign.
    pub keys: KeySource,
    /// Where the token stands.
    pub from: TokenSource,
    /// Claims that are passed on as headers; what a client sends under these names is removed.
    pub claims: Box<[(Box<str>, HeaderName)]>,
    /// Whether the token is passed on.
    pub forward: bool,
    /// How far clocks may be apart.
    pub skew: Duration,
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// They stand in a document.
    Known(Arc<KeySet>),
    /// They are in a file or at a URL.
    Fetched {
        /// A path, or what begins with `http://` or `https://`.
        from: Arc<str>,
        /// How often they are read again.
        refresh: Duration,
    },
    /// The document that should hold them is not there, or holds none: every token is refused.
    Missing,
}

/// Where a token stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
    Bearer,
    /// A header that holds nothing but the token.
    Header(HeaderName),
    /// A cookie.
    Cookie(Box<str>),
    /// A query parameter.
    Query(Box<str>),
}

impl fmt::Display for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuers: Vec<&str> = self.providers.iter().map(|provider| &*provider.issuer).collect();
        write!(f, "{}", issuers.join(", "))?;
        f.write_str(if self.allow_missing { " (or none)" } else { "" })
    }
}
