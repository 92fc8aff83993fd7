//! Raw TCP between applications, over mutual TLS where the endpoint is in the mesh.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    Arrival, Connection, Director, MeshProtocol, MeshUpstream, Observer, Picked, Picker, TcpEnd, TcpOutcome,
    TryResult, Wanted, copy::copy_both, gate::random, listen::signalled, upstream::CONNECT_TIMEOUT,
};
use crate::{
    decide::{Backend, UpstreamTls, hash_of_address},
    model::{Endpoint, Labels, Reach, ServiceKey, Snapshot},
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
        let (backend, tls, route) = match outcome {
            TcpOutcome::Forward(backend) => (backend, UpstreamTls::default(), None),
            TcpOutcome::Routed(decision) => (decision.backend, decision.tls, Some(decision.route)),
            TcpOutcome::Refuse(reason) => {
                near.reset();
                return self.failed(arrival, None, reason, begun);
            }
        };
        let route = route.as_deref();
        let connected = tokio::select! {
            biased;
            connected = self.connect(&backend, &tls, hash_of_address(arrival.peer.ip())) => connected,
            () = signalled(stop) => Err("draining"),
        };
        let mut far = match connected {
            Ok(far) => far,
            Err(reason) => {
                near.reset();
                return self.failed(arrival, route, reason, begun);
            }
        };
        let copied = copy_both(&mut near, &mut far.connection, IDLE).await;
        let endpoint = far.pick.as_ref().map(|pick| pick.endpoint().clone());
        self.observer.tcp(&TcpEnd {
            arrival,
            route,
            endpoint: endpoint.as_deref(),
            upstream: Some(far.address),
            copied: Some(&copied),
            reason: copied.end.is_err().then_some("tunnel_broken"),
            duration: begun.elapsed(),
        });
        if let Some(pick) = far.pick {
            pick.finish(TryResult::Success, far.latency, Instant::now());
        }
    }

    fn failed(&self, arrival: &Arrival, route: Option<&str>, reason: &'static str, begun: Instant) {
        self.observer.tcp(&TcpEnd {
            arrival,
            route,
            endpoint: None,
            upstream: None,
            copied: None,
            reason: Some(reason),
            duration: begun.elapsed(),
        });
    }

    async fn connect(&self, backend: &Backend, tls: &UpstreamTls, source: u64) -> Result<Far, &'static str> {
        match backend {
            Backend::Address { address, .. } => {
                let begun = Instant::now();
                let connection = super::upstream::plain(*address, CONNECT_TIMEOUT).await;
                let connection = connection.map_err(|_| "connect_failed")?;
                Ok(Far { connection, address: *address, pick: None, latency: begun.elapsed() })
            }
            Backend::Service { service, port, labels, .. } => {
                self.connect_service(service, *port, labels, tls, source).await
            }
        }
    }

    async fn connect_service(
        &self,
        service: &ServiceKey,
        port: u16,
        labels: &Labels,
        tls: &UpstreamTls,
        source: u64,
    ) -> Result<Far, &'static str> {
        let mut avoid = Vec::new();
        for _ in 0..TRIES {
            let begun = Instant::now();
            // Raw bytes carry no lane.
            let hash = Some(source);
            let wanted = Wanted { service, port, labels, lane: None, prefer: None, hash, avoid: &avoid };
            let mut pick = self.picker.pick(&wanted, begun)?;
            if avoid.contains(&pick.endpoint().id) {
                break;
            }
            if let Some((connection, address)) = self.connect_endpoint(pick.endpoint(), tls).await {
                pick.connected();
                return Ok(Far { connection, address, pick: Some(pick), latency: begun.elapsed() });
            }
            avoid.push(pick.endpoint().id.clone());
            pick.finish(TryResult::ConnectFailure, begun.elapsed(), Instant::now());
        }
        Err("connect_failed")
    }

    async fn connect_endpoint(
        &self,
        endpoint: &Endpoint,
        tls: &UpstreamTls,
    ) -> Option<(Connection, std::net::SocketAddr)> {
        let mut tried = Vec::new();
        let spread = random();
        while let Some(address) =
            self.upstream.address(endpoint, &tried, spread).filter(|_| tried.len() < TRIES)
        {
            match self.upstream.connect(endpoint, address, MeshProtocol::Tcp, tls).await {
                Ok(connection) => return Some((connection, address)),
                Err(error) => {
                    tracing::debug!(endpoint = %endpoint.id, %error, "no tunnel");
                    if error.is_of_address() && matches!(endpoint.reach, Reach::Via(_)) {
                        self.upstream.address_failed(address);
                    }
                    tried.push(address);
                }
            }
        }
        None
    }
}
