//! `tombolo apply --preview`.

use std::net::SocketAddr;

use serde_json::json;
use tombolo_tests::{command, processes::Processes};

use crate::{
    client::get,
    stage::{App, EDGE, Stage, free_offset, route},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_says_what_would_become_of_requests_and_changes_nothing() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let services = stable.documents() + &canary.documents();
    let now = EDGE.to_owned() + &services + &route(&[("/buy", "stable"), ("/look", "stable")]);
    let stage = Stage::start(&now).await;
    let edge = stage.address(80);
    for (path, status, count) in [("/buy", 200, 10), ("/look?token=hidden", 200, 7), ("/gone", 404, 5)] {
        for at in 0..count {
            let ask = get("shop.example", path).header("x-user", &format!("u{at}"));
            let ask = ask.header("authorization", "Bearer hidden").header("x-other", "hidden");
            assert_eq!(
                ask.header("cookie", "session=hidden").send(edge).await.unwrap().status,
                status,
                "{path}"
            );
        }
    }
    let generation = stage.generation();

    // /buy is forgotten, /look goes elsewhere, /gone is there.
    let next = stage.file("next.yaml", &route(&[("/look", "canary"), ("/gone", "stable")]));
    let preview = stage.json(&["apply", "--preview", "--output", "json", &next]);
    assert_eq!((&preview["gateways"], &preview["silent"]), (&json!(1), &json!([])), "{preview:#}");
    let tried = &preview["preview"];
    assert_eq!((&tried["requests"], &tried["unchanged"]), (&json!(22), &json!(0)), "{preview:#}");
    // The rules have the same names, so that only the backend of /look differs.
    assert_eq!(tried["changed"], json!({ "fails": 10, "mends": 5, "backend": 7 }), "{preview:#}");
    let first = &tried["examples"][0];
    assert_eq!((&first["change"], &first["requests"]), (&json!("fails"), &json!(10)));
    assert_eq!(first["example"], "GET http://shop.example/buy");
    assert_eq!(first["after"], "404 (no_route)");
    assert!(!preview.to_string().contains("hidden"), "{preview:#}");

    let text = stage.ok(&["apply", "--preview", &next]);
    for line in ["22 recent requests", "10 would fail", "5 would no longer fail", "nothing was applied"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(stage.generation(), generation);
    assert_eq!(get("shop.example", "/buy").send(edge).await.unwrap().status, 200);

    // A named header decides; one whose values were not kept cannot.
    let by_header = |name: &str| {
        let matches =
            format!("matches: [{{ path: {{ value: /buy }}, headers: [{{ name: {name}, value: u1 }}] }}], ");
        let more = format!("    - {{ name: one, {matches}backendRefs: [{{ name: canary, port: 80 }}] }}\n");
        route(&[("/buy", "stable"), ("/look", "stable")]) + &more
    };
    let next = stage.file("named.yaml", &by_header("x-user"));
    let preview = stage.json(&["apply", "--preview", "-o", "json", &next]);
    assert_eq!(preview["preview"]["changed"], json!({ "route": 1 }), "{preview:#}");
    let next = stage.file("unnamed.yaml", &by_header("x-other"));
    let preview = stage.json(&["apply", "--preview", "-o", "json", &next]);
    assert_eq!(preview["preview"]["unsure"], 22, "{preview:#}");
    assert_eq!(preview["preview"]["notKept"], json!(["header x-other"]), "{preview:#}");

    let bad = stage.file("bad.yaml", &route(&[("buy", "stable")]));
    let (code, out, err) = stage.run(&["apply", "--preview", &bad]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("would be refused"), "{err}");
}

/// A gateway without a controller is asked itself; the files are taken for all that it would read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_reads_files_tells_what_others_would_do() {
    let app = App::start("stable").await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, documents: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, documents).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let base = EDGE.to_owned() + &app.documents();
    let now = file("now.yaml", &(base.clone() + &route(&[("/buy", "stable")])));
    let (offset, state) = (free_offset().to_string(), dir.path().join("state"));
    let [edge, admin] =
        [80, 90].map(|port| SocketAddr::from(([127, 0, 0, 1], port + offset.parse::<u16>().unwrap())));
    let mut processes = Processes::new(dir.path());
    let mut gateway = command(["gateway", "--config", &now, "--address", "127.0.0.1"]);
    gateway.args(["--port-offset", &offset, "--admin", &admin.to_string(), "--state-dir"]).arg(&state);
    processes.spawn("gateway", &mut gateway);
    for path in ["/buy", "/look", "/buy"] {
        get("shop.example", path).send(edge).await.unwrap();
    }
    let preview = |file: &str, more: &[&str]| {
        let mut asking = command(["apply", "--preview", file]);
        let output = asking.args(["--state-dir", "/nonexistent"]).args(more).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let next = file("next.yaml", &(base.clone() + &route(&[("/look", "stable")])));
    let at = admin.to_string();
    let (code, out, err) = preview(&next, &["--admin", &at]);
    assert_eq!(code, 0, "{err}");
    for line in ["3 recent requests", "2 would fail", "1 would no longer fail", "nothing was applied"] {
        assert!(out.contains(line), "{line}: {out}");
    }
    let (code, out, err) = preview(&next, &["--admin", &at, "--output", "json"]);
    assert_eq!(code, 0, "{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["preview"]["changed"], json!({ "fails": 2, "mends": 1 }), "{json:#}");
    assert_eq!(get("shop.example", "/buy").send(edge).await.unwrap().status, 200, "nothing changed");

    let wrong = file("wrong.yaml", &(base + &route(&[("buy", "stable")])));
    let (code, _, err) = preview(&wrong, &["--admin", &at]);
    assert!(code == 1 && err.contains("would be refused") && err.contains("wrong.yaml"), "{err}");
    let empty = file("empty.yaml", "# nothing\n");
    let (code, _, err) = preview(&empty, &["--admin", &at]);
    assert!(code == 1 && err.contains("no document"), "{err}");
    let (code, _, err) = preview(&next, &[]);
    assert!(code == 1 && err.contains("/nonexistent/controller.sock") && err.contains("--admin"), "{err}");
}
