//! The application's own calls: which endpoint, in which lane, as who.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use http::{HeaderMap, StatusCode};
use tombolo_core::{
    balance::Pools,
    decide::{
        BAGGAGE, Backend, Caller, LocalAnswer, Outcome, RequestHead, baggage_with_lane, decide_host,
        decide_mesh, lane_from_baggage,
    },
    discovery::Discovery,
    model::{AppProtocol, HOST_LABEL, ServiceKey, Snapshot, SpiffeId},
    proxy::{Arrival, Director, Entry, TcpOutcome},
};

use crate::in_flight::InFlight;

/// The first connection to a service waits so long for its endpoints; then it goes on, and is answered 503 if they are
/// still not known.
const FIRST_USE: Duration = Duration::from_secs(2);

/// Decides for the application's calls.
pub(crate) struct OutboundDirector {
    /// Who the application is.
    pub own: SpiffeId,
    pub pools: Arc<Pools>,
    pub in_flight: Arc<InFlight>,
}

impl Director for OutboundDirector {
    fn direct(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
    ) -> Outcome {
        let Entry::Outbound { service, port, http2, host } = &*arrival.entry else { return not_outbound() };
        let caller = Caller { identity: Some(&self.own), ..*caller };
        let restored = self.restore_lane(head.headers);
        let head = RequestHead { headers: restored.as_ref().unwrap_or(head.headers), ..*head };
        let mut outcome = match host {
            None => decide_mesh(snapshot, service, *port, &head, &caller, &*self.pools),
            Some(host) => decide_host(snapshot, (service, host), *port, &head, &caller, &*self.pools),
        };
        if let Outcome::Forward(decision) = &mut outcome {
            if *http2 {
                keep_http2(&mut decision.backend, service, *port);
            }
            // What this request says of itself counts too, if it is shorter.
            let left = self.in_flight.deadlines.find(head.headers, Instant::now());
            decision.timeouts.request = decision.timeouts.request.into_iter().chain(left).min();
        }
        outcome
    }

    fn direct_tcp(&self, _: &Snapshot, arrival: &Arrival, _: &Caller<'_>) -> TcpOutcome {
        let Entry::Outbound { service, port, host, .. } = &*arrival.entry else {
            return TcpOutcome::Refuse("no_route");
        };
        let labels = host.iter().map(|host| (Arc::from(HOST_LABEL), Arc::clone(host)));
        TcpOutcome::Forward(Backend::Service {
            service: service.clone(),
            port: *port,
            labels: Arc::new(labels.collect()),
            protocol: AppProtocol::Tcp,
        })
    }
}

impl OutboundDirector {
    /// The headers with the lane of the request that caused this one; none if there is nothing to restore.
    fn restore_lane(&self, headers: &HeaderMap) -> Option<HeaderMap> {
        if lane_from_baggage(headers).is_some() {
            return None;
        }
        let lane = self.in_flight.lanes.find(headers, Instant::now())?;
        let baggage = baggage_with_lane(headers, Some(&lane))?;
        let mut headers = headers.clone();
        headers.insert(BAGGAGE, baggage);
        Some(headers)
    }
}

/// Where nobody says what a port speaks, it is spoken to as its client speaks.
fn keep_http2(backend: &mut Backend, called: &ServiceKey, called_port: u16) {
    if let Backend::Service { service, port, protocol, .. } = backend
        && (&*service, *port) == (called, called_port)
    {
        *protocol = AppProtocol::Http2;
    }
}

/// No listener leads here but those of services.
fn not_outbound() -> Outcome {
    Outcome::Local(LocalAnswer {
        status: StatusCode::NOT_FOUND,
        headers: Vec::new(),
        reason: "no_route",
        route: None,
        policies: Default::default(),
        verdict: None,
        missed: None,
    })
}

/// The services that the application uses, from their first use on.
pub(crate) struct Uses {
    discovery: Discovery,
    used: Mutex<BTreeSet<ServiceKey>>,
}

impl Uses {
    /// None so far, in this process.
    pub fn new(discovery: Discovery) -> Arc<Self> {
        Arc::new(Self { discovery, used: Mutex::default() })
    }

    /// The first use of a service: its endpoints are asked for, and those of all services that its requests may be sent
    /// to; waits until they are known, within bounds.
    pub async fn begin(&self, service: &ServiceKey) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(service.clone());
        let snapshot = self.discovery.snapshot().load_full();
        let behind = snapshot.config.services_behind(service);
        // One that does not exist is asked for as well, but there is nothing to wait for.
        let (there, not_there): (Vec<_>, Vec<_>) =
            behind.iter().partition(|service| snapshot.services.contains_key(*service));
        not_there.into_iter().for_each(|service| self.discovery.want(service));
        join_all(there.into_iter().map(|service| self.discovery.wait_for(service, FIRST_USE))).await;
    }

    /// Asks for what the routes of used services lead to by now.
    pub fn refresh(&self, snapshot: &Snapshot) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for service in used.iter().flat_map(|service| snapshot.config.services_behind(service)) {
            self.discovery.want(&service);
        }
    }
}
