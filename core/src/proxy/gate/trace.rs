//! Random bits for ids, and W3C trace context.

use std::hash::{BuildHasher, Hasher, RandomState};

use http::HeaderMap;

use super::head::TRACEPARENT;

/// 64 bits that differ from call to call. Not secret: for ids and for spreading load.
pub(in crate::proxy) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// 32 hexadecimal digits, not all zero.
pub(super) fn random_id() -> String {
    format!("{:016x}{:016x}", random() | 1, random())
}

/// The trace id of a valid `traceparent` (W3C Trace Context section 3.2.2).
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && is_hex(trace, 32)
        && trace.bytes().any(|b| b != b'0')
        && is_hex(span, 16)
        && span.bytes().any(|b| b != b'0')
        && is_hex(flags, 2);
    valid.then_some(trace)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A new `traceparent` for a trace that begins here; not sampled, as nothing records spans yet.
pub(super) fn new_traceparent(trace_id: &str) -> String {
    format!("00-{trace_id}-{:016x}-00", random() | 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, value.parse().unwrap());
        trace_id(&headers).map(str::to_owned)
    }

    #[test]
    fn only_valid_traceparents_count() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(of(&format!("00-{trace}-00f067aa0ba902b7-01")).as_deref(), Some(trace));
        assert_eq!(of(&format!("cc-{trace}-00f067aa0ba902b7-01-more")).as_deref(), Some(trace));
        for wrong in [
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            "00".to_owned(),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
        assert_eq!(of(&new_traceparent(trace)).as_deref(), Some(trace));
    }

    #[test]
    fn random_ids_differ() {
        let (a, b) = (random_id(), random_id());
        assert_ne!(a, b);
        assert_eq!((a.len(), b.len()), (32, 32));
    }
}
