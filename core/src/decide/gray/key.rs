//! What a user is recognised by, and the cookie that is issued where there is nothing yet.

use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::seal::{ID, Issuing, Sealed};
use crate::decide::{Caller, RequestHead};

/// Name of the cookie that is issued where the release names no cookie itself.
pub(crate) const DEFAULT_COOKIE: &str = "tombolo-gray";

/// How long an issued cookie lives, in seconds: 400 days, the most that browsers keep (RFC 6265bis section 5.5).
const MAX_AGE: u32 = 34_560_000;

/// Where the split's key comes from.
#[derive(Debug, Clone)]
pub(crate) enum KeySource {
    /// A cookie that the application sets; one is issued under its name where there is none. What looks like an issued
    /// one must be one.
    Cookie(Box<str>),
    /// A header, else an issued cookie.
    Header(HeaderName),
    /// An issued cookie and nothing else.
    Issued,
    /// The client's address.
    SourceIp,
}

/// A key that was found, or had to be made.
pub(crate) enum Key<'a> {
    /// What the request brought.
    Found(&'a [u8]),
    /// The caller's address.
    Address(std::net::IpAddr),
    /// Nothing was there.
    Made([u8; ID]),
}

impl Key<'_> {
    /// Runs `f` on the key's bytes.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Found(bytes) => f(bytes),
            Self::Made(bytes) => f(bytes),
            Self::Address(std::net::IpAddr::V4(address)) => f(&address.octets()),
            Self::Address(std::net::IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(mapped) => f(&mapped.octets()),
                None => f(&address.octets()),
            },
        }
    }
}

impl KeySource {
    /// The key of a request. An empty value is none, as is an issued cookie that is not believed.
    pub(crate) fn key<'a>(
        &self,
        head: &RequestHead<'a>,
        caller: &Caller<'_>,
        issuing: Issuing<'_>,
    ) -> Key<'a> {
        let issued = |name: &str| cookies_named(head.headers, name).find_map(|value| issuing.id(value));
        let found = match self {
            Self::SourceIp => return Key::Address(caller.address),
            Self::Cookie(name) => {
                cookies_named(head.headers, name).find_map(|value| match Sealed::parse(value) {
                    Some(_) => issuing.id(value),
                    None => Some(value),
                })
            }
            Self::Header(name) => head
                .headers
                .get(name)
                .map(HeaderValue::as_bytes)
                .filter(|value| !value.is_empty())
                .or_else(|| issued(DEFAULT_COOKIE)),
            Self::Issued => issued(DEFAULT_COOKIE),
        };
        found.map_or_else(|| Key::Made(make(caller.random)), Key::Found)
    }

    /// The cookie by which a user is recognised the next time; none for keys that need no cookie.
    pub(crate) fn set_cookie(
        &self,
        key: &Key<'_>,
        secure: bool,
        issuing: Issuing<'_>,
    ) -> Option<HeaderValue> {
        let Key::Made(id) = key else { return None };
        let name = match self {
            Self::Cookie(name) => name,
            Self::Header(_) | Self::Issued => DEFAULT_COOKIE,
            Self::SourceIp => return None,
        };
        let value = issuing.key()?.seal(std::str::from_utf8(id).ok()?);
        let secure = if secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!(
            "{name}={value}; Path=/; Max-Age={MAX_AGE}; HttpOnly; SameSite=Lax{secure}"
        ))
        .ok()
    }
}

/// 128 bits in lower-case hex, from the caller's 64 random ones.
fn make(random: u64) -> [u8; ID] {
    let bytes = random.to_be_bytes();
    let halves = [xxh3_64(&bytes), xxh3_64_with_seed(&bytes, 0x6772_6179)];
    let wide = u128::from(halves[0]) << 64 | u128::from(halves[1]);
    let mut out = [0; ID];
    for (at, digit) in out.iter_mut().enumerate() {
        let nibble = (wide >> (124 - 4 * at)) as u8 & 0xf;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    out
}

/// The first cookie of a name with a value, over all `Cookie` headers (HTTP/2 may split them, RFC 9113 section 8.2.3).
/// Double quotes around the value are not part of it.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    cookies_named(headers, name).next()
}

/// The values of all cookies of a name that have one.
pub(crate) fn cookies_named<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    cookies(headers)
        .filter(move |(n, value)| *n == name.as_bytes() && !value.is_empty())
        .map(|(_, value)| value)
}

/// All cookies of a request.
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(COOKIE).iter().flat_map(|header| header.as_bytes().split(|b| *b == b';')).filter_map(
        |pair| {
            let at = pair.iter().position(|b| *b == b'=')?;
            let (name, value) = pair.split_at_checked(at)?;
            let value = value.strip_prefix(b"=")?.trim_ascii();
            let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
            Some((name.trim_ascii(), value))
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::seal::CookieKey, *};

    #[test]
    fn cookies_are_found_wherever_they_stand() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; uid=\"u 1\";b".parse().unwrap());
        headers.append(COOKIE, "empty=; c= 3 ; empty=4; d=x=y".parse().unwrap());
        for (name, value) in [
            ("a", Some("1")),
            ("uid", Some("u 1")),
            ("c", Some("3")),
            ("empty", Some("4")),
            ("d", Some("x=y")),
            ("b", None),
        ] {
            assert_eq!(cookie(&headers, name), value.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn made_keys_are_128_bits_of_hex_and_differ() {
        let keys: std::collections::HashSet<_> = (0..1000).map(make).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().flatten().all(u8::is_ascii_hexdigit));
    }

    #[test]
    fn an_issued_cookie_is_bound_to_https_where_it_was_issued_there() {
        let sealing = CookieKey::derive(b"secret");
        let key = Key::Made(*b"0123456789abcdef0123456789abcdef");
        let set = |source: &KeySource, secure, issuing| source.set_cookie(&key, secure, issuing);
        let source = KeySource::Cookie("uid".into());
        let sealed = sealing.seal("0123456789abcdef0123456789abcdef");
        let expected = format!("uid={sealed}; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(set(&source, true, Issuing::Signed(&sealing)).unwrap(), expected);
        let plain = set(&KeySource::Issued, false, Issuing::Signed(&sealing)).unwrap();
        assert!(!plain.to_str().unwrap().contains("Secure"));
        assert!(plain.to_str().unwrap().starts_with("tombolo-gray="));
        assert!(set(&source, true, Issuing::Never).is_none() && set(&source, true, Issuing::Mesh).is_none());
        assert!(source.set_cookie(&Key::Found(b"x"), true, Issuing::Signed(&sealing)).is_none());
    }

    #[test]
    fn a_mapped_address_is_the_same_user() {
        let bytes = |text: &str| Key::Address(text.parse().unwrap()).with(<[u8]>::to_vec);
        assert_eq!(bytes("10.0.0.1"), bytes("::ffff:10.0.0.1"));
        assert_ne!(bytes("10.0.0.1"), bytes("10.0.0.2"));
    }
}
