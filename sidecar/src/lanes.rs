//! Lanes of requests in flight, for applications that pass on only a trace or request id.
//!
//! A request that comes in with a lane is remembered by the ids that tracing libraries pass on; an outbound request
//! that carries one of them, and no lane, is in the same lane.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use http::HeaderMap;
use tombolo_core::model::Lane;

/// Ids remembered at a time, one to three a request. At the bound those of requests that have ended are forgotten; if
/// none has, a further request is not remembered, and its outbound calls are baseline ones unless the application
/// passes `baggage` on.
const MAX_IDS: usize = 32_768;
/// A request is remembered for so long after its end: applications call others in the background.
const LINGER: Duration = Duration::from_secs(10);
/// A request whose end is not seen counts as ended after so long.
const LONGEST: Duration = Duration::from_secs(3600);

/// What an id is of: the same digits may mean different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// Trace id of `traceparent` (W3C Trace Context).
    Trace(u128),
    /// Trace id of B3, in one header or in several.
    B3(u128),
    /// Hash of `x-request-id`.
    Request(u64),
}

#[derive(Debug)]
struct Remembered {
    lane: Lane,
    in_flight: u32,
    begun: Instant,
    ended: Instant,
    /// Under which other keys the same request is remembered.
    also: Vec<Key>,
}

impl Remembered {
    fn is_alive(&self, now: Instant) -> bool {
        (self.in_flight > 0 && now < self.begun + LONGEST) || now < self.ended + LINGER
    }

    fn end(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.ended = now;
    }
}

/// The lanes of requests in flight.
#[derive(Debug, Default)]
pub struct Lanes {
    requests: DashMap<Key, Remembered>,
    hasher: RandomState,
}

impl Lanes {
    /// A request has come in with this lane. One without a `traceparent` is not remembered: the engine sees to it that
    /// there is none such. False: the table is full.
    pub fn begin(&self, headers: &HeaderMap, lane: &Lane, now: Instant) -> bool {
        let [Some(trace), others @ ..] = self.keys(headers) else { return true };
        let also: Vec<Key> = others.into_iter().flatten().collect();
        let remembered = also.iter().all(|key| self.remember(*key, lane, &[], now));
        self.remember(trace, lane, &also, now) && remembered
    }

    fn remember(&self, key: Key, lane: &Lane, also: &[Key], now: Instant) -> bool {
        if self.requests.len() >= MAX_IDS && !self.requests.contains_key(&key) {
            self.requests.retain(|_, request| request.is_alive(now));
            if self.requests.len() >= MAX_IDS {
                return false;
            }
        }
        let new =
            || Remembered { lane: lane.clone(), in_flight: 0, begun: now, ended: now, also: Vec::new() };
        let mut request = self.requests.entry(key).or_insert_with(new);
        // Of several lanes in one trace the newest counts.
        request.lane = lane.clone();
        request.begun = now;
        request.in_flight = request.in_flight.saturating_add(1);
        request.also = also.to_vec();
        true
    }

    /// A request that came in with this trace id has ended.
    pub fn end(&self, trace_id: &str, now: Instant) {
        let Some(mut request) = hex(trace_id).and_then(|id| self.requests.get_mut(&Key::Trace(id))) else {
            return;
        };
        request.end(now);
        let also = request.also.clone();
        // The other keys may lie in the same shard.
        drop(request);
        for key in also {
            if let Some(mut request) = self.requests.get_mut(&key) {
                request.end(now);
            }
        }
    }

    /// The lane that an outbound request with these headers belongs to.
    pub fn find(&self, headers: &HeaderMap, now: Instant) -> Option<Lane> {
        if self.requests.is_empty() {
            return None;
        }
        self.keys(headers).into_iter().flatten().find_map(|key| {
            let request = self.requests.get(&key)?;
            request.is_alive(now).then(|| request.lane.clone())
        })
    }

