//! Events of federation links.

use std::{collections::BTreeSet, sync::Arc};

use tombolo_core::model::TrustBundle;
use tombolo_proto::v1;

use super::{
    Index, Lease, Limits, Link, Moment, PeerEvent, PeerIdentity, Refusal, RefusalKind, Save, Session, Taken,
    peers::{Ended, Peer},
};

/// Most peers of one cluster; a further one is refused.
pub const MAX_PEERS: usize = 1_000;

/// Longest epoch in bytes; a longer one is refused.
const MAX_EPOCH: usize = 64;

impl Index {
    /// What is refused of a peer's word is counted and shown with the peer.
    pub(super) fn apply_peer(&mut self, cluster: &Arc<str>, event: PeerEvent, now: Moment) -> Taken {
        let refusals = self.of_peer(cluster, event, now).unwrap_or_else(|refusal| vec![refusal]);
        if let Some(peer) = self.peers.get_mut(cluster) {
            // What an older link still says is not the peer's word any more.
            let told = refusals.iter().filter(|refusal| refusal.object != "link");
            told.for_each(|refusal| peer.refusals.add(refusal, now));
        }
        Ok(refusals)
    }

    fn of_peer(&mut self, cluster: &Arc<str>, event: PeerEvent, now: Moment) -> Taken {
        match event {
            PeerEvent::Linked(identity) => self.linked(cluster, identity, now),
            PeerEvent::Hello { session, epoch, network } => self.hello(cluster, session, epoch, network, now),
            PeerEvent::Bundle { session, bundle } => self.bundle(cluster, session, bundle, now),
            PeerEvent::Service { session, service } => self.service(cluster, session, service, now),
            PeerEvent::Summaries { session, name, ports } => {
                self.summaries(cluster, session, &name, ports, now)
            }
            PeerEvent::TooLarge { session } => {
                self.heard(cluster, session, now)?;
                Err(Refusal::new(RefusalKind::Limit, "message", "it is larger than any may be"))
            }
            PeerEvent::Withdrawn { session, name } => {
                let peer = self.heard(cluster, session, now)?;
                peer.unsettled.remove(&name);
                if peer.forget(&name) {
                    peer.note_withdrawn(&name, now);
                    self.keep(cluster, name, None);
                }
                Ok(Vec::new())
            }
            PeerEvent::Gateways { session, addresses } => {
                self.peer_gateways(cluster, session, addresses, now)
            }
            PeerEvent::Synced { session, revision, full } => {
                self.synced(cluster, session, revision, full, now)
            }
            PeerEvent::Acked { session, revision } => {
                let peer = self.heard(cluster, session, now)?;
                peer.acked = revision.min(peer.exports.revision());
                peer.contact.confirmed(peer.acked, now);
                Ok(Vec::new())
            }
            PeerEvent::Answered { session } => {
                self.heard(cluster, session, now)?.contact.answered(now);
                Ok(Vec::new())
            }
            PeerEvent::Unread { session, millis } => {
                self.heard(cluster, session, now)?.contact.unread(millis, now);
                Ok(Vec::new())
            }
            PeerEvent::BundleTaken { session, sequence } => {
                self.heard(cluster, session, now)?.holds_bundle = sequence;
                Ok(Vec::new())
            }
            PeerEvent::Heard { session } => self.heard(cluster, session, now).map(|_| Vec::new()),
            PeerEvent::Disconnected { session } => {
                let peer = self.known(cluster)?;
                peer.check_session(session)?;
                peer.link = Link::Down;
                self.save_peer(cluster);
                Ok(Vec::new())
            }
            PeerEvent::Revoked => self.end(cluster, Ended::Revoked),
            PeerEvent::Forgotten { untold } => self.forget_peer(cluster, untold),
            PeerEvent::Told => {
                self.known(cluster)?.told = true;
                self.save_peer(cluster);
                Ok(Vec::new())
            }
            PeerEvent::Left { session } => {
                let peer = self.known(cluster)?;
                // It may be the first word of a link. What an older one still says is about what was before.
                if session <= peer.youngest {
                    peer.check_session(session)?;
                }
                self.end(cluster, Ended::Withdrawn)
            }
        }
    }

