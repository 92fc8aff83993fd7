//! AuthorizationPolicies from documents, beside a reference that reads like their description.

use proptest::{collection::vec, option, prelude::*, sample::subsequence};
use serde_json::{Value, json};

use super::*;
use crate::model::TrustDomain;

/// One policy as the reference has it: what is empty says nothing.
#[derive(Debug, Clone)]
struct Written {
    deny: bool,
    dry_run: bool,
    app: Option<&'static str>,
    rules: Vec<WrittenRule>,
}

#[derive(Debug, Clone)]
struct WrittenRule {
    ids: Vec<&'static str>,
    namespaces: Vec<&'static str>,
    accounts: Vec<&'static str>,
    domains: Vec<&'static str>,
    methods: Vec<&'static str>,
    paths: Vec<&'static str>,
    ports: Vec<u16>,
    header: bool,
}

/// A call; over raw TCP it has no request.
#[derive(Debug, Clone)]
struct CallOf {
    caller: Option<(&'static str, &'static str, &'static str)>,
    port: u16,
    request: Option<(&'static str, &'static str, bool)>,
}

fn some_of<T: Clone + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![2 => Just(Vec::new()), 1 => subsequence(all, 1..=all.len())]
}

fn rule() -> impl Strategy<Value = WrittenRule> {
    let ids = &["spiffe://east/ns/shop/sa/web", "spiffe://west/*", "spiffe://east/ns/bank/sa/*"];
    let from = (some_of(ids), some_of(&["shop", "ba*"]), some_of(&["web", "*"]), some_of(&["east", "west"]));
    let to =
        (some_of(&["GET", "post"]), some_of(&["/pay", "/admin*", "*"]), some_of(&[80, 8080]), any::<bool>());
    (from, to).prop_map(|((ids, namespaces, accounts, domains), (methods, paths, ports, header))| {
        WrittenRule { ids, namespaces, accounts, domains, methods, paths, ports, header }
    })
}

fn policies() -> impl Strategy<Value = Vec<Written>> {
    let app = option::of(prop_oneof![3 => Just("checkout"), 1 => Just("other")]);
    let one = (any::<bool>(), any::<bool>(), app, vec(rule(), 0..3))
        .prop_map(|(deny, dry_run, app, rules)| Written { deny, dry_run, app, rules });
    vec(one, 0..5)
}

fn call() -> impl Strategy<Value = CallOf> {
    let caller = (
        prop_oneof![Just("east"), Just("west")],
        prop_oneof![Just("shop"), Just("bank")],
        prop_oneof![Just("web"), Just("job")],
    );
    let request = (
        prop_oneof![Just("GET"), Just("POST")],
        prop_oneof![Just("/pay"), Just("/admin/x"), Just("/pays")],
        any::<bool>(),
    );
    let caller = prop_oneof![5 => caller.prop_map(Some), 1 => Just(None)];
    let request = prop_oneof![5 => request.prop_map(Some), 1 => Just(None)];
    (caller, prop_oneof![Just(80), Just(8080)], request).prop_map(|(caller, port, request)| CallOf {
        caller,
        port,
        request,
    })
}

/// A document for each, named `p0`, `p1` and so on: in the order in which they are looked at.
fn documents(policies: &[Written]) -> String {
    let mut text = String::new();
    for (n, policy) in policies.iter().enumerate() {
        let rules: Vec<Value> = policy.rules.iter().map(of_rule).collect();
        let selector = policy.app.map_or(json!({}), |app| json!({ "app": app }));
        let action = if policy.deny { "DENY" } else { "ALLOW" };
        let spec =
            json!({ "action": action, "dryRun": policy.dry_run, "selector": selector, "rules": rules });
        let document = json!({
            "apiVersion": "tombolo.dev/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": format!("p{n}"), "namespace": "shop" },
            "spec": spec,
        });
        text.push_str(&format!("---\n{document}\n"));
    }
    text
}

fn of_rule(rule: &WrittenRule) -> Value {
    let headers = match rule.header {
        true => json!([{ "name": "x-team", "value": "blue" }]),
        false => json!([]),
    };
    json!({
        "from": {
            "spiffeIds": rule.ids, "namespaces": rule.namespaces,
            "accounts": rule.accounts, "trustDomains": rule.domains,
        },
        "to": { "methods": rule.methods, "paths": rule.paths, "ports": rule.ports, "headers": headers },
    })
}

fn fits(patterns: &[&str], text: &str) -> bool {
    let one = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => *pattern == text,
    };
    patterns.is_empty() || patterns.iter().any(one)
}

/// Whether a rule of a policy is about this call.
fn concerns(rule: &WrittenRule, deny: bool, call: &CallOf) -> bool {
    let about_callers =
        [&rule.ids, &rule.namespaces, &rule.accounts, &rule.domains].iter().any(|l| !l.is_empty());
    let from = match call.caller {
        // Who is not known is nobody that a rule names.
        None => !about_callers,
        Some((domain, namespace, account)) => {
            // Foreign callers are let in by name only.
            let named = deny || domain == "east" || !rule.ids.is_empty() || !rule.domains.is_empty();
            named
                && fits(&rule.ids, &format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))
                && fits(&rule.namespaces, namespace)
                && fits(&rule.accounts, account)
                && fits(&rule.domains, domain)
        }
    };
    let to = match call.request {
        // What raw bytes ask for cannot be told: in doubt they are kept out.
        None => deny || (rule.methods.is_empty() && rule.paths.is_empty() && !rule.header),
        Some((method, path, blue)) => {
            let method =
                rule.methods.is_empty() || rule.methods.iter().any(|m| m.eq_ignore_ascii_case(method));
            method && fits(&rule.paths, path) && (blue || !rule.header)
        }
    };
    from && to && (rule.ports.is_empty() || rule.ports.contains(&call.port))
}

