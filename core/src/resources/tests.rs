mod endpoints;
mod stream;

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::model::{EndpointHealth, Reach, Scope, ServiceKey};

fn read(text: &str) -> Parsed {
    parse(&[Source { name: "test.yaml".into(), text: text.into() }])
}

fn problems(text: &str) -> Vec<(String, String)> {
    read(text).problems.into_iter().map(|p| (p.field, p.message)).collect()
}

/// Fields with a problem, in order.
fn fields(text: &str) -> Vec<String> {
    problems(text).into_iter().map(|(field, _)| field).collect()
}

fn accepted(text: &str) -> ResourceSet {
    let parsed = read(text);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    parsed.resources
}

fn route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r }}\nspec: {spec}\n"
    )
}

fn release(spec: &str) -> String {
    let target = "targetRefs: [{ kind: Service, name: a }]";
    let arm = "arms: [{ name: v2, backendRefs: [{ name: a, port: 80 }] }]";
    format!(
        "apiVersion: tombolo.dev/v1alpha1\nkind: GrayRelease\nmetadata: {{ name: g }}\nspec: {{ {target}, {arm}, {spec} }}\n"
    )
}

#[test]
fn every_fault_of_a_document_is_told_at_once_with_its_place() {
    let text = r#"
apiVersion: v1
kind: Namespace
metadata: { name: fine }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: checkout, namespace: shop, lables: {} }
spec:
  hostname: x
  hostnames: [shop.example, 7]
  rules:
    - matches:
        - path: { type: Prefix, value: / }
        - method: GET
      backendRef: []
      backendRefs: [{ name: a, port: 80 }, { port: 80 }, { name: b, port: 99999 }]
"#;
    let parsed = read(text);
    let told: Vec<&str> = parsed.problems.iter().map(|p| p.field.as_str()).collect();
    for wanted in [
        "metadata.lables",
        "spec.hostname",
        "spec.hostnames[1]",
        "spec.rules[0].matches[0].path.type",
        "spec.rules[0].backendRef",
        "spec.rules[0].backendRefs[1].name",
        "spec.rules[0].backendRefs[2].port",
    ] {
        assert!(told.contains(&wanted), "{wanted} is not in {told:?}");
    }
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(parsed.problems.iter().all(|p| p.document == 2 && p.line == Some(6)));
    assert_eq!(parsed.resources.len(), 1, "the other document stays");
    let shown = parsed.problems.iter().find(|p| p.field == "spec.rules[0].backendRef").unwrap().to_string();
    let place = "test.yaml:6: document 2 (HTTPRoute shop/checkout): spec.rules[0].backendRef: unknown field";
    assert!(shown.starts_with(place), "{shown}");
    assert!(shown.ends_with("did you mean `backendRefs`?"), "{shown}");
}

#[test]
fn positions_in_lists_are_those_of_the_document_after_faults_before_them() {
    let text = route("{ hostnames: [1, a.example, 2, b.example, 3] }");
    assert_eq!(fields(&text), ["spec.hostnames[0]", "spec.hostnames[2]", "spec.hostnames[4]"]);
}

#[test]
fn a_syntax_error_costs_one_document_and_names_its_line() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n---\na: [1, 2\nb: 3\n---\napiVersion: v1\nkind: \
                Namespace\nmetadata: { name: b }\n";
    let parsed = read(text);
    assert_eq!(parsed.resources.len(), 2);
    assert_eq!(parsed.problems.len(), 1);
    let problem = &parsed.problems[0];
    assert!(problem.line.is_some_and(|line| (5..=7).contains(&line)), "{problem}");
    assert!(problem.message.starts_with("does not parse"), "{problem}");
}

#[test]
fn duplicate_keys_and_duplicate_objects_are_problems() {
    assert_eq!(problems("apiVersion: v1\nkind: Namespace\nkind: Service\n").len(), 1);
    let twice = "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n---\napiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n";
    let parsed = read(twice);
    assert_eq!((parsed.resources.len(), parsed.problems.len()), (1, 1));
    assert!(parsed.problems[0].message.contains("test.yaml, document 1"), "{}", parsed.problems[0]);
}

