//! Units and manifests in `deploy/` say what the binary understands: every command line in them is tried.
#![allow(clippy::unwrap_used)]

use std::{fs, process::Command};

use serde_json::Value;
use tombolo_tests::{root, tombolo};

/// Runs a command line of the binary with one more word; what it says if it is taken.
fn tried(line: &[String], more: &str) -> String {
    let output = Command::new(tombolo()).args(line).arg(more).env("NO_COLOR", "1").output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line:?}: {error}");
    out.into_owned()
}

/// Rules are printed by `--dry-run`; of a process that would run, each option has to be in its help.
fn check(line: &[String]) {
    if line.iter().any(|word| word == "init") {
        let printed = tried(line, "--dry-run");
        assert!(printed.contains("15001") && printed.contains("15007"), "{line:?}: {printed}");
        return;
    }
    let help = tried(&line[..1], "--help");
    let known: Vec<&str> = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    for option in line.iter().filter(|word| word.starts_with("--")) {
        let name = option.split('=').next().unwrap();
        assert!(known.contains(&name), "{name} of {line:?} is no option");
    }
}

#[test]
fn units_start_what_there_is() {
    let mut lines = 0;
    for unit in fs::read_dir(root().join("deploy/systemd")).unwrap() {
        let path = unit.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for section in ["[Unit]", "[Service]", "[Install]"] {
            assert!(text.lines().any(|line| line == section), "{section} in {}", path.display());
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("ExecStart")) {
            let (_, command) = line.split_once('=').unwrap();
            let mut words = command.trim_start_matches('+').split_ascii_whitespace();
            assert_eq!(words.next(), Some("/usr/local/bin/tombolo"), "{}", path.display());
            // What an environment file says is not known here.
            let words: Vec<String> = words.filter(|word| !word.starts_with("$")).map(str::to_owned).collect();
            check(&words);
            lines += 1;
        }
    }
    assert!(lines >= 5, "{lines} command lines");
}

#[test]
fn a_pod_has_its_rules_before_its_sidecar_and_its_sidecar_before_its_application() {
    let text = fs::read_to_string(root().join("deploy/kubernetes/captured.yaml")).unwrap();
    let documents: Vec<Value> =
        text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    let deployment = documents.iter().find(|document| document["kind"] == "Deployment").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let [init, sidecar] = pod["initContainers"].as_array().unwrap().as_slice() else { panic!("{pod}") };
    for container in [init, sidecar] {
        let words = container["args"].as_array().unwrap().iter();
        check(&words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>());
    }
    // The rules except the very user that the sidecar runs as, and kubelet reaches its pages.
    let (user, args) = (&sidecar["securityContext"]["runAsUser"], init["args"].as_array().unwrap());
    let follows = |option: &str, value: &str| args.windows(2).any(|two| two[0] == option && two[1] == value);
    assert!(follows("--user", &user.to_string()) && follows("--exclude-inbound-port", "15000"), "{args:?}");
    assert_eq!(sidecar["restartPolicy"], "Always", "it outlives the application");
    assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/ready", "the application waits for it");
}
