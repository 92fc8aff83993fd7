//! What outlives the controller, in one `redb` file: generations of configuration, and what the index wants saved.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tombolo_core::{identity::files, model::TrustDomain};
use tombolo_proto::v1;

use crate::index::{Gateway, Moment, Name, PeerIdentity, Registration, Restored, Save, SavedPeer};

const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const GENERATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("generations");
/// Older generations are forgotten.
const KEPT_GENERATIONS: u64 = 100;
/// Batches of saves that wait for the disk; at the bound the controller waits with it.
const QUEUE: usize = 1024;

/// Why something is not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system.
    #[error("{path}: {source}")]
    Io {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error("the state file: {0}")]
    Database(#[from] redb::Error),
    /// It holds what this version does not understand.
    #[error("the state file: {key}: {reason}")]
    Content {
        /// Which key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// One generation of configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number, from 1.
    pub number: u64,
    /// When, in seconds since the Unix epoch.
    pub when_unix: i64,
    /// Who.
    pub author: String,
    /// What changed, a line each.
    pub changes: Vec<String>,
    /// Every document as JSON, by key.
    pub documents: std::collections::BTreeMap<String, String>,
    /// Keys of documents that came from files: gone when they are gone from there.
    pub from_files: std::collections::BTreeSet<String>,
}

/// The file. What waits to be saved is saved before it is closed.
pub struct Store {
    database: Arc<Database>,
    queue: Option<mpsc::SyncSender<Vec<Save>>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // It has told its own errors.
            let _ended = writer.join();
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(error.into())
}

impl Store {
    /// Opens `STATE_DIR/state.redb`, made with mode 0600 if it is not there.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join("state.redb");
        let io = |source| StoreError::Io { path: path.clone(), source };
        files::create_private_dir(state_dir).map_err(io)?;
        // Made before the database opens it, so that it is never readable by others.
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(io)?;
        let database = Arc::new(Database::create(&path).map_err(failed)?);
        let txn = database.begin_write().map_err(failed)?;
        txn.open_table(STATE).map_err(failed)?;
        txn.open_table(GENERATIONS).map_err(failed)?;
        txn.commit().map_err(failed)?;
        let (queue, saves) = mpsc::sync_channel::<Vec<Save>>(QUEUE);
        let shared = database.clone();
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                while let Ok(mut batch) = saves.recv() {
                    while let Ok(more) = saves.try_recv() {
                        batch.extend(more);
                    }
                    if let Err(error) = write(&shared, &batch) {
                        tracing::error!(%error, "state is not saved: a restart would know less");
                    }
                }
            })
            .map_err(io)?;
        Ok(Self { database, queue: Some(queue), writer: Some(writer) })
    }

    /// Saves soon, in order.
    pub fn save(&self, saves: Vec<Save>) {
        let Some(queue) = self.queue.as_ref().filter(|_| !saves.is_empty()) else { return };
        if queue.send(saves).is_err() {
            tracing::error!("state is not saved: the store has ended");
        }
    }

    /// Keeps a generation. The oldest beyond 100 are forgotten.
    pub fn put_generation(&self, generation: &Generation) -> Result<(), StoreError> {
        let txn = self.database.begin_write().map_err(failed)?;
        {
            let mut table = txn.open_table(GENERATIONS).map_err(failed)?;
            table.insert(generation.number, encode(generation).as_slice()).map_err(failed)?;
            let oldest = generation.number.saturating_sub(KEPT_GENERATIONS);
            table.retain(|number, _| number > oldest).map_err(failed)?;
        }
        txn.commit().map_err(failed)
    }

    /// The newest generation.
    pub fn last_generation(&self) -> Result<Option<Generation>, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(GENERATIONS).map_err(failed)?;
        let last = table.last().map_err(failed)?;
        last.map(|(number, bytes)| decode(&format!("generation {}", number.value()), bytes.value()))
            .transpose()
    }

    /// Keeps a value under a fixed key.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        let txn = self.database.begin_write().map_err(failed)?;
        txn.open_table(STATE).map_err(failed)?.insert(key, encode(value).as_slice()).map_err(failed)?;
        txn.commit().map_err(failed)
    }

    /// The value under a fixed key.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(STATE).map_err(failed)?;
        let found = table.get(key).map_err(failed)?;
        found.map(|bytes| decode(key, bytes.value())).transpose()
    }

    /// What the index begins with.
    pub fn restore(&self) -> Result<Restored, StoreError> {
        let txn = self.database.begin_read().map_err(failed)?;
        let table = txn.open_table(STATE).map_err(failed)?;
        let mut restored = Restored::default();
        let mut imports: Vec<(String, v1::ExportedService)> = Vec::new();
        for entry in table.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let (key, value) = (key.value(), value.value());
            match key.split_once('/') {
                Some(("vip", name)) => restored.vips.push((name.to_owned(), decode(key, value)?)),
                Some(("workload", _)) => restored.registrations.push(decode::<Registration>(key, value)?),
                Some(("gateway", name)) => {
                    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
                    restored.gateways.push((Name::new(namespace, name), decode::<Gateway>(key, value)?));
                }
                Some(("peer", cluster)) => {
                    let record: PeerRecord = decode(key, value)?;
                    restored.peers.push((cluster.into(), record.into_saved(key)?));
                }
                Some(("import", rest)) => {
                    let cluster = rest.split('/').next().unwrap_or_default().to_owned();
                    let service = v1::ExportedService::decode(value).map_err(|e| content(key, e))?;
                    imports.push((cluster, service));
                }
                _ => {}
            }
        }
        for (cluster, service) in imports {
            if let Some((_, peer)) = restored.peers.iter_mut().find(|(name, _)| **name == *cluster) {
                peer.services.push(service);
            }
        }
        Ok(restored)
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain data with text keys always serializes.
    serde_json::to_vec(value).unwrap_or_default()
}

