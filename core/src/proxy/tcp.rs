//! Raw TCP between applications, over mutual TLS where the endpoint is in the mesh.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pingora_core::protocols::Shutdown;
use tokio::sync::watch;

use super::{
    Arrival, Connection, DENIED, Director, MeshProtocol, MeshUpstream, Observer, Picked, Picker, TcpEnd,
    TcpOutcome, TryResult, Wanted,
    copy::{Copied, copy_both},
    gate::{Crowds, Places, random},
    listen::signalled,
    upstream::{CONNECT_TIMEOUT, To},
};
use crate::{
    decide::{Backend, Policies, UpstreamTls, Verdict, hash_of_address},
    model::{Endpoint, Labels, ServiceKey, Snapshot},
};

/// A tunnel in which nothing moves is closed after this long.
pub(super) const IDLE: Duration = Duration::from_secs(3600);
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

/// A tunnel that leads somewhere, and in which nothing has moved yet.
pub(super) struct Opened {
    way: Way,
    far: Far,
    _places: [Places; 2],
}

/// Why there is none.
pub(super) struct Unopened {
    way: Way,
    reason: &'static str,
}

impl Opened {
    /// Waits until the other end speaks; false: it goes away without a word. What it sends as a server of HTTP/2 says nothing
    /// yet: it does not wait for its client to begin (RFC 9113 section 3.4).
    pub async fn speaks(&mut self) -> bool {
        let connection = &mut self.far.connection;
        // What is wrong with it is found out by whoever reads next.
        while let Ok(1..) = connection.fill().await {
            match begins_with_settings(connection.ahead()) {
                Some(true) => std::future::pending().await,
                Some(false) => return true,
                None => {}
            }
        }
        !connection.ahead().is_empty()
    }

    /// Ends it in order: it was not needed.
    pub async fn close(mut self) {
        self.far.connection.shutdown().await;
    }
}

/// Whether these first bytes are a SETTINGS frame of HTTP/2, of the connection and no acknowledgement; none: more are needed.
fn begins_with_settings(bytes: &[u8]) -> Option<bool> {
    const TYPE_FLAGS_STREAM: [u8; 6] = [4, 0, 0, 0, 0, 0];
    let after_length = bytes.get(3..)?;
    let seen = after_length.len().min(TYPE_FLAGS_STREAM.len());
    let fits = after_length.get(..seen) == TYPE_FLAGS_STREAM.get(..seen);
    (!fits || seen == TYPE_FLAGS_STREAM.len()).then_some(fits)
}

impl Tunnels {
    /// Serves one connection to its end. `stop` ends none that is open; only those that are not yet connected.
    pub async fn run(
        &self,
        near: Connection,
        arrival: &Arrival,
        stop: &mut watch::Receiver<bool>,
        begun: Instant,
    ) {
        let opened = self.open(arrival, stop).await;
        self.go_on(near, opened, arrival, begun).await;
    }

    /// Decides, and connects.
    pub async fn open(
        &self,
        arrival: &Arrival,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Opened, Unopened> {
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
                let way = Way { verdict: Some(verdict), ..Way::default() };
                return Err(Unopened { way, reason: DENIED });
            }
            TcpOutcome::Refuse(reason) => return Err(Unopened { way: Way::default(), reason }),
        };
        let _places = match self.crowds.admit_tunnel(&way.policies) {
            Ok(places) => places,
            Err(reason) => return Err(Unopened { way, reason }),
        };
        let connected = tokio::select! {
            biased;
            connected = self.connect(&way, arrival) => connected,
            () = signalled(stop) => Err("draining"),
        };
        match connected {
            Ok(far) => Ok(Opened { way, far, _places }),
            Err(reason) => Err(Unopened { way, reason }),
        }
    }

    /// Copies to the end of both, or refuses the connection where there is no other end.
    pub async fn go_on(
        &self,
        mut near: Connection,
        opened: Result<Opened, Unopened>,
        arrival: &Arrival,
        begun: Instant,
    ) {
        let Opened { way, mut far, _places } = match opened {
            Ok(opened) => opened,
            Err(Unopened { way, reason }) => {
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

#[cfg(test)]
mod tests {
    use super::begins_with_settings;

    #[test]
    fn settings_are_told_from_other_beginnings() {
        for (bytes, is) in [
            (&b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"[..], Some(true)),
            (b"\0\0\0\x04\0\0\0\0\0", Some(true)),
            (b"\0\0\0\x04\0", None),
            (b"\0\0", None),
            (b"\0\0\0\x04\x01\0\0\0\0", Some(false)),
            (b"220 hello", Some(false)),
            // MySQL's greeting: its length, number 0, version 10 of the protocol.
            (b"\x4a\0\0\0\x0a8.0.36\0", Some(false)),
        ] {
            assert_eq!(begins_with_settings(bytes), is, "{bytes:?}");
        }
    }
}
