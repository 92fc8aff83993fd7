//! At the public listeners.

use http::header::LOCATION;

use super::*;

/// A route at the base's Gateway; the spec goes on after its parentRefs.
fn route(name: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name}, namespace: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  {spec}
"
    )
}

const WEB: &str = "backendRefs: [{ name: web, port: 80 }]";

#[test]
fn a_request_goes_where_its_rule_says() {
    let snapshot = world(&route(
        "shop",
        "hostnames: [shop.example]
  rules:
    - { name: api, matches: [{ path: { value: /api } }], backendRefs: [{ name: checkout, port: 80 }],
        timeouts: { request: 10s, backendRequest: 2s }, retry: { attempts: 1, codes: [502] } }
    - { backendRefs: [{ name: web, port: 80 }] }",
    ));
    let api = forward(get("Shop.Example:8080", "/api/x").edge(&snapshot));
    assert_eq!((&*api.route, &*api.rule), ("httproute/shop/shop", "api"));
    assert_eq!(to(&api), "cluster/shop/checkout:80");
    assert_eq!(api.timeouts.request.unwrap().as_secs(), 10);
    assert_eq!(api.timeouts.attempt.unwrap().as_secs(), 2);
    assert_eq!((api.retry.attempts, &*api.retry.codes), (1, &[502][..]));
    assert_eq!((api.reason, api.arm, api.lane, api.set_cookie), (ArmReason::None, None, None, None));
    let other = forward(get("shop.example", "/").edge(&snapshot));
    assert_eq!((&*other.rule, to(&other).as_str()), ("1", "cluster/shop/web:80"));
    assert_eq!(other.retry, Retry::default());
    assert_eq!(local(get("else.example", "/").edge(&snapshot)), (404, "no_route"));
    let mut elsewhere = get("shop.example", "/");
    elsewhere.port = 81;
    assert_eq!(local(elsewhere.edge(&snapshot)), (404, "no_listener"));
}

#[test]
fn a_listener_keeps_its_hosts_to_itself() {
    // Attached to the catch-all listener alone.
    let any =
        route("any", &format!("rules: [{{ {WEB} }}]")).replace("name: edge", "name: edge, sectionName: http");
    let wild = route(
        "wild",
        "rules: [{ matches: [{ path: { value: /w } }], backendRefs: [{ name: checkout, port: 80 }] }]",
    )
    .replace("name: edge", "name: edge, sectionName: wild");
    let snapshot = world(&format!("{any}{wild}"));
    assert_eq!(to(&forward(get("x.example", "/").edge(&snapshot))), "cluster/shop/web:80");
    assert_eq!(to(&forward(get("a.wild.example", "/w").edge(&snapshot))), "cluster/shop/checkout:80");
    for (host, path) in [("a.wild.example", "/"), ("one.wild.example", "/w"), ("one.wild.example", "/")] {
        assert_eq!(local(get(host, path).edge(&snapshot)), (404, "no_route"), "{host} {path}");
    }
    assert_eq!(to(&forward(get("wild.example", "/").edge(&snapshot))), "cluster/shop/web:80", "the apex");
}

#[test]
fn a_tls_client_gets_only_the_hosts_it_asked_for() {
    let snapshot = world(&route("all", &format!("rules: [{{ {WEB} }}]")));
    let ask = |sni, host| Ask { scheme: "https", port: 443, sni, ..get(host, "/") };
    for (sni, host) in
        [(Some("a.example"), "a.example"), (None, "a.example"), (Some("b.example"), "c.example")]
    {
        assert_eq!(to(&forward(ask(sni, host).edge(&snapshot))), "cluster/shop/web:80", "{sni:?} {host}");
    }
    for (sni, host) in [("a.example", "b.example"), ("b.example", "a.example")] {
        assert_eq!(local(ask(Some(sni), host).edge(&snapshot)), (421, "misdirected"), "{sni} {host}");
    }
}

#[test]
fn filters_of_rule_and_backend_are_put_together() {
    let snapshot = world(&route(
        "r",
        "rules:
    - matches: [{ path: { value: /old } }]
      filters:
        - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-a, value: rule }], remove: [x-b] } }
        - { type: URLRewrite, urlRewrite: { hostname: in.example, path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }
        - { type: RequestMirror, requestMirror: { backendRef: { name: canary, port: 80 }, percent: 25 } }
      backendRefs:
        - name: web
          port: 80
          filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { add: [{ name: x-a, value: backend }] } }]",
    ));
    let decision = forward(get("h", "/old/x").edge(&snapshot));
    let mut headers: HeaderMap = [("x-a", "client"), ("x-b", "client")]
        .into_iter()
        .map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()))
        .collect();
    decision.filters.request.apply(&mut headers);
    let values: Vec<_> = headers.get_all("x-a").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(values, ["rule", "backend"]);
    assert!(!headers.contains_key("x-b"));
    assert_eq!(decision.filters.rewrite.hostname.as_deref(), Some("in.example"));
    assert_eq!(decision.filters.rewrite.path.as_ref().unwrap().apply("/old/x"), "/new/x");
    assert_eq!(decision.mirrors.len(), 1);
    assert_eq!(decision.mirrors[0].per_ten_thousand, 2500);
}