#[test]
fn what_is_no_document_is_told_apart() {
    for (text, field, message) in [
        ("- a\n", "", "is not an object"),
        ("kind: Service\n", "", "has no apiVersion"),
        ("apiVersion: v2\nkind: Service\nmetadata: { name: a }\n", "apiVersion", "version \"v2\""),
        ("apiVersion: apps/v1\nkind: Service\nmetadata: { name: a }\n", "apiVersion", "there is no Service"),
        ("apiVersion: v1\nkind: Servcie\nmetadata: { name: a }\n", "kind", "is not known"),
        ("apiVersion: v1\nkind: Namespace\n", "metadata", "is missing"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: { name: A_b }\n", "metadata.name", "not a valid"),
        ("apiVersion: v1\nkind: Service\nmetadata: { name: a }\n", "spec", "is missing"),
    ] {
        let told = problems(text);
        assert_eq!(told.len(), 1, "{text}: {told:?}");
        assert_eq!(told[0].0, field, "{text}: {told:?}");
        assert!(told[0].1.contains(message), "{text}: {told:?}");
    }
}

#[test]
fn only_true_and_false_are_booleans() {
    for name in ["y", "n", "no", "on", "yes", "off"] {
        let resources = accepted(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n"));
        assert_eq!(resources.namespaces.keys().next().unwrap().name, name);
    }
}

#[test]
fn lists_and_json_are_read_like_documents() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}]}"#;
    assert_eq!(accepted(list).namespaces.len(), 2);
}

#[test]
fn route_rules_of_form() {
    for (spec, field) in [
        ("{ rules: [{ matches: [{ path: { value: nope } }] }] }", "spec.rules[0].matches[0].path.value"),
        ("{ rules: [{ matches: [{ path: { value: /a//b } }] }] }", "spec.rules[0].matches[0].path.value"),
        (
            "{ rules: [{ matches: [{ path: { type: RegularExpression, value: '(' } }] }] }",
            "spec.rules[0].matches[0].path.value",
        ),
        ("{ rules: [{ matches: [{ method: FETCH }] }] }", "spec.rules[0].matches[0].method"),
        ("{ rules: [{ filters: [{ type: URLRewrite }] }] }", "spec.rules[0].filters[0].urlRewrite"),
        (
            "{ rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { statusCode: 200 } }] }] }",
            "spec.rules[0].filters[0].requestRedirect.statusCode",
        ),
        ("{ rules: [{ backendRefs: [{ name: a }] }] }", "spec.rules[0].backendRefs[0].port"),
        ("{ rules: [{ timeouts: { request: 5 minutes } }] }", "spec.rules[0].timeouts.request"),
        (
            "{ rules: [{ timeouts: { request: 1s, backendRequest: 2s } }] }",
            "spec.rules[0].timeouts.backendRequest",
        ),
        (
            "{ rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { port: 0 } }] }] }",
            "spec.rules[0].filters[0].requestRedirect.port",
        ),
        (
            "{ rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { port: 1 } }], backendRefs: [{ name: a, port: 1 }] }] }",
            "spec.rules[0].backendRefs",
        ),
        ("{ rules: [{ matches: [{ methods: [GET, LOOK] }] }] }", "spec.rules[0].matches[0].methods[1]"),
        ("{ rules: [{ matches: [{ method: PUT, methods: [GET] }] }] }", "spec.rules[0].matches[0].methods"),
        ("{ rules: [{ retry: { codes: [200] } }] }", "spec.rules[0].retry.codes[0]"),
        ("{ hostnames: [127.0.0.1] }", "spec.hostnames[0]"),
        ("{ rules: [{ name: a }, { name: a }] }", "spec.rules"),
    ] {
        assert_eq!(fields(&route(spec)), [field], "{spec}");
    }
    let twice = "{ rules: [{ retry: { codes: [500, 503, 500] } }] }";
    assert_eq!(fields(&route(twice)), ["spec.rules[0].retry.codes[0]", "spec.rules[0].retry.codes[2]"]);
    accepted(&route(
        "{ rules: [{ matches: [{ path: { type: Exact, value: /a } }], timeouts: { request: 10s } }] }",
    ));
    accepted(&route("{ rules: [{ timeouts: { request: 0s, backendRequest: 2s } }] }"));
}

