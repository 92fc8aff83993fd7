//! Sessions beside a gray release, and the steps that operators take with it: rule, then session, then split, and nobody
//! is kept by an arm that was taken back.

use std::net::SocketAddr;

use crate::{
    client::{Answer, Ask, get},
    release,
    stage::{App, EDGE, Stage, route},
};

/// A user as a browser remembers them.
#[derive(Debug, Clone)]
struct User {
    gray: String,
    session: String,
}

/// What an answer sets this cookie to.
fn set(answer: &Answer, name: &str) -> Option<String> {
    let all = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let ours = all.filter_map(|text| text.split(';').next()).find(|pair| pair.starts_with(name));
    ours.map(str::to_owned)
}

async fn send(ask: Ask, edge: SocketAddr) -> Answer {
    let answer = ask.send(edge).await.unwrap();
    assert_eq!(answer.status, 200);
    answer
}

/// Somebody who comes for the first time, and is sent to this application.
async fn new_user(edge: SocketAddr, app: &str) -> User {
    for _ in 0..200 {
        let answer = send(get("shop.example", "/"), edge).await;
        if answer.body == app {
            let (gray, session) = (set(&answer, "tombolo-gray="), set(&answer, "stay="));
            return User { gray: gray.unwrap(), session: session.unwrap() };
        }
    }
    panic!("nobody is sent to {app}")
}

impl User {
    fn ask(&self) -> Ask {
        get("shop.example", "/").header("cookie", &format!("{}; {}", self.gray, self.session))
    }

    /// What takes the user's next request, and whether that begins a session.
    async fn next(&mut self, edge: SocketAddr) -> (String, bool) {
        let answer = send(self.ask(), edge).await;
        let fresh = set(&answer, "stay=");
        let begins = fresh.as_ref().is_some_and(|fresh| *fresh != self.session);
        self.session = fresh.unwrap_or_else(|| self.session.clone());
        (String::from_utf8(answer.body.to_vec()).unwrap(), begins)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_goes_before_a_session_a_session_before_the_split_and_a_step_before_all_sessions() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let gray = release(
        "  rules: [{ arm: v2, headers: [{ name: x-gray, value: v2 }] }]\n  split: { weights: { v2: 50 } }\n",
    );
    let sessions = route(&[("/", "stable")])
        .replace("backendRefs:", "sessionPersistence: { sessionName: stay }, backendRefs:");
    let mut stage =
        Stage::start(&[EDGE, &stable.documents(), &canary.documents(), &sessions, &gray].concat()).await;
    let edge = stage.address(80);
    let listed = stage.ok(&["gray", "list"]);
    let row = listed.lines().find(|line| line.contains("checkout")).unwrap();
    for part in ["shop", "HTTPRoute checkout", "stable 50%, v2 50%", "issued cookie"] {
        assert!(row.contains(part), "{part}: {listed}");
    }

    let (mut on_canary, mut on_stable) = (new_user(edge, "canary").await, new_user(edge, "stable").await);
    for _ in 0..10 {
        assert_eq!(on_canary.next(edge).await, ("canary".into(), false));
        assert_eq!(on_stable.next(edge).await, ("stable".into(), false));
    }
    // The one's place in the split, the other's session.
    let mixed = User { gray: on_stable.gray.clone(), ..on_canary.clone() };
    assert_eq!(mixed.clone().next(edge).await, ("canary".into(), false), "a session goes before the split");
    let forced = send(on_stable.ask().header("x-gray", "v2"), edge).await;
    assert_eq!(forced.body, "canary", "a rule goes before a session");

    // Each step holds when its command has ended: it has waited for the gateway.
    let in_force =
        |said: String| assert!(said.contains("is in force on all 1 connected proxies after"), "{said}");
    in_force(stage.ok(&["gray", "abort", "checkout"]));
    assert_eq!(on_canary.next(edge).await, ("stable".into(), true), "an arm taken back keeps nobody");
    assert_eq!(on_stable.next(edge).await, ("stable".into(), false));
    let token = set(&send(get("shop.example", "/").header("x-gray", "v2"), edge).await, "stay=").unwrap();
    let with = send(get("shop.example", "/").header("cookie", &token), edge).await;
    assert_eq!(with.body, "stable", "rules alone lead there now");

    in_force(stage.ok(&["gray", "set", "checkout", "v2", "10"]));
    assert_eq!(on_canary.next(edge).await, ("stable".into(), false), "who is with stable stays");
    in_force(stage.ok(&["gray", "promote", "checkout"]));
    for user in [&mut on_canary, &mut on_stable] {
        assert_eq!(user.next(edge).await, ("canary".into(), true), "stable keeps nobody");
        assert_eq!(user.next(edge).await, ("canary".into(), false));
    }
    let listed = stage.ok(&["gray", "list", "--namespace", "shop"]);
    assert!(listed.contains("stable 0%, v2 100%"), "{listed}");
    assert!(!stage.ok(&["gray", "list", "--namespace", "other"]).contains("checkout"));

    // Another process has the same key: sessions outlive the one that began them.
    stage.restart_gateway();
    assert_eq!(on_canary.next(edge).await, ("canary".into(), false));
}
