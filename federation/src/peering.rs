//! Links with the controllers of other clusters: handshake by token, then one stream per pair.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval, sleep, timeout},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tombolo_core::{
    identity::{Purpose, Token},
    model::{SpiffeId, TrustDomain},
    tls::{self, grpc},
};
use tombolo_proto::v1::{
    Ack, ClusterInfo, HandshakeRequest, HandshakeResponse, Hello, LinkMessage, Ping, Pong, Refused, Synced,
    link_message::Message, peering_client::PeeringClient, peering_server::Peering as PeeringService,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    index::{Event, Name, PeerEvent, PeerIdentity, Refusal, Session, Update},
    state::{State, bundle_model, controller_of},
};

/// A sign of life is sent this often; a link that is silent for longer than the limit is dead.
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);
/// Between tries to reach a peer: the first pause, doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A handshake or the opening of a link may take this long.
const LIMIT: Duration = Duration::from_secs(10);
/// Messages that wait for a slow peer; then this side waits with it.
const QUEUE: usize = 256;
/// A message may be this large.
const MAX_MESSAGE: usize = 16 << 20;
/// Refusals that are told on one link; the rest is only counted.
const MAX_REFUSALS: u32 = 1000;

type Outgoing = mpsc::Sender<Result<LinkMessage, Status>>;

/// Handshakes and links. Cheap to clone.
#[derive(Clone)]
pub struct Peering {
    state: Arc<State>,
    stop: watch::Receiver<bool>,
}

impl fmt::Debug for Peering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peering").finish_non_exhaustive()
    }
}

impl Peering {
    /// Dials the peers that this side joined.
    pub fn start(state: Arc<State>, stop: watch::Receiver<bool>) -> Self {
        let peering = Self { state, stop };
        let dialled: Vec<Arc<str>> = peering.state.with_index(|index| {
            let ours = index.peers().filter(|(_, peer)| peer.identity.dials && peer.ended.is_none());
            ours.map(|(name, _)| name.clone()).collect()
        });
        dialled.into_iter().for_each(|cluster| peering.dial(cluster));
        peering
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
        let expected = controller_of(&token.trust_domain);
        let config = tls::bootstrap_client(&token.trust_domain, token.root_sha256, &expected);
        let config = config.map_err(|e| e.to_string())?;
        let channel = grpc::connect(&token.addresses, config).await.map_err(|e| e.to_string())?;
        let request = HandshakeRequest {
            secret: token.secret.reveal().to_owned(),
            cluster: Some(self.state.cluster_info()),
        };
        let mut client = PeeringClient::new(channel);
        let answer =
            timeout(LIMIT, client.handshake(request)).await.map_err(|_| "the peer does not answer")?;
        let info =
            answer.map_err(|status| format!("the peer refuses: {}", status.message()))?.into_inner().cluster;
        let mut identity = identity(info.as_ref(), true)?;
        if identity.trust_domain != token.trust_domain || info.is_none_or(|info| info.name != *cluster) {
            return Err("the peer is another one than the token says".into());
        }
        let pinned = |root: &[u8]| tls::fingerprint(root) == token.root_sha256;
        if !identity.bundle.roots_der.iter().any(|root| pinned(root)) {
            return Err("the peer's bundle does not hold the root that the token names".into());
        }
        // Where it was reached just now comes first.
        identity.addresses.retain(|address| !token.addresses.contains(address));
        identity.addresses.splice(0..0, token.addresses.iter().cloned());
        let name: Arc<str> = cluster.as_str().into();
        self.link(&name, identity.clone())?;
        self.dial(name);
        Ok((cluster.clone(), identity.trust_domain.to_string()))
    }

    fn link(&self, cluster: &Arc<str>, identity: PeerIdentity) -> Result<(), String> {
        let event = Event::Peer { cluster: cluster.clone(), event: PeerEvent::Linked(identity) };
        match self.state.apply(event).into_iter().next() {
            Some(refusal) => Err(refusal.to_string()),
            None => {
                tracing::info!(%cluster, "linked with a peer");
                Ok(())
            }
        }
    }

    /// Keeps a link open until the peer is revoked or this process ends.
    fn dial(&self, cluster: Arc<str>) {
        let (peering, mut stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let began = Instant::now();
                let reason = tokio::select! {
                    reason = peering.open(&cluster) => reason,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                let Some(reason) = reason else { return };
                if began.elapsed() > SILENCE {
                    pause = FIRST_PAUSE;
                }
                tracing::debug!(%cluster, reason, "the link is down");
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                pause = (pause * 2).min(LAST_PAUSE);
            }
        });
    }

    /// One link from this side. None: the peer is not a peer any more.
    async fn open(&self, cluster: &Arc<str>) -> Option<String> {
        let known = self.state.with_index(|index| {
            let peer = index.peer(cluster).filter(|peer| peer.ended.is_none())?;
            Some((peer.identity.trust_domain.clone(), peer.identity.addresses.clone()))
        });
        let (trust_domain, addresses) = known?;
        Some(self.open_to(cluster, &trust_domain, &addresses).await.err().unwrap_or_default())
    }

    async fn open_to(
        &self,
        cluster: &Arc<str>,
        domain: &TrustDomain,
        addresses: &[String],
    ) -> Result<(), String> {
        let (own, trust) = (self.state.credentials(), self.state.trust());
        let config =
            tls::mesh_client(own, trust, controller_of(domain), &["h2"]).map_err(|e| e.to_string())?;
        let channel = grpc::connect(addresses, config).await.map_err(|e| e.to_string())?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let messages =
            ReceiverStream::new(receiver).filter_map(|message: Result<LinkMessage, Status>| message.ok());
        let mut client = PeeringClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let link = Link::new(self.state.clone(), cluster.clone(), sender);
        link.greet().await?;
        let answer = timeout(LIMIT, client.link(messages)).await.map_err(|_| "no answer".to_owned())?;
        let incoming = answer.map_err(|status| status.message().to_owned())?.into_inner();
        link.run(incoming).await
    }
}

