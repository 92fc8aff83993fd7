//! What one peer is told of this cluster's services: a log by revision, from which a reconnected link resumes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tombolo_proto::v1;

use super::{
    Moment, Name,
    crossing::{same_but_for_summaries, turned},
};

/// Withdrawals that are remembered for a resuming peer. Beyond it the oldest are forgotten, and a peer that is behind
/// them gets everything anew.
pub const MAX_TOMBSTONES: usize = 10_000;

/// Changes of nothing but a service's summaries are told together, in milliseconds: workloads that come and go behind the
/// named endpoints cost one short message in this time, however many they are.
pub const SUMMARY_PACE: i64 = 2_000;

/// The exports to one peer. Revisions grow by one with each change; what is newer than a revision can be listed.
#[derive(Debug, Clone, Default)]
pub struct ExportLog {
    epoch: String,
    revision: u64,
    /// Changes up to this revision cannot be told apart any more: a peer that is behind needs everything.
    floor: u64,
    services: BTreeMap<Name, Exported>,
    /// Services by the revision of their latest change.
    latest: BTreeMap<u64, Name>,
    tombstones: BTreeMap<u64, Name>,
    tombstone_of: BTreeMap<Name, u64>,
    gateways: Vec<String>,
    gateways_revision: u64,
    /// Services whose summaries have changed since they were told, by when they may be told again.
    later: BTreeSet<(Moment, Name)>,
}

/// One service as the peer is told of it. Peers on one network share the message.
#[derive(Debug, Clone)]
struct Exported {
    service: Arc<v1::ExportedService>,
    /// Of the latest change of all but the summaries.
    whole: u64,
    /// Of the latest change.
    latest: u64,
    /// When it was told.
    told: Moment,
}

/// What to send a peer so that it is up to date.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Services that are new or changed.
    pub services: Vec<v1::ExportedService>,
    /// Services of which only the summaries changed.
    pub summaries: Vec<v1::Summaries>,
    /// Services that are no longer exported.
    pub withdrawn: Vec<v1::Withdrawn>,
    /// The gateways, if they changed.
    pub gateways: Option<v1::Gateways>,
    /// The revision reached with it.
    pub revision: u64,
    /// Everything is in it: what is not named does not exist.
    pub full: bool,
}

