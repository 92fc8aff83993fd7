//! One link, the same from both sides.
//!
//! Reading never waits for writing: two sides that tell each other much at once would wait for each other for ever.
//! What is to be said waits in two queues: updates, which are made only when all earlier ones are sent (so their bound
//! is that of the exports themselves), and short answers, which are bounded here.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::{Stream, StreamExt};
use tombolo_proto::v1::{
    self, Ack, BundleTaken, Hello, LinkMessage, Ping, Pong, Refused, Synced, link_message::Message,
};
use tonic::{Code, Status};

use super::{LIMIT, LinkStats, pace::Pace};
use crate::{
    index::{Event, Limits, Name, PeerEvent, Refusal, RefusalKind, Session, Update},
    running::stopped,
    state::State,
};

/// A sign of life is asked for this often, or three times within the peer's lease where that is shorter.
const PING: Duration = Duration::from_secs(5);
/// Not more often than this, whatever the lease.
const SHORTEST: Duration = Duration::from_millis(100);
/// A link on which nothing comes, or nothing can be sent, for longer is dead.
pub(super) const SILENCE: Duration = Duration::from_secs(15);
/// Short answers that wait. A peer that asks for more without reading is cut off.
const MAX_ANSWERS: usize = 1024;
/// Refusals that are told on one link; the rest is only counted.
const MAX_REFUSALS: u32 = 1000;
/// What a Refused message is about when it ends the link, and why.
const LINK: &str = "link";
const REVOKED: &str = "revoked";
/// The answer to that.
const LEFT: &str = "left";
/// What is still on its way may take this long where a link ends in order.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where messages go.
pub(super) type Outgoing = mpsc::Sender<Result<LinkMessage, Status>>;

/// One link.
pub(super) struct Link {
    state: Arc<State>,
    cluster: Arc<str>,
    session: Session,
    out: Outgoing,
    answers: VecDeque<Message>,
    updates: VecDeque<Message>,
    /// Up to which revision the peer is told; none until its Hello has come.
    told: Option<u64>,
    refusals: u32,
    stats: Arc<LinkStats>,
    /// The last question, and when it went out.
    pinged: Option<(u64, Instant)>,
}

/// How a link ended.
#[derive(Debug)]
pub(super) enum End {
    /// The process ends, or the peer is none any more and knows it.
    Over,
    /// The peer wants no link any more.
    Left,
    /// It broke; this is why.
    Broken(String),
}

fn broken<T>(reason: impl Into<String>) -> Result<T, End> {
    Err(End::Broken(reason.into()))
}

impl Link {
    pub fn new(state: Arc<State>, cluster: Arc<str>, out: Outgoing) -> Self {
        let session = state.session();
        let (answers, updates) = (VecDeque::new(), VecDeque::new());
        let stats = state.link_stats(&cluster);
        Self { state, cluster, session, out, answers, updates, told: None, refusals: 0, stats, pinged: None }
    }

    /// Runs until it breaks, the peer is revoked, or `stop` turns true. Returns whether it ever was in use, and its end.
    pub async fn run<S>(mut self, mut incoming: S, stop: watch::Receiver<bool>) -> (bool, End)
    where
        S: Stream<Item = Result<LinkMessage, Status>> + Unpin,
    {
        let end = match self.serve(&mut incoming, stop).await {
            Ok(()) => End::Over,
            Err(end) => end,
        };
        let used = self.told.is_some();
        if used {
            // Refused if a younger link is in use: then this one's end means nothing.
            self.state.apply_quietly(self.peer(PeerEvent::Disconnected { session: self.session }));
        }
        if matches!(end, End::Left) {
            drop(self);
            // Until the peer hangs up: what is on the way would be lost with the connection.
            let hung_up = async { while let Some(Ok(_)) = incoming.next().await {} };
            let _in_time = tokio::time::timeout(GOODBYE, hung_up).await;
        }
        (used, end)
    }

