//! Generations of configuration, as operators see them over the socket.

use std::time::Duration;

use tombolo_federation::Bounds;
use tombolo_proto::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, DiffRequest, DiffResponse, GetRequest, HistoryRequest,
    RollbackRequest, apply_request::File, delete_request::Named,
};
use tonic::Code;

use crate::kit::*;

fn namespace(name: &str, team: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name}, labels: {{ team: {team} }} }}\n"
    )
}

fn files(text: &str) -> Vec<File> {
    vec![File { name: "test.yaml".into(), text: text.into() }]
}

async fn prune(cluster: &Cluster, text: &str, dry_run: bool) -> ApplyResponse {
    let request =
        ApplyRequest { files: files(text), author: "ann".into(), dry_run, prune: true, ..Default::default() };
    cluster.operator().await.apply(request).await.unwrap().into_inner()
}

async fn delete(cluster: &Cluster, name: &str) -> ApplyResponse {
    let named = vec![Named { kind: "namespace".into(), name: name.into(), ..Default::default() }];
    let request = DeleteRequest { named, author: "bob".into(), ..Default::default() };
    cluster.operator().await.delete(request).await.unwrap().into_inner()
}

async fn roll_back(cluster: &Cluster, generation: Option<u64>, dry_run: bool) -> ApplyResponse {
    let request = RollbackRequest { generation, author: "cid".into(), dry_run, if_generation: None };
    cluster.operator().await.rollback(request).await.unwrap().into_inner()
}

/// `NUMBER AUTHOR: ACTION` of each.
async fn history(cluster: &Cluster, limit: u32) -> Vec<String> {
    let answer = cluster.operator().await.history(HistoryRequest { limit }).await.unwrap().into_inner();
    answer.generations.iter().map(|g| format!("{} {}: {}", g.number, g.author, g.action)).collect()
}

async fn diff(cluster: &Cluster, request: DiffRequest) -> DiffResponse {
    cluster.operator().await.diff(request).await.unwrap().into_inner()
}

/// `CHANGE OBJECT PATH BEFORE AFTER` of each field.
fn fields(answer: &DiffResponse) -> Vec<String> {
    let of = |object: &tombolo_proto::v1::diff_response::Object| {
        let line = |f: &tombolo_proto::v1::diff_response::Field| {
            let text = |value: &Option<String>| value.clone().unwrap_or("-".into());
            format!("{} {} {} {} {}", object.change, object.object, f.path, text(&f.before), text(&f.after))
        };
        object.fields.iter().map(line).collect::<Vec<_>>()
    };
    answer.objects.iter().flat_map(of).collect()
}

#[tokio::test]
async fn generations_are_listed_compared_and_gone_back_to_also_after_a_restart() {
    let mut east = Cluster::start("east").await;
    assert_eq!(history(&east, 0).await, Vec::<String>::new());
    east.apply(&(namespace("bank", "red") + &namespace("shop", "red"))).await;
    east.apply(&namespace("bank", "blue")).await;
    let dry = prune(&east, &namespace("bank", "blue"), true).await;
    assert_eq!((dry.generation, dry.changes[0].as_str()), (2, "deleted namespace shop"));
    let pruned = prune(&east, &namespace("bank", "blue"), false).await;
    assert_eq!((pruned.generation, pruned.errors.len()), (3, 0));
    let gone = delete(&east, "bank").await;
    assert_eq!((gone.generation, gone.changes), (4, vec!["deleted namespace bank".to_owned()]));
    let missing = delete(&east, "bank").await;
    assert_eq!((missing.generation, missing.errors.len()), (4, 1));
    // What changes nothing makes no generation.
    assert_eq!(prune(&east, "", false).await.errors.len(), 1);

    east.restart().await;
    let listed = ["4 bob: delete", "3 ann: apply --prune", "2 test: apply", "1 test: apply"];
    assert_eq!(history(&east, 0).await, listed);
    assert_eq!(history(&east, 2).await, listed[..2]);
    let told = diff(&east, DiffRequest { from: Some(1), to: Some(2), proposed: None }).await;
    assert_eq!((told.from, told.to), (1, 2));
    assert_eq!(fields(&told), ["configured namespace bank metadata.labels.team \"red\" \"blue\""]);
    let last = diff(&east, DiffRequest::default()).await;
    assert_eq!((last.from, last.to, last.objects[0].change.as_str()), (3, 4, "deleted"));

    let dry = roll_back(&east, Some(1), true).await;
    assert_eq!((dry.generation, dry.changes.len()), (4, 2));
    let back = roll_back(&east, Some(1), false).await;
    assert_eq!((back.generation, back.errors.len()), (5, 0));
    assert!(diff(&east, DiffRequest { from: Some(1), to: None, proposed: None }).await.objects.is_empty());
    assert_eq!(history(&east, 1).await, ["5 cid: rollback to 1"]);
    // Without a number: the one before, and so back and forth.
    assert_eq!(roll_back(&east, None, false).await.generation, 6);
    assert!(diff(&east, DiffRequest { from: Some(4), to: None, proposed: None }).await.objects.is_empty());
}

