//! Links with the controllers of other clusters: a handshake by token, then one stream per pair.
//!
//! The side that used the token opens the link. Both sides say the same things on it, see [`link`].

mod dial;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hostile;
mod link;
mod pace;
mod stats;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_core::{
    identity::{Purpose, Token, token::MAX_ADDRESSES},
    model::{SpiffeId, check_dns_label},
    tls::{self, grpc},
};
use tombolo_proto::v1::{
    ClusterInfo, HandshakeRequest, HandshakeResponse, LinkMessage, peering_client::PeeringClient,
    peering_server::Peering as PeeringService,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    index::{Event, MAX_PEERS, Peer, PeerEvent, PeerIdentity},
    server::{busy, internal},
    state::{State, bundle_model},
};
use link::{End, Link};
pub use stats::LinkStats;

/// A handshake or the opening of a link may take this long.
const LIMIT: Duration = Duration::from_secs(10);
/// Messages that wait in a stream; what comes after waits in the link.
const QUEUE: usize = 64;
/// A message may be this large; one service with all its endpoints fits.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// Handshakes and links. Cheap to clone.
#[derive(Clone)]
pub struct Peering {
    state: Arc<State>,
    /// Links that peers have open: at the bound one more is refused. A peer has two while one takes the other's place.
    links: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl fmt::Debug for Peering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peering").finish_non_exhaustive()
    }
}

impl Peering {
    /// Dials the peers that this side joined, and those that it will.
    pub fn start(state: Arc<State>, stop: watch::Receiver<bool>) -> Self {
        tokio::spawn(dial::keep_links(Arc::clone(&state), stop.clone()));
        Self { state, links: Arc::new(Semaphore::new(2 * MAX_PEERS)), stop }
    }

    /// Links with the cluster that printed the token. Gives its name and trust domain.
    pub async fn join(&self, token: &str) -> Result<(String, String), String> {
        let token = Token::parse(token.trim()).map_err(|e| e.to_string())?;
        token.check_time(SystemTime::now()).map_err(|e| e.to_string())?;
        let Purpose::Peer { cluster } = &token.purpose else {
            return Err(
                "this is a join token for a workload; `tombolo peer token` prints one for peers".into()
            );
        };
        let info = self.shake_hands(&token).await?;
        let (name, mut identity) = identity(info, true)?;
        if identity.trust_domain != token.trust_domain || *name != **cluster {
            return Err("the peer is another one than the token says".into());
        }
        let pinned = |root: &[u8]| tls::fingerprint(root) == token.root_sha256;
        if !identity.bundle.roots_der.iter().any(|root| pinned(root)) {
            return Err("the peer's bundle does not hold the root that the token names".into());
        }
        // Where it was reached just now comes first.
        identity.addresses.retain(|address| !token.addresses.contains(address));
        identity.addresses.splice(0..0, token.addresses.iter().cloned());
        let trust_domain = identity.trust_domain.to_string();
        self.link_with(name, identity).await?;
        Ok((cluster.clone(), trust_domain))
    }

    async fn shake_hands(&self, token: &Token) -> Result<Option<ClusterInfo>, String> {
        // Before the token is spent.
        if token.trust_domain == self.state.trust_domain {
            return Err("the token is of this cluster's own trust domain".into());
        }
        let expected = SpiffeId::controller(&token.trust_domain);
        let config = tls::bootstrap_client(&token.trust_domain, token.root_sha256, &expected);
        let config = config.map_err(|e| e.to_string())?;
        let channel = grpc::connect(&token.addresses, config).await.map_err(|error| {
            format!(
                "no controller with the token's root was reached ({error}): the token was changed, another controller \
                 answers there, or none does"
            )
        })?;
        let cluster = Some(self.state.cluster_info());
        let request = HandshakeRequest { secret: token.secret.reveal().to_owned(), cluster };
        let mut client = PeeringClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let answer =
            timeout(LIMIT, client.handshake(request)).await.map_err(|_| "the peer does not answer")?;
        let answer = answer.map_err(|status| format!("the peer refuses: {}", status.message()))?;
        Ok(answer.into_inner().cluster)
    }

    async fn link_with(&self, cluster: Arc<str>, identity: PeerIdentity) -> Result<(), String> {
        let event = Event::Peer { cluster: Arc::clone(&cluster), event: PeerEvent::Linked(identity) };
        if let Some(refusal) = self.state.apply(event).into_iter().next() {
            return Err(refusal.to_string());
        }
        self.saved(&format!("{cluster} is linked")).await?;
        tracing::info!(%cluster, "linked with a peer");
        Ok(())
    }