    fn keys(&self, headers: &HeaderMap) -> [Option<Key>; 3] {
        let request = text(headers, "x-request-id").filter(|id| !id.is_empty());
        [
            w3c_trace(headers).map(Key::Trace),
            b3_trace(headers).map(Key::B3),
            request.map(|id| Key::Request(self.hasher.hash_one(id))),
        ]
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The trace id of `traceparent` (W3C Trace Context).
pub(crate) fn w3c_trace(headers: &HeaderMap) -> Option<u128> {
    // version "-" trace-id "-" parent-id "-" flags
    hex(text(headers, "traceparent")?.split('-').nth(1)?)
}

/// The trace id of B3, in one header or in several.
pub(crate) fn b3_trace(headers: &HeaderMap) -> Option<u128> {
    // trace-id "-" span-id ..., or only the sampling state
    let one = text(headers, "b3").and_then(|value| value.split('-').next());
    hex(one.or_else(|| text(headers, "x-b3-traceid"))?)
}

/// An id of 64 or 128 bits, not zero.
pub(crate) fn hex(text: &str) -> Option<u128> {
    let well_formed = matches!(text.len(), 16 | 32) && text.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|id| well_formed && *id != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn traced(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = headers(fields);
        headers.insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap());
        headers
    }

    fn lane(name: &str) -> Lane {
        Lane::parse(name).unwrap()
    }

    #[test]
    fn any_id_that_is_passed_on_finds_the_lane() {
        let (lanes, now) = (Lanes::default(), Instant::now());
        let b3 = "80f198ee56343ba864fe8b2a57d3eff7";
        let came = traced(&[("b3", &format!("{b3}-e457b5a2e4d86bd1-1")), ("x-request-id", "order 17")]);
        assert!(lanes.begin(&came, &lane("v2"), now));
        for passed in [
            // A child span of the same trace.
            headers(&[("traceparent", &format!("00-{TRACE}-aaaaaaaaaaaaaaaa-00"))]),
            headers(&[("b3", &format!("{b3}-05e3ac9a4f6e3b90"))]),
            headers(&[("x-b3-traceid", b3)]),
            headers(&[("x-request-id", "order 17")]),
        ] {
            assert_eq!(lanes.find(&passed, now), Some(lane("v2")), "{passed:?}");
        }
        for other in [
            headers(&[]),
            headers(&[("traceparent", "00-00000000000000000000000000000001-aaaaaaaaaaaaaaaa-00")]),
            headers(&[("b3", TRACE)]),
            headers(&[("b3", "0")]),
            headers(&[("x-request-id", "order 18")]),
        ] {
            assert_eq!(lanes.find(&other, now), None, "{other:?}");
        }
    }

    #[test]
    fn a_request_is_forgotten_some_time_after_its_end() {
        let (lanes, start) = (Lanes::default(), Instant::now());
        let came = traced(&[("x-request-id", "a")]);
        lanes.begin(&came, &lane("v2"), start);
        lanes.begin(&came, &lane("v2"), start);
        let later = start + Duration::from_secs(600);
        lanes.end(TRACE, start);
        assert_eq!(lanes.find(&came, later), Some(lane("v2")), "one is in flight");
        lanes.end(TRACE, later);
        assert_eq!(lanes.find(&came, later + LINGER / 2), Some(lane("v2")), "work in the background");
        assert_eq!(lanes.find(&came, later + LINGER), None);
        assert_eq!(lanes.find(&headers(&[("x-request-id", "a")]), later + LINGER), None);
    }

    #[test]
    fn a_request_whose_end_is_missed_does_not_stay_for_ever() {
        let (lanes, start) = (Lanes::default(), Instant::now());
        lanes.begin(&traced(&[]), &lane("v2"), start);
        assert_eq!(lanes.find(&traced(&[]), start + LONGEST), None);
    }

    #[test]
    fn at_the_bound_what_has_ended_makes_room() {
        let (lanes, now) = (Lanes::default(), Instant::now());
        let numbered =
            |n: usize| headers(&[("traceparent", &format!("00-{:032x}-00f067aa0ba902b7-01", n + 1))]);
        for n in 0..MAX_IDS {
            assert!(lanes.begin(&numbered(n), &lane("v2"), now));
        }
        assert!(!lanes.begin(&numbered(MAX_IDS), &lane("v2"), now), "full");
        assert_eq!(lanes.find(&numbered(MAX_IDS), now), None);
        lanes.end(&format!("{:032x}", 1), now);
        assert!(lanes.begin(&numbered(MAX_IDS), &lane("v2"), now + LINGER));
        assert_eq!(lanes.find(&numbered(0), now + LINGER), None);
        assert!(lanes.requests.len() <= MAX_IDS);
    }
}
