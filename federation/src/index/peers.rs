//! What is known of one peer, and what is taken from it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prost::{Message, bytes::Bytes};
use tombolo_proto::v1;

use super::{
    Contact, ExportLog, Lease, Limits, Moment, Name, PeerIdentity, Refusal, RefusalKind, Refusals, Session,
    checks::{Check, check_service, check_summaries},
    held::{Held, count},
};

/// Most endpoints behind one port of a service; further ones are left out, here and where they are exported.
pub const MAX_ENDPOINTS_PER_PORT: usize = 1_000;
/// Most ports of a service; a service with more is refused.
pub const MAX_SERVICE_PORTS: usize = 64;
/// Most localities of a port that are summed up; further ones are left out.
pub const MAX_LOCALITIES: usize = 64;
/// Most gateways of one cluster that are told to a peer and taken from one; further ones are left out.
pub const MAX_GATEWAYS: usize = 64;

/// Services that were withdrawn and are remembered to be shown.
const MAX_WITHDRAWN: usize = 64;

/// The link to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// There is none.
    Down,
    /// It is up; what the peer has is not told to its end yet.
    Syncing(Session),
    /// It is up, and all that the peer had to say was said.
    Synced(Session),
}

/// Who ended the link for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// The operator here.
    Revoked,
    /// The peer said so.
    Withdrawn,
}

/// A peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who it is and how it is reached.
    pub identity: PeerIdentity,
    /// Its network.
    pub network: String,
    /// The link to it.
    pub link: Link,
    /// The youngest link that ever was: an older one has nothing to say any more.
    pub youngest: Session,
    /// When it was heard, and what it has confirmed.
    pub contact: Contact,
    /// What was imported is used last: the link is past its lease.
    pub stale: bool,
    /// The link was ended for good.
    pub ended: Option<Ended>,
    /// It was revoked here, and knows it.
    pub told: bool,
    /// Up to which sequence it holds this cluster's bundle.
    pub holds_bundle: u64,
    /// Of its exports: which history, and up to where all of it is held.
    pub have: Option<(String, u64)>,
    /// Its epoch as it said in this link's Hello.
    pub said_epoch: String,
    /// Its services as they were taken.
    held: Held,
    /// The link tells only what has changed since what is held. Else it tells everything, and what it does not name does
    /// not count against the limits any more.
    pub resumes: bool,
    /// Services were refused for the limits' sake: they have to be told again before they can be taken.
    pub cut: bool,
    /// Its gateways' mesh listeners.
    pub gateways: Vec<String>,
    /// It says that it has no gateways, before it has said all: believed once it has.
    pub unsettled_gateways: bool,
    /// What it is told.
    pub exports: ExportLog,
    /// Up to which revision it has confirmed that.
    pub acked: u64,
    /// What was refused of it since the process started.
    pub refusals: Refusals,
    /// The services that it has withdrawn last, and when.
    pub withdrawn: VecDeque<(Name, Moment)>,
    /// Services that it says have no endpoints any more, before it has said all: believed once it has.
    pub unsettled: BTreeMap<Name, v1::ExportedService>,
}

/// What outlives a restart of what is known of a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedPeer {
    /// Who.
    pub identity: PeerIdentity,
    /// Its network.
    pub network: String,
    /// Last sign of life.
    pub heard: Moment,
    /// For how long it has been silent, in milliseconds.
    pub silent: i64,
    /// It was past its lease.
    pub stale: bool,
    /// The link was ended for good.
    pub ended: Option<Ended>,
    /// It was revoked here, and knows it.
    pub told: bool,
    /// Of its exports.
    pub have: Option<(String, u64)>,
    /// Mesh listeners.
    pub gateways: Vec<String>,
    /// Its services; saved one by one, so empty when the peer alone is saved.
    pub services: Vec<v1::ExportedService>,
}

impl Peer {
    /// A peer that was just linked.
    pub fn new(identity: PeerIdentity, epoch: String, now: Moment) -> Self {
        Self {
            identity,
            network: String::new(),
            link: Link::Down,
            youngest: 0,
            contact: Contact::new(now),
            stale: false,
            ended: None,
            told: false,
            holds_bundle: 0,
            have: None,
            said_epoch: String::new(),
            held: Held::default(),
            resumes: false,
            cut: false,
            gateways: Vec::new(),
            unsettled_gateways: false,
            exports: ExportLog::new(epoch),
            acked: 0,
            refusals: Refusals::default(),
            withdrawn: VecDeque::new(),
            unsettled: BTreeMap::new(),
        }
    }

