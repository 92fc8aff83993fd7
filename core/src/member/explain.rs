//! The question of the admin page `/explain`, as it is asked and as it is answered.
//!
//! `/explain?method=GET&url=https://shop.example/cart&header=x-gray:%20v2&address=192.0.2.1&identity=spiffe://...`

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::{
    decide::{Caller, RequestHead, lane_from_baggage},
    model::{Lane, SpiffeId},
};

/// Header fields in one question. More are refused.
const MAX_HEADERS: usize = 100;

/// A request whose decision is to be explained.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Method.
    pub method: Method,
    /// An absolute URL.
    pub url: Uri,
    /// Header fields; see [`Question::add_header`].
    headers: HeaderMap,
    /// Where the client is; 127.0.0.1 if it is not said.
    pub address: IpAddr,
    /// Who the caller is in the mesh.
    pub identity: Option<SpiffeId>,
    /// Decides what is left to chance.
    pub random: u64,
    /// The lane that its headers claim.
    lane: Option<Lane>,
}

/// Why a question is none. The text says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuestionError(String);

impl Question {
    /// A question from a method and URL, without headers.
    pub fn new(method: &str, url: &str) -> Result<Self, QuestionError> {
        let method = Method::from_bytes(method.as_bytes());
        let uri: Uri = url.parse().map_err(|_| refuse(format!("{url:?} is no URL")))?;
        if uri.scheme().is_none() || uri.host().is_none_or(str::is_empty) {
            return Err(refuse(format!("{url:?} is no absolute URL; use e.g. https://shop.example/cart")));
        }
        Ok(Self {
            method: method.map_err(|_| refuse("the method is not well-formed".into()))?,
            url: uri,
            headers: HeaderMap::new(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            identity: None,
            random: 0,
            lane: None,
        })
    }

    /// Adds a header field, written `name: value`.
    pub fn add_header(&mut self, field: &str) -> Result<(), QuestionError> {
        let wrong = || refuse(format!("{field:?} is no header field; use 'name: value'"));
        let (name, value) = field.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        if self.headers.len() >= MAX_HEADERS {
            return Err(refuse(format!("more than {MAX_HEADERS} header fields")));
        }
        self.headers.append(name, value);
        self.lane = lane_from_baggage(&self.headers);
        Ok(())
    }

    /// Reads the query of the admin page.
    pub fn parse(query: &str) -> Result<Self, QuestionError> {
        let fields = fields(query)?;
        let one = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let url = one("url").ok_or_else(|| refuse("url is missing".into()))?;
        let mut question = Self::new(one("method").unwrap_or("GET"), url)?;
        for (name, value) in &fields {
            match name.as_str() {
                "header" => question.add_header(value)?,
                "address" => {
                    question.address =
                        value.parse().map_err(|_| refuse(format!("{value:?} is no IP address")))?;
                }
                "identity" => {
                    question.identity =
                        Some(SpiffeId::parse(value).map_err(|error| refuse(error.to_string()))?);
                }
                "random" => {
                    question.random = value.parse().map_err(|_| refuse(format!("{value:?} is no number")))?;
                }
                "method" | "url" => {}
                other => return Err(refuse(format!("{other:?} is not known"))),
            }
        }
        Ok(question)
    }

    /// The query of the admin page that asks this.
    pub fn to_query(&self) -> String {
        let mut query =
            format!("method={}&url={}", encode(self.method.as_str()), encode(&self.url.to_string()));
        for (name, value) in &self.headers {
            let field = format!("{name}: {}", value.to_str().unwrap_or_default());
            query += &format!("&header={}", encode(&field));
        }
        query += &format!("&address={}&random={}", self.address, self.random);
        if let Some(identity) = &self.identity {
            query += &format!("&identity={}", encode(&identity.to_string()));
        }
        query
    }

    /// The port that the URL means.
    pub fn port(&self) -> u16 {
        let default = if self.url.scheme_str() == Some("https") { 443 } else { 80 };
        self.url.port_u16().unwrap_or(default)
    }

    /// The host, lower case.
    pub fn host(&self) -> String {
        let host = self.url.host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
    }

    /// The request's head; `host` is [`Question::host`].
    pub fn head<'q>(&'q self, host: &'q str) -> RequestHead<'q> {
        RequestHead {
            scheme: self.url.scheme_str().unwrap_or("http"),
            host,
            method: &self.method,
            path: self.url.path(),
            query: self.url.query(),
            headers: &self.headers,
        }
    }

    /// The caller; `host` is [`Question::host`], which a client asks for by SNI too.
    pub fn caller<'q>(&'q self, host: &'q str) -> Caller<'q> {
        let sni = (self.url.scheme_str() == Some("https")).then_some(host);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Caller {
            address: self.address,
            identity: self.identity.as_ref(),
            sni,
            claimed_lane: self.lane.as_ref(),
            random: self.random,
            now,
        }
    }
}

/// Names and values of a query.
pub(super) fn fields(query: &str) -> Result<Vec<(String, String)>, QuestionError> {
    let field = |field: &str| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        Ok((decode(name)?, decode(value)?))
    };
    query.split('&').filter(|field| !field.is_empty()).map(field).collect()
}

