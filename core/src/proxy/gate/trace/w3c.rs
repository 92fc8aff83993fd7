//! W3C Trace Context: `traceparent` and `tracestate`.

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::RequestHeader;

use super::{
    Incoming,
    hex::{self, Digits},
    value,
};
use crate::proxy::gate::head::unique;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Members of a `tracestate` (section 3.3.1.1); with more it is not valid, and dropped.
const MEMBERS: usize = 32;
/// Bytes of a `tracestate` that are passed on: what everybody has to pass on (section 3.3.1.5). Beyond them, members longer
/// than [`LONG`] go first, then those at the end.
const STATE: usize = 512;
const LONG: usize = 128;

/// A valid `traceparent` (section 3.2.2); none where there are several, or none.
pub(super) fn read(headers: &HeaderMap) -> Option<Incoming> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = hex::read(version, 2).filter(|version| *version != 0xff)?;
    if version == 0 && parts.next().is_some() {
        return None;
    }
    let trace = hex::read(trace, 32).filter(|trace| *trace != 0)?;
    let flags = hex::read(flags, 2)?;
    Some(Incoming { ids: Some((trace, hex::span(span)?)), sampled: Some(flags & 1 == 1) })
}

/// Sets the `traceparent`.
pub(super) fn write(request: &mut RequestHeader, trace: &Digits, span: u64, sampled: bool) -> Result<()> {
    let mut text = *b"00-................................-................-00";
    if let Some(digits) = text.get_mut(3..35) {
        digits.copy_from_slice(trace.text().as_bytes());
    }
    hex::write(&span.to_be_bytes(), text.get_mut(36..52).unwrap_or_default());
    if let (Some(flag), true) = (text.last_mut(), sampled) {
        *flag = b'1';
    }
    request.insert_header("traceparent", unique(value(&text)))
}

/// Keeps the `tracestate` within its bounds. Without a `traceparent` that it belongs to, it goes.
pub(super) fn bound_state(request: &mut RequestHeader, belongs: bool) -> Result<()> {
    let mut fields = request.headers.get_all(TRACESTATE).iter();
    if let (true, Some(only), None) = (belongs, fields.next(), fields.next())
        && only.len() <= STATE
        && only.as_bytes().iter().filter(|b| **b == b',').count() < MEMBERS
    {
        return Ok(());
    }
    let kept = if belongs { cut(&request.headers) } else { None };
    request.remove_header(&TRACESTATE);
    match kept.and_then(|text| HeaderValue::from_str(&text).ok()) {
        Some(value) => request.insert_header("tracestate", value),
        None => Ok(()),
    }
}

/// All fields as one, cut to its bounds; none: it is not valid, or nothing is left.
fn cut(headers: &HeaderMap) -> Option<String> {
    let mut members = Vec::new();
    for field in headers.get_all(TRACESTATE) {
        let field = field.to_str().ok()?;
        members.extend(field.split(',').map(str::trim).filter(|member| !member.is_empty()));
        if members.len() > MEMBERS {
            return None;
        }
    }
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    while length(&members) > STATE + 1 {
        match members.iter().rposition(|member| member.len() > LONG) {
            Some(long) => drop(members.remove(long)),
            None => drop(members.pop()),
        }
    }
    (!members.is_empty()).then(|| members.join(","))
}

/// The `tracestate`, after [`bound_state`].
pub(super) fn state(headers: &HeaderMap) -> Option<Box<str>> {
    Some(headers.get(TRACESTATE)?.to_str().ok()?.into())
}