/// What a peer says of itself, checked.
fn identity(info: Option<&ClusterInfo>, dials: bool) -> Result<PeerIdentity, String> {
    let info = info.ok_or("the peer does not say who it is")?;
    tombolo_core::model::check_dns_label(&info.name).map_err(|e| e.to_string())?;
    let bundle = info.bundle.clone().ok_or("the peer has no trust bundle")?;
    let model = bundle_model(&bundle).ok_or("the peer's trust bundle is not valid")?;
    if info.controller_addresses.len() > 16 || info.controller_addresses.iter().any(|a| a.len() > 255) {
        return Err("the peer has too many addresses".into());
    }
    let addresses = info.controller_addresses.clone();
    Ok(PeerIdentity { trust_domain: model.trust_domain, bundle, addresses, dials })
}

#[tonic::async_trait]
impl PeeringService for Peering {
    type LinkStream = ReceiverStream<Result<LinkMessage, Status>>;

    async fn handshake(
        &self,
        request: Request<HandshakeRequest>,
    ) -> Result<Response<HandshakeResponse>, Status> {
        let request = request.into_inner();
        let identity = identity(request.cluster.as_ref(), false).map_err(Status::invalid_argument)?;
        let redeemed =
            self.state.with_tokens(|tokens| tokens.peer.redeem(&request.secret, SystemTime::now()));
        let redeemed = redeemed.map_err(|error| {
            tracing::error!(%error, "a handshake failed");
            Status::internal("the controller failed; its log says how")
        })?;
        redeemed.map_err(|error| {
            self.state.telemetry.bad_input("token");
            Status::permission_denied(error.to_string())
        })?;
        let name: Arc<str> = request.cluster.map(|info| info.name).unwrap_or_default().into();
        self.link(&name, identity).map_err(Status::failed_precondition)?;
        Ok(Response::new(HandshakeResponse { cluster: Some(self.state.cluster_info()) }))
    }

