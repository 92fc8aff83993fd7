//! What is in the tables: from values to bytes and back. A record that does not decode is left out and reported; the
//! others stay.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tombolo_core::model::TrustDomain;
use tombolo_proto::v1;

use super::{Content, Table, Write};
use crate::{
    ca::JoinTokens,
    config::Generation,
    index::{Ended, Gateway, Moment, Name, PeerIdentity, Registration, Restored, Save, SavedPeer},
    spiffe::Kept,
    state::PeerTokens,
};

/// The keys of the token books.
const JOIN: &str = "join";
const PEER: &str = "peer";

/// Everything that was saved.
#[derive(Debug, Default)]
pub struct Saved {
    /// For the index.
    pub index: Restored,
    /// The last generation of configuration.
    pub generation: Generation,
    /// Tokens for workloads.
    pub join_tokens: JoinTokens,
    /// Tokens for peers.
    pub peer_tokens: PeerTokens,
    /// Bundles from endpoints, by trust domain, as they were written.
    pub bundles: Kept,
    /// Records that do not decode.
    pub damaged: usize,
}

/// A peer as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerRecord {
    trust_domain: String,
    roots: Vec<String>,
    sequence: u64,
    refresh_hint_seconds: u32,
    addresses: Vec<String>,
    dials: bool,
    network: String,
    heard: Moment,
    #[serde(default)]
    silent: i64,
    #[serde(default)]
    stale: bool,
    ended: Option<Ended>,
    #[serde(default)]
    told: bool,
    have: Option<(String, u64)>,
    gateways: Vec<String>,
}

/// A write that makes a row of a serializable value.
fn entry(table: Table, key: impl Into<String>, value: &impl Serialize) -> Write {
    // Only maps with keys that are no texts fail to serialize, and there are none.
    Write { table, key: key.into(), value: serde_json::to_vec(value).ok() }
}

impl From<Save> for Write {
    fn from(save: Save) -> Self {
        let gone = |table, key: String| Self { table, key, value: None };
        match save {
            Save::Vip(key, Some(index)) => entry(Table::Vips, key, &index),
            Save::Vip(key, None) => gone(Table::Vips, key),
            Save::Registration(name, Some(registration)) => {
                entry(Table::Registrations, name.to_string(), &*registration)
            }
            Save::Registration(name, None) => gone(Table::Registrations, name.to_string()),
            Save::Gateway(name, Some(gateway)) => entry(Table::Gateways, name.to_string(), &gateway),
            Save::Gateway(name, None) => gone(Table::Gateways, name.to_string()),
            Save::Peer(cluster, Some(peer)) => entry(Table::Peers, &*cluster, &PeerRecord::from(*peer)),
            Save::Peer(cluster, None) => gone(Table::Peers, cluster.to_string()),
            Save::Import(cluster, name, service) => Self {
                table: Table::Imports,
                key: format!("{cluster}/{name}"),
                value: service.map(|service| service.to_vec()),
            },
        }
    }
}

impl From<SavedPeer> for PeerRecord {
    fn from(peer: SavedPeer) -> Self {
        let PeerIdentity { trust_domain, bundle, addresses, dials } = peer.identity;
        Self {
            trust_domain: trust_domain.to_string(),
            roots: bundle.roots_der.iter().map(|root| STANDARD.encode(root)).collect(),
            sequence: bundle.sequence,
            refresh_hint_seconds: bundle.refresh_hint_seconds,
            addresses,
            dials,
            network: peer.network,
            heard: peer.heard,
            silent: peer.silent,
            stale: peer.stale,
            ended: peer.ended,
            told: peer.told,
            have: peer.have,
            gateways: peer.gateways,
        }
    }
}

