//! Rules for a request's head: what is refused, what is stripped or set where it enters, and what a decision changes.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::{failure::Failure, present::Present};
use crate::{
    decide::{CORS_FIELDS, CorsAnswer, Decision, HeaderEdits, PathRewrite, baggage_with_lane, carries_lane},
    model::SpiffeId,
    proxy::HttpLimits,
};

/// Who called, as the inbound sidecar verified it: `By=OWN-ID;URI=CALLER-ID`.
pub(super) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
// Fields are added by their names' texts: pingora keeps a name as it was written beside its value, and copies all but
// static texts for it.
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: &str = "x-forwarded-host";
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// A request id from outside is kept if it is no longer than this and visible ASCII; else it is replaced.
const REQUEST_ID_LENGTH: usize = 128;

/// What HTTP/2 lets through and we do not. Of HTTP/1 all of it was refused before, see [`crate::proxy::strict`].
/// `host` is empty where it has none.
pub(super) fn check(request: &RequestHeader, host: &str, limits: &HttpLimits) -> Result<(), Failure> {
    if request.method == Method::TRACE || request.method == Method::CONNECT {
        return Err(Failure::new(405, "method_refused"));
    }
    if host.is_empty() {
        return Err(Failure::new(400, "no_host"));
    }
    if request.headers.len() > limits.fields {
        return Err(Failure::new(431, "too_many_fields"));
    }
    let target = request.uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > limits.target_bytes {
        return Err(Failure::new(414, "target_too_long"));
    }
    let asterisk = target == "*" && request.method == Method::OPTIONS;
    if !target.starts_with('/') && !asterisk {
        return Err(Failure::new(400, "bad_target"));
    }
    Ok(())
}

/// The authority, with its port.
pub(super) fn authority(request: &RequestHeader) -> Option<&str> {
    match request.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers.get(header::HOST)?.to_str().ok(),
    }
}

/// The host without port, in lower case.
pub(super) fn host(request: &RequestHeader) -> Option<Cow<'_, str>> {
    let authority = authority(request)?;
    let end = |from: &str, by: u8| memchr::memchr(by, from.as_bytes()).unwrap_or(from.len());
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.get(..end(v6, b']'))?,
        None => authority.get(..end(authority, b':'))?,
    };
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// Several Cookie fields, as HTTP/2 allows them, become one (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let crumbs: Vec<&[u8]> =
        request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    match joined {
        Ok(value) => request.insert_header(header::COOKIE, value),
        // Parts of valid values put together are valid.
        Err(_) => Ok(()),
    }
}

/// Where public traffic enters: nothing that steers the mesh is believed (DESIGN section 2, rule 5).
pub(super) fn enter_edge(
    request: &mut RequestHeader,
    client: IpAddr,
    tls: bool,
    present: Present,
    fresh_id: impl FnOnce() -> HeaderValue,
) -> Result<()> {
    let host = match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers.get(header::HOST).cloned(),
    };
    if present.forwarded {
        let is_foreign =
            |name: &&HeaderName| name.as_str().starts_with("x-forwarded-") || **name == header::FORWARDED;
        let foreign: Vec<HeaderName> = request.headers.keys().filter(is_foreign).cloned().collect();
        for name in &foreign {
            request.remove_header(name);
        }
    }
    request.insert_header(FORWARDED_FOR, address(client))?;
    let scheme = HeaderValue::from_static(if tls { "https" } else { "http" });
    request.insert_header("x-forwarded-proto", scheme)?;
    request.insert_header(FORWARDED_HOST, host.unwrap_or(HeaderValue::from_static("")))?;
    if present.timeout {
        request.remove_header(&super::deadline::TIMEOUT);
    }
    if present.baggage {
        set_lane(request, None)?;
    }
    identify(request, fresh_id)
}

