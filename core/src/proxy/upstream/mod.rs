//! Connections to endpoints: mutual TLS to sidecars, directly or through a peer's gateways, and plaintext.

mod announce;
mod backend;
mod connector;
mod cut;
mod dial;
mod generation;
mod pool;
mod session;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pingora_core::{
    protocols::{ALPN, tls::CustomALPN},
    upstreams::peer::{HttpPeer, Scheme},
};

use announce::Announce;
pub use backend::ClientCertificates;
use backend::{BackendProfiles, Profile};
pub use connector::MeshConnector;
pub(super) use cut::Cut;
use cut::Cuts;
pub use dial::{ConnectFailure, DialError};
pub(super) use dial::{OVERFLOW, To, plain};
use generation::Generations;
pub(super) use session::MeshSession;
pub(super) use session::{set_authority, strip_connection_fields};

use super::{Arrival, Connection, TryResult, tenure::Tenures};
use crate::{
    decide::{Timeouts, UpstreamTls},
    identity,
    model::{Endpoint, Reach, Snapshot, SpiffeId, Transport},
    paths::Paths,
};

/// See [`Timeouts::CONNECT`].
pub const CONNECT_TIMEOUT: Duration = Timeouts::CONNECT;
/// An idle pooled connection is closed after this long: sooner than the other side does it, so that a request seldom
/// meets a connection that is just closing.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// Bits of a pool's key that tell connections to one peer apart by age.
const TURNS: u64 = (1 << 20) - 1;
/// HTTP/2 requests at a time on one connection.
const H2_STREAMS: usize = 100;

/// What is spoken over a connection to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeshProtocol {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2.
    Http2,
    /// Anything, not parsed.
    Tcp,
}

impl MeshProtocol {
    /// Its name in ALPN, between proxies.
    pub const fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "mesh-h1",
            Self::Http2 => "mesh-h2",
            Self::Tcp => "mesh-tcp",
        }
    }

    /// What stands in the place of its name in ALPN towards backends outside of the mesh: never sent.
    const fn over_backend_tls(self) -> &'static str {
        match self {
            Self::Http1 => "tls-h1",
            Self::Http2 => "tls-h2",
            Self::Tcp => "tls-tcp",
        }
    }

    /// The same without TLS.
    const fn over_nothing(self) -> &'static str {
        match self {
            Self::Http1 => "plain-h1",
            Self::Http2 => "plain-h2",
            Self::Tcp => "plain-tcp",
        }
    }

    /// By what a peer's ALPN says, with or without [`UPGRADE`].
    fn parse(alpn: &[u8]) -> Option<Self> {
        let alpn = alpn.strip_suffix(UPGRADE).unwrap_or(alpn);
        let names = |p: &Self| [p.alpn(), p.over_backend_tls(), p.over_nothing()];
        let is_it = |p: &Self| names(p).iter().any(|name| name.as_bytes() == alpn);
        [Self::Http1, Self::Http2, Self::Tcp].into_iter().find(is_it)
    }
}

/// Makes connections to endpoints, with the credentials and trust of the moment.
pub struct MeshUpstream {
    generations: Generations,
    backends: BackendProfiles,
    paths: Arc<Paths>,
    cuts: Cuts,
    tenures: Arc<Tenures>,
}

impl MeshUpstream {
    /// `identity`: this process's credentials; without them only plaintext endpoints can be reached. Trust bundles come
    /// from the snapshot.
    pub fn new(identity: Option<identity::Watch>, snapshot: Arc<ArcSwap<Snapshot>>) -> Arc<Self> {
        Self::along(Arc::new(Paths::new(Instant::now())), identity, snapshot, Arc::default())
    }

