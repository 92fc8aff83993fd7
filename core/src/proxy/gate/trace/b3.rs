//! B3, as Zipkin and older meshes have it: in one field (`b3`) or in several (`x-b3-...`).

use std::num::NonZeroU64;

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::RequestHeader;

use super::{
    Incoming,
    hex::{self, Digits},
};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What is said; nothing where it is not valid. One field counts before several.
pub(super) fn read(headers: &HeaderMap) -> Incoming {
    match text(headers, &SINGLE).and_then(single) {
        Some(incoming) => incoming,
        None => several(headers),
    }
}

/// `TRACE-SPAN[-STATE[-PARENT]]`, or the state alone.
fn single(text: &str) -> Option<Incoming> {
    let mut parts = text.split('-');
    let (first, span) = (parts.next()?, parts.next());
    let Some(span) = span else {
        return Some(Incoming { ids: None, sampled: Some(state(first)?) });
    };
    let sampled = match parts.next() {
        Some(text) => Some(state(text)?),
        None => None,
    };
    Some(Incoming { ids: Some((trace(first)?, hex::span(span)?)), sampled })
}

fn several(headers: &HeaderMap) -> Incoming {
    let id = text(headers, &TRACE).and_then(trace);
    let span = text(headers, &SPAN).and_then(hex::span);
    let debug = text(headers, &FLAGS) == Some("1");
    let sampled = if debug { Some(true) } else { text(headers, &SAMPLED).and_then(state) };
    Incoming { ids: id.zip(span), sampled }
}

/// `d` is for debugging: recorded in any case.
fn state(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// 64 or 128 bits, not zero.
fn trace(text: &str) -> Option<u128> {
    hex::read(text, 32).or_else(|| hex::read(text, 16)).filter(|id| *id != 0)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Says of the fields that are there that this span, which is recorded, is the parent of what comes next.
pub(super) fn rewrite(
    request: &mut RequestHeader,
    trace: &Digits,
    id: u64,
    parent: Option<NonZeroU64>,
) -> Result<()> {
    // An id of 64 bits stays one: whoever comes next may know no others.
    let digits = trace.text();
    let (high, low) = digits.split_at(16);
    let digits = if high.bytes().all(|b| b == b'0') { low } else { digits };
    let parent = parent.map(|parent| format!("{parent:016x}"));
    if let Some(said) = text(&request.headers, &SINGLE) {
        let debug = said == "d" || said.split('-').nth(2) == Some("d");
        let state = if debug { 'd' } else { '1' };
        let tail = parent.as_ref().map(|parent| format!("-{parent}")).unwrap_or_default();
        request.insert_header("b3", field(&format!("{digits}-{id:016x}-{state}{tail}")))?;
    }
    let several = [&TRACE, &SPAN, &SAMPLED, &FLAGS].iter().any(|name| request.headers.contains_key(*name));
    if several {
        request.insert_header("x-b3-traceid", field(digits))?;
        request.insert_header("x-b3-spanid", field(&format!("{id:016x}")))?;
        match parent {
            Some(parent) => request.insert_header("x-b3-parentspanid", field(&parent))?,
            None => drop(request.remove_header(&PARENT)),
        }
        // With the flag of debugging, nothing else says that it is recorded.
        if text(&request.headers, &FLAGS) != Some("1") {
            request.insert_header("x-b3-sampled", field("1"))?;
        }
    }
    Ok(())
}

/// Letters, digits and dashes are always valid.
fn field(text: &str) -> HeaderValue {
    super::value(text.as_bytes())
}
