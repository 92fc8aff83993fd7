//! What the controller knows, as one synchronous value: [`Index::apply`] an event, then [`Index::publish`] what changed.
//!
//! Nothing in here waits, reads a clock or touches a file. Time is passed in; what must outlive the process comes out as
//! [`Save`]s and goes back in through [`Restored`].
//!
//! Three states are kept apart (rule 2 of DESIGN): "the peer withdrew it" removes at once, "the link is down" removes
//! nothing until its bounds have passed, and "the endpoint does not answer" is not known here at all: that is seen by
//! the proxies.

mod checks;
mod configuration;
mod contact;
mod crossing;
mod dirty;
mod event;
mod exports;
mod held;
mod holdings;
mod hosts;
mod imports;
mod link;
mod output;
mod own;
mod peers;
mod publish;
mod refusals;
mod registrations;
mod selectors;
mod services;
mod vips;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use prost::bytes::Bytes;
use tombolo_core::{decide::Blocks, model::TrustDomain};
use tombolo_proto::v1;

pub use configuration::{Configuration, ExportSpec, LeasePolicy, Limits, PeerPolicy, ServiceSpec};
pub use contact::{Contact, Lease};
pub use crossing::MAX_NAMED;
pub use event::{Event, Moment, Name, PeerEvent, PeerIdentity, Session};
pub use exports::{ExportLog, SUMMARY_PACE, Update};
pub use imports::{Conflict, Import};
pub use link::MAX_PEERS;
pub use output::{Change, Changes, Gateway, Kind, Resource, Save};
pub use peers::{Ended, Link, MAX_GATEWAYS, Peer, SavedPeer};
pub use refusals::{Refusal, RefusalKind, Refusals};
pub use registrations::{Leases, MAX_LABELS, MAX_REGISTRATIONS, Registration};
pub use vips::{MAX_VIP, VipChange, Vips};

use dirty::Dirty;
use output::Published;
use own::OwnAddresses;
use selectors::Selectors;

/// Most gateways of one cluster; a further one is refused.
pub const MAX_OWN_GATEWAYS: usize = 1_000;

/// Who this cluster is, and for how long things are believed. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its network.
    pub network: Arc<str>,
    /// Of what peers are told: random, new with each start of the process.
    pub epoch: Arc<str>,
    /// How long a registration outlives its last heartbeat.
    pub lease: i64,
    /// How long what was registered or imported before a restart is believed without a sign of life.
    pub restart_grace: i64,
    /// How long after its last sign of life a peer's endpoints are stale.
    pub peer_lease: i64,
    /// How long after its last sign of life a peer's endpoints are dropped.
    pub peer_drop: i64,
    /// This cluster is on loopback addresses itself: its peers are on this machine too.
    pub on_loopback: bool,
    /// Addresses that only this cluster has.
    pub own_ranges: Arc<Blocks>,
}

/// What was saved before a restart.
#[derive(Debug, Default)]
pub struct Restored {
    /// Virtual addresses by service key.
    pub vips: Vec<(String, u32)>,
    /// Workloads.
    pub registrations: Vec<Registration>,
    /// Gateways.
    pub gateways: Vec<(Name, Gateway)>,
    /// Peers with their services.
    pub peers: Vec<(Arc<str>, SavedPeer)>,
}

/// The index.
#[derive(Clone)]
pub struct Index {
    settings: Settings,
    configuration: Arc<Configuration>,
    /// Of the configuration's services.
    selectors: Arc<Selectors>,
    own_bundle: Option<v1::TrustBundle>,
    /// Of trust domains that no link leads to.
    foreign: Vec<v1::TrustBundle>,
    registrations: Leases<Arc<Registration>>,
    gateways: Leases<Gateway>,
    own: OwnAddresses,
    peers: BTreeMap<Arc<str>, Peer>,
    /// Which peers have a service.
    holders: BTreeMap<Name, Vec<Arc<str>>>,
    /// Services that some peer is told of.
    exported: BTreeSet<Name>,
    vips: Vips,
    published: Published,
    conflicts: BTreeMap<Name, Vec<Conflict>>,
    dirty: Dirty,
    saves: Vec<Save>,
    /// How many export logs there were.
    logs: u64,
    /// When the last event came.
    now: Moment,
}

impl std::fmt::Debug for Index {
    /// Without the configuration: it holds private keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("cluster", &self.settings.cluster).finish_non_exhaustive()
    }
}

