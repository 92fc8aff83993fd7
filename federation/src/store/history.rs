//! Past generations of configuration, read from the disk when somebody asks for them: each holds a whole configuration,
//! so only the last one is kept in memory.

use std::path::PathBuf;

use redb::{ReadTransaction, TableError};
use serde::{Deserialize, de::DeserializeOwned};

use super::{StoreError, Table, guarded, records::generation_key};
use crate::config::Generation;

/// What is told of a generation without its documents.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Summary {
    /// Its number.
    pub number: u64,
    /// When, in seconds since the Unix epoch.
    pub when_unix: i64,
    /// Who.
    pub author: String,
    /// What was done, e.g. `apply`.
    #[serde(default)]
    pub action: String,
    /// What changed, a line each.
    pub changes: Vec<String>,
}

impl From<&Generation> for Summary {
    fn from(generation: &Generation) -> Self {
        Self {
            number: generation.number,
            when_unix: generation.when_unix,
            author: generation.author.clone(),
            action: generation.action.clone(),
            changes: generation.changes.clone(),
        }
    }
}

/// The generations on the disk, at one moment.
pub struct History {
    path: PathBuf,
    transaction: ReadTransaction,
}

impl History {
    pub(super) fn new(path: PathBuf, transaction: ReadTransaction) -> Self {
        Self { path, transaction }
    }

    /// At most `limit` generations before this number, the newest first. Blocks.
    pub fn before(&self, number: u64, limit: usize) -> Result<Vec<Summary>, StoreError> {
        self.guarded(|| {
            let Some(table) = self.table()? else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for row in table.range(..generation_key(number).as_str())?.rev() {
                if found.len() == limit {
                    break;
                }
                let (key, value) = row?;
                found.extend(decoded::<Summary>(key.value(), value.value()));
            }
            Ok(found)
        })
    }

    /// The number of the generation that was in force before this one. Blocks.
    pub fn predecessor(&self, number: u64) -> Result<Option<u64>, StoreError> {
        Ok(self.before(number, 1)?.first().map(|summary| summary.number))
    }

    /// A whole generation; none if it was never there, or is too old to be kept. Blocks.
    pub fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        self.guarded(|| {
            let Some(table) = self.table()? else { return Ok(None) };
            let row = table.get(generation_key(number).as_str())?;
            Ok(row.and_then(|row| decoded(number, row.value())))
        })
    }

    /// None where nothing was ever applied.
    fn table(&self) -> Result<Option<redb::ReadOnlyTable<&'static str, &'static [u8]>>, redb::Error> {
        match self.transaction.open_table(Table::Generations.definition()) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn guarded<T>(&self, read: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        guarded(&self.path, read).map_err(|reason| StoreError::Read { path: self.path.clone(), reason })
    }
}

/// A record that does not decode is left out, and told.
fn decoded<T: DeserializeOwned>(number: impl std::fmt::Display, value: &[u8]) -> Option<T> {
    let outcome = serde_json::from_slice(value);
    outcome.inspect_err(|error| tracing::error!(%number, %error, "a kept generation is damaged")).ok()
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{Store, Write, generation};

    fn made(number: u64) -> Generation {
        let changes = vec![format!("created namespace n{number}")];
        let documents = [(format!("/Namespace//n{number}"), "{}".to_owned())].into();
        Generation {
            number,
            author: "me".into(),
            action: "apply".into(),
            changes,
            documents,
            ..Generation::default()
        }
    }

    #[tokio::test]
    async fn generations_are_found_by_number_and_listed_newest_first() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let none = store.history().await.unwrap();
        assert_eq!((none.before(9, 9).unwrap(), none.generation(1).unwrap()), (Vec::new(), None));
        for number in [1, 2, 9, 10, 11] {
            store.commit(generation(&made(number))).await.unwrap();
        }
        let history = store.history().await.unwrap();
        let numbers = |before, limit| {
            history.before(before, limit).unwrap().iter().map(|s| s.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(u64::MAX, 3), [11, 10, 9]);
        assert_eq!(numbers(10, 9), [9, 2, 1]);
        assert_eq!((history.predecessor(9).unwrap(), history.predecessor(1).unwrap()), (Some(2), None));
        assert_eq!(history.generation(10).unwrap(), Some(made(10)));
        assert_eq!(history.before(11, 1).unwrap()[0], Summary::from(&made(10)));
        assert_eq!(history.generation(5).unwrap(), None);
        // What is read stays as it was, and does not keep others from writing.
        store.commit(generation(&made(12))).await.unwrap();
        assert_eq!(history.generation(12).unwrap(), None);
        assert_eq!(store.history().await.unwrap().predecessor(u64::MAX).unwrap(), Some(12));
    }

    #[tokio::test]
    async fn only_a_hundred_are_kept_and_a_damaged_one_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let mut writes: Vec<Write> = (1..=130).flat_map(|number| generation(&made(number))).collect();
        let damaged = Some(b"{".to_vec());
        writes.push(Write { table: Table::Generations, key: generation_key(129), value: damaged });
        store.commit(writes).await.unwrap();
        let history = store.history().await.unwrap();
        let all = history.before(u64::MAX, 1000).unwrap();
        assert_eq!((all.len(), all.first().unwrap().number, all.last().unwrap().number), (99, 130, 31));
        assert_eq!(history.generation(129).unwrap(), None);
        assert_eq!(history.predecessor(130).unwrap(), Some(128));
    }
}