    async fn serve<S>(&mut self, incoming: &mut S, mut stop: watch::Receiver<bool>) -> Result<(), End>
    where
        S: Stream<Item = Result<LinkMessage, Status>> + Unpin,
    {
        let (mut exports, mut peers) = (self.state.exports(), self.state.peers());
        let mut bundle = self.state.bundle_changes();
        if self.is_revoked() {
            return farewell(&self.state, &self.cluster, &self.out, incoming).await;
        }
        let begun = Instant::now();
        let (mut heard, mut sent, mut pings, mut look) = (begun, begun, 0, begun);
        let mut beat = self.beat();
        let mut silent = Duration::ZERO;
        let mut pace = Pace::new(self.limits(), begun);
        let mut paused: Option<Instant> = None;
        let out = self.out.clone();
        self.greet()?;
        loop {
            let idle = self.answers.is_empty() && self.updates.is_empty();
            if idle {
                sent = Instant::now();
            }
            tokio::select! {
                permit = out.reserve(), if !idle => {
                    let Ok(permit) = permit else { return broken("the link has ended") };
                    let message = self.answers.pop_front().or_else(|| self.updates.pop_front());
                    sent = Instant::now();
                    if let Some(Message::Ping(ping)) = &message {
                        self.pinged = Some((ping.id, sent));
                    }
                    let message = LinkMessage { message };
                    self.stats.sent(&message);
                    permit.send(Ok(message));
                }
                message = incoming.next(), if paused.is_none() => {
                    (heard, silent) = (Instant::now(), Duration::ZERO);
                    match message {
                        Some(Ok(message)) => {
                            let bytes = self.stats.received(&message);
                            self.take(message.message)?;
                            let pause = pace.took(bytes, heard);
                            if !pause.is_zero() {
                                self.stats.throttled(pause);
                                paused = Some(heard + pause);
                                self.pause(pause);
                            }
                        }
                        Some(Err(status)) => {
                            if status.code() == Code::OutOfRange {
                                self.state.apply(self.peer(PeerEvent::TooLarge { session: self.session }));
                            }
                            return broken(status.message());
                        }
                        None => return broken("the peer has ended the link"),
                    }
                }
                () = sleep_until(paused.unwrap_or(heard)), if paused.is_some() => {
                    // Its silence was ours.
                    (paused, heard) = (None, Instant::now());
                }
                Ok(()) = exports.changed(), if self.told.is_some() && self.updates.is_empty() => self.tell()?,
                Ok(()) = peers.changed() => if self.is_revoked() {
                    return farewell(&self.state, &self.cluster, &self.out, incoming).await;
                },
                Ok(()) = bundle.changed() => self.answer(Message::Bundle(self.state.own_bundle()))?,
                () = sleep_until(look) => {
                    // By looks: a process that had no time is not a peer that was silent, and reads before the next.
                    if paused.is_none() && heard.elapsed() >= beat {
                        silent += beat;
                    }
                    if silent > SILENCE {
                        return broken("the peer is silent");
                    }
                    beat = self.beat();
                    look = Instant::now() + beat;
                    pace.limit(self.limits());
                    if sent.elapsed() > SILENCE {
                        return broken("the peer takes nothing");
                    }
                    pings += 1;
                    self.answer(Message::Ping(Ping { id: pings }))?;
                }
                () = stopped(&mut stop) => return Ok(()),
            }
        }
    }

