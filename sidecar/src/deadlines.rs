//! Deadlines of requests in flight, for applications that pass on only a trace id: a call that a request causes takes no
//! longer than that request's caller waits. Where the caller has given up, calls of a request that goes on all the same are
//! answered at once: nobody waits for them.

use std::{
    array::from_fn,
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderMap;

use crate::lanes::{b3_trace, hex, w3c_trace};

/// Every request is looked up here, at its begin and its end: threads are to meet seldom.
const SHARDS: usize = 64;
/// Traces remembered at a time in each. At the bound a further one is not: only what its calls say themselves bounds them.
const MAX_TRACES: usize = 512;
/// A request whose end is not seen counts as ended after so long.
const LONGEST: Duration = Duration::from_secs(3600);
/// An application that nobody waits for any more is believed to go on for no longer than this.
const KEPT: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Trace {
    /// Which of several requests causes a call is not known, so the one with most time counts; none: one has no deadline.
    latest: Option<Instant>,
    /// None: the last one's caller has given up.
    in_flight: u32,
    /// When the newest has come in, or the last one's caller has given up.
    since: Instant,
}

impl Trace {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.since + if self.in_flight == 0 { KEPT } else { LONGEST }
    }
}

/// How long the callers of requests in flight wait. Requests without a deadline are remembered too: they must not be cut by
/// that of another in the same trace.
#[derive(Debug)]
pub(crate) struct Deadlines {
    shards: [Mutex<HashMap<u128, Trace>>; SHARDS],
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { shards: from_fn(|_| Mutex::default()) }
    }
}

impl Deadlines {
    /// A request has come in, whose caller waits until `deadline`. One without a `traceparent` is not remembered: the
    /// engine sees to it that there is none such. False: there is no room.
    pub fn begin(&self, headers: &HeaderMap, deadline: Option<Instant>, now: Instant) -> bool {
        let Some(id) = w3c_trace(headers) else { return true };
        let mut traces = self.shard(id);
        if let Some(trace) = traces.get_mut(&id) {
            // A caller that has given up and asks again waits anew.
            trace.latest = match trace.in_flight {
                0 => deadline,
                _ => trace.latest.zip(deadline).map(|(one, other)| one.max(other)),
            };
            trace.in_flight = trace.in_flight.saturating_add(1);
            trace.since = now;
            return true;
        }
        if traces.len() >= MAX_TRACES {
            traces.retain(|_, trace| !trace.is_over(now));
            if traces.len() >= MAX_TRACES {
                return false;
            }
        }
        traces.insert(id, Trace { latest: deadline, in_flight: 1, since: now });
        true
    }

    /// A request that came in with this trace id has ended: answered, or its caller has given up.
    pub fn end(&self, trace_id: &str, answered: bool, now: Instant) {
        let Some(id) = hex(trace_id) else { return };
        let mut traces = self.shard(id);
        let Some(trace) = traces.get_mut(&id) else { return };
        trace.in_flight = trace.in_flight.saturating_sub(1);
        if trace.in_flight > 0 {
            return;
        }
        // What an application does after its answer it does for itself.
        if answered || trace.latest.is_none() {
            traces.remove(&id);
        } else {
            trace.since = now;
        }
    }

    /// How long a call with these headers may take; nothing where the deadline has passed. None: as long as it likes.
    pub fn find(&self, headers: &HeaderMap, now: Instant) -> Option<Duration> {
        let id = w3c_trace(headers).or_else(|| b3_trace(headers))?;
        let traces = self.shard(id);
        let trace = traces.get(&id).filter(|trace| !trace.is_over(now))?;
        Some(trace.latest?.saturating_duration_since(now))
    }

