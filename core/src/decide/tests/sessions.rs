//! Session persistence, and what it may not do to a gray release: rule, then session, then split.

use super::*;
use crate::decide::session::Token;

/// Rules with a session: one that is released itself, one behind which a service is, and one of the mesh.
const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: buy, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  rules:
    - name: buy
      matches: [{ path: { value: /buy } }]
      sessionPersistence: { sessionName: stay }
      backendRefs: [{ name: checkout, port: 80 }]
    - name: both
      matches: [{ path: { value: /both } }]
      sessionPersistence: { sessionName: stay }
      backendRefs: [{ name: checkout, port: 80 }, { name: web, port: 80 }]
    - name: other
      matches: [{ path: { value: /other } }]
      sessionPersistence: { sessionName: other }
      backendRefs: [{ name: checkout, port: 80 }, { name: web, port: 80 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: calls, namespace: shop }
spec:
  parentRefs: [{ group: "", kind: Service, name: web }]
  rules: [{ name: calls, sessionPersistence: { sessionName: stay }, backendRefs: [{ name: checkout, port: 80 }] }]
"#;

const OF_RULE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: buy, sectionName: buy";
const OF_CALLS: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: calls";
const OF_SERVICE: &str = "kind: Service, name: checkout";

/// The routes, with a release of these whose arm `v2` has this percentage.
fn at(target: &str, percent: u8) -> Snapshot {
    world(&format!(
        "{ROUTES}---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{ name: checkout, namespace: shop }}
spec:
  targetRefs: [{{ {target} }}]
  arms: [{{ name: v2, backendRefs: [{{ name: checkout, port: 80, labels: {{ version: v2 }} }}] }}]
  rules: [{{ arm: v2, headers: [{{ name: x-gray, value: v2 }}] }}, {{ arm: stable, headers: [{{ name: x-gray, value: no }}] }}]
  split: {{ key: {{ cookie: uid }}, weights: {{ v2: {percent} }} }}
"
    ))
}

/// What the client is told of its session with endpoint 7: `stay=TOKEN`.
fn told(decision: &Decision) -> Option<String> {
    let (_, value) = decision.sticky.as_ref().unwrap().field(7, 0)?;
    Some(value.to_str().unwrap().split(';').next().unwrap().to_owned())
}

fn arm(decision: &Decision) -> (&str, ArmReason) {
    (decision.arm.as_deref().unwrap(), decision.reason)
}

/// A way in: a rule with its own release, a released service behind a rule, a route of the mesh.
#[derive(Clone, Copy)]
enum Way {
    Rule,
    Service,
    Mesh,
}

impl Way {
    const ALL: [Self; 3] = [Self::Rule, Self::Service, Self::Mesh];

    fn at(self, percent: u8) -> Snapshot {
        match self {
            Self::Rule => at(OF_RULE, percent),
            Self::Service => at(OF_SERVICE, percent),
            Self::Mesh => at(OF_CALLS, percent),
        }
    }

    fn ask(self, snapshot: &Snapshot, cookies: &str, gray: &str) -> Decision {
        let ask = get("shop.example", "/buy").header("cookie", cookies).header("x-gray", gray);
        forward(match self {
            Self::Rule | Self::Service => ask.edge(snapshot),
            Self::Mesh => ask.mesh(snapshot, "cluster/shop/web"),
        })
    }

    /// What a user gets by the split: on `v2`, and on `stable`.
    fn users(self, snapshot: &Snapshot) -> [String; 2] {
        ["v2", "stable"].map(|wanted| {
            let on_it = |user: &String| arm(&self.ask(snapshot, user, "")).0 == wanted;
            (0..100).map(|n| format!("uid=u{n}")).find(on_it).unwrap()
        })
    }
}

#[test]
fn a_rule_beats_a_session_and_a_session_beats_the_split() {
    for way in Way::ALL {
        let half = way.at(50);
        let [gray, stable] = way.users(&half);
        let token = told(&way.ask(&half, &gray, "")).unwrap();
        let kept = way.ask(&half, &format!("{stable}; {token}"), "");
        assert_eq!((arm(&kept), told(&kept)), (("v2", ArmReason::Session), None));
        let forced = way.ask(&half, &format!("{stable}; {token}"), "no");
        assert_eq!(arm(&forced), ("stable", ArmReason::Rule(1)));
        assert_ne!(told(&forced).unwrap(), token, "its session is with another now");
    }
}

#[test]
fn who_is_on_an_arm_without_a_share_is_chosen_for_anew() {
    for way in Way::ALL {
        let half = way.at(50);
        let [gray, stable] = way.users(&half);
        for (user, left, percent, now) in [(&gray, "v2", 0, "stable"), (&stable, "stable", 100, "v2")] {
            let token = told(&way.ask(&half, user, "")).unwrap();
            let with = format!("{user}; {token}");
            assert_eq!(arm(&way.ask(&half, &with, "")), (left, ArmReason::Session));
            let moved = way.ask(&way.at(percent), &with, "");
            assert!(matches!(arm(&moved), (arm, ArmReason::Split(_)) if arm == now), "{:?}", arm(&moved));
            assert_eq!(moved.sticky.as_ref().unwrap().endpoint(0), None, "not even its endpoint");
            assert_ne!(told(&moved).unwrap(), token, "and a new token");
        }
    }
}

#[test]
fn an_arm_that_is_reached_by_rules_alone_is_reached_by_no_token() {
    for way in Way::ALL {
        let gated = way.at(0);
        let forced = way.ask(&gated, "uid=me", "v2");
        assert_eq!(arm(&forced), ("v2", ArmReason::Rule(0)));
        let token = told(&forced).unwrap();
        let again = way.ask(&gated, &format!("uid=me; {token}"), "v2");
        assert_eq!((arm(&again), told(&again)), (("v2", ArmReason::Rule(0)), None), "it has a session there");
        let without = way.ask(&gated, &format!("uid=me; {token}"), "");
        assert!(matches!(arm(&without), ("stable", ArmReason::Split(_))), "{:?}", arm(&without));
    }
}

#[test]
fn explain_tells_why_a_session_does_not_count() {
    let half = at(OF_RULE, 50);
    let [gray, _] = Way::Rule.users(&half);
    let token = told(&Way::Rule.ask(&half, &gray, "")).unwrap();
    let bind = BindKey { address: None, port: 80 };
    for (percent, force, lost) in [
        (0, "", "the client's session: it is with no arm that has a share of the users"),
        (50, "no", "the client's session: a gray rule or lane goes first"),
    ] {
        let snapshot = at(OF_RULE, percent);
        let ask = get("shop.example", "/buy").header("cookie", &token).header("x-gray", force);
        let avail = SnapshotAvailability(&snapshot);
        let explained = ask.with(|head, caller| explain_edge(&snapshot, bind, head, caller, &avail));
        assert!(explained.to_string().contains(lost), "{explained}");
    }
}

/// The rule alone would choose between two services all the time.
#[test]
fn a_session_with_an_arm_stays_where_a_rule_has_several_backends() {
    let half = at(OF_SERVICE, 50);
    let ask = |random: u64, cookies: &str| {
        let ask = Ask { random, ..get("shop.example", "/both") };
        forward(ask.header("cookie", cookies).edge(&half))
    };
    let users = (0..200_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15), format!("uid=u{n}")));
    let mut met = std::collections::BTreeSet::new();
    for (random, user) in users {
        let first = ask(random, &user);
        met.insert(to(&first));
        let with = format!("{user}; {}", told(&first).unwrap());
        for random in [0, u64::MAX / 3, u64::MAX] {
            assert_eq!(to(&ask(random, &with)), to(&first));
        }
    }
    assert_eq!(met.len(), 3, "{met:?}");
}