    pub(super) fn known(&mut self, cluster: &str) -> Result<&mut Peer, Refusal> {
        let unknown =
            || Refusal::new(RefusalKind::Policy, format!("peer {cluster}"), "there is no such peer");
        self.peers.get_mut(cluster).ok_or_else(unknown)
    }

    /// The peer, which has just given a sign of life on its present link. Where all was said on that link, what is held
    /// is fresh again with it.
    pub(super) fn heard(
        &mut self,
        cluster: &Arc<str>,
        session: Session,
        now: Moment,
    ) -> Result<&mut Peer, Refusal> {
        let peer = self.known(cluster)?;
        peer.check_session(session)?;
        peer.contact.heard(now);
        if matches!(peer.link, Link::Synced(_)) && std::mem::take(&mut peer.stale) {
            self.dirty_peer(cluster);
            self.save_peer(cluster);
        }
        self.known(cluster)
    }

    /// For how long a silent peer's word is good: as its Peer document says, else as this cluster does.
    pub fn lease_of(&self, cluster: &str) -> Lease {
        let said = self.configuration.peers.get(cluster).map(|policy| policy.lease).unwrap_or_default();
        let stale_after = said.stale_after.unwrap_or(self.settings.peer_lease);
        Lease { stale_after, drop_after: said.drop_after.unwrap_or(self.settings.peer_drop).max(stale_after) }
    }

    /// How much is taken from a peer: as its Peer document says.
    pub fn limits_of(&self, cluster: &str) -> Limits {
        self.configuration.peers.get(cluster).map(|policy| policy.limits).unwrap_or_default()
    }

    /// Whether a cluster with this identity could be linked.
    pub fn check_linked(&self, cluster: &str, identity: &PeerIdentity) -> Result<(), Refusal> {
        let refuse = |kind, reason: String| Err(Refusal::new(kind, format!("peer {cluster}"), reason));
        let foreign = |reason: &str| refuse(RefusalKind::Identity, reason.to_owned());
        if *cluster == *self.settings.cluster {
            return foreign("it has this cluster's own name");
        }
        if identity.trust_domain == self.settings.trust_domain {
            return foreign("it has this cluster's own trust domain");
        }
        let twin = self.peers.iter().find(|(name, peer)| {
            ***name != *cluster && peer.ended.is_none() && peer.identity.trust_domain == identity.trust_domain
        });
        if let Some((twin, _)) = twin {
            return foreign(&format!("its trust domain is that of the peer {twin}"));
        }
        match self.peers.get(cluster) {
            Some(peer) if peer.ended.is_none() && peer.identity.trust_domain != identity.trust_domain => {
                foreign("a peer of that name with another trust domain is linked; revoke it first")
            }
            // Whom this side joins is named by the token, who joins this side is not: whoever has one could take a peer's
            // place.
            Some(peer)
                if peer.ended.is_none() && !identity.dials && !has_same_roots(&peer.identity, identity) =>
            {
                foreign(
                    "a peer of that name with other roots is linked; if it is the same one, revoke it first, or \
                     let this side join it",
                )
            }
            None if self.peers.len() >= MAX_PEERS => {
                refuse(RefusalKind::Limit, format!("more than {MAX_PEERS} peers"))
            }
            _ => Ok(()),
        }
    }

