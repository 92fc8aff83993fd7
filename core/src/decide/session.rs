//! Session persistence (Gateway API SessionPersistence, GEP-1619): a client stays with the endpoint that it met first.
//!
//! The token that the client carries names backend and endpoint by their hashes, `BACKEND.ENDPOINT.TIME` in hex, so that
//! gateways keep nothing of a session, and it tells nobody an address. At the edge it ends in the signature of the key
//! that the gateways of a cluster share ([`CookieKey`]), made for this session's name: a client can keep or forget what
//! it was given, and can choose neither backend, arm nor endpoint, nor make its session last.
//!
//! Even so a token is no more than a preference among what the rule could have chosen by itself at this moment: backends
//! and arms that have a share of the requests, and endpoints that could be picked. What has no share, or is reached by a
//! gray release's rules alone, is not reached by a token; and a forced rule goes before any.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{
    RequestHead,
    gray::{CookieKey, Issuing, cookies_named},
};
use crate::model::{Labels, ServiceKey};

/// Cookies of a session's name that are looked at; what comes after them is none of ours.
const MOST_COOKIES: usize = 4;

/// How a rule keeps its clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub(crate) carrier: Carrier,
    /// After this, a session is over; none: never.
    pub(crate) absolute: Option<Duration>,
    /// After this long without a request, a session is over; none: never.
    pub(crate) idle: Option<Duration>,
}

/// What carries the token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Carrier {
    /// A cookie of this name.
    Cookie {
        name: Box<str>,
        /// Whether it outlives the browser's session (`lifetimeType: Permanent`).
        permanent: bool,
    },
    /// A header, which clients send back by themselves.
    Header(HeaderName),
}

impl Carrier {
    fn name(&self) -> &str {
        match self {
            Self::Cookie { name, .. } => name,
            Self::Header(name) => name.as_str(),
        }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.carrier {
            Carrier::Cookie { name, .. } => write!(f, "by cookie {name}"),
            Carrier::Header(name) => write!(f, "by header {name}"),
        }
    }
}

/// What names an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The backend's key, as one of its arm.
    pub backend: u64,
    /// [`endpoint_key`].
    pub endpoint: u64,
    /// When it was made, in seconds since the epoch.
    pub time: u64,
}

/// A request's place in a session.
#[derive(Debug, Clone)]
pub struct Sticky {
    /// How its rule keeps clients.
    pub session: Arc<Session>,
    /// The backend that was decided.
    pub backend: u64,
    /// What the client brought, if it names this backend.
    pub token: Option<Token>,
    /// Whether the client came over TLS.
    pub secure: bool,
    /// What signs its tokens; none: nothing does, in the mesh.
    pub(crate) key: Option<CookieKey>,
}

/// The key of an endpoint in tokens.
pub fn endpoint_key(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// The key of a backend in tokens.
pub(crate) fn backend_key(service: &ServiceKey, port: u16, labels: &Labels) -> u64 {
    let base = xxh3_64(format!("{service}:{port}").as_bytes());
    labels
        .iter()
        .fold(base, |key, (name, value)| xxh3_64_with_seed(format!("{name}={value}").as_bytes(), key))
}

/// The key of a backend as one of an arm.
pub(crate) fn in_arm(backend: u64, arm: &str) -> u64 {
    xxh3_64_with_seed(arm.as_bytes(), backend)
}

impl Session {
    /// The token that a request brought. One that does not read as such is none, and so is one whose time is over: with
    /// it ends the whole session, and the next begins with any backend (GEP-1619). Of several cookies of the name (an
    /// application may set one for a narrower path, RFC 6265 section 5.4) the first that is one of ours counts, among the
    /// first few. `now` is in seconds since the epoch.
    pub(crate) fn token(&self, head: &RequestHead<'_>, now: u64, issuing: Issuing<'_>) -> Option<Token> {
        let read = |value: &[u8]| Token::parse(issuing.token(self.carrier.name(), value)?);
        let token = match &self.carrier {
            Carrier::Cookie { name, .. } => {
                cookies_named(head.headers, name).take(MOST_COOKIES).find_map(read)
            }
            Carrier::Header(name) => read(head.headers.get(name)?.as_bytes()),
        };
        token.filter(|token| self.lasts(*token, now))
    }

    fn lasts(&self, token: Token, now: u64) -> bool {
        let age = now.saturating_sub(token.time);
        [self.absolute, self.idle].into_iter().flatten().all(|limit| age < limit.as_secs().max(1))
    }
}

impl Token {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= 64)?;
        let mut parts = text.split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let token = Self { backend: parts.next()??, endpoint: parts.next()??, time: parts.next()?? };
        parts.next().is_none().then_some(token)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:016x}.{:x}", self.backend, self.endpoint, self.time)
    }
}

