//! Automatic releases: an arm that fares well goes up its steps, one that fails goes back to nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tombolo_tests::wait_until;

use crate::{
    client::get,
    release,
    stage::{App, EDGE, Stage, route},
};

/// Requests of many users without end, until it is dropped.
struct Load {
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(stage: &Stage) -> Self {
        let (over, edge) = (Arc::new(AtomicBool::new(false)), stage.address(80));
        for client in 0..4 {
            let over = over.clone();
            tokio::spawn(async move {
                let mut user = 0;
                while !over.load(Ordering::Relaxed) {
                    user += 1;
                    // Failures of the arm are what is looked for.
                    let ask = get("shop.example", "/").header("cookie", &format!("uid={client}-{user}"));
                    let _answer = ask.send(edge).await;
                }
            });
        }
        Self { over }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn shown(stage: &Stage) -> String {
    stage.ok(&["gray", "show", "checkout"])
}

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arm_goes_up_its_steps_and_back_to_nothing_when_it_fails() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let analysis = "  split: { key: { cookie: uid } }
  analysis:
    steps: [{ weight: 20, duration: 1s }, { weight: 50, duration: 2s }, { weight: 80, duration: 600s }]
    thresholds: [{ metric: success-rate, min: 95 }, { metric: latency-p99, max: 60000 }]
    minRequests: 20
";
    let documents =
        [EDGE, &stable.documents(), &canary.documents(), &route(&[("/", "stable")]), &release(analysis)]
            .concat();
    let stage = Stage::start(&documents).await;
    let load = Load::start(&stage);
    wait_until("the last step", LIMIT, || shown(&stage).contains("stable 20%, v2 80%"));
    let history = stage.ok(&["history"]);
    for step in ["v2 to 20%", "v2 to 50%", "v2 to 80%"] {
        assert!(history.contains(step), "{step}: {history}");
    }
    canary.fail(true);
    wait_until("it is rolled back", LIMIT, || shown(&stage).contains("stable 100%, v2 0%"));
    let text = shown(&stage);
    assert!(text.contains("rolled back from 80%: success-rate"), "{text}");
    // In force on the gateway too, and for good.
    let edge = stage.address(80);
    wait_until("no user meets the arm", LIMIT, || {
        let ask =
            async |user| get("shop.example", "/").header("cookie", &format!("uid=x{user}")).send(edge).await;
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut well = true;
                for user in 0..20 {
                    well &=
                        ask(user).await.is_ok_and(|answer| answer.status == 200 && answer.body == "stable");
                }
                well
            })
        })
    });
    drop(load);
    let generation = stage.generation();

    // What is applied without the mark begins anew; what is set by hand ends it.
    canary.fail(false);
    stage.apply(&release(analysis));
    wait_until("the first step", LIMIT, || shown(&stage).contains("v2 20%"));
    let said = stage.ok(&["gray", "abort", "checkout"]);
    assert!(said.contains("stable 100%, v2 0%"), "{said}");
    assert!(shown(&stage).contains("ended by hand, by ann"), "{}", shown(&stage));
    assert!(stage.generation() > generation);

    for (wrong, said) in [
        ("steps: []", "has 0 entries"),
        ("steps: [{ weight: 20, duration: 1s }, { weight: 10, duration: 1s }]", "do not grow"),
        (
            "steps: [{ weight: 20, duration: 1s }], thresholds: [{ metric: success-rate, max: 5 }]",
            "success-rate takes",
        ),
        ("steps: [{ weight: 20, duration: 1s }], thresholds: [{ metric: happiness, max: 5 }]", "happiness"),
        ("arm: v9, steps: [{ weight: 20, duration: 1s }]", "no arm \"v9\""),
    ] {
        let file = stage.file("wrong.yaml", &release(&format!("  analysis: {{ {wrong} }}")));
        let (code, _, err) = stage.run(&["apply", "--dry-run", &file]);
        assert!(code == 1 && err.contains(said), "{wrong}: {code} {err}");
    }
}

/// A controller that is killed forgets no step and no end: both stand in the document. The step that it was in begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_analysis_goes_on_after_the_controller_was_killed() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let analysis = "  split: { key: { cookie: uid } }
  analysis:
    steps: [{ weight: 20, duration: 1s }, { weight: 50, duration: 8s }, { weight: 80, duration: 600s }]
    thresholds: [{ metric: success-rate, min: 95 }]
    minRequests: 20
";
    let release = release(analysis) + "  whenUnavailable: fail\n";
    let documents =
        [EDGE, &stable.documents(), &canary.documents(), &route(&[("/", "stable")]), &release].concat();
    let mut stage = Stage::start(&documents).await;
    let load = Load::start(&stage);
    wait_until("the second step", LIMIT, || shown(&stage).contains("v2 50%"));
    stage.restart_controller();
    let again = Instant::now();
    assert!(shown(&stage).contains("v2 50%"), "{}", shown(&stage));
    wait_until("the last step", LIMIT, || shown(&stage).contains("v2 80%"));
    assert!(
        again.elapsed() > Duration::from_secs(7),
        "the step lasts as long as it should: {:?}",
        again.elapsed()
    );

    // No endpoint is left: each request that the arm should have had is refused, and counts.
    let none = canary.documents().replace("endpoints: [{", "endpoints: [] #");
    stage.apply(&none);
    wait_until("it is rolled back", LIMIT, || shown(&stage).contains("stable 100%, v2 0%"));
    let ended = shown(&stage);
    assert!(ended.contains("rolled back from 80%: success-rate"), "{ended}");
    stage.apply(&canary.documents());
    stage.restart_controller();
    let generation = stage.generation();
    wait_until("the analysis looks on", LIMIT, || stage.ok(&["status"]).contains("gateway"));
    assert!(shown(&stage).contains("rolled back from 80%: success-rate"), "{}", shown(&stage));
    assert_eq!(stage.generation(), generation);
    drop(load);
}