    fn linked(&mut self, cluster: &Arc<str>, identity: PeerIdentity, now: Moment) -> Taken {
        self.check_linked(cluster, &identity)?;
        match self.peers.get_mut(cluster) {
            // Linked again: what is held stays. Who joins this side proves no more than that it has a token, and changes
            // nothing of what is known of a peer.
            Some(peer) if peer.ended.is_none() => {
                if identity.dials {
                    peer.identity = identity;
                }
            }
            ended => {
                // What links from before still say does not count.
                let youngest = ended.map_or(0, |ended| ended.youngest);
                let mut peer = Peer::new(identity, self.next_epoch(), now);
                peer.youngest = youngest;
                self.peers.insert(Arc::clone(cluster), peer);
            }
        }
        self.dirty_exports();
        self.dirty_peer(cluster);
        self.save_peer(cluster);
        Ok(Vec::new())
    }

    fn hello(
        &mut self,
        cluster: &Arc<str>,
        session: Session,
        epoch: String,
        network: String,
        now: Moment,
    ) -> Taken {
        let peer = self.known(cluster)?;
        if peer.ended.is_some() {
            return Err(Refusal::new(RefusalKind::Policy, "link", "it was revoked"));
        }
        if session <= peer.youngest {
            return Err(Refusal::new(RefusalKind::Outdated, "link", "another link took its place"));
        }
        if epoch.is_empty() || epoch.len() > MAX_EPOCH || network.len() > 253 {
            return Err(Refusal::new(RefusalKind::Malformed, "Hello", "it is not valid"));
        }
        let pinned = self.configuration.peers.get(&**cluster).and_then(|policy| policy.network.as_ref());
        if pinned.is_some_and(|pinned| *pinned != network) {
            let reason = "it says another network than its Peer document";
            return Err(Refusal::new(RefusalKind::Policy, "Hello", reason));
        }
        let peer = self.known(cluster)?;
        peer.begin(session, epoch);
        let moved = peer.network != network;
        peer.network = network;
        self.heard(cluster, session, now)?;
        if moved {
            // What the peer is told depends on whether it can use addresses.
            self.dirty_exports();
        }
        self.save_peer(cluster);
        Ok(Vec::new())
    }

    fn bundle(
        &mut self,
        cluster: &Arc<str>,
        session: Session,
        bundle: v1::TrustBundle,
        now: Moment,
    ) -> Taken {
        let peer = self.heard(cluster, session, now)?;
        let refuse = |kind, reason: &str| Err(Refusal::new(kind, "bundle", reason));
        if bundle.trust_domain != peer.identity.trust_domain.as_str() {
            return refuse(RefusalKind::Identity, "it is not of the peer's own trust domain");
        }
        if let Err(reason) = check_bundle(&peer.identity, &bundle) {
            return refuse(RefusalKind::Malformed, &reason);
        }
        let present = &peer.identity.bundle;
        if bundle == *present {
            return Ok(Vec::new());
        }
        if bundle.sequence <= present.sequence {
            return refuse(RefusalKind::Outdated, "its sequence is not above that of the bundle held");
        }
        peer.identity.bundle = bundle;
        self.dirty.bundles = true;
        self.save_peer(cluster);
        Ok(Vec::new())
    }

    fn synced(
        &mut self,
        cluster: &Arc<str>,
        session: Session,
        revision: u64,
        full: bool,
        now: Moment,
    ) -> Taken {
        self.heard(cluster, session, now)?.link = Link::Synced(session);
        let mut refusals = Vec::new();
        for service in std::mem::take(&mut self.known(cluster)?.unsettled).into_values() {
            refusals
                .extend(self.service(cluster, session, service, now).unwrap_or_else(|refusal| vec![refusal]));
        }
        if std::mem::take(&mut self.known(cluster)?.unsettled_gateways) {
            refusals.extend(self.peer_gateways(cluster, session, Vec::new(), now)?);
        }
        let peer = self.known(cluster)?;
        // Who had nothing to resume from has told everything, whatever it calls it.
        let gone = if full || !peer.resumes { peer.forget_all(true) } else { Vec::new() };
        gone.iter().for_each(|name| peer.note_withdrawn(name, now));
        // What was cut off is asked for again by the next link: there may be room then.
        peer.have = (!peer.cut).then(|| (peer.said_epoch.clone(), revision));
        let was_stale = std::mem::take(&mut peer.stale);
        self.forgotten(cluster, gone);
        if was_stale {
            self.dirty_peer(cluster);
        }
        self.save_peer(cluster);
        Ok(refusals)
    }