#[test]
fn each_match_replaces_its_own_prefix() {
    let snapshot = world(&route(
        "r",
        "rules:
    - matches: [{ path: { value: /a } }, { path: { value: /b/c } }]
      filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /n } } }]
      backendRefs: [{ name: web, port: 80 }]",
    ));
    for (path, expected) in [("/a/x", "/n/x"), ("/b/c/x", "/n/x")] {
        let decision = forward(get("h", path).edge(&snapshot));
        assert_eq!(decision.filters.rewrite.path.as_ref().unwrap().apply(path), expected);
    }
}

#[test]
fn a_redirect_is_answered() {
    let snapshot = world(&route(
        "r",
        "rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 301 } }] }]",
    ));
    let Outcome::Local(answer) = get("shop.example", "/p").edge(&snapshot) else { panic!("sent on") };
    assert_eq!(answer.status, 301);
    assert_eq!(answer.headers, [(LOCATION, "https://shop.example/p".parse().unwrap())]);
    assert_eq!(answer.route.as_deref(), Some("httproute/shop/r"));
}

#[test]
fn backends_that_are_not_there_cost_their_share() {
    let share = |backends: &str| {
        let snapshot = world(&route("r", &format!("rules: [{{ backendRefs: [{backends}] }}]")));
        let asks = (0..64).map(|at| Ask { random: at << 58, ..get("h", "/") });
        let outcomes: Vec<_> = asks.map(|ask| ask.edge(&snapshot)).collect();
        let refused = outcomes.iter().filter(|outcome| match outcome {
            Outcome::Forward(_) => false,
            Outcome::Local(answer) => answer.status == 500 && answer.reason == "no_valid_backend",
        });
        refused.count()
    };
    assert_eq!(share("{ name: web, port: 80 }"), 0);
    assert_eq!(share("{ name: web, port: 80, weight: 3 }, { name: none, port: 80 }"), 16);
    assert_eq!(share("{ name: web, port: 80 }, { name: none, port: 80, weight: 0 }"), 0);
    assert_eq!(share("{ name: none, port: 80 }"), 64);
    assert_eq!(share("{ name: web, port: 80, weight: 0 }"), 64);
    assert_eq!(share(""), 64);
}

#[test]
fn a_lane_from_outside_is_not_believed() {
    let snapshot = world(&route("r", &format!("rules: [{{ {WEB} }}]")));
    assert_eq!(forward(get("h", "/").header("baggage", "tombolo.lane=v2").edge(&snapshot)).lane, None);
}

#[test]
fn explain_names_what_lost_and_why() {
    let snapshot = world(&route(
        "shop",
        "hostnames: [shop.example]
  rules:
    - { name: buy, matches: [{ path: { type: Exact, value: /buy } }], backendRefs: [{ name: web, port: 80 }] }
    - { name: gold, matches: [{ headers: [{ name: x-plan, value: gold }] }], backendRefs: [{ name: web, port: 80 }] }
    - { name: rest, backendRefs: [{ name: checkout, port: 80 }] }",
    ));
    let explained = get("shop.example", "/look").with(|head, caller| {
        let bind = BindKey { address: None, port: 80 };
        explain_edge(&snapshot, bind, head, caller, &SnapshotAvailability(&snapshot))
    });
    assert_eq!(explained.listener.as_deref(), Some("shop/edge/http"));
    assert_eq!(explained.host.as_deref(), Some("shop.example"));
    let lost: Vec<String> = explained.lost.iter().map(|l| format!("{}: {}", l.candidate, l.reason)).collect();
    assert_eq!(
        lost,
        [
            "listener shop/edge/exact: host is not one.wild.example",
            "listener shop/edge/wild: host is not *.wild.example",
            "httproute/shop/shop rule buy match 0 (Exact /buy): path is not Exact /buy",
            "httproute/shop/shop rule gold match 0 (PathPrefix /): no header x-plan that = \"gold\"",
        ]
    );
    let text = explained.to_string();
    assert!(text.contains("route     httproute/shop/shop rule rest\n"), "{text}");
    assert!(text.contains("backend   cluster/shop/checkout port 80 (Http1)\n"), "{text}");
    let json = serde_json::to_value(&explained).unwrap();
    assert_eq!(json["result"]["kind"], "forward");
    assert_eq!(json["result"]["rule"], "rest");
}
