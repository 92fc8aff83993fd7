//! A request's head as it is kept for a while, so that another configuration can be tried on it.
//!
//! Of headers and cookies the names are kept; values of those alone that the operator names: to the gateway, or in the
//! configuration, by deciding by them. Of the query the same.

use std::{collections::HashSet, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::COOKIE};
use serde::{Deserialize, Serialize};

use super::{BindKey, Caller, Deciding, LANE_MEMBER, RequestHead, gray::cookies};
use crate::model::Lane;

/// Bytes that one sample may take; larger heads are not kept.
const MOST: usize = 8 << 10;

/// What an operator names to a gateway, besides what the configuration decides by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Headers.
    pub headers: HashSet<HeaderName>,
    /// Cookies.
    pub cookies: HashSet<Box<str>>,
}

/// Something of a head, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// None: it was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A request's head, and who sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When, in seconds since the Unix epoch.
    pub unix_seconds: i64,
    /// The socket's configured address; none: it has none of its own.
    pub address: Option<IpAddr>,
    /// Its configured port.
    pub port: u16,
    /// `http` or `https`.
    pub scheme: String,
    /// Host without port.
    pub host: String,
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Parameters of the query, as they stood there.
    pub query: Vec<Part>,
    /// Header fields but `cookie`.
    pub headers: Vec<Part>,
    /// Cookies.
    pub cookies: Vec<Part>,
    /// The lane that the client claimed.
    pub lane: Option<Part>,
    /// The client's address.
    pub client: IpAddr,
    /// The name that a TLS client asked for.
    pub sni: Option<String>,
    /// What decided where something was left to chance.
    pub random: u64,
}

impl Sample {
    /// What is kept of a request. None: it is too large.
    pub fn of(
        bind: BindKey,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
        (named, deciding): (&Named, &Deciding),
        unix_seconds: i64,
    ) -> Option<Self> {
        let part = |name: &[u8], value: Option<&[u8]>| {
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
            Some(Part { name: text(name)?, value: value.and_then(text) })
        };
        let header = |(name, value): (&HeaderName, &HeaderValue)| {
            let keeps = named.headers.contains(name) || deciding.headers.contains(name);
            part(name.as_str().as_bytes(), keeps.then_some(value.as_bytes()))
        };
        let cookie = |(name, value): (&[u8], &[u8])| {
            let text = std::str::from_utf8(name).ok()?;
            let keeps = named.cookies.contains(text) || deciding.cookies.contains(text);
            part(name, keeps.then_some(value))
        };
        let parameter = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            part(name.as_bytes(), deciding.parameters.contains(name).then_some(value.as_bytes()))
        };
        let lane = |lane: &Lane| Part {
            name: LANE_MEMBER.into(),
            value: deciding.lane.then(|| lane.as_str().to_owned()),
        };
        let query = head.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let sample = Self {
            unix_seconds,
            address: bind.address,
            port: bind.port,
            scheme: head.scheme.into(),
            host: head.host.into(),
            method: head.method.as_str().into(),
            path: head.path.into(),
            query: query.filter_map(parameter).collect(),
            headers: head.headers.iter().filter(|(name, _)| *name != COOKIE).filter_map(header).collect(),
            cookies: cookies(head.headers).filter_map(cookie).collect(),
            lane: caller.claimed_lane.map(lane),
            client: caller.address,
            sni: caller.sni.map(Into::into),
            random: caller.random,
        };
        (sample.bytes() <= MOST).then_some(sample)
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.query.iter().chain(&self.headers).chain(&self.cookies).chain(&self.lane)
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let part =
            |part: &Part| size_of::<Part>() + part.name.len() + part.value.as_ref().map_or(0, String::len);
        let own = [&self.scheme, &self.host, &self.method, &self.path].map(|text| text.len());
        size_of::<Self>() + own.iter().sum::<usize>() + self.parts().map(part).sum::<usize>()
    }

    /// e.g. `GET https://shop.example/cart?item=`, without values that were not kept.
    pub fn title(&self) -> String {
        let query = self.query_text().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{} {}://{}{}{query}", self.method, self.scheme, self.host, self.path)
    }

    fn query_text(&self) -> Option<String> {
        let pairs: Vec<String> = self
            .query
            .iter()
            .map(|part| format!("{}={}", part.name, part.value.as_deref().unwrap_or_default()))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("&"))
    }

    /// What a configuration decides by and this sample has not kept: `header x-user`.
    pub(crate) fn missing(&self, deciding: &Deciding) -> Option<String> {
        let lost = |parts: &[Part], kind: &str, decides: &dyn Fn(&str) -> bool| {
            let lost = parts.iter().find(|part| part.value.is_none() && decides(&part.name));
            lost.map(|part| format!("{kind} {}", part.name))
        };
        let is_header =
            |name: &str| HeaderName::try_from(name).is_ok_and(|name| deciding.headers.contains(&name));
        lost(&self.headers, "header", &is_header)
            .or_else(|| lost(&self.cookies, "cookie", &|name| deciding.cookies.contains(name)))
            .or_else(|| lost(&self.query, "query parameter", &|name| deciding.parameters.contains(name)))
            .or_else(|| lost(self.lane.as_slice(), "lane", &|_| deciding.lane))
    }

    /// The request again, as far as it was kept. None: it is not well-formed.
    pub(crate) fn replay<R>(&self, f: impl FnOnce(BindKey, &RequestHead<'_>, &Caller<'_>) -> R) -> Option<R> {
        let mut headers = HeaderMap::new();
        for part in &self.headers {
            let value = part.value.as_deref().unwrap_or_default();
            headers.append(HeaderName::try_from(&part.name).ok()?, HeaderValue::try_from(value).ok()?);
        }
        let cookie = |part: &Part| format!("{}={}", part.name, part.value.as_deref().unwrap_or_default());
        if !self.cookies.is_empty() {
            let all: Vec<String> = self.cookies.iter().map(cookie).collect();
            headers.insert(COOKIE, HeaderValue::try_from(all.join("; ")).ok()?);
        }
        let (method, query) = (Method::from_bytes(self.method.as_bytes()).ok()?, self.query_text());
        let head = RequestHead {
            scheme: if self.scheme == "https" { "https" } else { "http" },
            host: &self.host,
            method: &method,
            path: &self.path,
            query: query.as_deref(),
            headers: &headers,
        };
        let lane = self.lane.as_ref().and_then(|part| Lane::parse(part.value.as_deref()?).ok());
        let caller = Caller {
            address: self.client,
            identity: None,
            sni: self.sni.as_deref(),
            claimed_lane: lane.as_ref(),
            random: self.random,
            // When it was is not kept: its session lasts.
            now: 0,
        };
        Some(f(BindKey { address: self.address, port: self.port }, &head, &caller))
    }
}
