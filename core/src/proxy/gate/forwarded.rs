//! What trusted proxies in front of this one say of a request: who the client is, and what it spoke.
//!
//! Each proxy adds the address it saw at the end of `X-Forwarded-For`. With one trusted proxy the last entry is the
//! client's, with two the one before it, and what stands further left is anybody's claim. Where there are fewer entries,
//! the request took a shorter way, and the first is the client's.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_error::Result;
use pingora_http::RequestHeader;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is believed of a request's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Believed {
    /// The client; none: nobody said, or nothing that is an address.
    pub client: Option<IpAddr>,
    /// Everybody whom the proxies named, from the client's side on.
    chain: Vec<String>,
    /// `http` or `https`.
    proto: Option<&'static str>,
    host: Option<HeaderValue>,
}

impl Believed {
    /// What `hops` (at least 1) trusted proxies say. `Forwarded` (RFC 7239) is read where there is no `X-Forwarded-For`.
    pub fn of(headers: &HeaderMap, hops: u8) -> Self {
        let chain = match headers.contains_key(FOR) {
            true => list(headers, &FOR).map(str::to_owned).collect(),
            false => list(headers, &header::FORWARDED).map(forwarded_for).collect::<Vec<_>>(),
        };
        let at = chain.len().saturating_sub(usize::from(hops));
        let client = chain.get(at).and_then(|text| address(text));
        let proto = match headers.get(PROTO).map(HeaderValue::as_bytes) {
            Some(b"https") => Some("https"),
            Some(b"http") => Some("http"),
            _ => None,
        };
        Self { client, chain, proto, host: headers.get(HOST).cloned() }
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

/// The items of a list over all fields of a name.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

/// The node of a `Forwarded` element, `unknown` where it names none.
fn forwarded_for(element: &str) -> String {
    let node = element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    });
    node.unwrap_or("unknown").trim_matches('"').to_owned()
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
        Believed::of(&headers, hops).client.map(|ip| ip.to_string())
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
        assert_eq!(of(&["unknown"], 1), None);
        assert_eq!(of(&[], 1), None);
    }

    #[test]
    fn forwarded_is_read_where_nothing_else_is_there() {
        let of = |value: &str| client(header::FORWARDED, &[value], 1);
        assert_eq!(of("for=6.6.6.6, for=1.1.1.1;proto=https").as_deref(), Some("1.1.1.1"));
        assert_eq!(of("proto=https;For=\"[2001:db8::1]:47011\"").as_deref(), Some("2001:db8::1"));
        assert_eq!(of("proto=https"), None);
    }

    #[test]
    fn the_chain_is_passed_on_with_the_proxy_itself() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("x-forwarded-for", "1.1.1.1, 2.2.2.2").unwrap();
        request.insert_header("x-forwarded-proto", "https").unwrap();
        request.insert_header("x-forwarded-host", "shop.example").unwrap();
        let believed = Believed::of(&request.headers, 1);
        for name in [FOR, PROTO, HOST] {
            request.remove_header(&name);
        }
        believed.write(&mut request, "9.9.9.9:1".parse().unwrap()).unwrap();
        assert_eq!(request.headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 9.9.9.9");
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert_eq!(request.headers["x-forwarded-host"], "shop.example");
    }
}
