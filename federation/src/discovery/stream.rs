//! What one client knows and wants: the server's half of incremental xDS, without I/O.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tombolo_core::{discovery::type_url, model::SpiffeId};
use tombolo_proto::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::store::{ResourceStore, TypeStore, Version};

/// Names of one type that a stream may subscribe to.
const MAX_NAMES: usize = 20_000;
/// Types that a stream may ask for.
const MAX_TYPES: usize = 16;
/// Bytes of resources in one response; the rest goes with the next. A stream keeps a buffer for its largest: there are many
/// sidecars, which know little, and few gateways, which know everything.
const MAX_RESPONSE: usize = 8 << 10;
const MAX_RESPONSE_TO_GATEWAY: usize = 1 << 20;

/// Who asks, and so what may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Viewer {
    /// A gateway: also sees edge certificates.
    pub is_gateway: bool,
}

impl Viewer {
    /// By the verified identity.
    pub fn of(id: &SpiffeId) -> Self {
        let account = id.account();
        let is_gateway = account == "gateway" || account.starts_with("gateway-");
        Self { is_gateway: id.namespace() == "tombolo-system" && is_gateway }
    }

    fn most(self) -> usize {
        if self.is_gateway { MAX_RESPONSE_TO_GATEWAY } else { MAX_RESPONSE }
    }

    fn sees(self, type_url: &str) -> bool {
        type_url != type_url::EDGE_CERTIFICATE || self.is_gateway
    }
}

/// What a client was told of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Version(Version),
    /// It holds something that it is to be told anew.
    Something,
    Missing,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// By name, whatever it was told. Where everything is wanted and was told up to `seen`, only what was told since, or is
    /// to be told again: what a cluster has, not every stream has to remember.
    told: HashMap<Arc<str>, Told>,
    /// Sent, and neither taken nor refused yet: nothing else goes out meanwhile.
    pending: Option<String>,
    /// Up to which change of the store it was told everything; none: compare everything.
    seen: Option<u64>,
    /// Even an empty answer is one: the first is always given.
    answered: bool,
}

/// The state of one stream.
#[derive(Debug)]
pub struct StreamState {
    viewer: Viewer,
    types: BTreeMap<String, Subscription>,
    nonce: u64,
}

impl StreamState {
    /// A fresh stream.
    pub fn new(viewer: Viewer) -> Self {
        Self { viewer, types: BTreeMap::new(), nonce: 0 }
    }

    /// Takes over a request. The error ends the stream. Gives the reason if it is a NACK.
    pub fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Option<String>, &'static str> {
        let is_first = !self.types.contains_key(&request.type_url);
        if is_first && self.types.len() >= MAX_TYPES {
            return Err("too many types on one stream");
        }
        let subscription = self.types.entry(request.type_url.clone()).or_default();
        if is_first {
            subscription.wildcard = request.resource_names_subscribe.is_empty();
            let versions = request.initial_resource_versions.iter();
            let told = |version: &String| Version::parse(version).map_or(Told::Something, Told::Version);
            subscription.told =
                versions.map(|(name, version)| (name.as_str().into(), told(version))).collect();
        }
        for name in &request.resource_names_unsubscribe {
            subscription.unsubscribe(name);
        }
        for name in &request.resource_names_subscribe {
            subscription.subscribe(name, is_first);
        }
        if subscription.names.len() > MAX_NAMES {
            return Err("too many names of one type");
        }
        let nonce = &request.response_nonce;
        // A stale nonce is an answer to something older: it says nothing, but its subscriptions count.
        if nonce.is_empty() || subscription.pending.as_ref() != Some(nonce) {
            return Ok(None);
        }
        subscription.pending = None;
        Ok(request.error_detail.as_ref().map(|detail| detail.message.clone()))
    }

    /// Up to which revision of this type the client was told everything and has answered; none: it has not, or has not
    /// asked for the type.
    pub fn answered(&self, type_url: &str) -> Option<u64> {
        self.types.get(type_url).filter(|subscription| subscription.pending.is_none())?.seen
    }

    /// Names of which it is remembered what the client was told.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.types.values().map(|subscription| subscription.told.len()).sum()
    }

    /// Up to which revision of this type the client was told everything, whether it has answered or not.
    pub fn told(&self, type_url: &str) -> Option<u64> {
        self.types.get(type_url)?.seen
    }

    /// What is to be sent now, a response a type at most. One without a version is not all of it: the rest comes once that is
    /// acknowledged. The error ends the stream: the client is so far behind that it is
    /// not known any more what it holds, and has to say so itself.
    pub fn responses(&mut self, store: &ResourceStore) -> Result<Vec<DeltaDiscoveryResponse>, &'static str> {
        if !store.is_synced() {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        let types = store.lock();
        let nothing = TypeStore::default();
        for (url, subscription) in &mut self.types {
            if subscription.pending.is_some() {
                continue;
            }
            let held = types.get(url).filter(|_| self.viewer.sees(url)).unwrap_or(&nothing);
            let Some(mut response) = subscription.response(held, self.viewer.most())? else { continue };
            self.nonce += 1;
            response.type_url.clone_from(url);
            response.nonce = self.nonce.to_string();
            subscription.pending = Some(response.nonce.clone());
            out.push(response);
        }
        Ok(out)
    }
}

