//! Gray releases, at the edge and in the mesh.

use super::*;

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: checkout, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  rules:
    - name: buy
      matches: [{ path: { value: /buy } }]
      filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-rule, value: buy }] } }]
      backendRefs: [{ name: checkout, port: 80 }]
    - name: look
      backendRefs: [{ name: checkout, port: 80 }]
";

const OF_RULE: &str =
    "[{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: checkout, sectionName: buy }]";
const OF_SERVICE: &str = "[{ kind: Service, name: checkout }]";

/// A release with an arm `v2` at 20%, forced by `x-gray: v2`.
fn release(targets: &str, backend: &str, more: &str) -> String {
    format!(
        "
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{ name: checkout-v2, namespace: shop }}
spec:
  targetRefs: {targets}
  arms: [{{ name: v2, backendRefs: [{{ {backend} }}], lane: v2 }}]
  rules:
    - {{ arm: v2, headers: [{{ name: x-gray, value: v2 }}] }}
    - {{ arm: stable, headers: [{{ name: user-agent, type: RegularExpression, value: bot }}] }}
  split: {{ key: {{ cookie: uid }}, weights: {{ v2: 20 }} }}
  {more}
"
    )
}

const V2: &str = "name: checkout, port: 80, labels: { version: v2 }";
const NONE: &str = "name: checkout, port: 80, labels: { version: v9 }";

fn with(release: &str) -> Snapshot {
    world(&format!("{ROUTE}---{release}"))
}

fn forced() -> Ask<'static> {
    get("shop.example", "/buy").header("x-gray", "v2")
}

#[test]
fn a_forced_request_goes_to_its_arm_with_the_rules_filters_and_the_arms_lane() {
    let snapshot = with(&release(OF_RULE, V2, ""));
    let decision = forward(forced().edge(&snapshot));
    assert_eq!(to(&decision), "cluster/shop/checkout:80 version=v2");
    assert_eq!(decision.release.as_deref(), Some("shop/checkout-v2"));
    assert_eq!((decision.arm.as_deref(), decision.reason), (Some("v2"), ArmReason::Rule(0)));
    assert_eq!(decision.lane, lane("v2"));
    assert_eq!(decision.filters.request.set.len(), 1);
    assert_eq!(decision.set_cookie, None);
    let bot = forward(get("shop.example", "/buy").header("user-agent", "Googlebot").edge(&snapshot));
    assert_eq!((bot.arm.as_deref(), bot.reason, bot.lane), (Some("stable"), ArmReason::Rule(1), None));
    let other_rule = forward(get("shop.example", "/").header("x-gray", "v2").edge(&snapshot));
    assert_eq!((other_rule.arm, other_rule.reason), (None, ArmReason::None));
}

#[test]
fn users_are_split_and_stay() {
    let snapshot = with(&release(OF_RULE, V2, ""));
    let arm = |user: u32, random| {
        let ask = Ask { random, ..get("shop.example", "/buy") }.header("cookie", &format!("uid=u{user}"));
        let decision = forward(ask.edge(&snapshot));
        assert!(matches!(decision.reason, ArmReason::Split(_)));
        assert_eq!(decision.set_cookie, None);
        decision.arm.unwrap().to_string()
    };
    let gray = (0..1000).filter(|user| arm(*user, 1) == "v2").count();
    assert!((170..=230).contains(&gray), "{gray} of 1000 at 20%");
    assert!((0..100).all(|user| arm(user, 1) == arm(user, 2)));
}