    /// As [`Self::new`], with what is seen of gateways, and with certificates that may be shown to backends outside of the
    /// mesh. Those are looked up for each request: connections that were made with others are not used any more.
    pub fn along(
        paths: Arc<Paths>,
        identity: Option<identity::Watch>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        certificates: Arc<ArcSwap<ClientCertificates>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            generations: Generations::new(identity, snapshot),
            backends: BackendProfiles::new(certificates),
            paths,
            cuts: Cuts::default(),
            tenures: Arc::default(),
        })
    }

    /// This process's own identity, if it has one.
    pub fn own_id(&self) -> Option<SpiffeId> {
        self.generations.own_id()
    }

    /// Until when connections with mesh peers may go on, in both directions.
    pub(super) fn tenures(&self) -> &Arc<Tenures> {
        &self.tenures
    }

    /// The address to try: the endpoint's own, or that of one of the best gateways that are not in `tried`. `spread` (random)
    /// shares the load over gateways. `None`: all were tried.
    pub fn address(&self, endpoint: &Endpoint, tried: &[SocketAddr], spread: u64) -> Option<SocketAddr> {
        match &endpoint.reach {
            Reach::Direct(address) => (!tried.contains(address)).then_some(*address),
            Reach::Via(gateways) => self.paths.choose(gateways, tried, spread, Instant::now()),
        }
    }

    /// Takes note of how it went to connect to a gateway in front of an endpoint, and says what that says of the endpoint:
    /// nothing, where no gateway took the connection.
    pub fn judge(&self, endpoint: &Endpoint, address: SocketAddr, failed: ConnectFailure) -> TryResult {
        if matches!(endpoint.reach, Reach::Direct(_)) {
            return TryResult::ConnectFailure;
        }
        match failed {
            ConnectFailure::Address => {
                self.paths.failed(address, Instant::now());
                if self.is_down(address) {
                    self.cut(address);
                }
                TryResult::Unreached
            }
            ConnectFailure::Silence => {
                self.paths.unanswered(address, Instant::now());
                if self.is_down(address) { TryResult::Unreached } else { TryResult::Failure }
            }
            ConnectFailure::Endpoint => TryResult::ConnectFailure,
        }
    }

    /// What an exchange that broke says of the endpoint: nothing, where the gateway in front of it is down.
    pub(super) fn blame(
        &self,
        endpoint: &Endpoint,
        address: Option<SocketAddr>,
        broke: TryResult,
    ) -> TryResult {
        let via = matches!(endpoint.reach, Reach::Via(_));
        let excused = broke == TryResult::Failure && via && address.is_some_and(|at| self.is_down(at));
        if excused { TryResult::Unreached } else { broke }
    }

    fn is_down(&self, gateway: SocketAddr) -> bool {
        self.paths.get(gateway).is_some_and(|gateway| gateway.is_down())
    }

    /// The gateway has stopped to answer: requests that wait for something from behind it are told.
    pub fn cut(&self, gateway: SocketAddr) {
        self.cuts.cut(gateway);
    }

    /// Of a connection through a gateway.
    fn cut_of(&self, address: SocketAddr) -> Option<Cut> {
        self.paths.get(address).and_then(|_| self.cuts.of(address))
    }

    /// The endpoint as pingora's pools know it. Fails for a mesh endpoint when this process has no identity.
    pub(super) fn peer(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        protocol: MeshProtocol,
        tls: &UpstreamTls,
        client: Option<&Arrival>,
    ) -> Result<HttpPeer, DialError> {
        match &endpoint.transport {
            Transport::Plaintext => {
                let announce = Announce::of(tls.announce, client);
                match self.backends.of(tls)? {
                    Some(profile) => Ok(backend_peer(address, protocol, &profile, announce)),
                    None => Ok(plaintext_peer(address, protocol, announce)),
                }
            }
            Transport::Mesh { identity, sni } => {
                let current = self.generations.current()?;
                let mut peer = new_peer(address, Name { sni, identity }.to_string());
                peer.options.alpn = ALPN::Custom(CustomALPN::new(protocol.alpn().into()));
                // Also in the key of pooled connections, so that none outlives the trust it was made with.
                let turn = current.turn(identity, Instant::now()) & TURNS;
                peer.group_key = (current.number << TURNS.count_ones() | turn) << 2 | protocol as u64;
                Ok(peer)
            }
        }
    }

    /// Makes a connection that is in no pool: over the mesh's mutual TLS, as a BackendTLSPolicy says, or in plaintext.
    /// `client` is who asked for it, for backends that want to be told by the PROXY protocol.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        protocol: MeshProtocol,
        tls: &UpstreamTls,
        client: Option<&Arrival>,
    ) -> Result<Connection, DialError> {
        match &endpoint.transport {
            Transport::Plaintext => {
                let to = dial::To { address, announce: Announce::of(tls.announce, client) };
                match self.backends.of(tls)? {
                    Some(profile) => dial::backend(to, &profile, protocol, CONNECT_TIMEOUT).await,
                    None => dial::plain(to, CONNECT_TIMEOUT).await,
                }
            }
            Transport::Mesh { identity, sni } => {
                self.connect_mesh(address, Name { sni, identity }, protocol, CONNECT_TIMEOUT).await
            }
        }
    }

    async fn connect_mesh(
        &self,
        address: SocketAddr,
        name: Name<'_>,
        protocol: MeshProtocol,
        limit: Duration,
    ) -> Result<Connection, DialError> {
        let generation = self.generations.current()?;
        let config = generation.config(name.identity, protocol)?;
        let dialing = dial::mesh(address, name.sni, config, protocol, limit, &self.tenures);
        let (made, expires) = match self.cut_of(address) {
            None => dialing.await?,
            // A kernel took the connection, and the gateway turns out to have stopped.
            Some(cut) => tokio::select! {
                made = dialing => made?,
                () = cut => return Err(DialError::Silence(address)),
            },
        };
        if let Some(expires) = expires {
            generation.made(name.identity, expires);
        }
        self.paths.answered(address, Instant::now());
        Ok(made)
    }
}