fn content(key: &str, reason: impl fmt::Display) -> StoreError {
    StoreError::Content { key: key.to_owned(), reason: reason.to_string() }
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| content(key, error))
}

fn write(database: &Database, saves: &[Save]) -> Result<(), StoreError> {
    let txn = database.begin_write().map_err(failed)?;
    {
        let mut table = txn.open_table(STATE).map_err(failed)?;
        for save in saves {
            let (key, value) = entry(save);
            match value {
                Some(value) => drop(table.insert(key.as_str(), value.as_slice()).map_err(failed)?),
                None => drop(table.remove(key.as_str()).map_err(failed)?),
            }
        }
    }
    txn.commit().map_err(failed)
}

fn entry(save: &Save) -> (String, Option<Vec<u8>>) {
    match save {
        Save::Vip(key, index) => (format!("vip/{key}"), index.as_ref().map(encode)),
        Save::Registration(name, value) => (format!("workload/{name}"), value.as_deref().map(encode)),
        Save::Gateway(name, value) => (format!("gateway/{name}"), value.as_ref().map(encode)),
        Save::Peer(cluster, peer) => (format!("peer/{cluster}"), Some(encode(&PeerRecord::of(peer)))),
        Save::Import(cluster, name, service) => {
            (format!("import/{cluster}/{name}"), service.as_ref().map(|service| service.encode_to_vec()))
        }
    }
}

/// A peer as it is written.
#[derive(Serialize, Deserialize)]
struct PeerRecord {
    trust_domain: String,
    bundle: Vec<u8>,
    addresses: Vec<String>,
    dials: bool,
    network: String,
    heard: Moment,
    ended: Option<crate::index::Ended>,
    have: Option<(String, u64)>,
    gateways: Vec<String>,
}

impl PeerRecord {
    fn of(peer: &SavedPeer) -> Self {
        Self {
            trust_domain: peer.identity.trust_domain.to_string(),
            bundle: peer.identity.bundle.encode_to_vec(),
            addresses: peer.identity.addresses.clone(),
            dials: peer.identity.dials,
            network: peer.network.clone(),
            heard: peer.heard,
            ended: peer.ended,
            have: peer.have.clone(),
            gateways: peer.gateways.clone(),
        }
    }