/// Gives a request a log id, unless it has one that can be one.
pub(super) fn identify(request: &mut RequestHeader, fresh_id: impl FnOnce() -> HeaderValue) -> Result<()> {
    let known = request.headers.get(REQUEST_ID).is_some_and(|id| {
        (1..=REQUEST_ID_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    if !known {
        request.insert_header("x-request-id", unique(fresh_id()))?;
    }
    Ok(())
}

/// A value that does not come again: over HTTP/2, tables of fields known to both sides are not to be filled with it (RFC 7541
/// section 6.2), which our HTTP/2 takes from this mark.
pub(super) fn unique(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// An address as a field's value. Most are IPv4, which formatting in general takes ten times as long for.
fn address(ip: IpAddr) -> HeaderValue {
    let mut text = [0; 15];
    let mut length = 0;
    let mut put = |byte: u8| {
        if let Some(place) = text.get_mut(length) {
            *place = byte;
            length += 1;
        }
    };
    match ip {
        IpAddr::V4(v4) => {
            for (place, octet) in v4.octets().into_iter().enumerate() {
                if place > 0 {
                    put(b'.');
                }
                for (divisor, least) in [(100, 100), (10, 10), (1, 0)] {
                    if octet >= least {
                        put(b'0' + octet / divisor % 10);
                    }
                }
            }
            // Digits and dots are always valid.
            let text = text.get(..length).unwrap_or_default();
            HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
        }
        IpAddr::V6(v6) => HeaderValue::try_from(v6.to_string()).unwrap_or(HeaderValue::from_static("")),
    }
}

/// Where mesh traffic arrives: says who called, and only what was verified.
pub(super) fn enter_inbound(
    request: &mut RequestHeader,
    own: Option<&SpiffeId>,
    caller: Option<&SpiffeId>,
) -> Result<()> {
    request.remove_header(&CLIENT_CERT);
    match (own, caller) {
        (Some(own), Some(caller)) => request.insert_header(CLIENT_CERT, format!("By={own};URI={caller}")),
        (None, Some(caller)) => request.insert_header(CLIENT_CERT, format!("URI={caller}")),
        (_, None) => Ok(()),
    }
}

fn set_lane(request: &mut RequestHeader, lane: Option<&crate::model::Lane>) -> Result<()> {
    if carries_lane(&request.headers, lane) {
        return Ok(());
    }
    let value = baggage_with_lane(&request.headers, lane);
    request.remove_header(&BAGGAGE);
    match value {
        Some(value) => request.insert_header(BAGGAGE, value),
        None => Ok(()),
    }
}

/// Changes a request as its decision says: lane, header edits, URL.
pub(super) fn apply(request: &mut RequestHeader, decision: &Decision, present: Present) -> Result<()> {
    if present.baggage || decision.lane.is_some() {
        set_lane(request, decision.lane.as_ref())?;
    }
    let edits = &decision.filters.request;
    for (name, value) in &edits.set {
        request.insert_header(name, value)?;
    }
    for (name, value) in &edits.add {
        request.append_header(name, value)?;
    }
    for name in &edits.remove {
        request.remove_header(name);
    }
    let rewrite = &decision.filters.rewrite;
    if rewrite.hostname.is_some() || rewrite.path.is_some() {
        rewrite_url(request, rewrite.hostname.as_deref(), rewrite.path.as_ref())?;
    }
    Ok(())
}

fn rewrite_url(request: &mut RequestHeader, host: Option<&str>, path: Option<&PathRewrite>) -> Result<()> {
    let old = request.uri.clone();
    let path = path.map_or(Cow::Borrowed(old.path()), |rewrite| rewrite.apply(old.path()));
    let target = match old.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    let mut builder = Uri::builder().path_and_query(target);
    if let Some(authority) = old.authority() {
        builder =
            builder.scheme(old.scheme_str().unwrap_or("http")).authority(host.unwrap_or(authority.as_str()));
    }
    // What cannot be a URL is left as it was; the documents were validated, so that only odd requests come here.
    if let Ok(uri) = builder.build() {
        request.set_uri(uri);
    }
    match host {
        Some(host) if request.headers.contains_key(header::HOST) => request.insert_header(header::HOST, host),
        _ => Ok(()),
    }
}

/// Changes a response: set, add, remove.
pub(super) fn edit_response(response: &mut ResponseHeader, edits: &HeaderEdits) -> Result<()> {
    for (name, value) in &edits.set {
        response.insert_header(name, value)?;
    }
    for (name, value) in &edits.add {
        response.append_header(name, value)?;
    }
    for name in &edits.remove {
        response.remove_header(name);
    }
    Ok(())
}

/// Tells the request's id, by which the access logs of all proxies on its way can be searched.
pub(super) fn tell_request_id(request: &HeaderMap, response: &mut ResponseHeader) -> Result<()> {
    match request.get(REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_LENGTH) {
        Some(id) => response.insert_header("x-request-id", id),
        None => Ok(()),
    }
}

/// Says which page may read the answer, where a CORS filter applies.
pub(super) fn allow_origin(response: &mut ResponseHeader, cors: Option<&CorsAnswer>) -> Result<()> {
    let Some(cors) = cors else { return Ok(()) };
    for name in &CORS_FIELDS {
        response.remove_header(name);
    }
    for (name, value) in &cors.fields {
        response.insert_header(name, value)?;
    }
    if cors.varies {
        response.append_header(header::VARY, HeaderValue::from_static("origin"))?;
    }
    Ok(())
}

/// The scheme that the client used, as far as those before us said so.
pub(super) fn forwarded_scheme(headers: &HeaderMap) -> &'static str {
    match headers.get(FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        _ => "http",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_written_as_everywhere(v4: u32, v6: u128) {
            let v4 = IpAddr::V4(Ipv4Addr::from(v4));
            let v6 = IpAddr::V6(Ipv6Addr::from(v6));
            prop_assert_eq!(address(v4), v4.to_string());
            prop_assert_eq!(address(v6), v6.to_string());
        }
    }
}
