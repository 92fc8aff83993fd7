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
    services: BTreeMap<Name, Imported>,
    /// How many endpoints they have in all.
    endpoint_total: usize,
    /// Its gateways' mesh listeners.
    pub gateways: Vec<String>,
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

/// A service of a peer, checked.
#[derive(Debug, Clone, PartialEq)]
struct Imported {
    /// As it was taken, without what was refused of it; encoded, as there may be very many: a tenth of the memory.
    service: Bytes,
    /// How many endpoints it has.
    endpoints: usize,
    /// It was named since the link's Hello.
    seen: bool,
}

impl Imported {
    fn new(service: &v1::ExportedService, seen: bool) -> Self {
        Self { service: service.encode_to_vec().into(), endpoints: count(service), seen }
    }
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
            services: BTreeMap::new(),
            endpoint_total: 0,
            gateways: Vec::new(),
            exports: ExportLog::new(epoch),
            acked: 0,
            refusals: Refusals::default(),
            withdrawn: VecDeque::new(),
            unsettled: BTreeMap::new(),
        }
    }

    /// A peer as it was before a restart. It becomes stale only after `grace`, so that a short restart moves no traffic.
    pub fn restore(saved: SavedPeer, epoch: String, now: Moment, grace: i64) -> Self {
        let mut peer = Self::new(saved.identity, epoch, now);
        peer.network = saved.network;
        peer.contact = Contact::restore(saved.heard, saved.silent, now, grace);
        peer.stale = saved.stale;
        peer.ended = saved.ended;
        peer.told = saved.told;
        peer.have = saved.have;
        peer.gateways = saved.gateways;
        for service in saved.services {
            let name = Name::new(&service.namespace, &service.name);
            peer.endpoint_total += count(&service);
            peer.services.insert(name, Imported::new(&service, false));
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
        self.services.iter().map(|(name, imported)| (name, imported.endpoints))
    }

    /// One of its services as it was taken.
    pub fn service(&self, name: &Name) -> Option<v1::ExportedService> {
        v1::ExportedService::decode(self.encoded(name)?).ok()
    }

    /// The same as it is kept.
    pub fn encoded(&self, name: &Name) -> Option<Bytes> {
        self.services.get(name).map(|imported| imported.service.clone())
    }

    /// How many services it has.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// How many endpoints all of its services have.
    pub fn endpoint_count(&self) -> usize {
        self.endpoint_total
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
        let held = self.services.get(name).is_some_and(|held| held.endpoints > 0);
        matches!(self.link, Link::Syncing(_)) && held && count(service) == 0
    }

    /// A link begins: nothing was named on it yet.
    pub fn begin(&mut self) {
        self.unsettled.clear();
        self.services.values_mut().for_each(|imported| imported.seen = false);
    }

    /// Drops a service. True if there was one.
    pub fn forget(&mut self, name: &Name) -> bool {
        let Some(gone) = self.services.remove(name) else { return false };
        self.endpoint_total -= gone.endpoints;
        true
    }

    /// Drops the services that were not named since the link's Hello, or all. Returns their names.
    pub fn forget_all(&mut self, only_unseen: bool) -> Vec<Name> {
        let gone = self.services.iter().filter(|(_, imported)| !(only_unseen && imported.seen));
        let gone: Vec<Name> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.forget(name);
        }
        gone
    }

    /// Checks a service and takes it. What is wrong with single endpoints is told in the refusals; the rest is taken.
    /// Returns also whether that is a change.
    pub(super) fn take(
        &mut self,
        name: &Name,
        service: v1::ExportedService,
        check: &Check<'_>,
        limits: &Limits,
    ) -> Result<(bool, Vec<Refusal>), Refusal> {
        let object = format!("service {name}");
        let limit = |reason: String| Refusal::new(RefusalKind::Limit, &object, reason);
        let old = self.services.get(name).map_or(0, |imported| imported.endpoints);
        if !self.services.contains_key(name) && self.services.len() >= limits.services {
            return Err(limit(format!("more than {} services", limits.services)));
        }
        let (service, refusals) = check_service(check, name, service)?;
        let total = self.endpoint_total - old + count(&service);
        if total > limits.endpoints {
            return Err(limit(format!("more than {} endpoints in all", limits.endpoints)));
        }
        let new = Imported::new(&service, true);
        let changed = self.services.get(name).is_none_or(|old| old.service != new.service);
        self.endpoint_total = total;
        match self.services.get_mut(name) {
            Some(known) if !changed => known.seen = true,
            _ => drop(self.services.insert(name.clone(), new)),
        }
        Ok((changed, refusals))
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
        if let Some(imported) = self.services.get_mut(name).filter(|_| changed) {
            *imported = Imported::new(&service, imported.seen);
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

fn count(service: &v1::ExportedService) -> usize {
    service.endpoints.iter().map(|list| list.endpoints.len()).sum()
}
