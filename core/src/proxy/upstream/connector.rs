//! pingora's way to our mutual TLS: HTTP/2 over pools of our own, HTTP/1.1 as a stream for pingora's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora_core::{
    connectors::http::custom::{Connection as Made, Connector},
    protocols::{ALPN, l4::socket::SocketAddr as PingoraAddr},
    upstreams::peer::Peer,
};
use pingora_error::{Error, ErrorType, Result};

use super::{
    ANNOUNCED, Announce, BACKEND, CONNECT_TIMEOUT, DialError, MeshProtocol, MeshUpstream, Name, Profile,
    UPGRADE, dial, pool::Pools, session::MeshSession,
};
use crate::{model::SpiffeId, proxy::Connection};

/// Connects pingora to [`MeshUpstream`].
#[derive(Debug, Clone)]
pub struct MeshConnector {
    upstream: Arc<MeshUpstream>,
    pools: Arc<Pools>,
}

/// What a peer made by [`MeshUpstream::peer`] says.
struct Target {
    address: SocketAddr,
    who: Who,
    announce: Option<Announce>,
    protocol: MeshProtocol,
    /// It is to become a tunnel.
    upgrade: bool,
    limit: Duration,
}

/// Who has to answer.
enum Who {
    /// A workload of the mesh.
    Workload { sni: String, identity: SpiffeId },
    /// A backend outside of it.
    Backend(Arc<Profile>),
    /// Anybody, in plaintext.
    Anyone,
}

impl Target {
    fn of<P: Peer>(peer: &P, upstream: &MeshUpstream) -> Result<Self> {
        let wrong = || Error::explain(ErrorType::InternalError, "not a peer of this connector");
        let PingoraAddr::Inet(address) = peer.address() else { return Err(wrong()) };
        let (name, announce) = match peer.sni().rsplit_once(ANNOUNCED) {
            Some((name, announce)) => (name, Some(announce.parse().map_err(|()| wrong())?)),
            None => (peer.sni(), None),
        };
        let who = match (name, name.strip_prefix(BACKEND)) {
            ("", _) => Who::Anyone,
            (_, Some(number)) => {
                let number = number.parse().map_err(|_| wrong())?;
                Who::Backend(upstream.backends.numbered(number).ok_or_else(wrong)?)
            }
            (name, None) => {
                let (sni, identity) = name.split_once(' ').ok_or_else(wrong)?;
                let identity = SpiffeId::parse(identity).map_err(|_| wrong())?;
                Who::Workload { sni: sni.to_owned(), identity }
            }
        };
        Ok(Self {
            address: *address,
            who,
            announce,
            protocol: protocol_of(peer).ok_or_else(wrong)?,
            upgrade: is_for_upgrade(peer),
            limit: peer.total_connection_timeout().unwrap_or(CONNECT_TIMEOUT),
        })
    }
}

fn protocol_of<P: Peer>(peer: &P) -> Option<MeshProtocol> {
    match peer.get_alpn()? {
        ALPN::Custom(custom) => MeshProtocol::parse(custom.protocol()),
        _ => None,
    }
}

/// True of a peer made by [`super::for_upgrade`].
fn is_for_upgrade<P: Peer>(peer: &P) -> bool {
    matches!(peer.get_alpn(), Some(ALPN::Custom(custom)) if custom.protocol().ends_with(UPGRADE))
}

impl MeshConnector {
    /// One for each engine.
    pub fn new(upstream: Arc<MeshUpstream>) -> Self {
        Self { upstream, pools: Arc::default() }
    }

    async fn dial(upstream: Arc<MeshUpstream>, target: Arc<Target>) -> Result<Connection, DialError> {
        let Target { address, who, announce, protocol, upgrade, limit } = &*target;
        let to = dial::To { address: *address, announce: *announce };
        match who {
            Who::Workload { sni, identity } => {
                let made = upstream.connect_mesh(*address, Name { sni, identity }, *protocol, *limit).await?;
                // A tunnel waits: perhaps the gateway comes back.
                Ok(if *upgrade { made } else { made.with_cut(upstream.cut_of(*address)) })
            }
            Who::Backend(profile) => dial::backend(to, profile, *protocol, *limit).await,
            Who::Anyone => dial::plain(to, *limit).await,
        }
    }
}

#[async_trait]
impl Connector for MeshConnector {
    type Session = MeshSession;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Made<MeshSession>, bool)> {
        let target = Arc::new(Target::of(peer, &self.upstream)?);
        if target.protocol != MeshProtocol::Http2 {
            let made = Self::dial(self.upstream.clone(), target).await.map_err(|e| e.to_pingora())?;
            let made = if is_for_upgrade(peer) { made.answer_in_turn() } else { made.with_fate() };
            return Ok((Made::Stream(Box::new(made)), false));
        }
        let dial = || Self::dial(self.upstream.clone(), target.clone());
        let got = self.pools.get(peer.reuse_hash(), target.address, dial).await;
        let (session, reused) = got.map_err(|e| e.to_pingora())?;
        Ok((Made::Session(MeshSession::new(session)), reused))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Option<MeshSession> {
        match protocol_of(peer)? {
            MeshProtocol::Http2 => self.pools.reused(peer.reuse_hash()).await.map(MeshSession::new),
            MeshProtocol::Http1 | MeshProtocol::Tcp => None,
        }
    }

    /// The request has ended; dropping it frees its place on the connection, which stays in its pool.
    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: MeshSession,
        _peer: &P,
        _idle: Option<Duration>,
    ) {
        drop(session);
    }
}