#[test]
fn gray_release_rules_of_form() {
    for (spec, field) in [
        ("split: { weights: { v2: 5.123 } }", "spec.split.weights.v2"),
        ("split: { weights: { v2: 101 } }", "spec.split.weights.v2"),
        ("split: { weights: { v3: 1 } }", "spec.split.weights.v3"),
        ("split: { weights: { stable: 1 } }", "spec.split.weights.stable"),
        ("split: { key: { cookie: a, header: b } }", "spec.split.key"),
        ("rules: [{ arm: v9, headers: [{ name: a, value: b }] }]", "spec.rules[0].arm"),
        ("rules: [{ arm: v2 }]", "spec.rules[0]"),
        ("rules: [{ arm: v2, headers: [{ name: a, type: Present, value: b }] }]", "spec.rules[0].headers[0]"),
        (
            "rules: [{ arm: v2, headers: [{ name: a, type: RegularExpression, value: '[' }] }]",
            "spec.rules[0].headers[0].value",
        ),
        ("whenUnavailable: never", "spec.whenUnavailable"),
    ] {
        let told = fields(&release(spec));
        assert!(told.contains(&field.to_owned()), "{spec}: {told:?}");
    }
    accepted(&release(
        "split: { key: { cookie: uid }, weights: { v2: 5.25 } }, whenUnavailable: otherCluster",
    ));
}

#[test]
fn weights_come_to_no_more_than_everything() {
    let text = "apiVersion: tombolo.dev/v1alpha1\nkind: GrayRelease\nmetadata: { name: g }\nspec:\n  \
                targetRefs: [{ kind: Service, name: a }]\n  arms:\n    - { name: b, backendRefs: [{ name: a, port: 80 }] }\n    \
                - { name: c, backendRefs: [{ name: a, port: 80 }] }\n  split: { weights: { b: 60, c: 50 } }\n";
    assert_eq!(fields(text), ["spec.split.weights"]);
}

#[test]
fn a_secrets_values_are_never_shown() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: { name: s }\ntype: kubernetes.io/tls\ndata: { tls.crt: '!hunter2!' }\n";
    let parsed = read(text);
    let told = format!("{:?}", parsed.problems);
    assert!(!told.contains("hunter2"), "{told}");
    assert_eq!(parsed.problems.len(), 2, "{told}");
    let good = "apiVersion: v1\nkind: Secret\nmetadata: { name: s }\nstringData: { a: hunter2 }\ndata: { b: aHVudGVyMg== }\n";
    let resources = accepted(good);
    let secret = resources.secrets.values().next().unwrap();
    assert!(!format!("{secret:?}").contains("hunter2"));
    assert_eq!(secret.spec.value("a").unwrap(), b"hunter2");
    assert_eq!(secret.spec.value("b").unwrap(), b"hunter2");
}

#[test]
fn a_secrets_values_are_not_quoted_when_they_have_the_wrong_type() {
    for (body, field) in [
        ("data: hunter2", "data"),
        ("stringData: [hunter2]", "stringData"),
        ("stringData: { pin: 314159 }", "stringData.pin"),
        ("data: { pin: 314159 }", "data.pin"),
        ("data: { a.b: 314159 }", "data.a.b"),
    ] {
        let parsed = read(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: s }}\n{body}\n"));
        let told: Vec<String> = parsed.problems.iter().map(Problem::to_string).collect();
        assert_eq!(parsed.problems.len(), 1, "{told:?}");
        assert_eq!(parsed.problems[0].field, field);
        assert!(!told[0].contains("hunter2") && !told[0].contains("314159"), "{told:?}");
    }
}

#[test]
fn a_document_may_begin_on_the_line_of_its_marker() {
    let namespace =
        |name: &str| format!("--- {{ apiVersion: v1, kind: Namespace, metadata: {{ {name} }} }}\n");
    let parsed = read(&format!("{}{}{}", namespace("name: a"), namespace("nam: b"), namespace("name: c")));
    assert_eq!(parsed.resources.namespaces.len(), 2, "{:?}", parsed.problems);
    assert!(!parsed.problems.is_empty());
    assert!(parsed.problems.iter().all(|p| (p.document, p.line) == (2, Some(2))), "{:?}", parsed.problems);
}

#[test]
fn problems_beyond_the_bound_are_owned_up_to() {
    let faults = |count: usize| route(&format!("{{ hostnames: [{}] }}", vec!["1"; count].join(",")));
    assert_eq!(problems(&faults(64)).len(), 64);
    let told = problems(&faults(65));
    assert_eq!(told.len(), 65);
    assert!(told[64].1.contains("not listed"), "{:?}", told[64]);
}

#[test]
fn bounds_hold() {
    let huge = Source { name: "huge".into(), text: " ".repeat(MAX_SOURCE_BYTES + 1) };
    assert!(parse(&[huge]).problems[0].message.contains("larger than"));
    // An alias bomb is refused by its budget, quickly.
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    assert_eq!(problems(&bomb).len(), 1);
    let deep = format!("a: {}", "[".repeat(100_000));
    assert_eq!(problems(&deep).len(), 1);
}