    /// Nothing is read for so long: its silence is ours.
    fn pause(&self, pause: Duration) {
        let (session, millis) = (self.session, i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        self.state.apply_quietly(self.peer(PeerEvent::Unread { session, millis }));
    }

    fn peer(&self, event: PeerEvent) -> Event {
        Event::Peer { cluster: Arc::clone(&self.cluster), event }
    }

    fn limits(&self) -> Limits {
        self.state.with_index(|index| index.limits_of(&self.cluster))
    }

    /// How often is looked and asked whether the peer is there: a link on which nothing changes makes nothing stale.
    fn beat(&self) -> Duration {
        let lease = self.state.with_index(|index| index.lease_of(&self.cluster)).stale_after;
        PING.min(Duration::from_millis(u64::try_from(lease).unwrap_or(0) / 3)).max(SHORTEST)
    }

    fn is_revoked(&self) -> bool {
        self.state.with_index(|index| index.peer(&self.cluster).is_none_or(|peer| peer.ended.is_some()))
    }

    fn answer(&mut self, message: Message) -> Result<(), End> {
        if self.answers.len() >= MAX_ANSWERS {
            return broken("the peer asks without reading");
        }
        self.answers.push_back(message);
        Ok(())
    }

    /// What is held, where this side's exports stand, and its roots.
    fn greet(&mut self) -> Result<(), End> {
        let hello = self.state.with_index(|index| {
            let peer = index.peer(&self.cluster).filter(|peer| peer.ended.is_none())?;
            let (have_epoch, have_revision) = peer.have.clone().unwrap_or_default();
            let epoch = peer.exports.epoch().to_owned();
            let (cluster, network) = (self.state.cluster.to_string(), self.state.network.clone());
            Some(Hello { cluster, have_epoch, have_revision, epoch, network })
        });
        let Some(hello) = hello else { return Err(End::Over) };
        self.answer(Message::Hello(hello))?;
        self.answer(Message::Bundle(self.state.own_bundle()))
    }

    /// The peer says what it has: it is told the rest.
    fn hello(&mut self, hello: Hello) -> Result<(), End> {
        if self.told.is_some() {
            return broken("a second Hello");
        }
        if *hello.cluster != *self.cluster {
            return broken(format!("the peer says that it is {:.64}", hello.cluster));
        }
        let Hello { epoch, network, have_epoch, have_revision, .. } = hello;
        let event = PeerEvent::Hello { session: self.session, epoch, network };
        if let Some(refusal) = self.state.apply(self.peer(event)).into_iter().next() {
            return broken(refusal.to_string());
        }
        let update = self
            .state
            .with_index(|index| Some(index.peer(&self.cluster)?.exports.resume(&have_epoch, have_revision)));
        match update {
            Some(update) => self.queue(update),
            None => return Err(End::Over),
        }
        Ok(())
    }

    fn tell(&mut self) -> Result<(), End> {
        let update = self.state.with_index(|index| Some(index.peer(&self.cluster)?.exports.since(self.told)));
        let Some(update) = update else { return Err(End::Over) };
        // The change may have been of another peer's exports.
        if self.told != Some(update.revision) {
            self.queue(update);
        }
        Ok(())
    }

    fn queue(&mut self, update: Update) {
        // First: how services are reached.
        self.updates.extend(update.gateways.map(Message::Gateways));
        // Before what comes in their place: the peer may have no room for both.
        self.updates.extend(update.withdrawn.into_iter().map(Message::Withdrawn));
        self.updates.extend(update.services.into_iter().map(Message::Service));
        self.updates.extend(update.summaries.into_iter().map(Message::Summaries));
        let synced = Synced { revision: update.revision, full: update.full };
        self.updates.push_back(Message::Synced(synced));
        self.told = Some(update.revision);
    }

    fn take(&mut self, message: Option<Message>) -> Result<(), End> {
        // A kind of message that this version does not know: from a younger peer, and no reason to part.
        let Some(message) = message else { return Ok(()) };
        let session = self.session;
        match message {
            Message::Hello(hello) => return self.hello(hello),
            Message::Refused(refused) if is_about_link(&refused, REVOKED) => return self.left(),
            _ => {}
        }
        if self.told.is_none() {
            return broken("the peer's first message is no Hello");
        }
        let event = match message {
            Message::Bundle(bundle) => return self.bundle(bundle),
            Message::BundleTaken(taken) => PeerEvent::BundleTaken { session, sequence: taken.sequence },
            Message::Service(service) => PeerEvent::Service { session, service },
            Message::Summaries(s) => {
                PeerEvent::Summaries { session, name: Name::new(&s.namespace, &s.name), ports: s.ports }
            }
            Message::Withdrawn(w) => PeerEvent::Withdrawn { session, name: Name::new(&w.namespace, &w.name) },
            Message::Gateways(gateways) => {
                PeerEvent::Gateways { session, addresses: gateways.mesh_addresses }
            }
            Message::Synced(Synced { revision, full }) => {
                self.answer(Message::Ack(Ack { revision }))?;
                PeerEvent::Synced { session, revision, full }
            }
            Message::Ack(ack) => PeerEvent::Acked { session, revision: ack.revision },
            Message::Ping(ping) => {
                self.answer(Message::Pong(Pong { id: ping.id }))?;
                PeerEvent::Heard { session }
            }
            Message::Refused(refused) => self.refused(&refused),
            Message::Pong(pong) => {
                if let Some((_, since)) = self.pinged.take_if(|(id, _)| *id == pong.id) {
                    self.stats.answered(since.elapsed());
                }
                PeerEvent::Answered { session }
            }
            Message::Hello(_) => PeerEvent::Heard { session },
        };
        for refusal in self.state.apply(self.peer(event)) {
            self.refuse(refusal)?;
        }
        Ok(())
    }

    /// What is held is confirmed, so that the peer may sign with it.
    fn bundle(&mut self, bundle: v1::TrustBundle) -> Result<(), End> {
        let (session, sequence) = (self.session, bundle.sequence);
        let refusals = self.state.apply(self.peer(PeerEvent::Bundle { session, bundle }));
        if refusals.is_empty() {
            return self.answer(Message::BundleTaken(BundleTaken { sequence }));
        }
        refusals.into_iter().try_for_each(|refusal| self.refuse(refusal))
    }

    /// The peer has ended the link for good.
    fn left(&mut self) -> Result<(), End> {
        tracing::warn!(peer = %self.cluster, "the peer has ended the link for good");
        let event = PeerEvent::Left { session: self.session };
        self.state.apply(self.peer(event));
        // Where there is no room, the peer says it again.
        let _told = self.out.try_send(Ok(about_link(LEFT)));
        Err(End::Left)
    }

    fn refused(&self, refused: &Refused) -> PeerEvent {
        let session = self.session;
        let (object, reason) = (format!("{:.128}", refused.object), format!("{:.256}", refused.reason));
        tracing::warn!(peer = %self.cluster, object, reason, "the peer refuses");
        PeerEvent::Heard { session }
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), End> {
        if refusal.object == LINK && refusal.kind == RefusalKind::Outdated {
            return broken(refusal.reason);
        }
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals > MAX_REFUSALS {
            return Ok(());
        }
        tracing::warn!(peer = %self.cluster, %refusal, "not taken from the peer");
        self.answer(Message::Refused(Refused { object: refusal.object, reason: refusal.reason }))
    }
}

fn about_link(reason: &str) -> LinkMessage {
    let refused = Refused { object: LINK.into(), reason: reason.into() };
    LinkMessage { message: Some(Message::Refused(refused)) }
}

fn is_about_link(refused: &Refused, reason: &str) -> bool {
    refused.object == LINK && refused.reason == reason
}

/// The whole of a link with somebody who is a peer no more: says so, so that it is not taken for a failure, and waits
/// until the other side knows. Whoever has ended it: a side that has forgotten hears it again.
pub(super) async fn farewell<S>(
    state: &State,
    cluster: &Arc<str>,
    out: &Outgoing,
    incoming: &mut S,
) -> Result<(), End>
where
    S: Stream<Item = Result<LinkMessage, Status>> + Unpin,
{
    let parting = async {
        if out.send(Ok(about_link(REVOKED))).await.is_err() {
            return broken("the link has ended");
        }
        loop {
            let message = match incoming.next().await {
                Some(Ok(message)) => message.message,
                Some(Err(status)) => return broken(status.message()),
                None => return broken("the peer does not know yet that it was revoked"),
            };
            match message {
                Some(Message::Refused(said)) if is_about_link(&said, LEFT) => break,
                Some(Message::Refused(said)) if is_about_link(&said, REVOKED) => {
                    // Both have ended it; the answer may be late for a peer that hangs up.
                    let _told = out.send(Ok(about_link(LEFT))).await;
                    break;
                }
                // Said before it knew.
                _ => {}
            }
        }
        state.apply_quietly(Event::Peer { cluster: Arc::clone(cluster), event: PeerEvent::Told });
        Ok(())
    };
    let late = |_| End::Broken("the peer does not know yet that it was revoked".into());
    tokio::time::timeout(LIMIT, parting).await.map_err(late)?
}