/// Whether the call goes through, and which policy has decided it (by position).
fn expected(policies: &[(usize, &Written)], call: &CallOf) -> (bool, Option<usize>) {
    let selected: Vec<_> =
        policies.iter().filter(|(_, policy)| policy.app.is_none_or(|app| app == "checkout")).collect();
    let concerned = |deny: bool| {
        let mut of_kind = selected.iter().filter(move |(_, policy)| policy.deny == deny);
        of_kind
            .find(|(_, policy)| policy.rules.iter().any(|rule| concerns(rule, deny, call)))
            .map(|(n, _)| *n)
    };
    if let Some(denies) = concerned(true) {
        return (false, Some(denies));
    }
    if let Some(allows) = concerned(false) {
        return (true, Some(allows));
    }
    if let Some((closes, _)) = selected.iter().find(|(_, policy)| !policy.deny) {
        return (false, Some(*closes));
    }
    (call.caller.is_none_or(|(domain, ..)| domain == "east"), None)
}

fn judged(snapshot: &Snapshot, call: &CallOf) -> Verdict {
    let identity = call
        .caller
        .map(|(domain, namespace, account)| format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))
        .map(|id| SpiffeId::parse(&id).unwrap());
    let (method, path, blue) = call.request.unwrap_or(("GET", "/", false));
    let ask = Ask { identity, method: method.parse().unwrap(), ..get("checkout", path) };
    let ask = if blue { ask.header("x-team", "blue") } else { ask };
    let own = TrustDomain::parse("east").unwrap();
    let workload = InboundWorkload {
        namespace: "shop".into(),
        labels: [("app".into(), "checkout".into())].into(),
        ..Default::default()
    };
    ask.with(|head, caller| {
        let head = call.request.is_some().then_some(head);
        authorize(snapshot, &own, &workload, call.port, head, caller)
    })
}

fn told(judgement: &Judgement) -> (bool, Option<usize>) {
    let by = match &judgement.basis {
        Basis::Policy { name, .. } => name.strip_prefix("shop/p").map(|n| n.parse().unwrap()),
        Basis::NoPolicy | Basis::ForeignTrustDomain => None,
    };
    (judgement.allowed, by)
}

proptest! {
    #[test]
    fn verdicts_are_those_of_the_description(policies in policies(), calls in vec(call(), 1..20)) {
        let snapshot = world(&documents(&policies));
        let numbered: Vec<_> = policies.iter().enumerate().collect();
        let (on_trial, in_force): (Vec<_>, Vec<_>) = numbered.into_iter().partition(|(_, policy)| policy.dry_run);
        let is_tried = on_trial.iter().any(|(_, policy)| policy.app.is_none_or(|app| app == "checkout"));
        let all = [in_force.clone(), on_trial].concat();
        for call in calls {
            let verdict = judged(&snapshot, &call);
            prop_assert_eq!(told(&verdict.enforced), expected(&in_force, &call), "{:?}", call);
            let tried = verdict.dry_run.as_ref().map(told);
            prop_assert_eq!(tried, is_tried.then(|| expected(&all, &call)), "{:?}", call);
        }
    }
}

#[test]
fn a_policy_on_trial_decides_nothing_and_tells_what_it_would() {
    let closed = "
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: web-only, namespace: shop }
spec: { dryRun: true, rules: [{ from: { accounts: [web] } }] }
";
    let snapshot = world(closed);
    let of = |account| {
        let call = CallOf { caller: Some(("east", "shop", account)), port: 80, request: None };
        let verdict = judged(&snapshot, &call);
        (verdict.is_allow(), verdict.dry_run.unwrap().to_string())
    };
    assert_eq!(of("web"), (true, "allow (shop/web-only)".into()));
    assert_eq!(of("job"), (true, "deny (no-policy-allows)".into()));
}

#[test]
fn what_can_match_nothing_is_refused() {
    let text = "
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: p, namespace: shop }
spec:
  rules:
    - from: { namespaces: ['a/b', '*', 'sh*'], accounts: ['*web'], trustDomains: ['we*'] }
      to: { methods: ['*', GET], ports: [0, 80] }
";
    let parsed = parse(&[Source { name: "test".into(), text: text.into() }]);
    let fields: Vec<String> = parsed.problems.iter().map(|problem| problem.field.clone()).collect();
    let expected = [
        "spec.rules[0].from.namespaces[0]",
        "spec.rules[0].from.accounts[0]",
        "spec.rules[0].from.trustDomains[0]",
        "spec.rules[0].to.methods[0]",
        "spec.rules[0].to.ports[0]",
    ];
    assert_eq!(fields, expected);
}