impl QuestionError {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

fn refuse(text: String) -> QuestionError {
    QuestionError(text)
}

/// Percent-decoding of a query's part (`application/x-www-form-urlencoded`).
fn decode(text: &str) -> Result<String, QuestionError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = rest.next().zip(rest.next());
                let digit = |b: u8| char::from(b).to_digit(16);
                let byte = digits.and_then(|(high, low)| u8::try_from(digit(high)? * 16 + digit(low)?).ok());
                byte.ok_or_else(|| refuse(format!("{text:?} is not percent-encoded")))?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| refuse(format!("{text:?} is not UTF-8")))
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut question = Question::new("POST", "https://Shop.example:8443/a%20b?c=d&e=f").unwrap();
        question.add_header("x-gray: v2").unwrap();
        question.add_header("cookie:a=1&b=2; c=%41+").unwrap();
        question.address = "2001:db8::1".parse().unwrap();
        question.identity = Some(SpiffeId::parse("spiffe://east.example/ns/shop/sa/web").unwrap());
        question.random = u64::MAX;
        assert_eq!(Question::parse(&question.to_query()).unwrap(), question);
        assert_eq!((question.host().as_str(), question.port()), ("shop.example", 8443));
    }

    #[test]
    fn a_url_is_enough() {
        let question = Question::parse("url=http://a.example").unwrap();
        let host = question.host();
        let head = question.head(&host);
        assert_eq!(
            (head.method, head.scheme, head.host, head.path),
            (&Method::GET, "http", "a.example", "/")
        );
        assert_eq!(question.port(), 80);
        assert_eq!(question.caller(&host).sni, None);
        assert_eq!(Question::parse("url=https://a.example").unwrap().port(), 443);
    }

    #[test]
    fn says_what_is_wrong() {
        for (query, says) in [
            ("", "url is missing"),
            ("url=/path", "absolute"),
            ("url=http://a&method=G%20T", "method"),
            ("url=http://a&header=x", "header field"),
            ("url=http://a&header=x:a%0Ay", "header field"),
            ("url=http://a&address=x", "IP address"),
            ("url=http://a&identity=x", "SPIFFE"),
            ("url=http://a&colour=x", "\"colour\" is not known"),
            ("url=%zz", "percent-encoded"),
            ("url=%ff", "UTF-8"),
            ("url=%f", "percent-encoded"),
        ] {
            let error = Question::parse(query).unwrap_err().to_string();
            assert!(error.contains(says), "{query}: {error}");
        }
        let many: String = (0..200).map(|n| format!("&header=x{n}:1")).collect();
        assert!(Question::parse(&format!("url=http://a{many}")).is_err());
    }
}