/// A plaintext peer at an address.
pub(super) fn plaintext_peer(
    address: SocketAddr,
    protocol: MeshProtocol,
    announce: Option<Announce>,
) -> HttpPeer {
    let mut peer = new_peer(address, announced(String::new(), announce));
    peer.options.alpn = ALPN::Custom(CustomALPN::new(protocol.over_nothing().into()));
    peer.group_key = protocol as u64;
    peer
}

/// Ends the ALPN of a peer that a request to switch protocols is sent to. It is not what is said in the handshake.
const UPGRADE: &[u8] = b"+upgrade";
/// Keeps the connections of such peers apart from others in pingora's pool.
const UPGRADE_GROUP: u64 = 1 << 63;

/// The same peer for a request to switch protocols: on a connection of its own kind, see [`Connection::answer_in_turn`].
pub(super) fn for_upgrade(mut peer: HttpPeer) -> HttpPeer {
    // Every peer that is made here has a label of its own.
    if let ALPN::Custom(custom) = &peer.options.alpn {
        peer.options.alpn = ALPN::Custom(CustomALPN::new([custom.protocol(), UPGRADE].concat()));
    }
    peer.group_key |= UPGRADE_GROUP;
    peer
}

/// A peer outside of the mesh that is spoken to over TLS. What pingora tells its pools apart by is the profile's number.
fn backend_peer(
    address: SocketAddr,
    protocol: MeshProtocol,
    profile: &Profile,
    announce: Option<Announce>,
) -> HttpPeer {
    let mut peer = new_peer(address, announced(format!("{BACKEND}{}", profile.number), announce));
    peer.options.alpn = ALPN::Custom(CustomALPN::new(protocol.over_backend_tls().into()));
    peer.group_key = profile.number << 2 | protocol as u64;
    peer
}

/// Begins the name of a peer outside of the mesh that TLS is spoken to; no name of the mesh begins so.
const BACKEND: &str = "#";
/// Begins what is announced to a peer, at the end of its name.
const ANNOUNCED: char = '@';

fn announced(name: String, announce: Option<Announce>) -> String {
    announce.map_or(name.clone(), |announce| format!("{name}{ANNOUNCED}{announce}"))
}

/// True if HTTP/2 is spoken to this peer.
pub(super) fn is_http2(peer: &HttpPeer) -> bool {
    match &peer.options.alpn {
        ALPN::Custom(custom) => MeshProtocol::parse(custom.protocol()) == Some(MeshProtocol::Http2),
        ALPN::H2 => true,
        ALPN::H1 | ALPN::H2H1 => false,
    }
}

fn new_peer(address: SocketAddr, name: String) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, name);
    debug_assert_eq!(peer.scheme, Scheme::HTTP, "TLS to the mesh is our own, never the stock one");
    peer.options.idle_timeout = Some(POOL_IDLE);
    peer.options.max_h2_streams = H2_STREAMS;
    peer
}

/// What a mesh connection is made to: goes through pingora in the place of the server name.
#[derive(Clone, Copy)]
struct Name<'a> {
    sni: &'a str,
    identity: &'a SpiffeId,
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.sni, self.identity)
    }
}

impl std::fmt::Debug for MeshUpstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshUpstream").field("own", &self.own_id()).finish_non_exhaustive()
    }
}