#[test]
fn a_user_without_a_key_is_given_one() {
    let snapshot = with(&release(OF_RULE, V2, ""));
    let ask = Ask { scheme: "https", port: 443, random: 9, ..get("shop.example", "/buy") };
    let cookie = forward(ask.edge(&snapshot)).set_cookie.unwrap();
    let cookie = cookie.to_str().unwrap();
    assert!(cookie.starts_with("uid="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
}

#[test]
fn an_arm_that_is_down_is_replaced_as_the_release_says() {
    let of = |backend, more| forced().edge(&with(&release(OF_RULE, backend, more)));
    for backend in [NONE, "name: none, port: 80"] {
        let stable = forward(of(backend, ""));
        assert_eq!(to(&stable), "cluster/shop/checkout:80");
        assert_eq!((stable.arm.as_deref(), stable.reason), (Some("stable"), ArmReason::Unavailable));
        assert_eq!(stable.lane, None, "who is not on the arm is not in its lane");
        let refused = of(backend, "whenUnavailable: fail");
        let Outcome::Local(answer) = &refused else { panic!("{refused:?}") };
        let missed = answer.missed.as_ref().unwrap();
        assert_eq!((&*missed.release, &*missed.arm), ("shop/checkout-v2", "v2"), "it counts as its failure");
        assert_eq!(local(refused), (503, "arm_unavailable"));
    }
}

/// The same arm in another cluster; only where it is known that there is none, stable here.
#[test]
fn an_arm_that_is_down_may_be_served_by_another_cluster() {
    let mut snapshot = with(&release(OF_RULE, NONE, "whenUnavailable: otherCluster"));
    let far = ServiceKey::parse("clusterset/shop/checkout").unwrap();
    let stable = forward(forced().edge(&snapshot));
    assert_eq!(
        (to(&stable).as_str(), stable.lane),
        ("cluster/shop/checkout:80", None),
        "there is no such service"
    );
    let mut entry = (*snapshot.services[&ServiceKey::parse("cluster/shop/checkout").unwrap()]).clone();
    entry.key = far.clone();
    let endpoints = std::mem::take(&mut entry.endpoints);
    snapshot.services.insert(far.clone(), Arc::new(entry.clone()));
    let goes_there = |snapshot: &Snapshot| {
        let other = forward(forced().edge(snapshot));
        assert_eq!(to(&other), "clusterset/shop/checkout:80 version=v9");
        let how = (other.arm.as_deref(), other.reason, other.lane);
        assert_eq!(how, (Some("v2"), ArmReason::Unavailable, lane("v2")));
    };
    goes_there(&snapshot);
    // Its endpoints are known, and none is of the arm.
    entry.endpoints = endpoints.clone();
    snapshot.services.insert(far.clone(), Arc::new(entry.clone()));
    let stable = forward(forced().edge(&snapshot));
    assert_eq!((to(&stable).as_str(), stable.arm.as_deref()), ("cluster/shop/checkout:80", Some("stable")));
    assert_eq!(stable.unavailable.as_deref(), Some("v2"));
    // One is.
    let one = endpoints[&80].first().map(|endpoint| {
        let labels = [("version".into(), "v9".into())].into();
        Arc::new(crate::model::Endpoint { labels, id: "far".into(), lane: None, ..(**endpoint).clone() })
    });
    entry.endpoints.insert(80, one.into_iter().collect());
    snapshot.services.insert(far, Arc::new(entry));
    goes_there(&snapshot);
}

#[test]
fn a_released_service_is_released_behind_every_route_and_in_both_scopes() {
    let snapshot = with(&release(OF_SERVICE, V2, ""));
    for path in ["/buy", "/"] {
        let decision = forward(get("shop.example", path).header("x-gray", "v2").edge(&snapshot));
        assert_eq!(to(&decision), "cluster/shop/checkout:80 version=v2", "{path}");
        assert_eq!(decision.filters.request.set.len(), usize::from(path == "/buy"));
    }
    for scope in ["cluster", "clusterset"] {
        let service = format!("{scope}/shop/checkout");
        let decision = forward(forced().mesh(&snapshot, &service));
        assert_eq!(to(&decision), format!("{service}:80 version=v2"));
        assert_eq!((&*decision.route, &*decision.rule), ("service/shop/checkout", "default"));
        assert_eq!(decision.lane, lane("v2"));
        let split = forward(get("checkout", "/").mesh(&snapshot, &service));
        assert!(matches!(split.reason, ArmReason::Split(_)));
        assert_eq!(split.set_cookie, None, "no cookie for a service");
    }
}

#[test]
fn a_request_in_a_lane_stays_there() {
    let snapshot = with(&release(OF_SERVICE, V2, ""));
    let call = |value: &str| {
        forward(get("checkout", "/").header("baggage", value).mesh(&snapshot, "cluster/shop/checkout"))
    };
    let gray = call("a=1,tombolo.lane=v2");
    assert_eq!((gray.arm.as_deref(), gray.reason, gray.lane), (Some("v2"), ArmReason::Lane, lane("v2")));
    let other = call("tombolo.lane=blue");
    assert_eq!(
        (other.arm.as_deref(), other.reason, other.lane),
        (Some("stable"), ArmReason::Lane, lane("blue"))
    );
    let bot = forward(
        get("checkout", "/")
            .header("baggage", "tombolo.lane=v2")
            .header("user-agent", "bot")
            .mesh(&snapshot, "cluster/shop/checkout"),
    );
    assert_eq!((bot.arm.as_deref(), bot.reason), (Some("stable"), ArmReason::Rule(1)));
}

#[test]
fn the_release_of_a_rule_decides_alone() {
    let of_service = release(OF_SERVICE, NONE, "whenUnavailable: fail").replace("checkout-v2", "service");
    let snapshot = with(&format!("{}---{of_service}", release(OF_RULE, V2, "")));
    assert_eq!(forward(forced().edge(&snapshot)).release.as_deref(), Some("shop/checkout-v2"));
    let other_rule = get("shop.example", "/").header("x-gray", "v2");
    assert_eq!(local(other_rule.edge(&snapshot)), (503, "arm_unavailable"));
}

#[test]
fn explain_tells_of_rules_buckets_and_arms() {
    let snapshot = with(&release(OF_RULE, NONE, ""));
    let explain = |ask: Ask<'_>| {
        ask.with(|head, caller| {
            let bind = BindKey { address: None, port: 80 };
            explain_edge(&snapshot, bind, head, caller, &SnapshotAvailability(&snapshot)).to_string()
        })
    };
    let text = explain(forced());
    assert!(text.contains("not     arm v2: no endpoint of it is healthy\n"), "{text}");
    assert!(text.contains("arm       stable (the arm chosen has no healthy endpoint)\n"), "{text}");
    let text = explain(get("shop.example", "/buy").header("cookie", "uid=x"));
    assert!(text.contains("not     gray rule 0 (arm v2): no header x-gray that = \"v2\"\n"), "{text}");
    assert!(text.contains("of 10000)\n"), "{text}");
}

#[test]
fn explain_tells_of_every_bound_of_time_and_of_filters_in_their_order() {
    let route =
        ROUTE.replace("    - name: buy\n", "    - name: buy\n      timeouts: { request: 10s }\n").replace(
            "filters: [",
            "filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { remove: [server] } },
          { type: URLRewrite, urlRewrite: { hostname: inner.example } }, ",
        );
    let snapshot = world(&route);
    let explained = get("shop.example", "/buy").with(|head, caller| {
        let bind = BindKey { address: None, port: 80 };
        explain_edge(&snapshot, bind, head, caller, &SnapshotAvailability(&snapshot))
    });
    let ExplainedResult::Forward { timeouts, filters, .. } = explained.result else { panic!("not sent on") };
    assert_eq!(
        timeouts,
        [
            "request 10s",
            "attempt none (default)",
            "connect 2s (default)",
            "silence of the backend 10s (no longer than the attempt)",
            "pause of the request's body 60s (default)",
            "client that takes nothing 60s (default)",
        ]
    );
    let expected =
        ["set request header x-rule: buy", "rewrite host to inner.example", "remove response header server"];
    assert_eq!(filters, expected);
}

#[test]
fn a_clients_lane_is_believed_where_its_route_trusts_it_and_nowhere_else() {
    let claim = |snapshot: &Snapshot, claimed| {
        let ask = Ask { claims: lane(claimed), ..get("shop.example", "/buy") };
        forward(ask.edge(snapshot))
    };
    let distrusting = claim(&with(&release(OF_RULE, V2, "")), "v2");
    assert_eq!((distrusting.lane, matches!(distrusting.reason, ArmReason::Split(_))), (None, true));
    let trusting = |value: &str| {
        let annotation =
            format!("namespace: shop, annotations: {{ tombolo.dev/trust-client-lane: '{value}' }} }}");
        let yaml = format!("{ROUTE}---{}", release(OF_RULE, V2, ""));
        yaml.replacen("namespace: shop }", &annotation, 1)
    };
    let snapshot = world(&trusting("true"));
    let gray = claim(&snapshot, "v2");
    assert_eq!((gray.arm.as_deref(), gray.reason, gray.lane), (Some("v2"), ArmReason::Lane, lane("v2")));
    let other = claim(&snapshot, "blue");
    assert_eq!((other.arm.as_deref(), other.lane), (Some("stable"), lane("blue")));
    assert_eq!(claim(&world(&trusting("false")), "v2").lane, None);
    let text = trusting("yes");
    let parsed = parse(&[Source { name: "test".into(), text }]);
    assert!(parsed.problems[0].to_string().contains("use true or false"), "{:?}", parsed.problems);
}