#[tokio::test]
async fn what_applying_would_change_is_told_and_not_done() {
    let east = Cluster::start("east").await;
    east.apply(&namespace("bank", "red")).await;
    let asked = |text: &str| {
        let proposed = ApplyRequest { files: files(text), prune: true, ..Default::default() };
        DiffRequest { proposed: Some(proposed), ..Default::default() }
    };
    let told = diff(&east, asked(&namespace("shop", "red"))).await;
    let changes: Vec<&str> = told.objects.iter().map(|object| object.change.as_str()).collect();
    assert_eq!((told.from, told.to, changes), (1, 0, vec!["deleted", "created"]));
    let refused = diff(&east, asked("kind: Namespace\n")).await;
    assert!(!refused.errors.is_empty());
    assert_eq!(history(&east, 0).await.len(), 1);
}

#[tokio::test]
async fn a_generation_that_is_not_kept_is_named() {
    let east = Cluster::start("east").await;
    east.apply(&namespace("bank", "red")).await;
    let request = RollbackRequest { generation: Some(7), ..Default::default() };
    let status = east.operator().await.rollback(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("generation 7") && status.message().contains("history"), "{status}");
    // Before the first there is the empty one.
    assert_eq!(roll_back(&east, None, false).await.changes, ["deleted namespace bank"]);
}

#[tokio::test]
async fn rolling_back_leaves_to_the_files_what_is_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, namespace("filed", "red")).unwrap();
    let bounds = Bounds { look: Duration::from_millis(20), ..Bounds::default() };
    let east = Cluster::start_with("east", bounds, vec![directory.path().into()]).await;
    east.apply(&namespace("bank", "red")).await;
    east.apply(&namespace("bank", "blue")).await;
    std::fs::write(&file, namespace("filed", "blue")).unwrap();
    soon("the file is in force", async {
        while history(&east, 1).await != ["4 files: files"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let back = roll_back(&east, Some(2), false).await;
    assert_eq!(back.changes, ["configured namespace bank", "left namespace filed to the files"]);
    assert_eq!(delete(&east, "filed").await.errors.len(), 1);
}

#[tokio::test]
async fn a_file_that_does_not_parse_is_shown_and_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
    write("good.yaml", &namespace("good", "red"));
    write("bad.yaml", &format!("{}---\nkind: [\n", namespace("beside", "red")));
    let bounds = Bounds { look: Duration::from_millis(20), ..Bounds::default() };
    let east = Cluster::start_with("east", bounds, vec![directory.path().into()]).await;
    let until = async |problems: usize, generation: u64| {
        soon("the files are read", async {
            loop {
                let status = east.status().await;
                let told = status["problems"].as_array().unwrap().clone();
                if told.len() == problems && status["generation"] == generation {
                    return told;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    };
    let told = until(1, 1).await;
    assert!(told[0]["file"].as_str().unwrap().ends_with("bad.yaml"), "{told:?}");
    assert_eq!((&told[0]["document"], &told[0]["line"]), (&2.into(), &6.into()), "{told:?}");
    let metrics = || east.options.telemetry.encode();
    assert!(metrics().contains("tombolo_state{kind=\"document_problems\"} 1\n"), "{}", metrics());
    // What is beside it, in its file and in others, goes on.
    let all = east.operator().await.get(GetRequest { kind: "namespace".into(), ..Default::default() }).await;
    let all = all.unwrap().into_inner().documents_json.join(" ");
    assert!(all.contains("\"good\"") && all.contains("\"beside\""), "{all}");
    write("good.yaml", &namespace("good", "blue"));
    until(1, 2).await;
    write("bad.yaml", &namespace("beside", "red"));
    until(0, 2).await;
    assert!(metrics().contains("tombolo_state{kind=\"document_problems\"} 0\n"), "{}", metrics());
}

/// Both read the same generation, and both write: one of them is told, and nothing of it is in force.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_change_the_same_generation_one_is_told() {
    let cluster = Cluster::start("east").await;
    for round in 0..20_u64 {
        let in_force = round;
        let change = |team: &'static str| {
            let text = namespace("a", &format!("{team}{round}"));
            let request =
                ApplyRequest { files: files(&text), if_generation: Some(in_force), ..Default::default() };
            async { cluster.operator().await.apply(request).await.unwrap().into_inner() }
        };
        let (one, other) = tokio::join!(change("x"), change("y"));
        assert!(one.outdated != other.outdated, "round {round}: {one:?} {other:?}");
        let (made, told) = if one.outdated { (other, one) } else { (one, other) };
        assert!(made.errors.is_empty() && made.generation == in_force + 1, "{made:?}");
        assert!(told.errors[0].contains("somebody else") && told.changes.is_empty(), "{told:?}");
    }
}