    /// A peer as it was before a restart. It becomes stale only after `grace`, so that a short restart moves no traffic.
    /// What is at an address that `is_own`, as this process was told, is not taken again; the peer tells the rest anew.
    pub fn restore(
        mut saved: SavedPeer,
        epoch: String,
        now: Moment,
        grace: i64,
        is_own: impl Fn(&str) -> bool,
    ) -> Self {
        let mut is_whole = true;
        let mut keeps = |address: &str| {
            let keeps = !is_own(address);
            is_whole &= keeps;
            keeps
        };
        saved.gateways.retain(|address| keeps(address));
        for list in saved.services.iter_mut().flat_map(|service| &mut service.endpoints) {
            list.endpoints.retain(|endpoint| endpoint.address.is_empty() || keeps(&endpoint.address));
        }
        let mut peer = Self::new(saved.identity, epoch, now);
        peer.network = saved.network;
        peer.contact = Contact::restore(saved.heard, saved.silent, now, grace);
        peer.stale = saved.stale;
        peer.ended = saved.ended;
        peer.told = saved.told;
        peer.have = saved.have.filter(|_| is_whole);
        peer.gateways = saved.gateways;
        for service in saved.services {
            let name = Name::new(&service.namespace, &service.name);
            peer.held.insert(&name, &service, false);
        }
        peer
    }

    /// What of this is to be saved, without the services.
    pub fn saved(&mut self, now: Moment) -> SavedPeer {
        SavedPeer {
            identity: self.identity.clone(),
            network: self.network.clone(),
            heard: self.contact.last_heard(),
            silent: self.contact.save(now),
            stale: self.stale,
            ended: self.ended,
            told: self.told,
            have: self.have.clone(),
            gateways: self.gateways.clone(),
            services: Vec::new(),
        }
    }

    /// Connected is who has confirmed something within its lease, over a link that is up: a link on which nothing moves
    /// is none.
    pub fn is_connected(&self, lease: Lease, now: Moment) -> bool {
        self.session().is_some() && self.contact.is_confirmed(lease.stale_after, now)
    }

    /// Whether this side has to open links to it: to use them, or to tell it that it was revoked.
    pub fn is_to_dial(&self) -> bool {
        self.identity.dials && (self.ended.is_none() || (self.ended == Some(Ended::Revoked) && !self.told))
    }

    /// The session of the link, if it is up.
    pub fn session(&self) -> Option<Session> {
        match self.link {
            Link::Down => None,
            Link::Syncing(session) | Link::Synced(session) => Some(session),
        }
    }

    /// Refuses what comes from another link than the present one.
    pub fn check_session(&self, session: Session) -> Result<(), Refusal> {
        match self.session() {
            Some(present) if present == session => Ok(()),
            _ => Err(Refusal::new(RefusalKind::Outdated, "link", "another link took its place")),
        }
    }

    /// Its services in the order of their names, with how many endpoints each has.
    pub fn services(&self) -> impl Iterator<Item = (&Name, usize)> {
        self.held.iter()
    }

    /// One of its services as it was taken.
    pub fn service(&self, name: &Name) -> Option<v1::ExportedService> {
        v1::ExportedService::decode(self.encoded(name)?).ok()
    }

    /// The same as it is kept.
    pub fn encoded(&self, name: &Name) -> Option<Bytes> {
        self.held.encoded(name).cloned()
    }

    /// How many services it has.
    pub fn service_count(&self) -> usize {
        self.held.all().services
    }

    /// How many endpoints all of its services have.
    pub fn endpoint_count(&self) -> usize {
        self.held.all().endpoints
    }

    /// Remembers for a while that a service was withdrawn.
    pub fn note_withdrawn(&mut self, name: &Name, now: Moment) {
        self.withdrawn.retain(|(known, _)| known != name);
        self.withdrawn.truncate(MAX_WITHDRAWN - 1);
        self.withdrawn.push_front((name.clone(), now));
    }

    /// Whether a service is said to have lost all its endpoints before everything is said: a peer that is still putting
    /// itself together does not know better.
    pub fn is_unsettled(&self, name: &Name, service: &v1::ExportedService) -> bool {
        let held = self.held.endpoints_of(name).is_some_and(|endpoints| endpoints > 0);
        matches!(self.link, Link::Syncing(_)) && held && count(service) == 0
    }

