//! Raw TCP between applications, over mutual TLS where the endpoint is in the mesh.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    Arrival, Connection, DENIED, Director, MeshProtocol, MeshUpstream, Observer, Picked, Picker, TcpEnd,
    TcpOutcome, TryResult, Wanted,
    copy::{Copied, copy_both},
    gate::{Crowds, random},
    listen::signalled,
    upstream::{CONNECT_TIMEOUT, To},
};
use crate::{
    decide::{Backend, Policies, UpstreamTls, Verdict, hash_of_address},
    model::{Endpoint, Labels, ServiceKey, Snapshot},
};

/// A tunnel in which nothing moves is closed after this long.
const IDLE: Duration = Duration::from_secs(3600);
/// Endpoints and addresses tried for one connection.
const TRIES: usize = 4;

/// What raw connections need.
pub(super) struct Tunnels {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub director: Arc<dyn Director>,
    pub picker: Arc<dyn Picker>,
    pub upstream: Arc<MeshUpstream>,
    pub observer: Arc<dyn Observer>,
    pub crowds: Arc<Crowds>,
}

/// What was decided.
#[derive(Default)]
struct Way {
    listener: Option<Arc<str>>,
    /// With its rule.
    route: Option<(Arc<str>, Arc<str>)>,
    backend: Option<Backend>,
    policies: Policies,
    tls: UpstreamTls,
    verdict: Option<Verdict>,
}

/// A tunnel's other end.
struct Far {
    connection: Connection,
    address: std::net::SocketAddr,
    pick: Option<Box<dyn Picked>>,
    latency: Duration,
}

impl Tunnels {
    /// Serves one connection to its end. `stop` ends none that is open; only those that are not yet connected.
    pub async fn run(
        &self,
        mut near: Connection,
        arrival: &Arrival,
        stop: &mut watch::Receiver<bool>,
        begun: Instant,
    ) {
        let outcome = self.director.direct_tcp(&self.snapshot.load(), arrival, &arrival.caller(random()));
        let way = match outcome {
            TcpOutcome::Forward(backend) => Way { backend: Some(backend), ..Way::default() },
            TcpOutcome::Routed(decision) => Way {
                listener: Some(decision.listener),
                route: Some((decision.route, decision.rule)),
                backend: Some(decision.backend),
                tls: decision.tls,
                ..Way::default()
            },
            TcpOutcome::Allow(backend, verdict, policies) => {
                Way { backend: Some(backend), verdict: Some(verdict), policies, ..Way::default() }
            }
            TcpOutcome::Deny(verdict) => {
                near.reset();
                let way = Way { verdict: Some(verdict), ..Way::default() };
                return self.ended(arrival, &way, None, Err(DENIED), begun);
            }
            TcpOutcome::Refuse(reason) => {
                near.reset();
                return self.ended(arrival, &Way::default(), None, Err(reason), begun);
            }
        };
        let _places = match self.crowds.admit_tunnel(&way.policies) {
            Ok(places) => places,
            Err(reason) => {
                near.reset();
                return self.ended(arrival, &way, None, Err(reason), begun);
            }
        };
        let connected = tokio::select! {
            biased;
            connected = self.connect(&way, arrival) => connected,
            () = signalled(stop) => Err("draining"),
        };
        let mut far = match connected {
            Ok(far) => far,
            Err(reason) => {
                near.reset();
                return self.ended(arrival, &way, None, Err(reason), begun);
            }
        };
        let copied = copy_both(&mut near, &mut far.connection, IDLE).await;
        self.ended(arrival, &way, Some(&far), Ok(&copied), begun);
        if let Some(pick) = far.pick {
            pick.finish(TryResult::Success, far.latency, Instant::now());
        }
    }

    fn ended(
        &self,
        arrival: &Arrival,
        way: &Way,
        far: Option<&Far>,
        copied: Result<&Copied, &'static str>,
        begun: Instant,
    ) {
        self.observer.tcp(&TcpEnd {
            arrival,
            listener: way.listener.as_deref(),
            route: way.route.as_ref().map(|(route, _)| &**route),
            rule: way.route.as_ref().map(|(_, rule)| &**rule),
            backend: way.backend.as_ref(),
            endpoint: far.and_then(|far| far.pick.as_ref()).map(|pick| &**pick.endpoint()),
            upstream: far.map(|far| far.address),
            copied: copied.ok(),
            reason: copied.map_or_else(Some, |copied| copied.reason()),
            duration: begun.elapsed(),
            verdict: way.verdict.as_ref(),
        });
    }

    async fn connect(&self, way: &Way, client: &Arrival) -> Result<Far, &'static str> {
        let Some(backend) = &way.backend else { return Err("no_backend") };
        let tls = &way.tls;
        match backend {
            Backend::Address { address, .. } => {
                let begun = Instant::now();
                let to = To { address: *address, announce: None };
                let connection = super::upstream::plain(to, CONNECT_TIMEOUT).await;
                let connection = connection.map_err(|_| "connect_failed")?;
                Ok(Far { connection, address: *address, pick: None, latency: begun.elapsed() })
            }
            Backend::Service { service, port, labels, .. } => {
                self.connect_service((service, *port, labels), tls, client).await
            }
        }
    }

    async fn connect_service(
        &self,
        (service, port, labels): (&ServiceKey, u16, &Labels),
        tls: &UpstreamTls,
        client: &Arrival,
    ) -> Result<Far, &'static str> {
        let mut avoid = Vec::new();
        for _ in 0..TRIES {
            let begun = Instant::now();
            // Raw bytes carry no lane.
            let hash = Some(hash_of_address(client.peer.ip()));
            let wanted =
                Wanted { service, port, labels, lane: None, prefer: None, hash, avoid: &avoid, around: &[] };
            let mut pick = self.picker.pick(&wanted, begun)?;
            if avoid.contains(&pick.endpoint().id) {
                break;
            }
            let result = match self.connect_endpoint(pick.endpoint(), tls, client).await {
                Ok((connection, address)) => {
                    pick.connected();
                    return Ok(Far { connection, address, pick: Some(pick), latency: begun.elapsed() });
                }
                Err(result) => result,
            };
            avoid.push(pick.endpoint().id.clone());
            pick.finish(result, begun.elapsed(), Instant::now());
        }
        Err("connect_failed")
    }

    async fn connect_endpoint(
        &self,
        endpoint: &Endpoint,
        tls: &UpstreamTls,
        client: &Arrival,
    ) -> Result<(Connection, std::net::SocketAddr), TryResult> {
        let (mut tried, mut result) = (Vec::new(), TryResult::ConnectFailure);
        let spread = random();
        while let Some(address) =
            self.upstream.address(endpoint, &tried, spread).filter(|_| tried.len() < TRIES)
        {
            let client = Some(client);
            match self.upstream.connect(endpoint, address, MeshProtocol::Tcp, tls, client).await {
                Ok(connection) => return Ok((connection, address)),
                Err(error) => {
                    tracing::debug!(endpoint = %endpoint.id, %error, "no tunnel");
                    result = self.upstream.judge(endpoint, address, error.failure());
                    if result == TryResult::ConnectFailure {
                        break;
                    }
                    tried.push(address);
                }
            }
        }
        Err(result)
    }
}