impl Subscription {
    /// Whatever it holds is what there was at `seen`, but for what `told` says.
    fn holds_all(&self) -> bool {
        self.wildcard && self.seen.is_some()
    }

    fn subscribe(&mut self, name: &str, is_first: bool) {
        if name == "*" {
            self.seen = self.seen.filter(|_| self.wildcard);
            self.wildcard = true;
            return;
        }
        self.names.insert(name.to_owned());
        let holds_all = self.holds_all();
        if !is_first {
            // Asked again by name: told again. What it holds meanwhile is not forgotten.
            match self.told.get_mut(name) {
                Some(Told::Missing) => drop(self.told.remove(name)),
                Some(told) => *told = Told::Something,
                None => {}
            }
            if holds_all {
                self.told.insert(name.into(), Told::Something);
            }
        }
        self.seen = self.seen.filter(|_| holds_all);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == "*" {
            if self.holds_all() {
                for name in &self.names {
                    self.told.entry(name.as_str().into()).or_insert(Told::Something);
                }
            }
            (self.wildcard, self.seen) = (false, None);
            self.told.retain(|name, _| self.names.contains(&**name));
        } else if self.names.remove(name) && !self.wildcard {
            self.told.remove(name);
            self.seen = None;
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn response(
        &mut self,
        held: &TypeStore,
        most: usize,
    ) -> Result<Option<DeltaDiscoveryResponse>, &'static str> {
        let names = self.to_compare(held)?;
        let mut response = DeltaDiscoveryResponse::default();
        let (mut bytes, mut complete) = (0, true);
        for name in names {
            if bytes >= most {
                complete = false;
                break;
            }
            bytes += self.compare(&name, held, &mut response);
        }
        if complete {
            self.seen = Some(held.revision());
            if self.wildcard {
                self.told = HashMap::new();
            }
        }
        let is_empty = response.resources.is_empty() && response.removed_resources.is_empty();
        if is_empty && std::mem::replace(&mut self.answered, true) {
            return Ok(None);
        }
        self.answered = true;
        if complete {
            response.system_version_info = held.revision().to_string();
        }
        Ok(Some(response))
    }

    /// Names whose state may differ from what the client was told.
    fn to_compare(&self, held: &TypeStore) -> Result<BTreeSet<Arc<str>>, &'static str> {
        if let Some(seen) = self.seen {
            match held.changed_since(seen, |name| self.wants(name)) {
                Some(mut changed) => {
                    if self.wildcard {
                        changed.extend(self.told.keys().cloned());
                    }
                    return Ok(changed);
                }
                None if self.wildcard => return Err("too much is gone since the last answer: begin anew"),
                None => {}
            }
        }
        // The store's own first, so that what is told shares them.
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        if self.wildcard {
            names.extend(held.resources.keys().cloned());
        }
        let named = self.names.iter().map(|name| match held.resources.get_key_value(name.as_str()) {
            Some((name, _)) => Arc::clone(name),
            None => name.as_str().into(),
        });
        names.extend(named);
        names.extend(self.told.keys().cloned());
        Ok(names)
    }

    /// Adds what the client has to be told of this name. Gives its size.
    fn compare(&mut self, name: &Arc<str>, held: &TypeStore, response: &mut DeltaDiscoveryResponse) -> usize {
        match held.resources.get(name).filter(|_| self.wants(name)) {
            Some(found) => {
                let told = Told::Version(found.version);
                if self.told.get(name) == Some(&told) {
                    return 0;
                }
                self.told.insert(Arc::clone(name), told);
                response.resources.push(held.resource(name, found));
                found.value.len() + name.len()
            }
            None => {
                let by_name = self.names.contains(&**name);
                let holds_all = self.holds_all();
                // Gone, or asked for by name and not there: said once.
                let is_to_tell = match self.told.get(name) {
                    Some(Told::Version(_) | Told::Something) => true,
                    Some(Told::Missing) => false,
                    None => by_name || holds_all,
                };
                if is_to_tell {
                    response.removed_resources.push(name.to_string());
                }
                if by_name || holds_all {
                    self.told.insert(Arc::clone(name), Told::Missing);
                } else {
                    self.told.remove(name);
                }
                name.len()
            }
        }
    }
}
