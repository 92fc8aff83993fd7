//! `tombolo explain --admin`: what a gateway that runs says it would do is what it does.

use std::net::{SocketAddr, TcpListener};

use serde_json::Value;
use tombolo_tests::command;

use super::{client::get, world::World};

const DOCUMENTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: explained, namespace: gateway-conformance-infra }
spec:
  gatewayClassName: tombolo
  addresses: [{ type: IPAddress, value: 127.0.0.34 }]
  listeners: [{ name: web, port: 8090, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: explained, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: explained }]
  hostnames: [shop.example]
  rules:
    - name: buy
      matches: [{ path: { value: /buy } }]
      sessionPersistence: { sessionName: stay }
      filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplaceFullPath, replaceFullPath: /bought } } }]
      backendRefs: [{ name: infra-backend-v1, port: 8080 }]
---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: { name: buy, namespace: gateway-conformance-infra }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: explained, sectionName: buy }]
  arms: [{ name: v2, backendRefs: [{ name: infra-backend-v2, port: 8080 }] }]
  rules: [{ arm: v2, headers: [{ name: x-gray, value: v2 }] }]
  split: { key: { cookie: uid }, weights: { v2: 50 } }
"#;

fn explain(admin: SocketAddr, more: &[&str]) -> (i32, String, String) {
    let admin = admin.to_string();
    let output = command(["explain", "--admin", &admin]).args(more).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_asks_a_gateway_that_runs_and_says_what_it_does() {
    let world = World::stage().await;
    world.write("scenario", DOCUMENTS);
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _gateway = world.start(&["--admin", &admin.to_string()]);
    let to = world.address("explained", 8090);
    let url = format!("http://shop.example:{}/buy", to.port());

    let (code, said, err) = explain(admin, &["GET", &url, "-H", "x-gray: v2"]);
    assert_eq!(code, 0, "{err}");
    for line in [
        "route     httproute/gateway-conformance-infra/explained rule buy",
        "release   gateway-conformance-infra/buy",
        "arm       v2 (gray rule 0)",
        "filter    rewrite path to /bought",
        "filter    session: by cookie stay",
    ] {
        assert!(said.lines().any(|said| said == line), "{line:?} is not in:\n{said}");
    }
    assert!(said.contains("infra-backend-v2"), "{said}");

    let json = |headers: &[&str]| -> Value {
        let mut args = vec!["--output", "json"];
        headers.iter().for_each(|header| args.extend(["-H", *header]));
        let (code, said, err) = explain(admin, &[&args[..], &["--", "GET", &url]].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&said).unwrap()
    };
    // Of users by their cookies, and of those with a session, it says where they really go.
    let arm_of = |pod: &str| if pod.starts_with("infra-backend-v2") { "v2" } else { "stable" };
    let ask = get("shop.example", "/buy");
    let (mut met, mut tokens) = (std::collections::BTreeSet::new(), Vec::new());
    for user in 0..20 {
        let uid = format!("uid=u{user}");
        let answer = ask.clone().header("cookie", &uid).send(to).await.unwrap();
        let explained = json(&[&format!("cookie: {uid}")]);
        let arm = arm_of(&answer.echo.unwrap().pod);
        assert_eq!(explained["result"]["arm"], arm, "{uid}: {explained:#}");
        assert!(
            explained["result"]["armReason"].as_str().unwrap().starts_with("split, bucket "),
            "{explained:#}"
        );
        let token = answer.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        met.insert(arm);
        tokens.push((uid, arm, token));
    }
    assert_eq!(met.len(), 2, "{tokens:?}");
    let (_, kept, token) = &tokens[0];
    let (other, ..) = tokens.iter().find(|(_, arm, _)| arm != kept).unwrap();
    let explained = json(&[&format!("cookie: {other}; {token}")]);
    assert_eq!(explained["result"]["arm"], *kept);
    assert_eq!(explained["result"]["armReason"], "the client's session", "{explained:#}");
    let forged = json(&[&format!("cookie: {other}; {}", &token[..token.rfind('.').unwrap()])]);
    assert_ne!(forged["result"]["arm"], *kept, "nobody believes that: {forged:#}");

    let (code, said, _) = explain(admin, &["GET", &format!("http://elsewhere.example:{}/", to.port())]);
    assert!(code == 0 && said.contains("404"), "{said}");
    let (code, _, err) = explain(admin, &["GET", "http://shop.example:1/"]);
    assert!(code == 1 && err.contains("no http listener has port 1"), "{err}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, err) = explain(nobody, &["GET", &url]);
    assert!(code == 1 && err.contains(&nobody.to_string()), "{err}");
}