    fn into_saved(self, key: &str) -> Result<SavedPeer, StoreError> {
        let identity = PeerIdentity {
            trust_domain: TrustDomain::parse(&self.trust_domain).map_err(|e| content(key, e))?,
            bundle: v1::TrustBundle::decode(self.bundle.as_slice()).map_err(|e| content(key, e))?,
            addresses: self.addresses,
            dials: self.dials,
        };
        Ok(SavedPeer {
            identity,
            network: self.network,
            heard: self.heard,
            ended: self.ended,
            have: self.have,
            gateways: self.gateways,
            services: Vec::new(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn registration(name: &str) -> Registration {
        Registration {
            namespace: "shop".into(),
            name: name.into(),
            identity: "spiffe://east.test/ns/shop/sa/checkout".into(),
            address: ([127, 0, 0, 1], 15006).into(),
            labels: [("app".to_owned(), "checkout".to_owned())].into(),
            ports: vec![(3000, "http".into())],
            region: "r".into(),
            zone: "z".into(),
            network: String::new(),
            weight: 1,
            health: 1,
        }
    }

    fn peer() -> SavedPeer {
        let domain = TrustDomain::parse("west.test").unwrap();
        let bundle = v1::TrustBundle { trust_domain: "west.test".into(), sequence: 3, ..Default::default() };
        let addresses = vec!["127.0.0.1:1".into()];
        SavedPeer {
            identity: PeerIdentity { trust_domain: domain, bundle, addresses, dials: true },
            network: "west".into(),
            heard: Moment(5),
            ended: None,
            have: Some(("epoch".into(), 7)),
            gateways: vec!["127.0.0.1:2".into()],
            services: Vec::new(),
        }
    }

    #[test]
    fn what_is_saved_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let service =
            v1::ExportedService { namespace: "bank".into(), name: "ledger".into(), ..Default::default() };
        {
            let store = Store::open(directory.path()).unwrap();
            let saves = [
                Save::Vip("cluster/shop/checkout".into(), Some(4)),
                Save::Vip("cluster/shop/gone".into(), Some(5)),
                Save::Vip("cluster/shop/gone".into(), None),
                Save::Registration(Name::new("shop", "a"), Some(Arc::new(registration("a")))),
                Save::Peer("west".into(), Box::new(peer())),
                Save::Import("west".into(), Name::new("bank", "ledger"), Some(Arc::new(service.clone()))),
            ];
            write(&store.database, &saves).unwrap();
            store
                .put_generation(&Generation { number: 1, author: "a".into(), ..Default::default() })
                .unwrap();
            store
                .put_generation(&Generation { number: 2, author: "b".into(), ..Default::default() })
                .unwrap();
        }
        let store = Store::open(directory.path()).unwrap();
        let restored = store.restore().unwrap();
        assert_eq!(restored.vips, [("cluster/shop/checkout".to_owned(), 4)]);
        assert_eq!(restored.registrations, [registration("a")]);
        let expected = SavedPeer { services: vec![service], ..peer() };
        assert_eq!(restored.peers, [("west".into(), expected)]);
        assert_eq!(store.last_generation().unwrap().unwrap().author, "b");
        let mode = std::fs::metadata(directory.path().join("state.redb")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    }

    #[test]
    fn old_generations_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        for number in 1..=KEPT_GENERATIONS + 5 {
            store.put_generation(&Generation { number, ..Default::default() }).unwrap();
        }
        let txn = store.database.begin_read().unwrap();
        let table = txn.open_table(GENERATIONS).unwrap();
        assert_eq!(table.iter().unwrap().count() as u64, KEPT_GENERATIONS);
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state.redb"), b"not a database at all".repeat(500)).unwrap();
        let error = Store::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("state file"), "{error}");
    }
}
