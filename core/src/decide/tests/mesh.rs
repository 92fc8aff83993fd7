//! Calls from service to service (GAMMA).

use super::*;

fn route(name: &str, namespace: &str, parent: &str, backend: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  parentRefs: [{{ {parent} }}]
  rules: [{{ matches: [{{ path: {{ value: /p }} }}], backendRefs: [{{ {backend} }}] }}]
"
    )
}

const OF_WEB: &str = "group: \"\", kind: Service, name: web";

#[test]
fn without_routes_a_call_goes_to_the_service_itself() {
    let snapshot = world("");
    for service in ["cluster/shop/web", "clusterset/bank/ledger"] {
        let decision = forward(get("any", "/x").mesh(&snapshot, service));
        assert_eq!(to(&decision), format!("{service}:80"));
        let route = format!("service/{}", service.split_once('/').unwrap().1);
        assert_eq!((&*decision.route, &*decision.rule), (route.as_str(), "default"));
    }
    let laned =
        forward(get("any", "/").header("baggage", "tombolo.lane=v2").mesh(&snapshot, "cluster/shop/web"));
    assert_eq!(laned.lane, lane("v2"));
}

#[test]
fn a_service_with_routes_answers_404_where_none_matches() {
    let snapshot = world(&route("r", "shop", OF_WEB, "name: checkout, port: 80"));
    assert_eq!(
        to(&forward(get("whatever", "/p").mesh(&snapshot, "cluster/shop/web"))),
        "cluster/shop/checkout:80"
    );
    assert_eq!(local(get("web", "/q").mesh(&snapshot, "cluster/shop/web")), (404, "no_route"));
    assert_eq!(
        to(&forward(get("web", "/q").mesh(&snapshot, "clusterset/shop/web"))),
        "clusterset/shop/web:80"
    );
}

#[test]
fn a_route_of_one_port_leaves_the_others() {
    let parent = format!("{OF_WEB}, port: 90");
    let snapshot = world(&route("r", "shop", &parent, "name: checkout, port: 80"));
    let call = |port| Ask { port, ..get("web", "/p") }.mesh(&snapshot, "cluster/shop/web");
    assert_eq!(to(&forward(call(90))), "cluster/shop/checkout:80");
    assert_eq!(to(&forward(call(80))), "cluster/shop/web:80");
    let both = format!(
        "{}{}",
        route("r", "shop", &parent, "name: checkout, port: 80"),
        route("s", "shop", OF_WEB, "name: canary, port: 80").replace("/p", "/s")
    );
    let snapshot = world(&both);
    let call = |port, path| Ask { port, ..get("web", path) }.mesh(&snapshot, "cluster/shop/web");
    assert_eq!(to(&forward(call(90, "/s"))), "cluster/shop/canary:80", "a route of every port");
    assert_eq!(to(&forward(call(90, "/p"))), "cluster/shop/checkout:80");
    assert_eq!(local(call(80, "/p")), (404, "no_route"));
}

#[test]
fn a_consumers_route_is_for_its_namespace_alone() {
    let parent = format!("{OF_WEB}, namespace: shop");
    let consumer = route(
        "r",
        "bank",
        &parent,
        "name: ledger, port: 80, kind: ServiceImport, group: multicluster.x-k8s.io",
    );
    let snapshot = world(&consumer);
    let call = |namespace: Option<&str>| {
        let identity = namespace.map(|ns| SpiffeId::parse(&format!("spiffe://east/ns/{ns}/sa/x")).unwrap());
        to(&forward(Ask { identity, ..get("web", "/p") }.mesh(&snapshot, "cluster/shop/web")))
    };
    assert_eq!(call(Some("bank")), "clusterset/bank/ledger:80");
    assert_eq!(call(Some("shop")), "cluster/shop/web:80");
    assert_eq!(call(None), "cluster/shop/web:80");
}

#[test]
fn a_route_of_a_service_import_is_for_the_name_in_all_clusters() {
    let parent = "group: multicluster.x-k8s.io, kind: ServiceImport, name: web";
    let snapshot = world(&route("r", "shop", parent, "name: checkout, port: 80"));
    assert_eq!(
        to(&forward(get("web", "/p").mesh(&snapshot, "clusterset/shop/web"))),
        "cluster/shop/checkout:80"
    );
    assert_eq!(to(&forward(get("web", "/p").mesh(&snapshot, "cluster/shop/web"))), "cluster/shop/web:80");
}

