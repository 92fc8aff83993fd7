//! Opening, reading and writing the file.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableHandle};

use super::{Content, StoreError, Table};

/// Bytes of the file that are kept in memory.
const CACHE: usize = 16 << 20;

pub(super) fn open_file(path: &Path) -> Result<Database, StoreError> {
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

pub(super) fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged { path: path.into(), reason }
}

/// redb may panic over a damaged file; that must cost no more than an error does.
pub(super) fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("redb gave up on {}", path.display())),
    }
}

pub(super) fn read_all(database: &Database) -> Result<Content, redb::Error> {
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

pub(super) fn write_all<'a>(
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
