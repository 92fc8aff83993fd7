//! The shape of the workspace: which crate may know of which (DESIGN: proto <- core <- {gateway, sidecar, federation}
//! <- cli <- tests; the three never import each other).
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use tombolo_tests::root;

/// Package, and the packages of ours that it may depend on.
const MAY_USE: &[(&str, &[&str])] = &[
    ("tombolo-proto", &[]),
    ("tombolo-core", &["tombolo-proto"]),
    ("tombolo-gateway", &["tombolo-core", "tombolo-proto"]),
    ("tombolo-sidecar", &["tombolo-core", "tombolo-proto"]),
    ("tombolo-federation", &["tombolo-core", "tombolo-proto"]),
    (
        "tombolo",
        &["tombolo-core", "tombolo-proto", "tombolo-gateway", "tombolo-sidecar", "tombolo-federation"],
    ),
    // Simulates clusters for a controller; nobody depends on it.
    ("tombolo-bench", &["tombolo-core", "tombolo-proto", "tombolo-federation"]),
    (
        "tombolo-tests",
        &[
            "tombolo",
            "tombolo-core",
            "tombolo-proto",
            "tombolo-gateway",
            "tombolo-sidecar",
            "tombolo-federation",
        ],
    ),
];

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn crates_depend_only_downwards() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(found, ours, "a crate came or went: say here what it may use");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let allowed = MAY_USE.iter().find(|(n, _)| *n == name).unwrap().1;
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            // A crate may name itself for its tests (features).
            let fine = !ours.contains(used) || allowed.contains(&used) || used == name;
            assert!(fine, "{name} must not use {used}");
        }
    }
}

/// Folders of `core` that stay free of I/O and async: what is decided can be tested and explained without a socket.
const PURE: &[&str] = &["core/src/model", "core/src/decide", "core/src/balance", "core/src/paths"];
const IMPURE: &[&str] =
    &["tokio::", "pingora", "std::fs", "async fn", "SystemTime::now", "Instant::now", "TcpStream"];

#[test]
fn the_pure_parts_of_core_stay_pure() {
    for folder in PURE {
        let mut files = 0;
        each_source(&root().join(folder), &mut |path, text| {
            files += 1;
            let production = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = production.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (line, word) in code.flat_map(|line| IMPURE.iter().map(move |word| (line, word))) {
                assert!(!line.contains(word), "{}: {word} has no place here: {line}", path.display());
            }
        });
        assert!(files > 0, "{folder} is gone: name its successor here");
    }
}

/// Where connections begin: elsewhere they would not bear the process's mark, and a sidecar's be captured.
const DIALS: &str = "core/src/outgoing.rs";

#[test]
fn connections_of_a_sidecar_begin_in_one_place() {
    assert!(root().join(DIALS).is_file(), "{DIALS} is gone: name its successor here");
    for folder in ["core/src", "sidecar/src"] {
        each_source(&root().join(folder), &mut |path, text| {
            // A file of tests alone says so where it is named.
            let whole = if text.contains("test]\n") { "" } else { text };
            let production = text.split_once("#[cfg(test)]").map_or(whole, |(production, _)| production);
            for dial in ["TcpStream::connect", "TcpSocket::", "connect_lazy()", "TokioResolver"] {
                let fine = path == root().join(DIALS) || !production.contains(dial);
                assert!(fine, "{}: {dial}: use {DIALS}", path.display());
            }
        });
    }
}

/// Every direct dependency of a production crate has its line in ARCHITECTURE.md.
#[test]
fn every_dependency_has_its_reason() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            let written = name.starts_with("tombolo") || architecture.contains(&format!("`{name}`"));
            assert!(written, "{name} (used by {}) has no line in ARCHITECTURE.md", package["name"]);
        }
    }
}

fn each_source(folder: &Path, visit: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_source(&path, visit);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
            visit(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

/// `tests.rs`, and whatever lies in a folder `tests`.
fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "testing.rs")
        || path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_tests"))
}
