//! The thread that owns the file, and what waits for it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::sync::oneshot;

use super::{
    StoreError, Table, Write,
    file::{guarded, write_all},
};

/// The pause after a failure to write.
const RETRY: Duration = Duration::from_secs(1);

/// What was noted, by table and key.
type Pending = BTreeMap<(Table, String), Option<Vec<u8>>>;

/// Writes that somebody waits for.
pub(super) struct Commit {
    pub(super) writes: Vec<Write>,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

/// Somebody who wants to read what is on the disk.
type Reader = oneshot::Sender<Result<ReadTransaction, StoreError>>;

/// What still has to be done.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) pending: Pending,
    pub(super) commits: Vec<Commit>,
    pub(super) readers: Vec<Reader>,
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    pub(super) failures: AtomicU64,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file anew: after a failed write redb takes no more until then.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send>;

/// The thread that owns the file.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) path: PathBuf,
    pub(super) opener: Opener,
    /// None after a failure.
    pub(super) database: Option<Database>,
}

impl Worker {
    pub(super) fn run(mut self) {
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