impl ExportLog {
    /// An empty log. `epoch` names its history: revisions of another epoch mean nothing here.
    pub fn new(epoch: String) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// Names its history.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// What a peer lacks that says in its Hello that it has this.
    pub fn resume(&self, epoch: &str, revision: u64) -> Update {
        self.since((epoch == self.epoch).then_some(revision))
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many services are exported.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether nothing is exported.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The service as the peer is told of it.
    pub fn get(&self, name: &Name) -> Option<&Arc<v1::ExportedService>> {
        self.services.get(name).map(|exported| &exported.service)
    }

    /// Exports a service so, or no more. True if that is a change that is told now.
    pub fn set(&mut self, name: &Name, service: Option<Arc<v1::ExportedService>>, now: Moment) -> bool {
        let Some(service) = service else { return self.withdraw(name) };
        let old = self.services.get(name);
        if old.is_some_and(|old| Arc::ptr_eq(&old.service, &service) || old.service == service) {
            return false;
        }
        let mut whole = self.revision + 1;
        if let Some(old) = old {
            if same_but_for_summaries(&old.service, &service) {
                let due = old.told.plus(SUMMARY_PACE);
                if now < due && !turned(&old.service, &service) {
                    self.later.insert((due, name.clone()));
                    return false;
                }
                whole = old.whole;
            }
            self.latest.remove(&old.latest);
        }
        self.revision += 1;
        if let Some(revision) = self.tombstone_of.remove(name) {
            self.tombstones.remove(&revision);
        }
        self.latest.insert(self.revision, name.clone());
        let exported = Exported { service, whole, latest: self.revision, told: now };
        self.services.insert(name.clone(), exported);
        true
    }

    /// Services whose summaries may be told now. They are to be set again.
    pub fn due(&mut self, now: Moment) -> Vec<Name> {
        let mut due = Vec::new();
        while self.later.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, name)) = self.later.pop_first()
        {
            due.push(name);
        }
        due
    }

    fn withdraw(&mut self, name: &Name) -> bool {
        let Some(gone) = self.services.remove(name) else { return false };
        self.latest.remove(&gone.latest);
        self.revision += 1;
        self.tombstones.insert(self.revision, name.clone());
        self.tombstone_of.insert(name.clone(), self.revision);
        while self.tombstones.len() > MAX_TOMBSTONES
            && let Some((revision, forgotten)) = self.tombstones.pop_first()
        {
            self.tombstone_of.remove(&forgotten);
            self.floor = revision;
        }
        true
    }

    /// Names the gateways. True if that is a change.
    pub fn set_gateways(&mut self, addresses: Vec<String>) -> bool {
        if self.gateways == addresses {
            return false;
        }
        self.revision += 1;
        self.gateways = addresses;
        self.gateways_revision = self.revision;
        true
    }

    /// What a peer lacks that has everything up to `have`; everything if that is not known or too long ago.
    pub fn since(&self, have: Option<u64>) -> Update {
        let known = have.filter(|have| (self.floor..=self.revision).contains(have));
        let after = known.unwrap_or(0);
        let full = known.is_none();
        let gateways_changed = full || self.gateways_revision > after;
        let mut update = Update {
            services: Vec::new(),
            summaries: Vec::new(),
            withdrawn: Vec::new(),
            gateways: gateways_changed.then(|| v1::Gateways {
                revision: self.gateways_revision,
                mesh_addresses: self.gateways.clone(),
            }),
            revision: self.revision,
            full,
        };
        for (revision, name) in self.latest.range(after.saturating_add(1)..) {
            let Some(exported) = self.services.get(name) else { continue };
            if full || exported.whole > after {
                let service = v1::ExportedService::clone(&exported.service);
                update.services.push(v1::ExportedService { revision: *revision, ..service });
            } else {
                update.summaries.push(summaries(&exported.service, *revision));
            }
        }
        if !full {
            let gone = self.tombstones.range(after.saturating_add(1)..);
            update.withdrawn = gone.map(|(revision, name)| withdrawn(*revision, name)).collect();
        }
        update
    }
}

fn withdrawn(revision: u64, name: &Name) -> v1::Withdrawn {
    v1::Withdrawn { revision, namespace: name.namespace.to_string(), name: name.name.to_string() }
}

