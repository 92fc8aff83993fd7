//! What one peer is told of this cluster's services: a log by revision, from which a reconnected link resumes.

use std::collections::BTreeMap;

use tombolo_proto::v1;

use super::Name;

/// Withdrawals that are remembered for a resuming peer. Beyond it the oldest are forgotten, and a peer that is behind
/// them gets everything anew.
pub const MAX_TOMBSTONES: usize = 10_000;

/// The exports to one peer. Revisions grow by one with each change; what is newer than a revision can be listed.
#[derive(Debug, Clone, Default)]
pub struct ExportLog {
    epoch: String,
    revision: u64,
    /// Changes up to this revision cannot be told apart any more: a peer that is behind needs everything.
    floor: u64,
    services: BTreeMap<Name, v1::ExportedService>,
    tombstones: BTreeMap<u64, Name>,
    tombstone_of: BTreeMap<Name, u64>,
    gateways: Vec<String>,
    gateways_revision: u64,
}

/// What to send a peer so that it is up to date.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Services that are new or changed.
    pub services: Vec<v1::ExportedService>,
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

    /// Exports a service so, or no more. True if that is a change.
    pub fn set(&mut self, name: &Name, service: Option<v1::ExportedService>) -> bool {
        let Some(mut service) = service else { return self.withdraw(name) };
        if let Some(old) = self.services.get(name) {
            service.revision = old.revision;
            if *old == service {
                return false;
            }
        }
        self.revision += 1;
        service.revision = self.revision;
        if let Some(revision) = self.tombstone_of.remove(name) {
            self.tombstones.remove(&revision);
        }
        self.services.insert(name.clone(), service);
        true
    }

    fn withdraw(&mut self, name: &Name) -> bool {
        if self.services.remove(name).is_none() {
            return false;
        }
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
        let gone = |(revision, name): (&u64, &Name)| v1::Withdrawn {
            revision: *revision,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
        };
        let gateways_changed = full || self.gateways_revision > after;
        Update {
            services: self.services.values().filter(|s| full || s.revision > after).cloned().collect(),
            withdrawn: match full {
                true => Vec::new(),
                false => self.tombstones.range(after.saturating_add(1)..).map(gone).collect(),
            },
            gateways: gateways_changed.then(|| v1::Gateways {
                revision: self.gateways_revision,
                mesh_addresses: self.gateways.clone(),
            }),
            revision: self.revision,
            full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(log.set(&a, Some(a1.clone())));
        assert!(!log.set(&a, Some(a1)), "no change, no revision");
        assert!(log.set(&b, Some(b1)));
        let before = log.revision();
        assert!(log.set(&a, Some(a2)));
        assert!(log.set(&b, None));
        assert!(!log.set(&b, None));
        let update = log.since(Some(before));
        assert_eq!((names(&update), update.full), (vec!["a"], false));
        assert_eq!(update.withdrawn.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(update.gateways, None);
        let nothing = log.since(Some(log.revision()));
        assert!(nothing.services.is_empty() && nothing.withdrawn.is_empty() && !nothing.full);
    }

    #[test]
    fn an_unknown_revision_gets_everything() {
        let mut log = ExportLog::default();
        let (a, a1) = service("a", 1);
        log.set(&a, Some(a1));
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
        log.set(&a, Some(a1.clone()));
        log.set(&a, None);
        log.set(&a, Some(a1));
        let update = log.since(Some(0));
        assert_eq!((names(&update), update.withdrawn.len()), (vec!["a"], 0));
    }

    #[test]
    fn forgotten_withdrawals_lead_to_everything_anew() {
        let mut log = ExportLog::default();
        for round in 0..=MAX_TOMBSTONES {
            let (name, message) = service(&format!("s{round}"), 1);
            log.set(&name, Some(message));
            log.set(&name, None);
        }
        assert!(log.since(Some(1)).full);
        assert!(!log.since(Some(log.revision() - 1)).full);
    }
}