    /// A link begins: nothing was named on it yet.
    pub fn begin(&mut self, session: Session, epoch: String) {
        self.resumes = self.have.as_ref().is_some_and(|(held, _)| *held == epoch);
        (self.youngest, self.link, self.said_epoch) = (session, Link::Syncing(session), epoch);
        (self.cut, self.unsettled_gateways) = (false, false);
        self.unsettled.clear();
        self.held.begin();
    }

    /// All that is held has to be told again, over the next link.
    pub fn start_over(&mut self) {
        (self.have, self.link) = (None, Link::Down);
    }

    /// Drops a service. True if there was one.
    pub fn forget(&mut self, name: &Name) -> bool {
        self.held.remove(name)
    }

    /// Drops the services that were not named since the link's Hello, or all. Returns their names.
    pub fn forget_all(&mut self, only_unseen: bool) -> Vec<Name> {
        self.held.clear(only_unseen)
    }

    /// Checks a service and takes it. What is wrong with single endpoints is told in the refusals; the rest is taken. Of a
    /// service that is wrong as a whole, what was held before stays. Returns also whether something has changed.
    pub(super) fn take(
        &mut self,
        name: &Name,
        service: v1::ExportedService,
        check: &Check<'_>,
        limits: &Limits,
    ) -> Result<(bool, Vec<Refusal>), Refusal> {
        // What was told before does not count where everything is told anew; but who never gets to its end fills nothing.
        let (besides, all) = (self.held.besides(name, !self.resumes), self.held.all());
        let mut within = |most: usize, count: usize, grown: Option<usize>, what: &str| {
            if count <= most && grown.is_none_or(|grown| grown <= most.saturating_mul(2)) {
                return Ok(());
            }
            self.cut = true;
            let reason = format!("more than {most} {what}");
            Err(Refusal::new(RefusalKind::Limit, format!("service {name}"), reason))
        };
        let old = self.held.endpoints_of(name);
        let grown = old.is_none().then_some(all.services + 1);
        within(limits.services, besides.services + 1, grown, "services")?;
        let (service, refusals) = check_service(check, name, service).inspect_err(|_| self.held.see(name))?;
        let (count, old) = (count(&service), old.unwrap_or(0));
        let grown = (count > old).then(|| all.endpoints - old + count);
        within(limits.endpoints, besides.endpoints + count, grown, "endpoints in all")?;
        Ok((self.held.insert(name, &service, true), refusals))
    }

    /// Takes new summaries of a service that was named before. Returns also whether that is a change.
    pub fn take_summaries(
        &mut self,
        name: &Name,
        ports: Vec<v1::EndpointList>,
    ) -> Result<(bool, Vec<Refusal>), Refusal> {
        let object = format!("service {name}");
        let Some(mut service) = self.service(name) else {
            let reason = "summaries of a service that was not named";
            return Err(Refusal::new(RefusalKind::Outdated, object, reason));
        };
        let (mut changed, mut refusals) = (false, Vec::new());
        for v1::EndpointList { port, summaries, .. } in ports {
            let summaries = check_summaries(&object, summaries, &mut refusals);
            let known = service.endpoints.iter_mut().find(|list| list.port == port);
            if let Some(known) = known.filter(|known| known.summaries != summaries) {
                known.summaries = summaries;
                changed = true;
            }
        }
        if changed {
            self.held.insert(name, &service, true);
        }
        Ok((changed, refusals))
    }

    /// One port of one of its services as this cluster reaches it: each endpoint directly on the same network, else through
    /// its gateways; those that cannot be reached at all are left out.
    pub fn reached(&self, cluster: &Arc<str>, network: &str, list: v1::EndpointList) -> v1::EndpointList {
        let reach = |mut endpoint: v1::Endpoint| {
            let direct = endpoint.network == network && !endpoint.address.is_empty();
            if !direct && self.gateways.is_empty() {
                return None;
            }
            if !direct {
                endpoint.address.clear();
                endpoint.via.clone_from(&self.gateways);
            }
            endpoint.cluster = cluster.to_string();
            endpoint.stale = self.stale;
            Some(endpoint)
        };
        let v1::EndpointList { port, endpoints, mut summaries } = list;
        summaries.iter_mut().for_each(|summary| summary.cluster = cluster.to_string());
        v1::EndpointList { port, endpoints: endpoints.into_iter().filter_map(reach).collect(), summaries }
    }
}