fn summaries(service: &v1::ExportedService, revision: u64) -> v1::Summaries {
    let list = |list: &v1::EndpointList| v1::EndpointList {
        port: list.port,
        endpoints: Vec::new(),
        summaries: list.summaries.clone(),
    };
    let (namespace, name) = (service.namespace.clone(), service.name.clone());
    v1::Summaries { revision, namespace, name, ports: service.endpoints.iter().map(list).collect() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(0);

    fn service(name: &str, port: u32) -> (Name, v1::ExportedService) {
        let ports = vec![v1::ServicePort { port, ..Default::default() }];
        let message =
            v1::ExportedService { namespace: "n".into(), name: name.into(), ports, ..Default::default() };
        (Name::new("n", name), message)
    }

    fn names(update: &Update) -> Vec<&str> {
        update.services.iter().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn tells_what_changed_since_a_revision() {
        let mut log = ExportLog::default();
        let ((a, a1), (b, b1), (_, a2)) = (service("a", 1), service("b", 1), service("a", 2));
        assert!(log.set(&a, Some(Arc::new(a1.clone())), NOW));
        assert!(!log.set(&a, Some(Arc::new(a1)), NOW), "no change, no revision");
        assert!(log.set(&b, Some(Arc::new(b1)), NOW));
        let before = log.revision();
        assert!(log.set(&a, Some(Arc::new(a2)), NOW));
        assert!(log.set(&b, None, NOW));
        assert!(!log.set(&b, None, NOW));
        let update = log.since(Some(before));
        assert_eq!((names(&update), update.full), (vec!["a"], false));
        assert_eq!(update.withdrawn.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(update.gateways, None);
        let nothing = log.since(Some(log.revision()));
        assert!(nothing.services.is_empty() && nothing.withdrawn.is_empty() && !nothing.full);
    }

    fn counted(healthy: u32) -> Arc<v1::ExportedService> {
        let summaries = vec![v1::Summary { healthy, total: 9, ..Default::default() }];
        let endpoints = vec![v1::EndpointList { port: 1, summaries, ..Default::default() }];
        Arc::new(v1::ExportedService { endpoints, ..service("a", 1).1 })
    }

    #[test]
    fn summaries_are_told_alone_and_together_but_nothing_healthy_at_once() {
        let (mut log, (name, _)) = (ExportLog::default(), service("a", 1));
        log.set(&name, Some(counted(9)), NOW);
        let before = log.revision();
        assert!(!log.set(&name, Some(counted(8)), NOW.plus(1)), "told later");
        assert!(!log.set(&name, Some(counted(7)), NOW.plus(2)));
        assert!(log.due(NOW.plus(SUMMARY_PACE - 1)).is_empty());
        assert_eq!(log.due(NOW.plus(SUMMARY_PACE)), std::slice::from_ref(&name));
        assert!(log.due(NOW.plus(SUMMARY_PACE)).is_empty(), "once");
        assert!(log.set(&name, Some(counted(7)), NOW.plus(SUMMARY_PACE)));
        let update = log.since(Some(before));
        assert_eq!((update.services.len(), update.summaries.len()), (0, 1));
        assert_eq!(update.summaries[0].ports[0].summaries[0].healthy, 7);
        assert!(log.set(&name, Some(counted(0)), NOW.plus(SUMMARY_PACE)), "nothing healthy is told at once");
        assert!(log.set(&name, Some(counted(1)), NOW.plus(SUMMARY_PACE)), "and so is that there is again");
        assert_eq!(log.since(None).services.len(), 1);
        assert_eq!(log.since(Some(0)).services.len(), 1, "who does not know the service gets it whole");
    }

    #[test]
    fn an_unknown_revision_gets_everything() {
        let mut log = ExportLog::default();
        let (a, a1) = service("a", 1);
        log.set(&a, Some(Arc::new(a1)), NOW);
        log.set_gateways(vec!["192.0.2.1:1".into()]);
        for have in [None, Some(99)] {
            let update = log.since(have);
            assert_eq!((names(&update), update.full), (vec!["a"], true), "{have:?}");
            assert_eq!(update.gateways.map(|g| g.mesh_addresses.len()), Some(1));
        }
    }

    #[test]
    fn a_service_that_returns_is_not_withdrawn_any_more() {
        let mut log = ExportLog::default();
        let (a, a1) = service("a", 1);
        log.set(&a, Some(Arc::new(a1.clone())), NOW);
        log.set(&a, None, NOW);
        log.set(&a, Some(Arc::new(a1)), NOW);
        let update = log.since(Some(0));
        assert_eq!((names(&update), update.withdrawn.len()), (vec!["a"], 0));
    }

    #[test]
    fn forgotten_withdrawals_lead_to_everything_anew() {
        let mut log = ExportLog::default();
        for round in 0..=MAX_TOMBSTONES {
            let (name, message) = service(&format!("s{round}"), 1);
            log.set(&name, Some(Arc::new(message)), NOW);
            log.set(&name, None, NOW);
        }
        assert!(log.since(Some(1)).full);
        assert!(!log.since(Some(log.revision() - 1)).full);
    }
}
