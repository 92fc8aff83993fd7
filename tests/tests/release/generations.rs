//! `history`, `diff`, `rollback`, `delete`, `apply --prune`, and steps of two operators at once.

use crate::{
    client::get,
    release,
    stage::{App, EDGE, Stage, route},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_do_is_kept_and_undone() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let services = EDGE.to_owned() + &stable.documents() + &canary.documents();
    let stage = Stage::start(&(services.clone() + &route(&[("/", "stable")]))).await;
    let edge = stage.address(80);
    let answers = async || get("shop.example", "/").send(edge).await.unwrap();
    assert_eq!(answers().await.body, "stable");

    // Each change is in force on the gateway when its command has ended.
    let said = stage.apply(&route(&[("/", "canary")]));
    assert!(said.contains("configured httproute shop/checkout"), "{said}");
    assert!(said.contains("generation 2 is in force on all 1 connected proxies after"), "{said}");
    assert_eq!(answers().await.body, "canary");
    let differs = stage.ok(&["diff"]);
    assert!(differs.contains("spec.rules") && differs.contains("canary"), "{differs}");
    let said = stage.ok(&["rollback"]);
    assert!(said.contains("generation 3 is in force on all 1 connected"), "{said}");
    assert_eq!(answers().await.body, "stable");
    let said = stage.ok(&["delete", "httproute", "checkout", "--namespace", "shop"]);
    assert!(said.contains("deleted httproute shop/checkout"), "{said}");
    assert_eq!(answers().await.status, 404);
    stage.ok(&["rollback", "2"]);
    assert_eq!(answers().await.body, "canary");
    let kept = stage.file("kept.yaml", &services);
    let dry = stage.ok(&["apply", "--prune", "--dry-run", &kept]);
    assert!(dry.contains("deleted httproute shop/checkout") && dry.contains("dry run"), "{dry}");
    assert_eq!(answers().await.body, "canary");
    stage.ok(&["apply", "--prune", "--timeout", "20", &kept]);
    assert_eq!(answers().await.status, 404);
    let history = stage.ok(&["history"]);
    for action in ["apply --prune", "rollback to 2", "delete", "rollback to 1", "ann"] {
        assert!(history.contains(action), "{action}: {history}");
    }

    let stale = stage.file("stale.yaml", &route(&[("/", "stable")]));
    let (code, _, err) = stage.run(&["apply", "--if-generation", "2", &stale]);
    assert!(code == 1 && err.contains("generation 6 is in force, not 2"), "{code} {err}");
    let (code, _, err) = stage.run(&["delete", "gatewayclass", "nobody"]);
    assert!(code == 1 && !err.contains("in namespace"), "{code} {err}");
}

/// Whoever is told that it is done has done it; whoever is told that it is not has changed nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_operators_at_once_none_undoes_what_the_other_did() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let arms =
        release("").replace("arms: [", "arms: [{ name: v3, backendRefs: [{ name: canary, port: 80 }] }, ");
    let documents =
        [EDGE, &stable.documents(), &canary.documents(), &route(&[("/", "stable")]), &arms].concat();
    let stage = Stage::start(&documents).await;
    let mut expected = [0, 0];
    for round in 1..=8 {
        let set = |arm: &str| {
            let percent = round.to_string();
            stage.run(&["gray", "set", "checkout", arm, &percent])
        };
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| set("v3"));
            [set("v2"), other.join().unwrap()]
        });
        for (expected, (code, out, err)) in expected.iter_mut().zip(&both) {
            match code {
                0 => *expected = round,
                _ => assert!(
                    err.contains("somebody else has changed gray release shop/checkout"),
                    "{out}{err}"
                ),
            }
        }
        assert!(both.iter().any(|(code, _, _)| *code == 0), "{both:?}");
        let weights = stage.json(&["gray", "show", "checkout", "--output", "json"]);
        let weights = &weights["spec"]["split"]["weights"];
        let now = ["v2", "v3"].map(|arm| weights[arm].as_u64().unwrap_or(0));
        assert_eq!(now, expected, "round {round}: {both:?}");
    }
}
