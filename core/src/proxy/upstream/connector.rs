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
    BACKEND, CONNECT_TIMEOUT, DialError, MeshProtocol, MeshUpstream, Name, PLAIN, Profile, UPGRADE, dial,
    pool::Pools, session::MeshSession,
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
    protocol: MeshProtocol,
    limit: Duration,
}

/// Who has to answer.
enum Who {
    /// A workload of the mesh.
    Workload { sni: String, identity: SpiffeId },
    /// A backend outside of it.
    Backend(Arc<Profile>),
}

impl Target {
    fn of<P: Peer>(peer: &P, upstream: &MeshUpstream) -> Result<Self> {
        let wrong = || Error::explain(ErrorType::InternalError, "not a peer of this connector");
        let PingoraAddr::Inet(address) = peer.address() else { return Err(wrong()) };
        let who = match peer.sni().strip_prefix(BACKEND) {
            Some(number) => {
                let number = number.parse().map_err(|_| wrong())?;
                Who::Backend(upstream.backends.numbered(number).ok_or_else(wrong)?)
            }
            None => {
                let (sni, identity) = peer.sni().split_once(' ').ok_or_else(wrong)?;
                let identity = SpiffeId::parse(identity).map_err(|_| wrong())?;
                Who::Workload { sni: sni.to_owned(), identity }
            }
        };
        Ok(Self {
            address: *address,
            who,
            protocol: protocol_of(peer).ok_or_else(wrong)?,
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

/// What is spoken to a peer made by [`super::for_upgrade`].
fn upgrade_of<P: Peer>(peer: &P) -> Option<&[u8]> {
    match peer.get_alpn()? {
        ALPN::Custom(custom) => custom.protocol().strip_suffix(UPGRADE),
        _ => None,
    }
}

impl MeshConnector {
    /// One for each engine.
    pub fn new(upstream: Arc<MeshUpstream>) -> Self {
        Self { upstream, pools: Arc::default() }
    }

    async fn dial_plain<P: Peer>(peer: &P) -> Result<Connection, DialError> {
        let PingoraAddr::Inet(address) = peer.address() else {
            return Err(DialError::Name("not an address of IP".into()));
        };
        dial::plain(*address, peer.total_connection_timeout().unwrap_or(CONNECT_TIMEOUT)).await
    }

    async fn dial(upstream: Arc<MeshUpstream>, target: Arc<Target>) -> Result<Connection, DialError> {
        let Target { address, who, protocol, limit } = &*target;
        match who {
            Who::Workload { sni, identity } => {
                upstream.connect_mesh(*address, Name { sni, identity }, *protocol, *limit).await
            }
            Who::Backend(profile) => super::dial::backend(*address, profile, *protocol, *limit).await,
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
        let upgrade = upgrade_of(peer);
        if upgrade == Some(PLAIN) {
            let made = Self::dial_plain(peer).await.map_err(|e| e.to_pingora())?;
            return Ok((Made::Stream(Box::new(made.answer_in_turn())), false));
        }
        let target = Arc::new(Target::of(peer, &self.upstream)?);
        if target.protocol != MeshProtocol::Http2 {
            let made = Self::dial(self.upstream.clone(), target).await.map_err(|e| e.to_pingora())?;
            let made = if upgrade.is_some() { made.answer_in_turn() } else { made };
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
