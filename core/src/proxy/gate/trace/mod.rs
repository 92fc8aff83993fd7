//! Where a request stands in its trace: read from its head as W3C Trace Context or B3, and passed on in the format it came
//! in, and as W3C always.
//!
//! A request of which no span is recorded keeps the context it came with: whoever comes next has the same parent.

mod b3;
mod hex;
mod w3c;

use std::num::NonZeroU64;

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::RequestHeader;

use crate::proxy::{SpanIds, TraceParent};
use hex::Digits;

/// 64 bits that differ from call to call. Not secret: for ids and for spreading load.
pub(in crate::proxy) fn random() -> u64 {
    fastrand::u64(..)
}

/// A new request id: 32 hexadecimal digits.
pub(super) fn request_id() -> HeaderValue {
    value(Digits::of(new_trace()).text().as_bytes())
}

/// A new log id of what carries none.
pub(crate) fn log_id() -> String {
    Digits::of(new_trace()).text().to_owned()
}

fn new_trace() -> u128 {
    u128::from(random() | 1) << 64 | u128::from(random())
}

/// Where a request stands in its trace.
#[derive(Debug)]
pub(in crate::proxy) struct Spot {
    trace: Digits,
    /// The span that is recorded of it, if one is.
    pub span: Option<SpanIds>,
}

impl Spot {
    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.trace.text()
    }
}

/// What a request's head says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Incoming {
    /// The trace and the span that caused the request; not zero.
    ids: Option<(u128, NonZeroU64)>,
    /// Whether that span is recorded; none: it left that open.
    sampled: Option<bool>,
}

/// Reads the context, and writes the one that goes on. `records` says of a trace and its parent whether a span of the
/// request is recorded; `calls`: what is called for it has a span beside it, which then is the parent of what comes next.
pub(super) fn enter(
    request: &mut RequestHeader,
    calls: bool,
    records: impl FnOnce(&TraceParent) -> bool,
) -> Result<Spot> {
    let fields = Fields::of(&request.headers);
    let by_w3c = fields.w3c.then(|| w3c::read(&request.headers)).flatten();
    let incoming = match by_w3c {
        Some(incoming) => incoming,
        None if fields.b3 => b3::read(&request.headers),
        None => Incoming::default(),
    };
    let (trace, parent) = match incoming.ids {
        Some((trace, parent)) => (trace, Some(parent)),
        None => (new_trace(), None),
    };
    let recorded = records(&TraceParent { trace, sampled: incoming.sampled });
    if fields.state {
        w3c::bound_state(request, by_w3c.is_some())?;
    }
    let mut spot = Spot { trace: Digits::of(trace), span: None };
    if !recorded {
        if by_w3c.is_none() {
            // Whoever comes next may know W3C alone.
            let span = parent.map_or_else(|| random() | 1, NonZeroU64::get);
            w3c::write(request, &spot.trace, span, incoming.sampled == Some(true))?;
        }
        return Ok(spot);
    }
    let id = random() | 1;
    let onward = calls.then(|| random() | 1);
    let next = onward.unwrap_or(id);
    w3c::write(request, &spot.trace, next, true)?;
    if fields.b3 {
        b3::rewrite(request, &spot.trace, next, onward.map_or(parent, |_| NonZeroU64::new(id)))?;
    }
    let state = fields.state.then(|| w3c::state(&request.headers)).flatten();
    spot.span = Some(SpanIds { trace, id, onward, parent, state });
    Ok(spot)
}

/// Which of the fields are there. One pass over the names is cheaper than looking for each.
#[derive(Default)]
struct Fields {
    w3c: bool,
    state: bool,
    b3: bool,
}

impl Fields {
    fn of(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for name in headers.keys().map(HeaderName::as_str) {
            // By length first, which tells most others apart.
            match name.len() {
                2 => fields.b3 |= name == "b3",
                10 => fields.state |= name == "tracestate",
                11 => fields.w3c |= name == "traceparent",
                12.. => fields.b3 |= name.starts_with("x-b3-"),
                _ => {}
            }
        }
        fields
    }
}

/// Letters, digits and dashes are always valid.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
