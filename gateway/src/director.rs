//! Decides for public traffic.

use std::sync::Arc;

use http::StatusCode;
use tombolo_core::{
    balance::Pools,
    decide::{Caller, LocalAnswer, Outcome, RequestHead, decide_edge, decide_stream},
    model::Snapshot,
    proxy::{Arrival, Director, Entry, TcpOutcome},
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

    fn direct_tcp(&self, snapshot: &Snapshot, arrival: &Arrival, caller: &Caller<'_>) -> TcpOutcome {
        let Entry::Edge(bind) = &*arrival.entry else { return TcpOutcome::Refuse("no_route") };
        let decided = decide_stream(snapshot, *bind, arrival.sni.as_deref(), arrival.tls, caller.random);
        decided.map_or_else(TcpOutcome::Refuse, TcpOutcome::Routed)
    }
}
