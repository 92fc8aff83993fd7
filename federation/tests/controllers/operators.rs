//! What operators do with a controller, and its files.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use tombolo_core::discovery::{COOKIE_KEY, type_url};
use tombolo_federation::{Bounds, StartError, StoreError, start};
use tombolo_proto::v1::{
    AcknowledgedRequest, AcknowledgedResponse, ApplyRequest, GetRequest, apply_request::File,
};

use crate::kit::*;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: bank }\n";

async fn namespaces(cluster: &Cluster) -> Vec<String> {
    let request = GetRequest { kind: "namespaces".into(), ..Default::default() };
    let answer = cluster.operator().await.get(request).await.unwrap().into_inner();
    let name = |json: &String| {
        let document: serde_json::Value = serde_json::from_str(json).unwrap();
        document["metadata"]["name"].as_str().unwrap().to_owned()
    };
    answer.documents_json.iter().map(name).collect()
}

#[tokio::test]
async fn apply_takes_all_or_nothing_and_a_restart_keeps_it() {
    let mut east = Cluster::start("east").await;
    let bad = "---\napiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { prots: [] }\n";
    let answer = east.try_apply(&format!("{NAMESPACE}{bad}")).await;
    assert_eq!((answer.generation, answer.errors.len()), (0, 1));
    let error = &answer.errors[0];
    assert!(
        error.contains("test.yaml") && error.contains("document 2") && error.contains("prots"),
        "{error}"
    );
    assert_eq!(namespaces(&east).await, Vec::<String>::new());
    let answer = east.try_apply(NAMESPACE).await;
    assert_eq!((answer.generation, answer.changes), (1, vec!["created namespace bank".to_owned()]));
    let files = vec![File { name: "x".into(), text: NAMESPACE.replace("bank", "shop") }];
    let dry = ApplyRequest { files, author: "test".into(), dry_run: true, ..Default::default() };
    let answer = east.operator().await.apply(dry).await.unwrap().into_inner();
    assert_eq!((answer.generation, answer.changes), (1, vec!["created namespace shop".to_owned()]));
    east.restart().await;
    assert_eq!(namespaces(&east).await, ["bank"]);
    assert_eq!(east.status().await["generation"], 1);
}

#[tokio::test]
async fn files_are_followed_object_by_object() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, NAMESPACE).unwrap();
    let bounds = Bounds { look: Duration::from_millis(20), ..Bounds::default() };
    let east = Cluster::start_with("east", bounds, vec![directory.path().into()]).await;
    assert_eq!(namespaces(&east).await, ["bank"], "before it answers at all");
    let until = async |what: &str, expected: &[&str]| {
        soon(what, async {
            while namespaces(&east).await != expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    let shop = NAMESPACE.replace("bank", "shop");
    std::fs::write(&file, format!("{NAMESPACE}---\n{shop}")).unwrap();
    until("two", &["bank", "shop"]).await;
    // One is broken and one new: the broken one stays as it was.
    let broken = NAMESPACE.replace("metadata", "metdata");
    std::fs::write(&file, format!("{broken}---\n{}", NAMESPACE.replace("bank", "third"))).unwrap();
    until("three", &["bank", "shop", "third"]).await;
    std::fs::write(&file, &shop).unwrap();
    until("one", &["shop"]).await;
    let answer = east.try_apply(&shop).await;
    assert!(answer.errors[0].contains("--config"), "{:?}", answer.errors);
}

#[tokio::test]
async fn the_socket_and_the_state_are_for_their_owner_alone() {
    let east = Cluster::start("east").await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let directory = &east.options.state_dir;
    assert_eq!(mode(&east.running().socket), 0o600);
    assert_eq!(mode(&directory.join("state.redb")), 0o600);
    assert_eq!(mode(directory), 0o700);
}

#[tokio::test]
async fn a_directory_is_for_one_controller_and_a_damaged_state_is_said_clearly() {
    let mut east = Cluster::start("east").await;
    let listen = ([127, 0, 0, 1], 0).into();
    let options = tombolo_federation::Options { listen, ..east.options.clone() };
    let error = start(options).await.err().unwrap();
    assert!(matches!(error, StartError::Store(StoreError::InUse(_))), "{error}");
    east.stop().await;
    std::fs::write(east.options.state_dir.join("state.redb"), b"no database").unwrap();
    let error = east.try_again().await.unwrap_err();
    assert!(error.to_string().contains("state.redb is damaged"), "{error}");
}

#[tokio::test]
async fn a_configuration_is_acknowledged_when_every_connected_proxy_has_answered() {
    let east = Cluster::start("east").await;
    let ask = async |timeout_millis| -> AcknowledgedResponse {
        let request = AcknowledgedRequest { timeout_millis };
        east.operator().await.acknowledged(request).await.unwrap().into_inner()
    };
    east.apply(NAMESPACE).await;
    assert_eq!(ask(0).await, AcknowledgedResponse { generation: 1, ..Default::default() }, "nobody is there");
    let mut proxy = east.member("shop", "checkout").await.discover(type_url::CONFIG_DOCUMENT).await;
    let silent = ask(50).await;
    assert_eq!(
        (silent.proxies, silent.waiting.len(), silent.refused.len()),
        (1, 1, 0),
        "it has not answered"
    );
    let has = |held: &std::collections::BTreeMap<String, Vec<u8>>| {
        held.keys().find(|key| key.ends_with("/shop")).cloned()
    };
    east.apply(&NAMESPACE.replace("bank", "shop")).await;
    let (answer, _) = tokio::join!(ask(60_000), proxy.until("the namespace", has));
    assert_eq!(answer, AcknowledgedResponse { generation: 2, proxies: 1, ..Default::default() });
}

/// Those who get the secret can make cookies up: gateways alone do, and it is the same after a restart.
#[tokio::test]
async fn the_secret_of_issued_cookies_is_for_gateways() {
    let mut east = Cluster::start("east").await;
    let secret = async |east: &Cluster| {
        let gateway = east.member("tombolo-system", "gateway").await;
        let mut gateway = gateway.discover(type_url::EDGE_CERTIFICATE).await;
        gateway.until("the key", |held| held.get(COOKIE_KEY).cloned()).await
    };
    let first = secret(&east).await;
    assert!(first.len() >= 32);
    east.restart().await;
    assert_eq!(secret(&east).await, first);
}