    /// Waits until the disk has it, or says what is the case only until this process ends.
    async fn saved(&self, what: &str) -> Result<(), String> {
        let failed = |error| {
            format!(
                "{what}, but that is not on the disk yet ({error}): it is tried again while this process runs"
            )
        };
        self.state.saved().await.map_err(failed)
    }

    /// Ends the link with a peer for good: it vouches for nobody here any more, and is told so if it can be reached.
    pub async fn revoke(&self, cluster: &str) -> Result<(), Status> {
        let event = Event::Peer { cluster: cluster.into(), event: PeerEvent::Revoked };
        if let Some(refusal) = self.state.apply(event).into_iter().next() {
            return Err(Status::not_found(refusal.to_string()));
        }
        self.saved(&format!("{cluster} is revoked")).await.map_err(Status::unavailable)
    }

    /// Takes a peer from the list whose link was ended. `untold`: also if it does not know that yet.
    pub async fn forget(&self, cluster: &str, untold: bool) -> Result<(), String> {
        let event = Event::Peer { cluster: cluster.into(), event: PeerEvent::Forgotten { untold } };
        if let Some(refusal) = self.state.apply_quietly(event).into_iter().next() {
            return Err(refusal.to_string());
        }
        self.state.peer_forgotten(cluster);
        self.saved(&format!("{cluster} is forgotten")).await
    }

    /// The peer whose controller has this identity; also one that is none any more, who is to hear that.
    fn peer_of(&self, id: &SpiffeId) -> Option<Arc<str>> {
        self.state.with_index(|index| {
            let is_it = |peer: &&Peer| SpiffeId::controller(&peer.identity.trust_domain) == *id;
            let found = index.peers().filter(|(_, peer)| is_it(peer));
            found.min_by_key(|(_, peer)| peer.ended.is_some()).map(|(name, _)| Arc::clone(name))
        })
    }
}

/// What a peer says of itself, checked.
fn identity(info: Option<ClusterInfo>, dials: bool) -> Result<(Arc<str>, PeerIdentity), String> {
    let ClusterInfo { name, bundle, controller_addresses: addresses } =
        info.ok_or("the peer does not say who it is")?;
    check_dns_label(&name).map_err(|e| e.to_string())?;
    let bundle = bundle.ok_or("the peer has no trust bundle")?;
    let model = bundle_model(&bundle).ok_or("the peer's trust bundle is not valid")?;
    if addresses.len() > MAX_ADDRESSES || addresses.iter().any(|address| address.len() > 261) {
        return Err("the peer has too many or too long addresses".into());
    }
    Ok((name.into(), PeerIdentity { trust_domain: model.trust_domain, bundle, addresses, dials }))
}

#[tonic::async_trait]
impl PeeringService for Peering {
    type LinkStream = ReceiverStream<Result<LinkMessage, Status>>;

    async fn handshake(
        &self,
        request: Request<HandshakeRequest>,
    ) -> Result<Response<HandshakeResponse>, Status> {
        let _place = self.state.unproven().ok_or_else(busy)?;
        let HandshakeRequest { secret, cluster } = request.into_inner();
        let (name, identity) = identity(cluster, false).map_err(Status::invalid_argument)?;
        let now = SystemTime::now();
        let redeemed = self.state.with_tokens(|tokens| {
            tokens.peer.redeem(&secret, now).map_err(|error| {
                self.state.telemetry.bad_input("token");
                Status::permission_denied(error.to_string())
            })?;
            // What would be refused anyhow does not spend the token.
            let checked = self.state.with_index(|index| index.check_linked(&name, &identity));
            checked.map_err(|refusal| Status::failed_precondition(refusal.to_string()))
        });
        redeemed.await.map_err(internal)??;
        self.link_with(name, identity).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(HandshakeResponse { cluster: Some(self.state.cluster_info()) }))
    }

    async fn link(
        &self,
        request: Request<Streaming<LinkMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let id = grpc::require_id(&request)?.clone();
        let cluster =
            self.peer_of(&id).ok_or_else(|| Status::permission_denied("not a peer of this cluster"))?;
        let place = Arc::clone(&self.links).try_acquire_owned().map_err(|_| busy())?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let link = Link::new(Arc::clone(&self.state), Arc::clone(&cluster), sender);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            if let (_, End::Broken(reason)) = link.run(request.into_inner(), stop).await {
                tracing::warn!(%cluster, reason, "the link is down");
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