#[test]
fn nobody_makes_up_a_token_and_none_is_good_for_another_session() {
    let half = at(OF_RULE, 50);
    let [gray, stable] = Way::Rule.users(&half);
    let token = told(&Way::Rule.ask(&half, &gray, "")).unwrap();
    let value = token.strip_prefix("stay=").unwrap();
    let (bare, signature) = value.rsplit_once('.').unwrap();
    let parts: Vec<u64> = bare.split('.').map(|part| u64::from_str_radix(part, 16).unwrap()).collect();
    let other = |endpoint, time| Token { backend: parts[0], endpoint, time };
    let foreign = CookieKey::derive(b"another cluster").seal_token("stay", bare);
    let ours = CookieKey::derive(b"test").seal_token("stay", bare);
    assert_eq!(value, ours);
    for made_up in [
        bare.to_owned(),
        format!("{bare}."),
        format!("{bare}.{}", signature.to_lowercase()),
        format!("{}.{signature}", other(8, 0)),
        format!("{}.{signature}", other(7, u64::MAX)),
        format!("{value}.{signature}"),
        CookieKey::derive(b"test").seal_token("other", bare),
        foreign,
        signature.to_owned(),
        String::new(),
    ] {
        let decision = Way::Rule.ask(&half, &format!("{stable}; stay={made_up}"), "");
        assert!(matches!(arm(&decision), ("stable", ArmReason::Split(_))), "{made_up}: {:?}", arm(&decision));
        assert!(told(&decision).is_some(), "{made_up}: it gets one that is good");
    }
    // Beside an application's cookie of the same name it counts.
    let beside = Way::Rule.ask(&half, &format!("{stable}; stay=theirs; {token}"), "");
    assert_eq!((arm(&beside), told(&beside)), (("v2", ArmReason::Session), None));
    let elsewhere = get("shop.example", "/other").header("cookie", &format!("other={value}"));
    assert_eq!(forward(elsewhere.edge(&half)).sticky.unwrap().endpoint(0), None, "another session's");
}

#[test]
fn where_nothing_can_be_signed_there_are_no_sessions() {
    let snapshot = Snapshot { cookies: None, ..at(OF_RULE, 50) };
    assert!(Way::Rule.ask(&snapshot, "uid=me", "").sticky.is_none());
}