impl Index {
    /// An index with what was saved. Leases begin anew with the grace of a restart.
    pub fn new(settings: Settings, restored: Restored, now: Moment) -> Self {
        let expires = now.plus(settings.restart_grace.max(settings.lease));
        let mut registrations = Leases::default();
        let mut own = OwnAddresses::new(Arc::clone(&settings.own_ranges));
        for registration in restored.registrations {
            own.workload(registration.address, None);
            // Only a younger stream could refuse, and there is none.
            let _ = registrations.put(registration.name(), Arc::new(registration), None, expires);
        }
        let mut gateways = Leases::default();
        for (name, gateway) in restored.gateways {
            own.gateway(gateway.address, None);
            let _ = gateways.put(name, gateway, None, expires);
        }
        let grace = settings.restart_grace;
        let mut index = Self {
            registrations,
            gateways,
            own,
            peers: BTreeMap::new(),
            holders: BTreeMap::new(),
            exported: BTreeSet::new(),
            vips: Vips::restore(restored.vips),
            configuration: Arc::default(),
            selectors: Arc::default(),
            own_bundle: None,
            foreign: Vec::new(),
            published: Published::default(),
            conflicts: BTreeMap::new(),
            dirty: Dirty::everything(),
            saves: Vec::new(),
            logs: 0,
            now,
            settings,
        };
        for (cluster, saved) in restored.peers {
            let epoch = index.next_epoch();
            for service in &saved.services {
                let name = Name::new(&service.namespace, &service.name);
                index.holders.entry(name).or_default().push(Arc::clone(&cluster));
            }
            let is_own = |address: &str| {
                address.parse().is_ok_and(|address| index.own.has(address, index.settings.on_loopback))
            };
            let peer = Peer::restore(saved, epoch, now, grace, is_own);
            index.peers.insert(cluster, peer);
        }
        index
    }

    /// A log of exports that begins anew is a new history, also within a process.
    fn next_epoch(&mut self) -> String {
        self.logs += 1;
        format!("{}-{}", self.settings.epoch, self.logs)
    }

    /// Takes an event. What of it is refused is told and changes nothing; several things of one event may be refused
    /// while the rest is taken.
    pub fn apply(&mut self, event: Event, now: Moment) -> Vec<Refusal> {
        self.now = now;
        let result = match event {
            Event::Configured(configuration) => {
                let fixed = configuration.services.values().flat_map(|spec| spec.fixed.values().flatten());
                self.own.fix(fixed);
                self.reconfigure(configuration);
                Ok(Vec::new())
            }
            Event::OwnBundle(bundle) => {
                self.own_bundle = Some(bundle);
                self.dirty.bundles = true;
                Ok(Vec::new())
            }
            Event::ForeignBundles(bundles) => {
                self.foreign = bundles;
                self.dirty.bundles = true;
                Ok(Vec::new())
            }
            Event::Registered { session, registration } => self.register(session, registration, now),
            Event::GatewayRegistered { session, name, identity, address, draining } => {
                let gateway = Gateway { identity: identity.to_string(), address, draining };
                self.register_gateway(session, name, gateway, now)
            }
            Event::StreamClosed { session, name } => {
                self.stream_closed(session, &name, now);
                Ok(Vec::new())
            }
            Event::Peer { cluster, event } => self.apply_peer(&cluster, event, now),
            Event::Tick => {
                self.tick(now);
                Ok(Vec::new())
            }
        };
        result.unwrap_or_else(|refusal| vec![refusal])
    }

    fn register(&mut self, session: Session, new: Arc<Registration>, now: Moment) -> Taken {
        let name = new.name();
        let object = format!("workload {name}");
        let old = self.registrations.get(&name);
        if old.is_none() && self.registrations.len() >= MAX_REGISTRATIONS {
            return Err(Refusal::new(
                RefusalKind::Limit,
                object,
                format!("more than {MAX_REGISTRATIONS} workloads"),
            ));
        }
        if old.is_some_and(|old| old.identity != new.identity) {
            let reason = "another account of the namespace has registered this name";
            return Err(Refusal::new(RefusalKind::Identity, object, reason));
        }
        let expires = now.plus(self.settings.lease);
        let old = self.registrations.put(name.clone(), Arc::clone(&new), Some(session), expires);
        let old =
            old.map_err(|_| Refusal::new(RefusalKind::Outdated, object, "a younger stream registered it"))?;
        self.own.workload(new.address, old.as_ref().map(|old| old.address));
        if old.as_ref().is_none_or(|old| *old != new) {
            self.dirty_selecting(&new);
            old.iter().for_each(|old| self.dirty_selecting(old));
            self.saves.push(Save::Registration(name, Some(new)));
        }
        Ok(Vec::new())
    }

