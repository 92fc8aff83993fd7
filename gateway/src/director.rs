//! Decides for public traffic.

use std::sync::Arc;

use http::StatusCode;
use tombolo_core::{
    balance::Pools,
    decide::{Caller, LocalAnswer, Outcome, RequestHead, decide_edge},
    model::Snapshot,
    proxy::{Arrival, Director, Entry},
};

/// Every request that comes in on a public listener.
pub(crate) struct EdgeDirector {
    pub pools: Arc<Pools>,
}

impl Director for EdgeDirector {
    fn direct(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
    ) -> Outcome {
        match &*arrival.entry {
            Entry::Edge(bind) => decide_edge(snapshot, *bind, head, caller, &*self.pools),
            // A gateway has no other listeners that speak HTTP.
            Entry::Outbound { .. } | Entry::Inbound => Outcome::Local(LocalAnswer {
                status: StatusCode::NOT_FOUND,
                headers: Vec::new(),
                reason: "no_route",
                route: None,
            }),
        }
    }
}
