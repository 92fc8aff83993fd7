//! What has to be computed anew: no more than what some event touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use tombolo_core::resources::kinds::ServicePatterns;

use super::{Configuration, Index, Name, PeerPolicy, selectors::Selectors};

/// What has to be computed anew.
#[derive(Debug, Clone, Default)]
pub(super) struct Dirty {
    pub everything: bool,
    /// Services of this cluster, which do not wait for what others say.
    pub own: BTreeSet<Name>,
    /// Services that are other clusters' alone: they may wait for their turn.
    pub theirs: BTreeSet<Name>,
    /// The one of those that had its turn last.
    last: Option<Name>,
    /// All services that are exported, to whomever.
    pub exports: bool,
    pub documents: bool,
    pub bundles: bool,
    pub gateways: bool,
}

impl Dirty {
    /// As at the start.
    pub(super) fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// What does not wait, and the next of those that do: as many as cost so much together, but one at least. What is
    /// left stays here.
    pub(super) fn take(&mut self, most: usize, cost: impl Fn(&Name) -> usize) -> Self {
        let theirs = if self.everything || most == usize::MAX {
            std::mem::take(&mut self.theirs)
        } else {
            self.turn(most, cost)
        };
        let rest =
            Self { theirs: std::mem::take(&mut self.theirs), last: self.last.take(), ..Self::default() };
        Self { theirs, ..std::mem::replace(self, rest) }
    }

    /// In the order of their names, from the last one on: so each has its turn, however often others change.
    fn turn(&mut self, most: usize, cost: impl Fn(&Name) -> usize) -> BTreeSet<Name> {
        let (mut taken, mut left) = (BTreeSet::new(), most);
        while left > 0 {
            let after = self.last.as_ref().map_or(Unbounded, Excluded);
            let next = self.theirs.range((after, Unbounded)).next().or_else(|| self.theirs.first());
            let Some(name) = next.cloned() else { break };
            self.theirs.remove(&name);
            left = left.saturating_sub(cost(&name).max(1));
            self.last = Some(name.clone());
            taken.insert(name);
        }
        taken
    }
}

impl Index {
    /// A service has changed, here or at a peer.
    pub(super) fn dirty_service(&mut self, name: Name) {
        if self.configuration.services.contains_key(&name) {
            self.dirty.own.insert(name);
        } else {
            self.dirty.theirs.insert(name);
        }
    }

    /// All services of a peer have changed.
    pub(super) fn dirty_peer(&mut self, cluster: &str) {
        let Some(peer) = self.peers.get(cluster) else { return };
        let names: Vec<Name> = peer.services().map(|(name, _)| name.clone()).collect();
        names.into_iter().for_each(|name| self.dirty_service(name));
    }

    /// Another generation is in force: what it says differently is computed anew.
    pub(super) fn reconfigure(&mut self, configuration: Arc<Configuration>) {
        let old = std::mem::replace(&mut self.configuration, configuration);
        let new = Arc::clone(&self.configuration);
        self.selectors = Arc::new(Selectors::of(&new));
        self.dirty.documents = true;
        self.dirty.own.extend(differing(&old.services, &new.services));
        self.dirty.own.extend(differing(&old.exports, &new.exports));
        let mut imports: Vec<Name> = Vec::new();
        for (cluster, peer) in &self.peers {
            let before = Self::policy(&old, cluster, peer);
            let now = Self::policy(&new, cluster, peer);
            let turned = Turned::of(before, now, |policy| &policy.export);
            self.dirty.own.extend(turned.iter().flat_map(|turned| turned.among(new.exports.keys())));
            let turned = Turned::of(before, now, |policy| &policy.import);
            imports
                .extend(turned.iter().flat_map(|turned| turned.among(peer.services().map(|(name, _)| name))));
        }
        imports.into_iter().for_each(|name| self.dirty_service(name));
        self.relimit(&old);
    }

    /// Where a peer may tell more or less than before: what was cut off is asked for, what is too much is cut off.
    fn relimit(&mut self, old: &Configuration) {
        let (new, mut anew, mut gone) = (Arc::clone(&self.configuration), Vec::new(), Vec::new());
        for (cluster, peer) in &mut self.peers {
            let limits = |configuration| {
                Self::policy(configuration, cluster, peer).map(|policy| policy.limits).unwrap_or_default()
            };
            let (before, now) = (limits(old), limits(&new));
            let is_same = (before.services, before.endpoints) == (now.services, now.endpoints);
            let exceeds = peer.service_count() > now.services || peer.endpoint_count() > now.endpoints;
            if !is_same && (peer.cut || exceeds) {
                peer.start_over();
                anew.push(Arc::clone(cluster));
            }
            // It is not where it has to be: nothing of what it said from there counts.
            let pinned = Self::policy(&new, cluster, peer).and_then(|policy| policy.network.as_ref());
            let says = peer.session().is_some() || peer.service_count() > 0;
            if pinned.is_some_and(|pinned| *pinned != peer.network) && says {
                peer.start_over();
                peer.gateways.clear();
                anew.push(Arc::clone(cluster));
                gone.push((Arc::clone(cluster), peer.forget_all(false)));
            }
        }
        gone.into_iter().for_each(|(cluster, names)| self.forgotten(&cluster, names));
        anew.iter().for_each(|cluster| self.save_peer(cluster));
    }
}

/// A choice of services that has become another one.
struct Turned<'a> {
    before: Option<&'a ServicePatterns>,
    now: Option<&'a ServicePatterns>,
}

impl<'a> Turned<'a> {
    /// None if it is still the same.
    fn of(
        before: Option<&'a PeerPolicy>,
        now: Option<&'a PeerPolicy>,
        choice: fn(&PeerPolicy) -> &ServicePatterns,
    ) -> Option<Self> {
        let (before, now) = (before.map(choice), now.map(choice));
        (before != now).then_some(Self { before, now })
    }

    /// Those that are chosen and were not, or the other way round.
    fn among<'n>(&self, names: impl Iterator<Item = &'n Name>) -> impl Iterator<Item = Name> {
        let covers = |choice: Option<&ServicePatterns>, name: &Name| {
            choice.is_some_and(|choice| choice.cover(&name.namespace, &name.name))
        };
        names.filter(move |name| covers(self.before, name) != covers(self.now, name)).cloned()
    }
}

/// Keys that only one has, or that mean something else in the other.
fn differing<'a, V: PartialEq>(
    before: &'a BTreeMap<Name, V>,
    now: &'a BTreeMap<Name, V>,
) -> impl Iterator<Item = Name> + 'a {
    let changed = now.iter().filter(|(name, value)| before.get(name) != Some(value)).map(|(name, _)| name);
    let gone = before.keys().filter(|name| !now.contains_key(name));
    changed.chain(gone).cloned()
}
