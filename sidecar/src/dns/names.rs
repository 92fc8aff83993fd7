//! A snapshot's services, as names are looked up: made once a snapshot, at its first question.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use tombolo_core::model::{Host, Scope, ServiceEntry, Snapshot};

type Namespaces = HashMap<Arc<str>, HashMap<Arc<str>, Arc<ServiceEntry>>>;

/// The services of one snapshot. As many as that has.
#[derive(Default)]
pub(super) struct Names {
    of: Weak<Snapshot>,
    cluster: Namespaces,
    clusterset: Namespaces,
    /// Whose virtual addresses are: services', or their hosts' by place.
    by_index: HashMap<u32, (Arc<ServiceEntry>, Option<usize>)>,
}

impl Names {
    /// Those of this snapshot.
    pub fn of(snapshot: &Arc<Snapshot>) -> Self {
        let mut names = Self { of: Arc::downgrade(snapshot), ..Self::default() };
        for (key, entry) in &snapshot.services {
            let scope = match key.scope {
                Scope::Cluster => &mut names.cluster,
                Scope::Clusterset => &mut names.clusterset,
            };
            let namespace = scope.entry(Arc::clone(&key.namespace)).or_default();
            namespace.insert(Arc::clone(&key.name), Arc::clone(entry));
            if entry.vip_index > 0 {
                names.by_index.insert(entry.vip_index, (Arc::clone(entry), None));
            }
            for (place, host) in entry.hosts().iter().enumerate().filter(|(_, host)| host.vip_index > 0) {
                names.by_index.insert(host.vip_index, (Arc::clone(entry), Some(place)));
            }
        }
        names
    }

    /// True if these are of this very snapshot.
    pub fn are_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(snapshot))
    }

    /// True if some service is in this namespace.
    pub fn has_namespace(&self, scope: Scope, namespace: &str) -> bool {
        self.scope(scope).contains_key(namespace)
    }

    /// A service, by lower-case names.
    pub fn service(&self, scope: Scope, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.scope(scope).get(namespace)?.get(name).map(|entry| &**entry)
    }

    /// Whose virtual address has this index: a service's, or one of its hosts'.
    pub fn by_index(&self, index: u32) -> Option<(&ServiceEntry, Option<&Host>)> {
        let (entry, place) = self.by_index.get(&index)?;
        Some((entry, place.and_then(|place| entry.hosts().get(place))))
    }

    fn scope(&self, scope: Scope) -> &Namespaces {
        match scope {
            Scope::Cluster => &self.cluster,
            Scope::Clusterset => &self.clusterset,
        }
    }
}