    fn register_gateway(&mut self, session: Session, name: Name, new: Gateway, now: Moment) -> Taken {
        let object = format!("gateway {name}");
        let old = self.gateways.get(&name);
        if old.is_none() && self.gateways.len() >= MAX_OWN_GATEWAYS {
            return Err(Refusal::new(
                RefusalKind::Limit,
                object,
                format!("more than {MAX_OWN_GATEWAYS} gateways"),
            ));
        }
        if old.is_some_and(|old| old.identity != new.identity) {
            return Err(Refusal::new(
                RefusalKind::Identity,
                object,
                "another account has registered this name",
            ));
        }
        let expires = now.plus(self.settings.lease);
        let old = self.gateways.put(name.clone(), new.clone(), Some(session), expires);
        let old =
            old.map_err(|_| Refusal::new(RefusalKind::Outdated, object, "a younger stream registered it"))?;
        self.own.gateway(new.address, old.as_ref().map(|old| old.address));
        if old.is_none_or(|old| old != new) {
            self.dirty.gateways = true;
            self.saves.push(Save::Gateway(name, Some(new)));
        }
        Ok(Vec::new())
    }

    fn stream_closed(&mut self, session: Session, name: &Name, now: Moment) {
        let expires = now.plus(self.settings.lease);
        if self.registrations.close(name, session, expires)
            && self.registrations.get(name).is_some_and(|registration| registration.draining())
            && let Some(gone) = self.registrations.remove(name)
        {
            self.registration_gone(name.clone(), &gone);
        }
        if self.gateways.close(name, session, expires) && self.gateways.get(name).is_some_and(|g| g.draining)
        {
            let gone = self.gateways.remove(name).map(|gone| gone.address);
            self.gateway_gone(name.clone(), gone);
        }
    }

    fn registration_gone(&mut self, name: Name, gone: &Registration) {
        self.own.workload_gone(gone.address);
        self.dirty_selecting(gone);
        self.saves.push(Save::Registration(name, None));
    }

    /// The services that a workload belongs to have changed.
    fn dirty_selecting(&mut self, workload: &Registration) {
        let services = &self.configuration.services;
        let selecting = self.selectors.candidates(workload).filter(|name| {
            services.get(*name).is_some_and(|spec| selectors::selects(&spec.selector, &workload.labels))
        });
        self.dirty.own.extend(selecting.cloned());
    }

    fn gateway_gone(&mut self, name: Name, address: Option<SocketAddr>) {
        address.into_iter().for_each(|address| self.own.gateway_gone(address));
        self.dirty.gateways = true;
        self.saves.push(Save::Gateway(name, None));
    }

    fn tick(&mut self, now: Moment) {
        for (name, gone) in self.registrations.expire(now) {
            self.registration_gone(name, &gone);
        }
        for (name, gone) in self.gateways.expire(now) {
            self.gateway_gone(name, Some(gone.address));
        }
        for peer in self.peers.values_mut() {
            self.dirty.own.extend(peer.exports.due(now));
        }
        let clusters: Vec<_> = self.peers.keys().cloned().collect();
        for cluster in clusters {
            self.age_peer(&cluster, now);
        }
    }

    /// The endpoints of a service as they were published last, by `SCOPE/NAMESPACE/NAME`.
    pub fn endpoint_set(&self, name: &str) -> Option<v1::EndpointSet> {
        self.published.endpoint_set(name)
    }

    /// All of them, encoded.
    pub fn endpoint_sets(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        self.published.endpoint_sets()
    }

    /// What was published last, of one kind but [`Kind::EndpointSet`].
    pub fn published(&self, kind: Kind) -> impl Iterator<Item = (&String, &Resource)> {
        self.published.of_kind(kind)
    }

    /// Workloads, with whether their stream is open.
    pub fn workloads(&self) -> impl Iterator<Item = (&Name, &Arc<Registration>, bool)> {
        self.registrations.iter()
    }

    /// Gateways, with whether their stream is open.
    pub fn gateways(&self) -> impl Iterator<Item = (&Name, &Gateway, bool)> {
        self.gateways.iter()
    }

    /// Peers by cluster name.
    pub fn peers(&self) -> impl Iterator<Item = (&Arc<str>, &Peer)> {
        self.peers.iter()
    }

    /// One peer.
    pub fn peer(&self, cluster: &str) -> Option<&Peer> {
        self.peers.get(cluster)
    }

    /// The sequence of this cluster's own bundle that was published last; 0: none was.
    pub fn own_sequence(&self) -> u64 {
        self.own_bundle.as_ref().map_or(0, |bundle| bundle.sequence)
    }

    /// The configuration in force.
    pub fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }
}

/// What was refused of something that was taken otherwise, or that it was not taken at all.
type Taken = Result<Vec<Refusal>, Refusal>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

#[cfg(test)]
pub(crate) use tests::kit;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod model;
