use std::{collections::HashMap, net::IpAddr};

use http::{HeaderMap, HeaderName, Method, header::COOKIE};
use proptest::prelude::*;

mod transitions;

use super::*;
use crate::decide::trace::Untraced;

const USERS: u32 = 20_000;

fn split(salt: &str, weights: &[(&'static str, u16)]) -> Split {
    Split::new(salt, weights.iter().copied())
}

fn places(split: &Split) -> Vec<Option<usize>> {
    (0..USERS).map(|user| split.place(format!("user-{user}").as_bytes()).arm).collect()
}

fn share(places: &[Option<usize>], arm: Option<usize>) -> f64 {
    places.iter().filter(|place| **place == arm).count() as f64 / places.len() as f64
}

/// Five standard deviations of a share measured over all users: a wrong figure fails, chance does not.
fn tolerance(p: f64) -> f64 {
    5.0 * (p * (1.0 - p) / f64::from(USERS)).sqrt() + 1e-9
}

fn weights() -> impl Strategy<Value = [u16; 3]> {
    (0u16..=4000, 0u16..=3000, 0u16..=3000).prop_map(|(a, b, c)| [a, b, c])
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn of(weights: [u16; 3]) -> Split {
    Split::new("shop/checkout", NAMES.into_iter().zip(weights))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Exact: no user leaves an arm that grows, whatever the other arms are.
    #[test]
    fn a_user_stays_on_an_arm_that_grows(weights in weights(), arm in 0usize..3, growth in 1u16..=1000) {
        let mut grown = weights;
        grown[arm] += growth;
        let moved = places(&of(weights)).into_iter().zip(places(&of(grown)));
        for (user, (before, after)) in moved.enumerate() {
            prop_assert!(before != Some(arm) || after == Some(arm), "user {} left", user);
        }
    }

    /// Exact: while a gray arm shrinks, no user leaves `stable`.
    #[test]
    fn a_user_stays_stable_while_an_arm_shrinks(weights in weights(), arm in 0usize..3) {
        let mut shrunk = weights;
        shrunk[arm] /= 2;
        for (before, after) in places(&of(weights)).into_iter().zip(places(&of(shrunk))) {
            prop_assert!(before.is_some() || after.is_none());
        }
    }

    /// The share that moves is the least possible times `1 + c / (1 + d)`, as the module's text derives.
    #[test]
    fn few_users_move_when_one_arm_changes(weights in weights(), arm in 0usize..3, growth in 1u16..=1000) {
        let mut grown = weights;
        grown[arm] += growth;
        let d = f64::from(growth) / f64::from(WHOLE);
        let c = weights.iter().enumerate().filter(|(at, _)| *at != arm).map(|(_, w)| f64::from(*w)).sum::<f64>()
            / f64::from(WHOLE);
        let (before, after) = (places(&of(weights)), places(&of(grown)));
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count() as f64 / f64::from(USERS);
        let expected = d * (1.0 + c / (1.0 + d));
        prop_assert!((moved - expected).abs() <= tolerance(expected), "moved {} expected {}", moved, expected);
    }

    /// Exact: with one gray arm, users only move between it and `stable`, in one direction, at their own bucket.
    #[test]
    fn with_one_arm_a_users_bucket_says_when_they_move(weight in 0u16..=10_000, user in any::<u64>()) {
        let key = user.to_string();
        let place = split("s", &[("v2", weight)]).place(key.as_bytes());
        if weight > 0 {
            prop_assert_eq!(place.arm.is_some(), weight > place.bucket, "weight {} {:?}", weight, place);
        } else {
            prop_assert_eq!(place.arm, None);
        }
    }

    #[test]
    fn shares_are_the_weights(weights in weights()) {
        let places = places(&of(weights));
        for (arm, weight) in weights.iter().enumerate() {
            let p = f64::from(*weight) / f64::from(WHOLE);
            prop_assert!((share(&places, Some(arm)) - p).abs() <= tolerance(p), "arm {} of {:?}", arm, weights);
        }
    }
}

#[test]
fn nothing_and_everything_are_exact() {
    assert!(places(&split("s", &[("v2", 0)])).iter().all(Option::is_none));
    assert!(places(&split("s", &[("v2", 10_000)])).iter().all(Option::is_some));
    assert!(places(&split("s", &[])).iter().all(Option::is_none));
    let over = places(&split("s", &[("v2", 10_000), ("v3", 10_000)]));
    assert_eq!(share(&over, None), 0.0);
    assert!((share(&over, Some(1)) - 0.5).abs() < tolerance(0.5));
}

/// Chi-square over the 2 by 2 table of two releases: far below the 1-in-a-billion bound of 37.3 for one degree of
/// freedom when they pick their users independently, in the thousands when they pick the same ones.
#[test]
fn two_releases_do_not_pick_the_same_users() {
    let one = places(&split("shop/one", &[("v2", 2000)]));
    let chi = |other: &Split| {
        let mut counts: HashMap<(bool, bool), f64> = HashMap::new();
        for (a, b) in one.iter().zip(places(other)) {
            *counts.entry((a.is_some(), b.is_some())).or_default() += 1.0;
        }
        let total = f64::from(USERS);
        let marginal = |f: &dyn Fn(&(bool, bool)) -> bool| {
            counts.iter().filter(|(key, _)| f(key)).map(|(_, count)| count).sum::<f64>()
        };
        [(true, true), (true, false), (false, true), (false, false)]
            .map(|(a, b)| {
                let expected = marginal(&|key| key.0 == a) * marginal(&|key| key.1 == b) / total;
                (counts.get(&(a, b)).unwrap_or(&0.0) - expected).powi(2) / expected
            })
            .iter()
            .sum::<f64>()
    };
    assert!(chi(&split("shop/two", &[("v2", 2000)])) < 37.3);
    assert!(chi(&split("shop/two", &[("other", 5000)])) < 37.3);
    assert!(chi(&split("shop/one", &[("v2", 2000)])) > 1000.0, "the same salt picks the same users");
}

fn release(key: KeySource) -> Release {
    let header = |name: &'static str, value| HeaderMatch { name: HeaderName::from_static(name), value };
    let arm = |name: &str, lane: Option<&str>| Arm {
        name: name.into(),
        targets: Weighted::default(),
        lane: lane.map(|lane| Lane::parse(lane).unwrap()),
    };
    let exact = |value: &str| TextMatch::Exact(value.into());
    let rule = |arm, headers: Vec<HeaderMatch>, cookies: Vec<(Box<str>, TextMatch)>| ForcedRule {
        arm,
        headers: headers.into(),
        cookies: cookies.into(),
    };
    Release {
        name: "shop/checkout".into(),
        arms: [arm("v2", Some("v2")), arm("v3", None)].into(),
        stable: STABLE.into(),
        rules: [
            rule(Some(0), vec![header("x-gray", exact("v2"))], vec![]),
            rule(Some(0), vec![], vec![("gray".into(), TextMatch::In(["1".into(), "yes".into()].into()))]),
            rule(None, vec![header("user-agent", TextMatch::anywhere("bot").unwrap())], vec![]),
            rule(
                Some(1),
                vec![
                    header("x-team", TextMatch::Present),
                    header("x-env", TextMatch::Prefix("test-".into())),
                ],
                vec![],
            ),
        ]
        .into(),
        key,
        split: split("shop/checkout", &[("v2", 2000), ("v3", 1000)]),
        when_unavailable: WhenUnavailable::Stable,
    }
}

fn key() -> CookieKey {
    CookieKey::derive(b"the secret of a cluster")
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in fields {
        out.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    out
}

fn choose(
    release: &Release,
    fields: &[(&str, &str)],
    lane: Option<&str>,
    random: u64,
) -> (String, ArmReason, bool) {
    let headers = headers(fields);
    let head = RequestHead {
        scheme: "https",
        host: "shop.example",
        method: &Method::GET,
        path: "/",
        query: None,
        headers: &headers,
    };
    let caller = Caller {
        address: IpAddr::from([10, 0, 0, 1]),
        identity: None,
        sni: None,
        claimed_lane: None,
        random,
        now: 0,
    };
    let lane = lane.map(|lane| Lane::parse(lane).unwrap());
    let key = key();
    let choice = release.choose(&head, &caller, lane.as_ref(), Issuing::Signed(&key), &mut Untraced);
    let arm = choice.arm.map_or(STABLE, |arm| &arm.name).to_string();
    (arm, choice.reason, choice.set_cookie.is_some())
}

#[test]
fn forced_rules_come_in_order_and_before_lane_and_split() {
    let release = release(KeySource::Cookie("uid".into()));
    // A user whose key puts them onto v3.
    let uid = (0..)
        .map(|n| format!("u{n}"))
        .find(|uid| release.split.place(uid.as_bytes()).arm == Some(1))
        .unwrap();
    let cookie = format!("uid={uid}");
    assert_eq!(choose(&release, &[("cookie", &cookie)], None, 0).0, "v3");
    let with_gray = format!("{cookie}; gray=yes");
    for (fields, lane, arm, rule) in [
        (vec![("cookie", cookie.as_str()), ("x-gray", "v2")], None, "v2", 0),
        (vec![("cookie", with_gray.as_str())], None, "v2", 1),
        (vec![("user-agent", "Googlebot/2"), ("cookie", &cookie)], None, "stable", 2),
        (vec![("user-agent", "Googlebot/2"), ("x-gray", "v2")], None, "v2", 0),
        (vec![("user-agent", "Googlebot/2")], Some("v2"), "stable", 2),
        (vec![("x-team", ""), ("x-env", "test-7"), ("cookie", &cookie)], None, "v3", 3),
    ] {
        let expected = (arm.to_string(), ArmReason::Rule(rule), false);
        assert_eq!(choose(&release, &fields, lane, 0), expected, "{fields:?}");
    }
    // Half of a rule is no rule.
    assert!(matches!(choose(&release, &[("x-env", "test-7")], None, 0).1, ArmReason::Split(_)));
    assert!(matches!(choose(&release, &[("cookie", "gray=no")], None, 0).1, ArmReason::Split(_)));
}

#[test]
fn a_request_in_a_lane_is_not_split() {
    let release = release(KeySource::SourceIp);
    assert_eq!(choose(&release, &[], Some("v2"), 0), ("v2".into(), ArmReason::Lane, false));
    assert_eq!(choose(&release, &[], Some("other"), 0), ("stable".into(), ArmReason::Lane, false));
}

#[test]
fn a_cookie_is_issued_only_where_no_key_is() {
    let by_cookie = release(KeySource::Cookie("uid".into()));
    assert!(choose(&by_cookie, &[], None, 7).2);
    assert!(choose(&by_cookie, &[("cookie", "uid=")], None, 7).2, "an empty key is none");
    assert!(!choose(&by_cookie, &[("cookie", "uid=x")], None, 7).2);
    let by_header = release(KeySource::Header(HeaderName::from_static("x-user")));
    assert!(choose(&by_header, &[], None, 7).2);
    assert!(!choose(&by_header, &[("x-user", "x")], None, 7).2);
    let cookie = format!("tombolo-gray={}", key().seal(&"a".repeat(32)));
    assert!(!choose(&by_header, &[("cookie", &cookie)], None, 7).2);
    assert!(choose(&by_header, &[("cookie", "tombolo-gray=x")], None, 7).2, "nobody issued that");
    assert!(!choose(&release(KeySource::SourceIp), &[], None, 7).2);
}

#[test]
fn who_comes_back_with_the_issued_cookie_is_on_the_same_arm() {
    let release = release(KeySource::Cookie("uid".into()));
    for random in 0..500 {
        let headers = HeaderMap::new();
        let head = RequestHead {
            scheme: "http",
            host: "h",
            method: &Method::GET,
            path: "/",
            query: None,
            headers: &headers,
        };
        let caller = Caller {
            address: IpAddr::from([10, 0, 0, 1]),
            identity: None,
            sni: None,
            claimed_lane: None,
            random,
            now: 0,
        };
        let key = key();
        let first = release.choose(&head, &caller, None, Issuing::Signed(&key), &mut Untraced);
        let set = first.set_cookie.unwrap();
        let value = set.to_str().unwrap().split(';').next().unwrap().to_string();
        let again = choose(&release, &[(COOKIE.as_str(), &value)], None, random + 1);
        assert_eq!(again.0, first.arm.map_or(STABLE, |arm| &arm.name));
    }
}

/// A client that changes its cookie, or brings one of its own making, is as one that brings none: it does not choose.
#[test]
fn a_tampered_cookie_is_not_believed() {
    for (source, name) in [
        (KeySource::Issued, DEFAULT_COOKIE),
        (KeySource::Cookie("uid".into()), "uid"),
        (KeySource::Header(HeaderName::from_static("x-user")), DEFAULT_COOKIE),
    ] {
        let release = release(source);
        let ids: Vec<String> = (0..1000).map(|n| format!("{n:032x}")).collect();
        let on = |id: &&String| release.split.place(id.as_bytes()).arm == Some(0);
        let (wanted, other) = (ids.iter().find(on).unwrap(), ids.iter().find(|id| !on(id)).unwrap());
        let honest = key().seal(wanted);
        let ask =
            |value: &str, random| choose(&release, &[("cookie", &format!("{name}={value}"))], None, random);
        assert_eq!((ask(&honest, 1).0, ask(&honest, 1).2), ("v2".into(), false));
        let signature = key().seal(other).split_once('.').unwrap().1.to_owned();
        let foreign = CookieKey::derive(b"another secret").seal(wanted);
        for forged in [format!("{wanted}.{signature}"), foreign] {
            let arms: Vec<_> = (0..200).map(|random| ask(&forged, random)).collect();
            assert!(arms.iter().all(|(_, _, issued)| *issued), "{name}: a new one is issued");
            assert!(arms.iter().any(|(arm, _, _)| arm != "v2"), "{name}: the forged id decides nothing");
        }
        // An honest one beside it counts (paths and domains may bring several).
        let both = format!("{name}={wanted}.{signature}; {name}={honest}");
        assert_eq!(choose(&release, &[("cookie", &both)], None, 3).0, "v2");
    }
    // Where no application sets the cookie, nothing but an issued one is a key.
    assert!(choose(&release(KeySource::Issued), &[("cookie", "tombolo-gray=me")], None, 7).2);
}

#[test]
fn services_of_the_mesh_get_no_cookie() {
    let release = release(KeySource::Cookie("uid".into()));
    let headers = HeaderMap::new();
    let head = RequestHead {
        scheme: "http",
        host: "h",
        method: &Method::GET,
        path: "/",
        query: None,
        headers: &headers,
    };
    let caller = Caller {
        address: IpAddr::from([10, 0, 0, 1]),
        identity: None,
        sni: None,
        claimed_lane: None,
        random: 1,
        now: 0,
    };
    for issuing in [Issuing::Mesh, Issuing::Never] {
        assert!(release.choose(&head, &caller, None, issuing, &mut Untraced).set_cookie.is_none());
    }
}
