//! The services of one peer as they were taken.

use std::collections::BTreeMap;

use prost::{Message, bytes::Bytes};
use tombolo_proto::v1;

use super::Name;

/// How much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub services: usize,
    /// Behind all of them.
    pub endpoints: usize,
}

impl Amount {
    fn add(&mut self, imported: &Imported) {
        self.services += 1;
        self.endpoints += imported.endpoints;
    }

    fn subtract(&mut self, imported: &Imported) {
        self.services -= 1;
        self.endpoints -= imported.endpoints;
    }
}

/// A service of a peer, checked.
#[derive(Debug, Clone)]
struct Imported {
    /// As it was taken, without what was refused of it; encoded, as there may be very many: a tenth of the memory.
    service: Bytes,
    /// How many endpoints it has.
    endpoints: usize,
    /// It was named since the link's Hello.
    seen: bool,
}

/// All of them, counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    services: BTreeMap<Name, Imported>,
    all: Amount,
    /// Of these, what was named since the link's Hello.
    seen: Amount,
}

impl Held {
    /// In the order of their names, with how many endpoints each has.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, usize)> {
        self.services.iter().map(|(name, imported)| (name, imported.endpoints))
    }

    /// One as it is kept.
    pub fn encoded(&self, name: &Name) -> Option<&Bytes> {
        self.services.get(name).map(|imported| &imported.service)
    }

    /// How much there is in all.
    pub fn all(&self) -> Amount {
        self.all
    }

    /// How many endpoints one has; none: it is not held.
    pub fn endpoints_of(&self, name: &Name) -> Option<usize> {
        self.services.get(name).map(|imported| imported.endpoints)
    }

    /// How much there is besides this one: of all, or only of what was named since the link's Hello.
    pub fn besides(&self, name: &Name, only_seen: bool) -> Amount {
        let mut amount = if only_seen { self.seen } else { self.all };
        if let Some(counted) = self.services.get(name).filter(|imported| imported.seen || !only_seen) {
            amount.subtract(counted);
        }
        amount
    }

    /// A link begins: nothing was named on it yet.
    pub fn begin(&mut self) {
        self.services.values_mut().for_each(|imported| imported.seen = false);
        self.seen = Amount::default();
    }

    /// It was named on this link, whatever is taken of that. Nothing if it is not held.
    pub fn see(&mut self, name: &Name) {
        if let Some(imported) = self.services.get_mut(name).filter(|imported| !imported.seen) {
            imported.seen = true;
            self.seen.add(imported);
        }
    }

    /// Takes one that was named on this link, or before a restart. True if that is a change.
    pub fn insert(&mut self, name: &Name, service: &v1::ExportedService, seen: bool) -> bool {
        let encoded: Bytes = service.encode_to_vec().into();
        if self.encoded(name) == Some(&encoded) {
            if seen {
                self.see(name);
            }
            return false;
        }
        self.remove(name);
        let imported = Imported { service: encoded, endpoints: count(service), seen };
        self.all.add(&imported);
        if seen {
            self.seen.add(&imported);
        }
        self.services.insert(name.clone(), imported);
        true
    }

    /// Drops one. True if there was one.
    pub fn remove(&mut self, name: &Name) -> bool {
        let Some(gone) = self.services.remove(name) else { return false };
        self.all.subtract(&gone);
        if gone.seen {
            self.seen.subtract(&gone);
        }
        true
    }

    /// Drops those that were not named since the link's Hello, or all. Returns their names.
    pub fn clear(&mut self, only_unseen: bool) -> Vec<Name> {
        let gone = self.services.iter().filter(|(_, imported)| !(only_unseen && imported.seen));
        let gone: Vec<Name> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.remove(name);
        }
        gone
    }
}

/// Endpoints behind all ports of a service.
pub(super) fn count(service: &v1::ExportedService) -> usize {
    service.endpoints.iter().map(|list| list.endpoints.len()).sum()
}