impl Sticky {
    /// The endpoint that the session is with; none: there is no session yet, or it is over. `now` is in seconds since the
    /// epoch.
    pub fn endpoint(&self, now: u64) -> Option<u64> {
        self.token.filter(|token| self.session.lasts(*token, now)).map(|token| token.endpoint)
    }

    /// The header field that tells the client of its endpoint; none: it knows. With an idle limit it is told every time.
    pub fn field(&self, endpoint: u64, now: u64) -> Option<(HeaderName, HeaderValue)> {
        let stays = self.endpoint(now) == Some(endpoint);
        if stays && self.session.idle.is_none() {
            return None;
        }
        // A session goes on from its begin, unless its age is counted from the last request.
        let time = match self.token {
            Some(token) if stays && self.session.idle.is_none() => token.time,
            _ => now,
        };
        let token = Token { backend: self.backend, endpoint, time }.to_string();
        let carrier = &self.session.carrier;
        let token =
            self.key.as_ref().map_or_else(|| token.clone(), |key| key.seal_token(carrier.name(), &token));
        match carrier {
            Carrier::Header(name) => Some((name.clone(), HeaderValue::try_from(token).ok()?)),
            Carrier::Cookie { name, permanent } => {
                let mut text = format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax");
                if self.secure {
                    text.push_str("; Secure");
                }
                if let Some(limit) = self.session.absolute.filter(|_| *permanent) {
                    text.push_str(&format!("; Max-Age={}", limit.as_secs().max(1)));
                }
                Some((http::header::SET_COOKIE, HeaderValue::try_from(text).ok()?))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sticky(session: Session, token: Option<Token>) -> Sticky {
        Sticky { session: Arc::new(session), backend: 1, token, secure: true, key: None }
    }

    fn by_cookie(permanent: bool) -> Session {
        let carrier = Carrier::Cookie { name: "s".into(), permanent };
        Session { carrier, absolute: Some(Duration::from_secs(60)), idle: None }
    }

    const TOKEN: Token = Token { backend: 1, endpoint: 7, time: 1000 };

    #[test]
    fn tokens_are_read_back_and_nothing_else_is() {
        assert_eq!(Token::parse(TOKEN.to_string().as_bytes()), Some(TOKEN));
        for odd in ["", "1.2", "1.2.3.4", "x.2.3", "1.2.3 ", "11111111111111111.2.3", "é.1.1"] {
            assert_eq!(Token::parse(odd.as_bytes()), None, "{odd:?}");
        }
        assert_eq!(Token::parse(&[b'0'; 100]), None);
    }

    #[test]
    fn a_session_ends_by_age_and_tells_of_a_new_endpoint_only() {
        let kept = sticky(by_cookie(true), Some(TOKEN));
        assert_eq!((kept.endpoint(1059), kept.endpoint(1060)), (Some(7), None));
        assert_eq!(kept.field(7, 1010), None);
        let (name, value) = kept.field(8, 1010).unwrap();
        let value = value.to_str().unwrap();
        assert_eq!(name, http::header::SET_COOKIE);
        assert!(value.starts_with("s=0000000000000001.0000000000000008.3f2; "), "{value}");
        for part in ["HttpOnly", "SameSite=Lax", "Secure", "Max-Age=60", "Path=/"] {
            assert!(value.split("; ").any(|p| p == part), "{part} in {value}");
        }
        assert!(kept.field(7, 1060).is_some(), "a session that is over begins anew");
        let (_, value) = sticky(by_cookie(false), None).field(7, 1).unwrap();
        assert!(!value.to_str().unwrap().contains("Max-Age"));
    }

    #[test]
    fn a_session_that_is_over_is_over_for_its_backend_as_well() {
        let session = by_cookie(true);
        let mut headers = http::HeaderMap::new();
        headers.insert("cookie", format!("s={TOKEN}").parse().unwrap());
        let head = RequestHead {
            scheme: "https",
            host: "x",
            method: &http::Method::GET,
            path: "/",
            query: None,
            headers: &headers,
        };
        assert_eq!(session.token(&head, 1059, Issuing::Mesh), Some(TOKEN));
        assert_eq!(session.token(&head, 1060, Issuing::Mesh), None);
    }

    #[test]
    fn with_an_idle_limit_each_answer_renews_the_token() {
        let carrier = Carrier::Header("x-session".parse().unwrap());
        let session = Session { carrier, absolute: None, idle: Some(Duration::from_secs(10)) };
        let kept = sticky(session, Some(TOKEN));
        assert_eq!((kept.endpoint(1009), kept.endpoint(1010)), (Some(7), None));
        let (name, value) = kept.field(7, 1009).unwrap();
        assert_eq!(name, "x-session");
        assert_eq!(Token::parse(value.as_bytes()).unwrap().time, 1009);
    }
}
