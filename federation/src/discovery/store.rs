//! Every resource that proxies can ask for, with its version.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::bytes::Bytes;
use prost_types::Any;
use ring::digest::{SHA256, digest};
use tokio::sync::watch;
use tombolo_proto::xds::Resource;

/// Changes remembered for each type. A stream that is further behind compares everything.
const LOG: usize = 4096;

/// Names of what is gone, remembered for each type: a stream that is further behind than [`LOG`] finds there what it cannot
/// find among what is here. One that is behind this too has to begin anew.
const GRAVES: usize = 65_536;

/// One resource that changed, or is gone.
#[derive(Clone, PartialEq)]
pub struct Update {
    /// The type.
    pub type_url: &'static str,
    /// The name.
    pub name: String,
    /// The encoded message; none: it is gone.
    pub value: Option<Bytes>,
}

/// Resources by type and name. Versions are hashes of the content: the same after a restart, so that a client that comes
/// back is told only of differences.
pub struct ResourceStore {
    types: Mutex<HashMap<String, TypeStore>>,
    /// Counts changes; 0 until the controller is synced.
    revision: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

#[derive(Default)]
pub(super) struct TypeStore {
    /// The streams share the names: each remembers those that it has told.
    pub(super) resources: BTreeMap<Arc<str>, Held>,
    type_url: &'static str,
    log: VecDeque<(u64, Arc<str>)>,
    revision: u64,
    /// What changed up to here is not in the log any more.
    forgotten: u64,
    /// What is gone, and since when.
    graves: VecDeque<(u64, Arc<str>)>,
    /// What went up to here is not among them any more.
    buried: u64,
}

/// One resource. The index may hold the same bytes.
pub(super) struct Held {
    pub(super) version: Version,
    pub(super) value: Bytes,
    /// The revision that brought it as it is.
    changed: u64,
}

/// The beginning of a hash of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(u64);

impl Version {
    fn of(value: &[u8]) -> Self {
        let hash = digest(&SHA256, value);
        Self(hash.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// From its text; none: it is no version of this store's.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| is_one).map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TypeStore {
    /// The resource as it is sent.
    pub(super) fn resource(&self, name: &str, held: &Held) -> Resource {
        let any = Any { type_url: self.type_url.to_owned(), value: held.value.to_vec() };
        let (name, version) = (name.to_owned(), held.version.to_string());
        Resource { name, version, resource: Some(any), ..Default::default() }
    }

    /// The latest change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Those of the wanted names that changed after this revision, here or gone; none if that is too long ago to tell.
    pub(super) fn changed_since(
        &self,
        revision: u64,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<BTreeSet<Arc<str>>> {
        let after = |(at, _): &&(u64, Arc<str>)| *at > revision;
        let name = |(_, name): &'_ (u64, Arc<str>)| wanted(name).then(|| Arc::clone(name));
        if revision >= self.forgotten {
            return Some(self.log.iter().rev().take_while(after).filter_map(name).collect());
        }
        let here = self.resources.iter().filter(|(name, held)| held.changed > revision && wanted(name));
        let here = here.map(|(name, _)| Arc::clone(name));
        let gone = self.graves.iter().rev().take_while(after).filter_map(name);
        (revision >= self.buried).then(|| here.chain(gone).collect())
    }

    fn bury(&mut self, revision: u64, name: Arc<str>) {
        self.graves.push_back((revision, name));
        if self.graves.len() > GRAVES
            && let Some((at, _)) = self.graves.pop_front()
        {
            self.buried = at;
        }
    }
}

impl Default for ResourceStore {
    fn default() -> Self {
        Self { types: Mutex::default(), revision: watch::Sender::new(0), synced: watch::Sender::new(false) }
    }
}

impl ResourceStore {
    /// Takes over changes, all at once.
    pub fn apply(&self, updates: impl IntoIterator<Item = Update>) {
        let mut types = self.lock();
        let revision = *self.revision.borrow() + 1;
        let mut any = false;
        for update in updates {
            any |= set(types.entry(update.type_url.to_owned()).or_default(), update, revision);
        }
        drop(types);
        if any {
            self.revision.send_replace(revision);
        }
    }

    /// From now on streams are answered: what is here is the whole truth, and not the beginning of it.
    pub fn set_synced(&self) {
        self.synced.send_replace(true);
    }

    /// True once [`Self::set_synced`] was called.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// How many resources of this type there are.
    pub fn len(&self, type_url: &str) -> usize {
        self.lock().get(type_url).map_or(0, |store| store.resources.len())
    }

    /// The latest change of this type.
    pub(super) fn revision(&self, type_url: &str) -> u64 {
        self.lock().get(type_url).map_or(0, TypeStore::revision)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, TypeStore>> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }
}

/// True if it is a change.
fn set(store: &mut TypeStore, update: Update, revision: u64) -> bool {
    let known = store.resources.get_key_value(update.name.as_str());
    let name = known.map_or_else(|| Arc::from(update.name.as_str()), |(name, _)| Arc::clone(name));
    let changed = match update.value {
        None => {
            let was_here = store.resources.remove(&name).is_some();
            if was_here {
                store.bury(revision, Arc::clone(&name));
            }
            was_here
        }
        Some(value) => {
            let version = Version::of(&value);
            let same = store.resources.get(&name).is_some_and(|held| held.version == version);
            if !same {
                store.type_url = update.type_url;
                store.resources.insert(Arc::clone(&name), Held { version, value, changed: revision });
            }
            !same
        }
    };
    if changed {
        store.revision = revision;
        store.log.push_back((revision, name));
        if store.log.len() > LOG
            && let Some((forgotten, _)) = store.log.pop_front()
        {
            store.forgotten = forgotten;
        }
    }
    changed
}

impl fmt::Debug for ResourceStore {
    /// Without contents: some hold private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceStore").field("revision", &*self.revision.borrow()).finish_non_exhaustive()
    }
}