#[test]
fn policies_from_documents_are_enforced() {
    let snapshot = world(
        "
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: checkout, namespace: shop }
spec:
  selector: { app: checkout }
  rules:
    - from: { namespaces: [shop], accounts: [storefront] }
      to: { methods: [get], paths: [\"/pay*\"] }
---
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: no-admin, namespace: shop }
spec: { action: DENY, rules: [{ to: { headers: [{ name: x-admin, type: Present }] } }] }
",
    );
    let own = crate::model::TrustDomain::parse("east").unwrap();
    let judge = |app: &str, caller: &str, ask: Ask<'_>| {
        let identity = Some(SpiffeId::parse(&format!("spiffe://east/ns/{caller}")).unwrap());
        let workload = InboundWorkload {
            namespace: "shop".into(),
            labels: [("app".into(), app.into())].into(),
            ..Default::default()
        };
        Ask { identity, ..ask }.with(|head, caller| {
            let verdict = authorize(&snapshot, &own, &workload, 80, Some(head), caller);
            let explained = explain_authorize(&snapshot, &own, &workload, 80, Some(head), caller);
            let why = verdict.enforced.why().to_string();
            if verdict.is_allow() {
                assert_eq!(explained.result, ExplainedResult::Allow);
                return "allow".to_string();
            }
            assert_eq!(explained.result, ExplainedResult::Deny { policy: why.clone() });
            why
        })
    };
    let front = "shop/sa/storefront";
    assert_eq!(judge("checkout", front, get("c", "/pay/1")), "allow");
    assert_eq!(judge("checkout", front, get("c", "/pay/1").header("x-admin", "")), "shop/no-admin");
    assert_eq!(judge("checkout", front, get("c", "/refund")), "no-policy-allows");
    assert_eq!(judge("checkout", "shop/sa/other", get("c", "/pay/1")), "no-policy-allows");
    assert_eq!(judge("checkout", "bank/sa/storefront", get("c", "/pay/1")), "no-policy-allows");
    assert_eq!(judge("web", "bank/sa/any", get("c", "/")), "allow", "not selected");
    assert_eq!(judge("web", front, get("c", "/").header("x-admin", "1")), "shop/no-admin");
}

fn governed(spec: &str) -> String {
    format!(
        "
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: p, namespace: shop }}
spec: {{ targetRefs: [{{ kind: Service, name: web }}], {spec} }}
"
    )
}

#[test]
fn a_service_policy_goes_along_with_each_call() {
    let snapshot = world(&governed(
        "loadBalancer: { type: ConsistentHash, hashKey: { header: x-user } }, retryBudget: { percent: 1 },
         timeouts: { request: 3s }, fault: { delay: { percent: 100, duration: 2s }, headers: [{ name: x-try, value: slow }] }",
    ));
    let call = |user: &str| get("web", "/").header("x-user", user);
    let of = |ask: Ask| forward(ask.mesh(&snapshot, "cluster/shop/web"));
    let (ann, bob) = (of(call("ann")), of(call("bob")));
    assert_eq!(ann.hash, of(call("ann")).hash);
    assert!(ann.hash.is_some() && ann.hash != bob.hash);
    assert!(of(get("web", "/")).hash.is_some(), "by address, where there is no such header");
    assert_eq!(ann.timeouts.request, Some(std::time::Duration::from_secs(3)));
    assert_eq!((ann.retry.budget.percent, ann.delay), (1, None));
    let slow = of(call("ann").header("x-try", "slow"));
    assert_eq!(slow.delay, Some(std::time::Duration::from_secs(2)));
    let other = forward(get("checkout", "/").mesh(&snapshot, "cluster/shop/checkout"));
    assert_eq!((other.hash, other.timeouts.request), (None, None));
}

#[test]
fn an_abort_on_purpose_is_answered_here() {
    let snapshot = world(&governed("fault: { abort: { percent: 100, status: 418 } }"));
    assert_eq!(local(get("web", "/").mesh(&snapshot, "cluster/shop/web")), (418, "fault_abort"));
}
