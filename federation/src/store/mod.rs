//! What outlives the controller's process: one redb file, `STATE_DIR/state.redb` (0600).
//!
//! redb blocks, so one thread owns the file. There are two ways in: [`Store::save`] takes note and returns at once (a
//! later value of the same key replaces one that still waits, so what waits is bounded by the number of keys), and
//! [`Store::commit`] waits until the disk has it. When writing fails, e.g. on a full disk, what was noted is kept and tried
//! again, a commit is refused, and everything else goes on from memory.

mod history;
mod records;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use tokio::sync::oneshot;
use tombolo_core::identity::files::create_private_dir;

pub use history::{History, Summary};
pub use records::{Saved, generation, join_tokens, peer_tokens};

/// Bytes of the file that are kept in memory.
const CACHE: usize = 16 << 20;
/// The pause after a failure to write.
const RETRY: Duration = Duration::from_secs(1);

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
}

impl Table {
    const ALL: [Self; 7] = [
        Self::Generations,
        Self::Vips,
        Self::Registrations,
        Self::Gateways,
        Self::Peers,
        Self::Imports,
        Self::Tokens,
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

/// What was noted, by table and key.
type Pending = BTreeMap<(Table, String), Option<Vec<u8>>>;

/// Writes that somebody waits for.
struct Commit {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Somebody who wants to read what is on the disk.
type Reader = oneshot::Sender<Result<ReadTransaction, StoreError>>;

/// What still has to be done.
#[derive(Default)]
struct Queue {
    pending: Pending,
    commits: Vec<Commit>,
    readers: Vec<Reader>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    failures: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file anew: after a failed write redb takes no more until then.
type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send>;

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

/// The thread that owns the file.
struct Worker {
    shared: Arc<Shared>,
    path: PathBuf,
    opener: Opener,
    /// None after a failure.
    database: Option<Database>,
}

impl Worker {
    fn run(mut self) {
        loop {
            let Queue { pending, commits, readers, closed } = self.next();
            if !pending.is_empty() || !commits.is_empty() {
                let noted = pending.iter().map(|((table, key), value)| (*table, key, value));
                let asked =
                    commits.iter().flat_map(|commit| &commit.writes).map(|w| (w.table, &w.key, &w.value));
                let outcome = self.write(noted.chain(asked));
                let failed = outcome.is_err();
                if let Err(error) = &outcome {
                    self.shared.failures.fetch_add(1, Relaxed);
                    tracing::error!(%error, "the state is not saved; it goes on from memory and tries again");
                }
                for commit in commits {
                    // Who asked may be gone.
                    let _told = commit.done.send(outcome.clone());
                }
                if failed {
                    self.keep(pending);
                }
            }
            for reader in readers {
                // Who asked may be gone.
                let _told = reader.send(self.read());
            }
            if closed {
                return;
            }
        }
    }

    fn read(&mut self) -> Result<ReadTransaction, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.opener)()?,
        };
        let outcome = guarded(&self.path, || Ok(database.begin_read()?));
        self.database = Some(database);
        outcome.map_err(|reason| StoreError::Read { path: self.path.clone(), reason })
    }

    /// Waits for something to do; after a failure for a while as well.
    fn next(&self) -> Queue {
        let mut queue = self.shared.lock();
        let unasked = |q: &mut Queue| q.commits.is_empty() && q.readers.is_empty() && !q.closed;
        if self.database.is_none() && unasked(&mut queue) {
            let waited = self.shared.wake.wait_timeout_while(queue, RETRY, unasked);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let idle = |q: &mut Queue| q.pending.is_empty() && unasked(q);
        let mut queue = self.shared.wake.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        let closed = queue.closed;
        // Once closed it stays closed.
        Queue { closed, ..std::mem::replace(&mut *queue, Queue { closed, ..Queue::default() }) }
    }

    /// Notes again what was not written, except where there is something newer.
    fn keep(&self, pending: Pending) {
        let mut queue = self.shared.lock();
        for (key, value) in pending {
            queue.pending.entry(key).or_insert(value);
        }
    }

    fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = (Table, &'a String, &'a Option<Vec<u8>>)>,
    ) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.opener)()?,
        };
        let outcome = guarded(&self.path, || write_all(&database, writes));
        let reason = match outcome {
            Ok(()) => {
                self.database = Some(database);
                return Ok(());
            }
            Err(reason) => reason,
        };
        Err(StoreError::Write { path: self.path.clone(), reason })
    }
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    let io = |error: io::Error| StoreError::Io { path: path.into(), reason: error.to_string() };
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    let opened = catch_unwind(|| Database::builder().set_cache_size(CACHE).create_file(file));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => Err(StoreError::InUse(path.into())),
        Ok(Err(error)) => Err(damaged(path, error.to_string())),
        Err(_) => Err(damaged(path, "redb gave up on it".into())),
    }
}

fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged { path: path.into(), reason }
}

/// redb may panic over a damaged file; that must cost no more than an error does.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("redb gave up on {}", path.display())),
    }
}

fn read_all(database: &Database) -> Result<Content, redb::Error> {
    let transaction = database.begin_read()?;
    let present: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
    let mut content = Content::new();
    for table in Table::ALL {
        let definition = table.definition();
        if !present.iter().any(|name| name == definition.name()) {
            continue;
        }
        let rows = content.entry(table).or_default();
        let open = transaction.open_table(definition)?;
        let mut keep = |(key, value): (redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>)| {
            rows.insert(key.value().to_owned(), value.value().to_vec());
        };
        if table == Table::Generations {
            // Only the last one is ever in force, and each holds a whole configuration.
            open.last()?.into_iter().for_each(keep);
            continue;
        }
        for row in open.iter()? {
            keep(row?);
        }
    }
    Ok(content)
}

fn write_all<'a>(
    database: &Database,
    writes: impl Iterator<Item = (Table, &'a String, &'a Option<Vec<u8>>)>,
) -> Result<(), redb::Error> {
    let mut by_table: BTreeMap<Table, Vec<_>> = BTreeMap::new();
    for (table, key, value) in writes {
        by_table.entry(table).or_default().push((key.as_str(), value.as_deref()));
    }
    let transaction = database.begin_write()?;
    for (table, rows) in by_table {
        let mut table = transaction.open_table(table.definition())?;
        for (key, value) in rows {
            match value {
                Some(value) => drop(table.insert(key, value)?),
                None => drop(table.remove(key)?),
            }
        }
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
