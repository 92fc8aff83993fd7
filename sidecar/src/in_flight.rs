//! What is remembered of requests while the application works on them, for the calls that they cause.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, header};
use tombolo_core::{
    model::Lane,
    proxy::{Entry, Observer, RequestEnd, TcpEnd, TraceParent, time_asked},
};

use crate::{deadlines::Deadlines, lanes::Lanes};

/// The status of a request whose client went away before its answer.
const CLIENT_GONE: u16 = 499;

/// Filled by requests that come in, asked by the application's own.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    pub lanes: Lanes,
    pub deadlines: Deadlines,
}

impl InFlight {
    /// A request of a mesh peer has come in.
    pub fn begin(&self, headers: &HeaderMap, lane: Option<&Lane>, now: Instant) {
        if let Some(lane) = lane
            && !self.lanes.begin(headers, lane, now)
        {
            tracing::debug!("too many requests in lanes: the lane of one is not remembered");
        }
        // A WebSocket lives on when its head's time is over, and so do the calls that it causes.
        let asked = time_asked(headers).filter(|_| !headers.contains_key(header::UPGRADE));
        let deadline = asked.and_then(|left| now.checked_add(left));
        if !self.deadlines.begin(headers, deadline, now) {
            tracing::debug!("too many requests in flight: the deadline of one is not remembered");
        }
    }

    fn end(&self, trace_id: &str, in_lane: bool, answered: bool, now: Instant) {
        if in_lane {
            self.lanes.end(trace_id, now);
        }
        self.deadlines.end(trace_id, answered, now);
    }
}

/// Passes on what it is told, and forgets requests that have ended.
pub(crate) struct EndObserver {
    pub in_flight: Arc<InFlight>,
    pub next: Arc<dyn Observer>,
}

impl Observer for EndObserver {
    fn records(&self, parent: &TraceParent) -> bool {
        self.next.records(parent)
    }

    fn request(&self, request: &RequestEnd<'_>) {
        let is_inbound = request.arrival.is_some_and(|arrival| *arrival.entry == Entry::Inbound);
        // What was not decided to go on has not begun.
        if let (true, Some(decision), Some(trace)) = (is_inbound, request.decision, request.trace_id) {
            let late = matches!(request.reason, Some("request_timeout" | "upstream_timeout"));
            let answered = !late && request.status != CLIENT_GONE;
            self.in_flight.end(trace, decision.lane.is_some(), answered, Instant::now());
        }
        self.next.request(request);
    }

    fn tcp(&self, tcp: &TcpEnd<'_>) {
        self.next.tcp(tcp);
    }
}