#[test]
fn documents_travel_as_their_own_json() {
    let resources = accepted(&release("split: { weights: { v2: 5 } }"));
    for (key, document) in resources.documents() {
        let again = parse_json(key, document.json()).unwrap();
        assert_eq!((again.key(), again.json()), (key, document.json()));
    }
    let mut changed = resources.clone();
    let key = "tombolo.dev/GrayRelease/default/g";
    assert!(changed.remove(key) && !changed.remove(key));
    assert!(changed.is_empty() && changed.gray_releases.is_empty() && resources.len() == 1);
}

#[test]
fn services_get_their_endpoints_from_documents() {
    let text = r#"
apiVersion: v1
kind: Service
metadata: { name: a, namespace: shop }
spec: { selector: { app: a }, ports: [{ name: http, port: 80, targetPort: web }] }
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: { name: w, namespace: shop }
spec: { address: 10.0.0.1, labels: { app: a, tombolo.dev/lane: v2 }, ports: [{ name: web, port: 3000 }], weight: 3 }
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: { name: elsewhere, namespace: other }
spec: { address: 10.0.0.9, labels: { app: a }, ports: [{ name: web, port: 3000 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: a-1, namespace: shop, labels: { kubernetes.io/service-name: a } }
addressType: IPv4
ports: [{ name: http, port: 8080 }]
endpoints:
  - { addresses: [10.0.0.2] }
  - { addresses: [10.0.0.3], conditions: { ready: false } }
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: { name: a, namespace: shop }
"#;
    let services = static_services(&accepted(text), "here");
    for scope in [Scope::Cluster, Scope::Clusterset] {
        let entry = &services[&ServiceKey::new(scope, "shop", "a").unwrap()];
        let mut all: Vec<_> = entry.endpoints[&80]
            .iter()
            .map(|e| match &e.reach {
                Reach::Direct(address) => (address.to_string(), e.health, e.lane.is_some(), e.weight),
                Reach::Via(_) => panic!("no gateways here"),
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(
            all,
            [
                ("10.0.0.1:3000".to_owned(), EndpointHealth::Healthy, true, 3),
                ("10.0.0.2:8080".to_owned(), EndpointHealth::Healthy, false, 1),
                ("10.0.0.3:8080".to_owned(), EndpointHealth::Unhealthy, false, 1),
            ]
        );
    }
}

#[test]
fn files_are_read_in_order_and_what_cannot_be_read_is_told() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in
        [("b.yaml", "b"), ("a.yml", "a"), ("c.json", "{}"), ("d.txt", "no"), (".hidden.yaml", "no")]
    {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    std::fs::write(directory.path().join("e.yaml"), b"\xff\xfe").unwrap();
    let (sources, problems) = load(&[directory.path().to_owned(), PathBuf::from("/nonexistent")]);
    let texts: Vec<&str> = sources.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(texts, ["a", "b", "{}"]);
    assert_eq!(problems.len(), 2);
    assert!(problems[0].message.contains("not UTF-8") && problems[1].file == "/nonexistent");
}

proptest! {
    /// Nothing that can be written down panics.
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,400}") {
        let _ = read(&text);
    }

    /// Neither does what looks like a document.
    #[test]
    fn any_tree_under_a_kind_is_read_or_refused(
        kind in proptest::sample::select(vec!["Gateway", "HTTPRoute", "GrayRelease", "Service", "Secret", "Peer", "Workload"]),
        spec in "[\\[\\]{}:, a-z0-9\"\\n-]{0,200}",
    ) {
        for api in ["gateway.networking.k8s.io/v1", "v1", "tombolo.dev/v1alpha1"] {
            let _ = read(&format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{ name: a }}\nspec: {{ {spec} }}\n"));
        }
    }

    /// A valid document comes back from its JSON as it was.
    #[test]
    fn json_round_trips(name in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", port in 1u16.., percent in 0u32..=10_000) {
        let weight = f64::from(percent) / 100.0;
        let text = format!(
            "apiVersion: tombolo.dev/v1alpha1\nkind: GrayRelease\nmetadata: {{ name: {name} }}\nspec:\n  targetRefs: \
             [{{ kind: Service, name: {name} }}]\n  arms: [{{ name: v2, backendRefs: [{{ name: {name}, port: {port} }}] }}]\n  \
             split: {{ weights: {{ v2: {weight} }} }}\n"
        );
        let resources = accepted(&text);
        let (key, document) = resources.documents().next().unwrap();
        let again = parse_json(key, document.json()).unwrap();
        prop_assert_eq!(again.json(), document.json());
    }
}

mod traffic;
mod whole;
