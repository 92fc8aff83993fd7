use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;
use crate::identity::testing::FakeCa;

fn identity(ca: &FakeCa) -> Identity {
    Identity { credentials: ca.credentials("shop", "checkout"), bundle: Arc::new(ca.bundle()) }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_was_saved_is_loaded() {
    let (state, ca) = (tempfile::tempdir().unwrap(), FakeCa::new("east.example"));
    let store = Store::open(state.path()).unwrap();
    assert!(store.load().unwrap().is_none());
    for _ in 0..2 {
        let saved = identity(&ca);
        store.save(&saved).unwrap();
        let loaded = Store::open(state.path()).unwrap().load().unwrap().unwrap();
        assert_eq!(loaded.credentials.chain(), saved.credentials.chain());
        assert_eq!(loaded.credentials.key_pkcs8(), saved.credentials.key_pkcs8());
        assert_eq!(loaded.bundle, saved.bundle);
    }
}

#[test]
fn files_are_their_owners_alone_and_nothing_else_is_left_behind() {
    let (state, ca) = (tempfile::tempdir().unwrap(), FakeCa::new("east.example"));
    let directory = state.path().join("identity");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    // What a crash left, by another hand.
    fs::write(directory.join("identity.pem.new"), "half").unwrap();
    let store = Store::open(state.path()).unwrap();
    store.save(&identity(&ca)).unwrap();
    assert_eq!(mode(&directory), 0o700);
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names, [directory.join(BUNDLE), directory.join(IDENTITY)]);
    assert!(names.iter().all(|path| mode(path) == 0o600));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (state, ca) = (tempfile::tempdir().unwrap(), FakeCa::new("east.example"));
    let store = Store::open(state.path()).unwrap();
    store.save(&identity(&ca)).unwrap();
    let path = state.path().join("identity").join(IDENTITY);
    for open in [0o640, 0o604, 0o644, 0o620, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        let error = store.load().unwrap_err();
        assert!(
            matches!(&error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
        );
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for closed in [0o600, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(closed)).unwrap();
        assert!(store.load().unwrap().is_some());
    }
}

#[test]
fn a_planted_link_is_not_written_through() {
    let (state, ca) = (tempfile::tempdir().unwrap(), FakeCa::new("east.example"));
    let store = Store::open(state.path()).unwrap();
    let victim = state.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, state.path().join("identity").join("identity.pem.new")).unwrap();
    store.save(&identity(&ca)).unwrap();
    assert_eq!(fs::read_to_string(victim).unwrap(), "untouched");
}

#[test]
fn damaged_files_are_refused_without_showing_what_is_in_them() {
    let (state, ca) = (tempfile::tempdir().unwrap(), FakeCa::new("east.example"));
    let (store, saved) = (Store::open(state.path()).unwrap(), identity(&ca));
    store.save(&saved).unwrap();
    let path = state.path().join("identity").join(IDENTITY);
    let good = fs::read_to_string(&path).unwrap();
    let key = good.split("-----BEGIN PRIVATE KEY-----\n").nth(1).unwrap().lines().next().unwrap();
    store.save(&identity(&ca)).unwrap();
    let other = fs::read_to_string(&path).unwrap();
    let swapped = format!("{}{}", pem_part(&good, "CERTIFICATE"), pem_part(&other, "PRIVATE KEY"));
    for (text, reason) in [
        (String::new(), "private key"),
        (pem_part(&good, "CERTIFICATE"), "private key"),
        (pem_part(&good, "PRIVATE KEY"), "1 to 5 certificates"),
        (swapped, "does not belong"),
        (good.replace(key, &key.replace('M', "N")), "private key"),
        (good[..good.len() / 2].into(), "PEM"),
    ] {
        write_private(&path, text.as_bytes()).unwrap();
        let error = store.load().unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(matches!(error, StoreError::Content { .. }), "{shown}");
        assert!(shown.contains(reason) && !shown.contains(key), "{reason}: {shown}");
    }
}

#[test]
fn a_bundle_of_another_trust_domain_is_refused() {
    let (state, ca) = (tempfile::tempdir().unwrap(), FakeCa::new("east.example"));
    let store = Store::open(state.path()).unwrap();
    store.save(&identity(&ca)).unwrap();
    store.save_bundle(&FakeCa::new("west.example").bundle()).unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(error.contains("bundle.json") && error.contains("west.example"), "{error}");
    for text in ["", "{}", r#"{"trust_domain":"east.example","sequence":1,"roots_der":[]}"#] {
        write_private(&state.path().join("identity").join(BUNDLE), text.as_bytes()).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Content { .. })), "{text}");
    }
}

/// One section of a PEM text.
fn pem_part(text: &str, label: &str) -> String {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----\n"));
    let from = text.find(&begin).unwrap();
    let to = text.find(&end).unwrap() + end.len();
    text[from..to].into()
}
