//! What trusted proxies in front of this one say of a request: who the client is, and what it spoke.
//!
//! Each proxy adds the address it saw at the end of `X-Forwarded-For`. With one trusted proxy the last entry is the
//! client's, with two the one before it, and what stands further left is anybody's claim. Where there are fewer entries,
//! the request took a shorter way, and the first is the client's.
//!
//! Other proxies do the same with `Forwarded` (RFC 7239). Only the field that ours are said to write is read: the other
//! one comes from the client, past all of them.
//!
//! Where the entry that counts is no address (`unknown`, or what a client's own text has made of the line), the client is
//! nobody: [`NOBODY`], and not the proxy, whose address may open doors.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_error::Result;
use pingora_http::RequestHeader;

use crate::proxy::TrustedField;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who is told of, but not by an address.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// The same in a chain.
const UNKNOWN: &str = "unknown";

/// What is believed of a request's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Believed {
    /// The client; none: nobody said.
    pub client: Option<IpAddr>,
    /// Everybody whom the proxies named, from the client's side on.
    chain: Vec<String>,
    /// `http` or `https`.
    proto: Option<&'static str>,
    host: Option<HeaderValue>,
}

impl Believed {
    /// What `hops` (at least 1) trusted proxies say in this field.
    pub fn of(headers: &HeaderMap, hops: u8, field: TrustedField) -> Self {
        match field {
            TrustedField::XForwardedFor => Self::of_x_forwarded(headers, hops),
            TrustedField::Forwarded => Self::of_forwarded(headers, hops),
        }
    }

    fn of_x_forwarded(headers: &HeaderMap, hops: u8) -> Self {
        let items =
            headers.get_all(FOR).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let items = items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty());
        let text = |item: &[u8]| str::from_utf8(item).ok().filter(|text| text.is_ascii()).map(str::to_owned);
        let chain: Vec<String> = items.map(|item| text(item).unwrap_or_else(|| UNKNOWN.into())).collect();
        let client = nth_last(&chain, hops).map(|text| address(text).unwrap_or(NOBODY));
        let proto = headers.get(PROTO).and_then(|value| proto(value.to_str().ok()?));
        Self { client, chain, proto, host: headers.get(HOST).cloned() }
    }

    /// Scheme and host are those of the element that names the client: what it asked the first trusted proxy for.
    fn of_forwarded(headers: &HeaderMap, hops: u8) -> Self {
        let mut elements = Vec::new();
        for value in headers.get_all(header::FORWARDED) {
            match value.to_str().ok().and_then(|line| split(line, b',')) {
                Some(parts) => elements.extend(parts.into_iter().map(str::trim)),
                // Who opened a quote cannot be told from who closed it, nor how many have added to such a line: it is
                // somebody, and nobody before it counts.
                None => elements = vec![""],
            }
        }
        let chain: Vec<String> =
            elements.iter().map(|element| of_element(element, "for").unwrap_or(UNKNOWN).to_owned()).collect();
        let client = nth_last(&chain, hops).map(|text| address(text).unwrap_or(NOBODY));
        let named = nth_last(&elements, hops);
        let proto = named.and_then(|element| proto(of_element(element, "proto")?));
        let host = named.and_then(|element| HeaderValue::from_str(of_element(element, "host")?).ok());
        Self { client, chain, proto, host }
    }

    /// Says it on, with the proxy that connected as the last of the chain.
    pub fn write(self, request: &mut RequestHeader, peer: SocketAddr) -> Result<()> {
        let mut chain = self.chain;
        chain.push(peer.ip().to_canonical().to_string());
        request.insert_header(FOR, chain.join(", "))?;
        if let Some(proto) = self.proto {
            request.insert_header(PROTO, proto)?;
        }
        match self.host {
            Some(host) => request.insert_header(HOST, host),
            None => Ok(()),
        }
    }
}

/// What the outermost of so many proxies has added.
fn nth_last<T>(chain: &[T], hops: u8) -> Option<&T> {
    chain.get(chain.len().saturating_sub(usize::from(hops)))
}

fn proto(text: &str) -> Option<&'static str> {
    ["https", "http"].into_iter().find(|known| text.eq_ignore_ascii_case(known))
}

/// The parts of a text between separators that stand in no quoted string (RFC 9110 section 5.6.4). None: a quoted string
/// does not end, or what may stand in one alone stands outside.
fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'\\' => return None,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(text.get(from..at)?);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(from..)?);
    (!quoted).then_some(parts)
}

/// A parameter of a `Forwarded` element, without its quotes.
fn of_element<'a>(element: &'a str, parameter: &str) -> Option<&'a str> {
    let value = split(element, b';')?.into_iter().find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case(parameter).then_some(value)
    })?;
    let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    (!bare.is_empty() && !bare.contains(['"', '\\'])).then_some(bare)
}

