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
/// Bytes of resources in one response; the rest goes with the next.
const MAX_RESPONSE: usize = 4 << 20;

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
    told: HashMap<Arc<str>, Told>,
    /// Sent, and neither taken nor refused yet: nothing else goes out meanwhile.
    pending: Option<String>,
    /// Up to which change of the store `told` was compared; none: compare everything.
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

    /// Up to which revision of this type the client was told everything, whether it has answered or not.
    pub fn told(&self, type_url: &str) -> Option<u64> {
        self.types.get(type_url)?.seen
    }

    /// What is to be sent now, a response a type at most.
    pub fn responses(&mut self, store: &ResourceStore) -> Vec<DeltaDiscoveryResponse> {
        if !store.is_synced() {
            return Vec::new();
        }
        let mut out = Vec::new();
        let types = store.lock();
        let nothing = TypeStore::default();
        for (url, subscription) in &mut self.types {
            if subscription.pending.is_some() {
                continue;
            }
            let held = types.get(url).filter(|_| self.viewer.sees(url)).unwrap_or(&nothing);
            let Some(mut response) = subscription.response(held) else { continue };
            self.nonce += 1;
            response.type_url.clone_from(url);
            response.nonce = self.nonce.to_string();
            subscription.pending = Some(response.nonce.clone());
            out.push(response);
        }
        out
    }
}

impl Subscription {
    fn subscribe(&mut self, name: &str, is_first: bool) {
        if name == "*" {
            self.wildcard = true;
        } else {
            self.names.insert(name.to_owned());
            if !is_first {
                // Asked again by name: told again. What it holds meanwhile is not forgotten.
                match self.told.get_mut(name) {
                    Some(Told::Missing) => drop(self.told.remove(name)),
                    Some(told) => *told = Told::Something,
                    None => {}
                }
            }
        }
        self.seen = None;
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == "*" {
            self.wildcard = false;
            self.told.retain(|name, _| self.names.contains(&**name));
        } else if self.names.remove(name) && !self.wildcard {
            self.told.remove(name);
        }
        self.seen = None;
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn response(&mut self, held: &TypeStore) -> Option<DeltaDiscoveryResponse> {
        let names = self.to_compare(held);
        let mut response = DeltaDiscoveryResponse::default();
        let (mut bytes, mut complete) = (0, true);
        for name in names {
            if bytes >= MAX_RESPONSE {
                complete = false;
                break;
            }
            bytes += self.compare(&name, held, &mut response);
        }
        self.seen = complete.then(|| held.revision());
        let is_empty = response.resources.is_empty() && response.removed_resources.is_empty();
        if is_empty && std::mem::replace(&mut self.answered, true) {
            return None;
        }
        self.answered = true;
        response.system_version_info = held.revision().to_string();
        Some(response)
    }

    /// Names whose state may differ from what the client was told.
    fn to_compare(&self, held: &TypeStore) -> BTreeSet<Arc<str>> {
        if let Some(changed) = self.seen.and_then(|seen| held.changed_since(seen)) {
            return changed.filter(|name| self.wants(name)).cloned().collect();
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
        names
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
                let told = self.told.get(name);
                // Gone, or asked for by name and not there: said once.
                let holds = matches!(told, Some(Told::Version(_) | Told::Something));
                if holds || (by_name && told.is_none()) {
                    response.removed_resources.push(name.to_string());
                }
                if by_name {
                    self.told.insert(Arc::clone(name), Told::Missing);
                } else {
                    self.told.remove(name);
                }
                name.len()
            }
        }
    }
}
