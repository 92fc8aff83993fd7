//! What the index publishes and what it wants saved.

use std::{collections::BTreeMap, sync::Arc};

use prost::{Message, bytes::Bytes};
use tombolo_core::discovery::type_url;
use tombolo_proto::v1;

use super::{Name, Registration, peers::SavedPeer};

/// A kind of xDS resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1::ConfigDocument`.
    ConfigDocument,
    /// `v1::Service`.
    Service,
    /// `v1::EndpointSet`.
    EndpointSet,
    /// `v1::TrustBundle`.
    TrustBundle,
    /// `v1::EdgeCertificate`.
    EdgeCertificate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ConfigDocument, Self::Service, Self::EndpointSet, Self::TrustBundle, Self::EdgeCertificate];

    /// The xDS type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::ConfigDocument => type_url::CONFIG_DOCUMENT,
            Self::Service => type_url::SERVICE,
            Self::EndpointSet => type_url::ENDPOINT_SET,
            Self::TrustBundle => type_url::TRUST_BUNDLE,
            Self::EdgeCertificate => type_url::EDGE_CERTIFICATE,
        }
    }
}

/// One resource as proxies get it. There is no `Debug`: some hold private keys.
#[derive(Clone, PartialEq)]
pub enum Resource {
    /// One configuration document.
    ConfigDocument(v1::ConfigDocument),
    /// One service in one scope.
    Service(v1::Service),
    /// Its endpoints.
    EndpointSet(v1::EndpointSet),
    /// One trust domain's roots.
    TrustBundle(v1::TrustBundle),
    /// One TLS Secret.
    EdgeCertificate(v1::EdgeCertificate),
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ConfigDocument(_) => Kind::ConfigDocument,
            Self::Service(_) => Kind::Service,
            Self::EndpointSet(_) => Kind::EndpointSet,
            Self::TrustBundle(_) => Kind::TrustBundle,
            Self::EdgeCertificate(_) => Kind::EdgeCertificate,
        }
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::ConfigDocument(message) => message.encode_to_vec(),
            Self::Service(message) => message.encode_to_vec(),
            Self::EndpointSet(message) => message.encode_to_vec(),
            Self::TrustBundle(message) => message.encode_to_vec(),
            Self::EdgeCertificate(message) => message.encode_to_vec(),
        }
    }
}

/// One resource that changed, or is gone.
#[derive(Clone, PartialEq)]
pub struct Change {
    /// Its kind.
    pub kind: Kind,
    /// Its name within the kind.
    pub name: String,
    /// The message as it is now; none: it is gone.
    pub encoded: Option<Bytes>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = if self.encoded.is_some() { "set" } else { "remove" };
        write!(f, "{verb} {:?} {}", self.kind, self.name)
    }
}

/// Something to be saved, so that a restart finds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Save {
    /// A service's virtual address, or that it has none any more.
    Vip(String, Option<u32>),
    /// A workload, or that it is gone.
    Registration(Name, Option<Arc<Registration>>),
    /// A gateway, or that it is gone.
    Gateway(Name, Option<Gateway>),
    /// A peer without its services, or that it is forgotten.
    Peer(Arc<str>, Option<Box<SavedPeer>>),
    /// A peer's service, encoded, or that it is gone.
    Import(Arc<str>, Name, Option<Bytes>),
}

/// A registered gateway.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gateway {
    /// Its SPIFFE ID, as text.
    pub identity: String,
    /// Its mesh listener.
    pub address: std::net::SocketAddr,
    /// It said goodbye.
    pub draining: bool,
}

/// What came of events since the last time.
#[derive(Debug, Default)]
pub struct Changes {
    /// For the proxies.
    pub resources: Vec<Change>,
    /// For the store, in order.
    pub saves: Vec<Save>,
    /// Some peer's exports changed.
    pub exports: bool,
}

/// What was published last, by kind and name. Endpoint sets are kept as proxies get them: they are most of it.
#[derive(Clone, Default)]
pub(super) struct Published {
    resources: BTreeMap<(Kind, String), Resource>,
    endpoint_sets: BTreeMap<String, Bytes>,
}

impl Published {
    /// Publishes a resource, or that there is none. What is no change is dropped.
    pub fn put(&mut self, kind: Kind, name: String, resource: Option<Resource>, changes: &mut Vec<Change>) {
        if kind == Kind::EndpointSet {
            return self.put_endpoints(name, resource, changes);
        }
        let key = (kind, name);
        match &resource {
            Some(new) if self.resources.get(&key) == Some(new) => return,
            Some(new) => drop(self.resources.insert(key.clone(), new.clone())),
            None if self.resources.remove(&key).is_none() => return,
            None => {}
        }
        let encoded = resource.as_ref().map(|resource| resource.encode().into());
        changes.push(Change { kind, name: key.1, encoded });
    }

    fn put_endpoints(&mut self, name: String, resource: Option<Resource>, changes: &mut Vec<Change>) {
        // What is the same is the same bytes.
        let encoded = match resource.map(|new| Bytes::from(new.encode())) {
            Some(new) if self.endpoint_sets.get(&name) == Some(&new) => return,
            Some(new) => {
                self.endpoint_sets.insert(name.clone(), new.clone());
                Some(new)
            }
            None if self.endpoint_sets.remove(&name).is_none() => return,
            None => None,
        };
        changes.push(Change { kind: Kind::EndpointSet, name, encoded });
    }

    /// What was published last under this name, of all kinds but endpoint sets.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.resources.get(&(kind, name.to_owned()))
    }

    /// The endpoints that were published last under this name.
    pub fn endpoint_set(&self, name: &str) -> Option<v1::EndpointSet> {
        v1::EndpointSet::decode(self.endpoint_sets.get(name)?.clone()).ok()
    }

    /// All endpoint sets, encoded.
    pub fn endpoint_sets(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        self.endpoint_sets.iter()
    }

    /// Publishes all resources of a kind: those that are not named are gone.
    pub fn replace(&mut self, kind: Kind, all: BTreeMap<String, Resource>, changes: &mut Vec<Change>) {
        let named = |name: &String| all.contains_key(name);
        let gone: Vec<String> =
            self.of_kind(kind).map(|(name, _)| name).filter(|n| !named(n)).cloned().collect();
        for name in gone {
            self.put(kind, name, None, changes);
        }
        for (name, resource) in all {
            self.put(kind, name, Some(resource), changes);
        }
    }

    /// Everything of one kind but endpoint sets.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&String, &Resource)> {
        let from = (kind, String::new());
        self.resources.range(from..).take_while(move |((k, _), _)| *k == kind).map(|((_, name), r)| (name, r))
    }
}
