//! `tombolo apply --preview`.

use serde_json::json;

use crate::{
    client::get,
    stage::{App, EDGE, Stage, route},
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