    fn shard(&self, id: u128) -> MutexGuard<'_, HashMap<u128, Trace>> {
        // The low digits are the random ones, in whatever way an id was made.
        let shard = &self.shards[(id % SHARDS as u128) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SECOND: Duration = Duration::from_secs(1);

    fn one(name: &'static str, value: &str) -> HeaderMap {
        [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect()
    }

    fn traced(trace: &str) -> HeaderMap {
        one("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))
    }

    #[test]
    fn a_call_of_the_trace_has_what_is_left_until_the_request_ends() {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        assert!(deadlines.begin(&traced(TRACE), Some(now + 3 * SECOND), now));
        for passed in [
            traced(TRACE),
            one("b3", &format!("{TRACE}-05e3ac9a4f6e3b90-1")),
            one("x-b3-traceid", &TRACE.to_uppercase()),
        ] {
            assert_eq!(deadlines.find(&passed, now + SECOND), Some(2 * SECOND), "{passed:?}");
        }
        for other in [HeaderMap::new(), traced(&"1".repeat(32)), one("b3", "0"), one("x-request-id", TRACE)] {
            assert_eq!(deadlines.find(&other, now), None, "{other:?}");
        }
        let late = now + 4 * SECOND;
        assert_eq!(deadlines.find(&traced(TRACE), late), Some(Duration::ZERO), "nobody waits any more");
        deadlines.end(TRACE, true, now);
        assert_eq!(deadlines.find(&traced(TRACE), now), None, "work in the background");
        deadlines.end(TRACE, true, now);
        deadlines.end("none", true, now);
    }

    #[test]
    fn a_caller_that_has_given_up_bounds_what_goes_on_without_it() {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        let find = |after: u32| deadlines.find(&traced(TRACE), now + after * SECOND);
        deadlines.begin(&traced(TRACE), Some(now + 3 * SECOND), now);
        deadlines.end(TRACE, false, now + SECOND);
        assert_eq!(
            (find(1), find(3), find(60)),
            (Some(2 * SECOND), Some(Duration::ZERO), Some(Duration::ZERO))
        );
        assert_eq!(find(61), None, "for a while");
        // It asks again, and waits longer.
        deadlines.begin(&traced(TRACE), Some(now + 9 * SECOND), now + 4 * SECOND);
        assert_eq!(find(4), Some(5 * SECOND));
        deadlines.end(TRACE, true, now + 5 * SECOND);
        assert_eq!(find(5), None, "answered");
        // Who had no deadline bounds nothing by going away.
        deadlines.begin(&traced(TRACE), None, now);
        deadlines.end(TRACE, false, now);
        assert_eq!(find(0), None);
        assert!(deadlines.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn of_several_requests_in_a_trace_the_one_with_most_time_counts() {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        for seconds in [1, 3, 2] {
            deadlines.begin(&traced(TRACE), Some(now + seconds * SECOND), now);
        }
        deadlines.end(TRACE, true, now);
        assert_eq!(deadlines.find(&traced(TRACE), now), Some(3 * SECOND));
        // One that may take as long as it likes, whichever comes first.
        deadlines.begin(&traced(TRACE), None, now);
        deadlines.begin(&traced(TRACE), Some(now + SECOND), now);
        assert_eq!(deadlines.find(&traced(TRACE), now), None);
        for _ in 0..4 {
            deadlines.end(TRACE, true, now);
        }
        assert!(deadlines.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn at_the_bound_what_is_in_flight_stays_and_what_must_have_ended_makes_room() {
        let (deadlines, now) = (Deadlines::default(), Instant::now());
        // All in one shard.
        let numbered = |n: usize| traced(&format!("{:032x}", (n + 1) * SHARDS));
        for n in 0..MAX_TRACES {
            assert!(deadlines.begin(&numbered(n), Some(now + SECOND), now));
        }
        assert!(!deadlines.begin(&numbered(MAX_TRACES), Some(now + SECOND), now), "full");
        assert_eq!(deadlines.find(&numbered(MAX_TRACES), now), None);
        assert!(deadlines.begin(&numbered(0), Some(now + SECOND), now), "one that is known");
        assert_eq!(deadlines.find(&numbered(0), now), Some(SECOND));
        assert!(deadlines.begin(&numbered(MAX_TRACES), None, now + LONGEST));
        assert_eq!(deadlines.find(&numbered(0), now), None);
    }
}
