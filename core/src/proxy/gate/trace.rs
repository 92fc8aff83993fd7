//! Random bits for ids, and W3C trace context.

use std::hash::{BuildHasher, Hasher, RandomState};

use http::{HeaderMap, HeaderValue};

use super::head::TRACEPARENT;

/// 64 bits that differ from call to call. Not secret: for ids and for spreading load.
pub(in crate::proxy) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// 32 hexadecimal digits, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceId([u8; 32]);

impl TraceId {
    /// A new one.
    pub fn random() -> Self {
        let mut digits = [0; 32];
        let (high, low) = digits.split_at_mut(16);
        write_hex(random() | 1, high);
        write_hex(random(), low);
        Self(digits)
    }

    /// Its digits.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Its digits, as a field's value.
    pub fn value(&self) -> HeaderValue {
        value(&self.0)
    }

    /// A `traceparent` for a trace that begins here; not sampled, as nothing records spans yet.
    pub fn parent(&self) -> HeaderValue {
        let mut text = *b"00-................................-................-00";
        if let Some(id) = text.get_mut(3..35) {
            id.copy_from_slice(&self.0);
        }
        write_hex(random() | 1, text.get_mut(36..52).unwrap_or_default());
        value(&text)
    }
}

/// The 16 digits of a number; as many as there is room for.
fn write_hex(number: u64, into: &mut [u8]) {
    for (byte, pair) in number.to_be_bytes().into_iter().zip(into.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

/// Letters, digits and dashes are always valid.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
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
        let own = TraceId::random();
        assert_eq!(of(own.parent().to_str().unwrap()).as_deref(), Some(own.text()));
        assert_eq!(own.value(), own.text());
    }

    #[test]
    fn random_ids_differ() {
        let (a, b) = (TraceId::random(), TraceId::random());
        assert_ne!(a, b);
        assert!(is_hex(a.text(), 32) && is_hex(b.text(), 32));
    }

    #[test]
    fn numbers_are_written_with_all_their_digits() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            let mut digits = [0; 16];
            write_hex(number, &mut digits);
            assert_eq!(std::str::from_utf8(&digits).unwrap(), format!("{number:016x}"));
        }
    }
}
