//! The file: written, read again, damaged, and on a disk that is full.

use std::{
    fs::OpenOptions,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, backends::FileBackend};

use super::*;

fn write(key: &str, value: Option<&str>) -> Write {
    Write { table: Table::Vips, key: key.into(), value: value.map(|text| text.as_bytes().to_vec()) }
}

fn row<'a>(content: &'a Content, key: &str) -> Option<&'a str> {
    content.get(&Table::Vips)?.get(key).map(|value| std::str::from_utf8(value).unwrap())
}

#[tokio::test]
async fn what_was_saved_or_committed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, content) = Store::open(directory.path()).unwrap();
    assert_eq!(content, Content::new());
    store.save([write("a", Some("1")), write("b", Some("1")), write("gone", Some("1"))]);
    store.commit(vec![write("c", Some("1"))]).await.unwrap();
    store.save([write("b", Some("2")), write("gone", None)]);
    drop(store);
    let mode = std::fs::metadata(directory.path().join("state.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (_store, content) = Store::open(directory.path()).unwrap();
    assert_eq!(
        (row(&content, "a"), row(&content, "b"), row(&content, "c")),
        (Some("1"), Some("2"), Some("1"))
    );
    assert_eq!(row(&content, "gone"), None);
}

#[test]
fn a_second_controller_is_told_that_the_file_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_with_a_way_out_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    std::fs::write(&path, b"this is no database, whatever its name says").unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }) && error.to_string().contains("backup"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    store.commit(vec![write("a", Some("1"))]).await.unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

/// A disk that can be full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.full.load(SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
}

#[tokio::test]
async fn a_full_disk_refuses_commits_and_gets_the_rest_when_there_is_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, full) = (directory.path().join("state.redb"), Arc::new(AtomicBool::new(false)));
    let (file, flag) = (path.clone(), Arc::clone(&full));
    let opener = move || {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file).unwrap();
        let disk = Disk { file: FileBackend::new(file).unwrap(), full: Arc::clone(&flag) };
        Database::builder()
            .create_with_backend(disk)
            .map_err(|error| damaged(Path::new("x"), error.to_string()))
    };
    let (store, _) = Store::with_opener(path, Box::new(opener)).unwrap();
    store.commit(vec![write("a", Some("1"))]).await.unwrap();
    full.store(true, SeqCst);
    store.save([write("noted", Some("old"))]);
    let error = store.commit(vec![write("refused", Some("1"))]).await.unwrap_err();
    assert!(!matches!(error, StoreError::InUse(_)), "{error}");
    assert!(store.failures() > 0);
    store.save([write("noted", Some("new"))]);
    full.store(false, SeqCst);
    store.commit(vec![write("b", Some("1"))]).await.unwrap();
    drop(store);
    let (_store, content) = Store::open(directory.path()).unwrap();
    assert_eq!((row(&content, "a"), row(&content, "b")), (Some("1"), Some("1")));
    assert_eq!((row(&content, "noted"), row(&content, "refused")), (Some("new"), None));
}

#[tokio::test]
async fn the_last_of_a_hundred_generations_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    for number in 1..=103 {
        let kept = crate::config::Generation { number, ..Default::default() };
        store.save(generation(&kept));
    }
    drop(store);
    let (store, content) = Store::open(directory.path()).unwrap();
    assert_eq!(Saved::read(content).generation.number, 103);
    drop(store);
    let database = Database::open(directory.path().join("state.redb")).unwrap();
    let table = database.begin_read().unwrap().open_table(Table::Generations.definition()).unwrap();
    assert_eq!(table.iter().unwrap().count(), 100);
}

mod saved {

    use super::*;
    use crate::{
        ca::{JoinGrant, JoinTokens},
        index::{Event, Index, Moment, Name, Restored, Session},
    };

    #[test]
    fn damaged_records_are_left_out_and_counted() {
        let mut content = Content::new();
        let mut put = |table, key: &str, value: &[u8]| {
            content.entry(table).or_default().insert(key.to_owned(), value.to_vec());
        };
        put(Table::Vips, "cluster/a/a", b"7");
        put(Table::Vips, "cluster/a/b", b"seven");
        put(Table::Registrations, "a/b", b"{}");
        put(Table::Gateways, "noslash", b"{}");
        put(Table::Peers, "west", b"{\"trust_domain\": 1}");
        put(Table::Imports, "west/a/b", b"\xff\xff");
        put(Table::Generations, "1", b"[]");
        put(Table::Tokens, "join", b"nothing");
        let saved = Saved::read(content);
        assert_eq!(saved.index.vips, [("cluster/a/a".to_owned(), 7)]);
        assert_eq!(saved.damaged, 7);
    }

    #[test]
    fn token_books_come_back_as_they_were() {
        let mut book = JoinTokens::default();
        let grant = JoinGrant::new("shop", "checkout").unwrap();
        let now = std::time::SystemTime::now();
        let (secret, _) = book.issue(grant.clone(), Duration::from_secs(60), 1, now).unwrap();
        let write = join_tokens(&book);
        let content = [(write.table, [(write.key, write.value.unwrap())].into())].into();
        let mut saved = Saved::read(content);
        assert_eq!(saved.join_tokens.redeem(secret.reveal(), now), Ok(grant));
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        use crate::index::kit::{
            exported, gateways, hello, identity, registered, remote_endpoint, settings, synced, west,
        };
        let ca = tombolo_core::identity::testing::FakeCa::new("west.example");
        let now = Moment(1_000_000);
        let mut index = Index::new(settings(), Restored::default(), now);
        let session: Session = 1;
        let service = exported("ledger", vec![remote_endpoint("west.example", "ledger-1")]);
        let peer = |event| Event::Peer { cluster: west(), event };
        let events = [
            peer(crate::index::PeerEvent::Linked(identity(&ca))),
            hello(session),
            gateways(session),
            peer(crate::index::PeerEvent::Service { session, service }),
            synced(session, 7, true),
            registered(2, "checkout-1", "checkout"),
        ];
        let mut content = Content::new();
        for event in events {
            index.apply(event, now);
            for write in index.publish().saves.into_iter().map(Write::from) {
                content.entry(write.table).or_default().insert(write.key, write.value.unwrap());
            }
        }
        let saved = Saved::read(content);
        assert_eq!(saved.damaged, 0);
        let (cluster, restored) = &saved.index.peers[0];
        assert_eq!((&**cluster, restored.have.clone()), ("west", Some(("w-1".to_owned(), 7))));
        assert_eq!(restored.identity, identity(&ca));
        assert_eq!(restored.gateways, ["203.0.113.9:15443"]);
        let held = index.peer("west").unwrap().service(&Name::new("shop", "ledger")).unwrap();
        assert_eq!(restored.services, [held]);
        assert_eq!(saved.index.registrations[0].name, "checkout-1");
    }
}
