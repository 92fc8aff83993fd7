//! The commands, as a shell sees them: output, exit codes, and that files in the repository are what they claim to be.
#![allow(clippy::unwrap_used)]

use std::{fs, process::Output};

use tombolo_tests::{command, root};

fn run<const N: usize>(args: [&str; N]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn every_example_is_accepted() {
    for folder in ["edge", "acme", "policies", "mesh", "federation/east.yaml", "federation/west.yaml"] {
        let path = root().join("deploy/examples").join(folder);
        let (code, out, err) = run(["check", path.to_str().unwrap()]);
        assert_eq!(code, 0, "{folder}: {out}{err}");
    }
}

#[test]
fn check_speaks_json_with_the_status_of_each_object() {
    let path = root().join("deploy/examples/edge");
    let (code, out, _) = run(["check", "--output", "json", path.to_str().unwrap()]);
    assert_eq!(code, 0);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["errors"], serde_json::json!([]));
    let objects = report["objects"].as_array().unwrap();
    let route = objects.iter().find(|o| o["kind"] == "HTTPRoute").unwrap();
    assert_eq!(route["metadata"]["name"], "checkout");
    let conditions = route["status"]["parents"][0]["conditions"].as_array().unwrap();
    for wanted in ["Accepted", "ResolvedRefs"] {
        let condition = conditions.iter().find(|c| c["type"] == wanted).unwrap();
        assert_eq!(condition["status"], "True", "{condition}");
        assert_eq!(condition["observedGeneration"], 1);
    }
}

#[test]
fn check_reports_every_problem_at_once_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: a }\nspec:\n  \
                hostname: x\n  rules:\n    - matches: [{ path: { type: Prefix, value: nope } }]\n---\n\
                apiVersion: v1\nkind: Service\nmetadata: { name: B }\nspec: { ports: [{ port: 70000 }] }\n";
    fs::write(&file, text).unwrap();
    let (code, out, _) = run(["check", file.to_str().unwrap()]);
    assert_eq!(code, 1, "{out}");
    for wanted in [
        "bad.yaml",
        "spec.hostname",
        "spec.rules[0].matches[0].path.type",
        "metadata.name",
        "spec.ports[0].port",
    ] {
        assert!(out.contains(wanted), "{wanted} is not named in:\n{out}");
    }
    let (code, out, _) = run(["check", "--output", "json", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(report["errors"].as_array().unwrap().len() >= 4, "{out}");
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let (code, out, err) = run(["check", "/nonexistent/x.yaml"]);
    assert_eq!(code, 1);
    assert!(format!("{out}{err}").contains("/nonexistent/x.yaml"), "{out}{err}");
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [["check", "--no-such-flag"], ["gateway", "--port-offset=x"], ["nonsense", "x"]] {
        let (code, _, err) = run(args);
        assert_eq!(code, 2, "{args:?}: {err}");
    }
    let (code, _, err) = run(["explain", "--config", "x", "--", "GET", "/no-host"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn explain_says_route_arm_and_why() {
    let path = root().join("deploy/examples/edge");
    let path = path.to_str().unwrap();
    let url = "http://shop.example.test/buy";
    let (code, out, err) = run(["explain", "--config", path, "GET", url, "-H", "x-gray: v2"]);
    assert_eq!(code, 0, "{err}");
    for wanted in ["shop/checkout", "buy", "v2"] {
        assert!(out.contains(wanted), "{wanted} is not in:\n{out}");
    }
    let (code, out, _) =
        run(["explain", "--config", path, "--output", "json", "--header", "x-gray: v2", "--", "GET", url]);
    assert_eq!(code, 0);
    let explanation: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(explanation["result"]["arm"], "v2", "{out}");
    let (_, out, _) = run(["explain", "--config", path, "--", "GET", "http://elsewhere.example.test/"]);
    assert!(out.contains("404"), "{out}");
}

#[test]
fn without_a_controller_the_operator_commands_say_what_to_do() {
    for args in
        [["status", "--state-dir", "/nonexistent"], ["join-token", "--account=x", "--state-dir=/nonexistent"]]
    {
        let (code, _, err) = run(args);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("/nonexistent/controller.sock") && err.contains("--state-dir"), "{err}");
    }
}

#[test]
fn help_names_every_command() {
    let (code, out, _) = run(["--help"]);
    assert_eq!(code, 0);
    for name in [
        "gateway",
        "sidecar",
        "controller",
        "quickstart",
        "check",
        "explain",
        "apply",
        "get",
        "join-token",
        "peer",
        "status",
    ] {
        assert!(out.contains(&format!("  {name}")), "{name} is not in:\n{out}");
    }
}