    async fn link(
        &self,
        request: Request<Streaming<LinkMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let id = grpc::require_id(&request)?.clone();
        let cluster =
            self.peer_of(&id).ok_or_else(|| Status::permission_denied("not a peer of this cluster"))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let link = Link::new(self.state.clone(), cluster, sender);
        tokio::spawn(async move {
            let outcome = match link.greet().await {
                Ok(()) => link.run(request.into_inner()).await,
                Err(reason) => Err(reason),
            };
            if let Err(reason) = outcome {
                tracing::debug!(reason, "the link is down");
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Peering {
    /// The peer whose controller has this identity.
    fn peer_of(&self, id: &SpiffeId) -> Option<Arc<str>> {
        self.state.with_index(|index| {
            let mut peers = index.peers().filter(|(_, peer)| peer.ended.is_none());
            let found = peers.find(|(_, peer)| controller_of(&peer.identity.trust_domain) == *id);
            found.map(|(name, _)| name.clone())
        })
    }
}

/// One link, the same from both sides.
struct Link {
    state: Arc<State>,
    cluster: Arc<str>,
    session: Session,
    out: Outgoing,
}

impl Link {
    fn new(state: Arc<State>, cluster: Arc<str>, out: Outgoing) -> Self {
        let session = state.session();
        Self { state, cluster, session, out }
    }

    async fn send(&self, message: Message) -> Result<(), String> {
        let message = LinkMessage { message: Some(message) };
        let sending = timeout(SILENCE, self.out.send(Ok(message))).await;
        sending.map_err(|_| "the peer takes nothing".to_owned())?.map_err(|_| "the link has ended".to_owned())
    }

    /// What is held, and where this side's exports stand.
    async fn greet(&self) -> Result<(), String> {
        let hello = self.state.with_index(|index| {
            let peer = index.peer(&self.cluster)?;
            let (have_epoch, have_revision) = peer.have.clone().unwrap_or_default();
            let epoch = peer.exports.epoch().to_owned();
            let (cluster, network) = (self.state.cluster.to_string(), self.state.network.clone());
            Some(Hello { cluster, have_epoch, have_revision, epoch, network })
        });
        self.send(Message::Hello(hello.ok_or("not a peer any more")?)).await?;
        self.send(Message::Bundle(self.state.own_bundle())).await
    }

    async fn run<S>(&self, mut incoming: S) -> Result<(), String>
    where
        S: Stream<Item = Result<LinkMessage, Status>> + Unpin,
    {
        let outcome = self.serve(&mut incoming).await;
        self.event(PeerEvent::Disconnected { session: self.session });
        outcome
    }

    async fn serve<S>(&self, incoming: &mut S) -> Result<(), String>
    where
        S: Stream<Item = Result<LinkMessage, Status>> + Unpin,
    {
        let (mut exports, mut ping) = (self.state.exports(), interval(PING));
        let (mut sent, mut refusals, mut pings) = (None, 0, 0);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = incoming.next() => {
                    let message = match message {
                        Some(Ok(message)) => message.message,
                        Some(Err(status)) => return Err(status.message().to_owned()),
                        None => return Err("the peer has ended the link".into()),
                    };
                    heard = Instant::now();
                    if let Some(Message::Hello(hello)) = &message {
                        self.hello(hello, &mut sent).await?;
                    } else if let Some(message) = message {
                        self.take(message, &mut refusals).await?;
                    }
                }
                changed = exports.changed(), if sent.is_some() => {
                    changed.map_err(|_| "this side ends".to_owned())?;
                    self.tell(&mut sent).await?;
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err("the peer is silent".into());
                    }
                    pings += 1;
                    self.send(Message::Ping(Ping { id: pings })).await?;
                }
            }
        }
    }

    fn event(&self, event: PeerEvent) -> Vec<Refusal> {
        self.state.apply(Event::Peer { cluster: self.cluster.clone(), event })
    }

    /// The peer says what it has: it is told the rest.
    async fn hello(&self, hello: &Hello, sent: &mut Option<u64>) -> Result<(), String> {
        if sent.is_some() {
            return Err("a second Hello".into());
        }
        if *hello.cluster != *self.cluster {
            return Err(format!("the peer says that it is {:.64}", hello.cluster));
        }
        let event = PeerEvent::Hello {
            session: self.session,
            epoch: hello.epoch.clone(),
            network: hello.network.clone(),
        };
        if let Some(refusal) = self.event(event).into_iter().next() {
            return Err(refusal.to_string());
        }
        let resumed = self.state.with_index(|index| {
            Some(index.peer(&self.cluster)?.exports.resume(&hello.have_epoch, hello.have_revision))
        });
        self.send_update(resumed.ok_or("not a peer any more")?, sent).await
    }

    async fn tell(&self, sent: &mut Option<u64>) -> Result<(), String> {
        let update = self.state.with_index(|index| {
            let peer = index.peer(&self.cluster).filter(|peer| peer.ended.is_none())?;
            Some(peer.exports.since(*sent))
        });
        let update = update.ok_or("not a peer any more")?;
        if *sent == Some(update.revision) {
            return Ok(());
        }
        self.send_update(update, sent).await
    }

    async fn send_update(&self, update: Update, sent: &mut Option<u64>) -> Result<(), String> {
        for service in update.services {
            self.send(Message::Service(service)).await?;
        }
        for withdrawn in update.withdrawn {
            self.send(Message::Withdrawn(withdrawn)).await?;
        }
        if let Some(gateways) = update.gateways {
            self.send(Message::Gateways(gateways)).await?;
        }
        *sent = Some(update.revision);
        self.send(Message::Synced(Synced { revision: update.revision, full: update.full })).await
    }

    async fn take(&self, message: Message, refusals: &mut u32) -> Result<(), String> {
        let session = self.session;
        let mut ack = None;
        let event = match message {
            Message::Bundle(bundle) => PeerEvent::Bundle { session, bundle },
            Message::Service(service) => PeerEvent::Service { session, service },
            Message::Withdrawn(w) => PeerEvent::Withdrawn { session, name: Name::new(&w.namespace, &w.name) },
            Message::Gateways(gateways) => {
                PeerEvent::Gateways { session, addresses: gateways.mesh_addresses }
            }
            Message::Synced(synced) => {
                ack = Some(synced.revision);
                PeerEvent::Synced { session, revision: synced.revision, full: synced.full }
            }
            Message::Ack(ack) => PeerEvent::Acked { session, revision: ack.revision },
            Message::Ping(ping) => {
                self.send(Message::Pong(Pong { id: ping.id })).await?;
                PeerEvent::Heard { session }
            }
            Message::Pong(_) => PeerEvent::Heard { session },
            Message::Refused(refused) => {
                tracing::warn!(peer = %self.cluster, object = refused.object, reason = refused.reason, "the peer refuses");
                PeerEvent::Heard { session }
            }
            // Handled before.
            Message::Hello(_) => return Ok(()),
        };
        for refusal in self.event(event) {
            tracing::warn!(peer = %self.cluster, %refusal, "not taken from the peer");
            *refusals += 1;
            if *refusals <= MAX_REFUSALS {
                let refused = Refused { object: refusal.object, reason: refusal.reason };
                self.send(Message::Refused(refused)).await?;
            }
        }
        if let Some(revision) = ack {
            self.send(Message::Ack(Ack { revision })).await?;
        }
        Ok(())
    }
}
