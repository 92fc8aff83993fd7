//! What outlives the controller's process: one redb file, `STATE_DIR/state.redb` (0600).
//!
//! redb blocks, so one thread owns the file. There are two ways in: [`Store::save`] takes note and returns at once (a
//! later value of the same key replaces one that still waits, so what waits is bounded by the number of keys), and
//! [`Store::commit`] waits until the disk has it. When writing fails, e.g. on a full disk, what was noted is kept and tried
//! again, a commit is refused, and everything else goes on from memory.

mod file;
mod history;
mod records;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use redb::TableDefinition;
use tokio::sync::oneshot;
use tombolo_core::identity::files::create_private_dir;

use file::{damaged, guarded, open_file, read_all};
pub use history::{History, Summary};
pub use records::{Saved, generation, join_tokens, peer_tokens};
use worker::{Commit, Opener, Shared, Worker};

/// A table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Numbered generations of configuration, by number.
    Generations,
    /// Positions of virtual addresses, by service key.
    Vips,
    /// Registered workloads, by `NAMESPACE/NAME`.
    Registrations,
    /// Registered gateways, by `NAMESPACE/NAME`.
    Gateways,
    /// Peers, by cluster name.
    Peers,
    /// Services of peers, by `CLUSTER/NAMESPACE/NAME`.
    Imports,
    /// Books of tokens, by kind.
    Tokens,
    /// Bundles that come from endpoints, by trust domain.
    Bundles,
}

impl Table {
    const ALL: [Self; 8] = [
        Self::Generations,
        Self::Vips,
        Self::Registrations,
        Self::Gateways,
        Self::Peers,
        Self::Imports,
        Self::Tokens,
        Self::Bundles,
    ];

    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Generations => "generations",
            Self::Vips => "vips",
            Self::Registrations => "registrations",
            Self::Gateways => "gateways",
            Self::Peers => "peers",
            Self::Imports => "imports",
            Self::Tokens => "tokens",
            Self::Bundles => "bundles",
        })
    }
}

/// One write: a key's new value, or none to remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub table: Table,
    /// Which.
    pub key: String,
    /// What; none: removed.
    pub value: Option<Vec<u8>>,
}

/// Everything in the file; of the generations only the last.
pub type Content = BTreeMap<Table, BTreeMap<String, Vec<u8>>>;

/// Why the file cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The state directory cannot be used.
    #[error("{path}: {reason}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another process has it open.
    #[error("{0} is in use by another controller; give each its own --state-dir")]
    InUse(PathBuf),
    /// It is no database, or a damaged one.
    #[error(
        "{path} is damaged ({reason}); restore it from a backup, or move it away to begin with an empty state"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What redb says.
        reason: String,
    },
    /// It could not be written. Safe to try again.
    #[error("{path} cannot be written: {reason}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It could not be read. Safe to try again.
    #[error("{path} cannot be read: {reason}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The process ends.
    #[error("the change was abandoned")]
    Abandoned,
}

/// The open file.
pub struct Store {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or makes `STATE_DIR/state.redb` and reads all of it. Blocks.
    pub fn open(state_dir: &Path) -> Result<(Self, Content), StoreError> {
        let path = state_dir.join("state.redb");
        let failed =
            |reason: io::Error| StoreError::Io { path: state_dir.into(), reason: reason.to_string() };
        create_private_dir(state_dir).map_err(failed)?;
        let file = path.clone();
        Self::with_opener(path, Box::new(move || open_file(&file)))
    }

    fn with_opener(path: PathBuf, opener: Opener) -> Result<(Self, Content), StoreError> {
        let database = opener()?;
        let content = guarded(&path, || read_all(&database)).map_err(|reason| damaged(&path, reason))?;
        let shared = Arc::new(Shared::default());
        let worker =
            Worker { shared: Arc::clone(&shared), path: path.clone(), opener, database: Some(database) };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || worker.run());
        let thread =
            thread.map_err(|error| StoreError::Io { path: path.clone(), reason: error.to_string() })?;
        Ok((Self { shared, path, thread: Some(thread) }, content))
    }

    /// Takes note of writes; they reach the disk soon, and together.
    pub fn save(&self, writes: impl IntoIterator<Item = Write>) {
        let mut queue = self.shared.lock();
        for write in writes {
            queue.pending.insert((write.table, write.key), write.value);
        }
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Writes all of these or none, and waits until the disk has them. Callers wait one for the other, so that few
    /// commits are under way at a time.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let (done, receiver) = oneshot::channel();
        self.shared.lock().commits.push(Commit { writes, done });
        self.shared.wake.notify_one();
        receiver.await.unwrap_or(Err(StoreError::Abandoned))
    }

    /// What the disk holds of past generations, as it is after everything that was committed before. Reading it blocks,
    /// but keeps nobody from writing.
    pub async fn history(&self) -> Result<History, StoreError> {
        let (reader, opened) = oneshot::channel();
        self.shared.lock().readers.push(reader);
        self.shared.wake.notify_one();
        let transaction = opened.await.unwrap_or(Err(StoreError::Abandoned))?;
        Ok(History::new(self.path.clone(), transaction))
    }

    /// Writes that failed since the start.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Relaxed)
    }
}

impl Drop for Store {
    /// Writes what is noted, if the disk takes it, and closes the file. Blocks for that long.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported when it happened.
            let _ended = thread.join();
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