/// An address with or without port, IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    ip.map(|ip| ip.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn client(name: HeaderName, values: &[&str], hops: u8) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), value.parse().unwrap());
        }
        let field = if name == FOR { TrustedField::XForwardedFor } else { TrustedField::Forwarded };
        Believed::of(&headers, hops, field).client.map(|ip| ip.to_string())
    }

    #[test]
    fn only_what_trusted_proxies_added_counts() {
        let of = |values: &[&str], hops| client(FOR, values, hops);
        assert_eq!(of(&["6.6.6.6, 1.1.1.1, 2.2.2.2"], 1).as_deref(), Some("2.2.2.2"));
        assert_eq!(of(&["6.6.6.6, 1.1.1.1", "2.2.2.2"], 2).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&["1.1.1.1"], 2).as_deref(), Some("1.1.1.1"), "a shorter way");
        assert_eq!(of(&["1.1.1.1:555"], 1).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&["[2001:db8::1]:555"], 1).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["2001:db8::1"], 1).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["1.1.1.1, unknown"], 1).as_deref(), Some("0.0.0.0"), "nobody, and not the proxy");
        assert_eq!(of(&[], 1), None);
        // What is no text takes nothing else with it.
        let mut headers = HeaderMap::new();
        headers.insert(FOR, HeaderValue::from_bytes(b"\xff, 1.1.1.1").unwrap());
        let believed = |hops| Believed::of(&headers, hops, TrustedField::XForwardedFor);
        assert_eq!(believed(1).client, Some(IpAddr::from([1, 1, 1, 1])));
        assert_eq!(
            (believed(2).client, believed(2).chain),
            (Some(NOBODY), vec![UNKNOWN.into(), "1.1.1.1".into()])
        );
    }

    #[test]
    fn only_elements_of_trusted_proxies_count() {
        let of = |values: &[&str], hops| client(header::FORWARDED, values, hops);
        assert_eq!(of(&["for=6.6.6.6, for=1.1.1.1;proto=https"], 1).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&["for=6.6.6.6, for=1.1.1.1", "for=2.2.2.2"], 2).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&["proto=https;For=\"[2001:db8::1]:47011\""], 1).as_deref(), Some("2001:db8::1"));
        for unnamed in ["proto=https", "for=unknown", "for=_hidden", "for=", ""] {
            assert_eq!(of(&[unnamed], 1).as_deref(), Some("0.0.0.0"), "{unnamed}");
        }
        assert_eq!(of(&[], 1), None);
        // What a client has made of a line of its own changes nothing behind it; of one that a proxy adds to, it is nobody.
        for open in ["for=\"6.6.6.6", "for=6.6.6.6;by=\"", "a=\"\\", "\\"] {
            assert_eq!(of(&[open, "for=1.1.1.1"], 1).as_deref(), Some("1.1.1.1"), "{open}");
            for added in ["for=1.1.1.1", "for=\"[2001:db8::1]:4\";host=\"a,for=6.6.6.6,b\""] {
                assert_eq!(
                    of(&[&format!("{open}, {added}")], 1).as_deref(),
                    Some("0.0.0.0"),
                    "{open} {added}"
                );
            }
        }
        for (of_client, added) in
            [("for=6.6.6.6", "for=\", for=1.1.1.1, for=2.2.2.2"), ("for=6.6.6.6", "for=\", for=1.1.1.1")]
        {
            assert_eq!(of(&[of_client, added], 2).as_deref(), Some("0.0.0.0"), "{added}");
        }
        assert_eq!(
            of(&["for=6.6.6.6", "for=\"", "for=1.1.1.1", "for=2.2.2.2"], 2).as_deref(),
            Some("1.1.1.1")
        );
        // Nor what a proxy repeats of what the client has said.
        for repeated in ["for=1.1.1.1;host=\"a,for=6.6.6.6\"", "host=\"a;for=6.6.6.6\";for=1.1.1.1"] {
            assert_eq!(of(&["for=7.7.7.7", repeated], 1).as_deref(), Some("1.1.1.1"), "{repeated}");
        }
    }

    #[test]
    fn the_field_that_no_trusted_proxy_writes_says_nothing() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "x.example"),
            ("forwarded", "for=7.7.7.7;proto=http;host=f.example"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let said = |headers: &HeaderMap, field| {
            let Believed { client, chain, proto, host } = Believed::of(headers, 1, field);
            (
                client.map(|ip| ip.to_string()),
                chain,
                proto,
                host.map(|host| host.to_str().unwrap().to_owned()),
            )
        };
        let (x, forwarded) = (TrustedField::XForwardedFor, TrustedField::Forwarded);
        let of = |ip: &str, proto, host: &str| {
            (Some(ip.to_owned()), vec![ip.to_owned()], Some(proto), Some(host.to_owned()))
        };
        assert_eq!(said(&headers, x), of("6.6.6.6", "https", "x.example"));
        assert_eq!(said(&headers, forwarded), of("7.7.7.7", "http", "f.example"));
        let nothing = (None, vec![], None, None);
        let mut alone = headers.clone();
        alone.remove("forwarded");
        assert_eq!(said(&alone, forwarded), nothing);
        for name in [FOR, PROTO, HOST] {
            headers.remove(name);
        }
        assert_eq!(said(&headers, x), nothing);
    }

    #[test]
    fn the_chain_is_passed_on_with_the_proxy_itself() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("x-forwarded-for", "1.1.1.1, 2.2.2.2").unwrap();
        request.insert_header("x-forwarded-proto", "https").unwrap();
        request.insert_header("x-forwarded-host", "shop.example").unwrap();
        let believed = Believed::of(&request.headers, 1, TrustedField::default());
        for name in [FOR, PROTO, HOST] {
            request.remove_header(&name);
        }
        believed.write(&mut request, "9.9.9.9:1".parse().unwrap()).unwrap();
        assert_eq!(request.headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 9.9.9.9");
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert_eq!(request.headers["x-forwarded-host"], "shop.example");
    }
}