impl PeerRecord {
    fn into_saved(self) -> Option<SavedPeer> {
        let roots = self.roots.iter().map(|root| STANDARD.decode(root).map(Into::into));
        let bundle = v1::TrustBundle {
            trust_domain: self.trust_domain.clone(),
            roots_der: roots.collect::<Result<_, _>>().ok()?,
            sequence: self.sequence,
            refresh_hint_seconds: self.refresh_hint_seconds,
        };
        let trust_domain = TrustDomain::parse(&self.trust_domain).ok()?;
        let identity = PeerIdentity { trust_domain, bundle, addresses: self.addresses, dials: self.dials };
        Some(SavedPeer {
            identity,
            network: self.network,
            heard: self.heard,
            silent: self.silent,
            stale: self.stale,
            ended: self.ended,
            told: self.told,
            have: self.have,
            gateways: self.gateways,
            services: Vec::new(),
        })
    }
}

/// Older generations than so many are forgotten.
const KEPT_GENERATIONS: u64 = 100;

/// The writes that keep a generation and forget the one that is too old.
pub fn generation(generation: &Generation) -> Vec<Write> {
    let table = Table::Generations;
    let mut writes = vec![entry(table, generation_key(generation.number), generation)];
    if let Some(old) = generation.number.checked_sub(KEPT_GENERATIONS) {
        writes.push(Write { table, key: generation_key(old), value: None });
    }
    writes
}

/// The key of a generation's row: they sort as their numbers do.
pub fn generation_key(number: u64) -> String {
    format!("{number:020}")
}

/// The write that saves the book of join tokens.
pub fn join_tokens(book: &JoinTokens) -> Write {
    entry(Table::Tokens, JOIN, book)
}

/// The write that saves the book of peer tokens.
pub fn peer_tokens(book: &PeerTokens) -> Write {
    entry(Table::Tokens, PEER, book)
}

impl Saved {
    /// Reads the tables.
    pub fn read(mut content: Content) -> Self {
        let mut saved = Self::default();
        let mut rows = |table| content.remove(&table).unwrap_or_default();
        for (key, value) in rows(Table::Vips) {
            saved.take(Table::Vips, &key, json(&value), |saved, index| {
                saved.index.vips.push((key.clone(), index))
            });
        }
        for (key, value) in rows(Table::Registrations) {
            let registration = json::<Registration>(&value).filter(|r| r.name().to_string() == key);
            saved
                .take(Table::Registrations, &key, registration, |saved, r| saved.index.registrations.push(r));
        }
        for (key, value) in rows(Table::Gateways) {
            let gateway = name(&key).zip(json::<Gateway>(&value));
            saved.take(Table::Gateways, &key, gateway, |saved, gateway| saved.index.gateways.push(gateway));
        }
        for (key, value) in rows(Table::Peers) {
            let peer = json::<PeerRecord>(&value).and_then(PeerRecord::into_saved);
            saved.take(Table::Peers, &key, peer, |saved, peer| {
                saved.index.peers.push((Arc::from(key.as_str()), peer));
            });
        }
        for (key, value) in rows(Table::Imports) {
            let import = key.split_once('/').zip(v1::ExportedService::decode(value.as_slice()).ok());
            saved.take(Table::Imports, &key, import, |saved, ((cluster, _), service)| {
                // Of a peer whose own record is gone nothing is known any more.
                if let Some((_, peer)) = saved.index.peers.iter_mut().find(|(name, _)| **name == *cluster) {
                    peer.services.push(service);
                }
            });
        }
        for (key, value) in rows(Table::Generations) {
            saved.take(Table::Generations, &key, json(&value), |saved, generation| {
                saved.generation = generation;
            });
        }
        saved.bundles = rows(Table::Bundles);
        let mut books = rows(Table::Tokens);
        if let Some(value) = books.remove(JOIN) {
            saved.take(Table::Tokens, JOIN, json(&value), |saved, book| saved.join_tokens = book);
        }
        if let Some(value) = books.remove(PEER) {
            saved.take(Table::Tokens, PEER, json(&value), |saved, book| saved.peer_tokens = book);
        }
        saved
    }

    fn take<T>(&mut self, table: Table, key: &str, value: Option<T>, keep: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => keep(self, value),
            None => {
                self.damaged += 1;
                tracing::error!(?table, key, "a saved record is damaged and left out");
            }
        }
    }
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

fn name(key: &str) -> Option<Name> {
    key.split_once('/').map(|(namespace, name)| Name::new(namespace, name))
}