    /// The link is over for good, by a statement and not by a failure: what was imported is dropped at once, and the
    /// peer's roots vouch for nobody any more.
    fn end(&mut self, cluster: &Arc<str>, ended: Ended) -> Taken {
        let peer = self.known(cluster)?;
        if peer.ended.is_some() {
            return Ok(Vec::new());
        }
        peer.ended = Some(ended);
        peer.link = Link::Down;
        peer.have = None;
        peer.gateways.clear();
        let gone = peer.forget_all(false);
        self.forgotten(cluster, gone);
        self.dirty_exports();
        self.save_peer(cluster);
        Ok(Vec::new())
    }

    /// Nothing is left of a peer whose link was ended: it has no services and vouches for nobody any more.
    fn forget_peer(&mut self, cluster: &Arc<str>, untold: bool) -> Taken {
        let refuse = |reason| Err(Refusal::new(RefusalKind::Policy, format!("peer {cluster}"), reason));
        match self.known(cluster)? {
            peer if peer.ended.is_none() => refuse("it is linked; `tombolo peer revoke` ends that first"),
            peer if peer.ended == Some(Ended::Revoked) && !peer.told && !untold => refuse(
                "it does not know yet that it was revoked, and goes on using this cluster; with --untold it never hears of it",
            ),
            _ => {
                self.peers.remove(cluster);
                self.saves.push(Save::Peer(Arc::clone(cluster), None));
                Ok(Vec::new())
            }
        }
    }

    /// Time goes on for a peer: stale after its lease, dropped after its bound.
    pub(super) fn age_peer(&mut self, cluster: &Arc<str>, now: Moment) {
        let lease = self.lease_of(cluster);
        let Some(peer) = self.peers.get_mut(cluster) else { return };
        if peer.ended.is_some() {
            return;
        }
        let becomes_stale = !peer.stale && peer.contact.is_stale(lease, now);
        peer.stale |= becomes_stale;
        let is_to_save = becomes_stale || peer.contact.is_to_save(now);
        if becomes_stale {
            self.dirty_peer(cluster);
        }
        if is_to_save {
            self.save_peer(cluster);
        }
        let Some(peer) = self.peers.get_mut(cluster) else { return };
        if peer.stale && peer.contact.is_lost(lease, now) && (peer.have.is_some() || peer.service_count() > 0)
        {
            peer.start_over();
            let gone = peer.forget_all(false);
            self.forgotten(cluster, gone);
            self.save_peer(cluster);
        }
    }

    /// Who is told what, and whose roots count, has changed.
    fn dirty_exports(&mut self) {
        (self.dirty.exports, self.dirty.bundles, self.dirty.gateways) = (true, true, true);
    }

    pub(super) fn save_peer(&mut self, cluster: &Arc<str>) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(cluster) {
            self.saves.push(Save::Peer(Arc::clone(cluster), Some(Box::new(peer.saved(now)))));
        }
    }
}

fn has_same_roots(one: &PeerIdentity, other: &PeerIdentity) -> bool {
    let roots = |identity: &PeerIdentity| identity.bundle.roots_der.iter().cloned().collect::<BTreeSet<_>>();
    roots(one) == roots(other)
}

/// Whether the roots can be put to use.
pub(crate) fn check_bundle(identity: &PeerIdentity, bundle: &v1::TrustBundle) -> Result<(), String> {
    let roots = bundle.roots_der.iter().map(|root| Arc::from(root.as_ref())).collect();
    let bundle = TrustBundle::new(identity.trust_domain.clone(), roots, bundle.sequence);
    let bundle = bundle.map_err(|error| error.to_string())?;
    tombolo_core::tls::check_bundle(&bundle).map_err(|error| error.to_string())
}
