//! How long a caller still waits: said by `grpc-timeout` (gRPC over HTTP/2) or `x-tombolo-timeout`, bounds all tries here, and
//! goes on to whoever comes next, less what has passed.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::RequestHeader;

use super::context::Context;
use crate::{decide::Backend, model::Transport};

/// The time that is left, written as gRPC writes it: 1 to 8 digits and a unit, e.g. `1500m` for milliseconds.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-tombolo-timeout");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long the caller still waits, from its request's head on: the shorter of `grpc-timeout` and `x-tombolo-timeout`.
/// Nothing if its time is over already. What cannot be read says nothing.
pub fn asked(headers: &HeaderMap) -> Option<Duration> {
    let of = |name: &HeaderName| parse(headers.get(name)?.as_bytes());
    of(&GRPC_TIMEOUT).into_iter().chain(of(&TIMEOUT)).min()
}

/// The earlier of the route's bound and the caller's, from the request's head on.
pub(super) fn bound(asked: Option<Duration>, route: Option<Duration>, begun: Instant) -> Option<Instant> {
    let limit = asked.into_iter().chain(route).min()?;
    begun.checked_add(limit)
}

/// `1*8DIGIT` and one of `H M S m u n`. With a minus sign it is zero: what a careless caller makes of time that is over.
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    let (over, digits) = digits.strip_prefix(b"-").map_or((false, digits), |digits| (true, digits));
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let time = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    };
    Some(if over { Duration::ZERO } else { time })
}

/// In milliseconds where they fit, else in seconds; at least one, as none would mean that it is over.
fn write(left: Duration) -> String {
    match left.as_millis() {
        millis @ 0..=99_999_999 => format!("{}m", millis.max(1)),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    }
}

/// Tells who comes next how long is left. Backends outside of the mesh are told only if the client told us.
pub(super) fn pass_on(request: &mut RequestHeader, context: &Context) -> Result<()> {
    let Some(deadline) = context.deadline else { return Ok(()) };
    let meshed = match (&context.decision.as_deref().map(|d| &d.backend), &context.tries.endpoint) {
        (Some(Backend::Address { .. }), _) => true,
        (_, Some(endpoint)) => matches!(endpoint.transport, Transport::Mesh { .. }),
        _ => false,
    };
    let grpc = request.headers.contains_key(GRPC_TIMEOUT);
    if !meshed && !grpc {
        return Ok(());
    }
    let left = write(deadline.saturating_duration_since(Instant::now()));
    let left =
        HeaderValue::try_from(left).map_err(|_| super::failure::Failure::new(500, "internal").error())?;
    if grpc {
        request.insert_header(GRPC_TIMEOUT, left.clone())?;
    }
    if meshed {
        request.insert_header(TIMEOUT, left)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("10S", Some(Duration::from_secs(10))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("100000000m", None),
            ("m", None),
            ("", None),
            ("-1m", Some(Duration::ZERO)),
            ("-m", None),
            ("-1", None),
            ("--1m", None),
            ("1.5S", None),
            ("10s", None),
            ("10", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_never_longer() {
        for millis in [0, 1, 1500, 99_999_999, 100_000_000, 10_000_000_000] {
            let time = Duration::from_millis(millis);
            let again = parse(write(time).as_bytes()).unwrap();
            assert!(
                again <= time.max(Duration::from_millis(1))
                    && time - again.min(time) < Duration::from_secs(1)
            );
        }
    }

    #[test]
    fn the_shorter_bound_counts() {
        let mut headers = HeaderMap::new();
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(bound(asked(&headers), None, begun), None);
        assert_eq!(bound(asked(&headers), Some(second), begun), Some(begun + second));
        headers.insert(TIMEOUT, "200m".parse().unwrap());
        assert_eq!(bound(asked(&headers), Some(second), begun), Some(begun + second / 5));
        headers.insert(GRPC_TIMEOUT, "100m".parse().unwrap());
        assert_eq!(bound(asked(&headers), None, begun), Some(begun + second / 10));
        headers.insert(GRPC_TIMEOUT, "soon".parse().unwrap());
        assert_eq!(bound(asked(&headers), None, begun), Some(begun + second / 5));
    }
}
