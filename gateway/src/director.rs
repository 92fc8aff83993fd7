//! Decides for public traffic.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::StatusCode;
use tombolo_core::{
    acme::Challenges,
    balance::Pools,
    decide::{Caller, LocalAnswer, Outcome, RequestHead, carries, decide_edge, decide_stream},
    model::Snapshot,
    proxy::{Arrival, Director, Entry, TcpOutcome},
    telemetry::Samples,
};

/// Every request that comes in on a public listener.
pub(crate) struct EdgeDirector {
    pub pools: Arc<Pools>,
    /// Answers to challenges of certificate authorities.
    pub challenges: Arc<Challenges>,
    /// Heads of recent requests.
    pub samples: Arc<Samples>,
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
            Entry::Edge(bind)
                if arrival.tls && !carries(snapshot, *bind, head.host, arrival.clients.as_ref()) =>
            {
                refuse(StatusCode::MISDIRECTED_REQUEST, "misdirected")
            }
            Entry::Edge(bind) => {
                if self.samples.wants(caller.random) {
                    self.samples.keep(*bind, head, caller, &snapshot.config.deciding, unix_seconds());
                }
                decide_edge(snapshot, *bind, head, caller, &*self.pools)
            }
            // A gateway has no other listeners that speak HTTP.
            _ => refuse(StatusCode::NOT_FOUND, "no_route"),
        }
    }

    fn challenge(&self, path: &str) -> Option<Arc<str>> {
        self.challenges.page(path)
    }

    fn direct_tcp(&self, snapshot: &Snapshot, arrival: &Arrival, caller: &Caller<'_>) -> TcpOutcome {
        let Entry::Edge(bind) = &*arrival.entry else { return TcpOutcome::Refuse("no_route") };
        let decided = decide_stream(snapshot, *bind, arrival.sni.as_deref(), arrival.tls, caller.random);
        decided.map_or_else(TcpOutcome::Refuse, TcpOutcome::Routed)
    }
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn refuse(status: StatusCode, reason: &'static str) -> Outcome {
    Outcome::Local(LocalAnswer {
        status,
        headers: Vec::new(),
        reason,
        route: None,
        policies: Default::default(),
        verdict: None,
        missed: None,
    })
}
