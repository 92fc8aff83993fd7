//! What TrafficPolicies say of what comes in to workloads.

use std::sync::Arc;

use super::*;
use crate::{
    decide::{InboundMode, InboundWorkload, PlaintextRule, inbound_limits, inbound_plaintext},
    model::Snapshot,
};

const STRICT: Option<InboundMode> = Some(InboundMode::Strict);
const PERMISSIVE: Option<InboundMode> = Some(InboundMode::Permissive);

fn service(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ selector: {{ app: web }}, ports: [{ports}] }}\n"
    )
}

fn policy(name: &str, service: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: tombolo.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ targetRefs: [{{ kind: Service, name: {service} }}], inbound: {{ {spec} }} }}\n"
    )
}

const PORTS: &str = "{ name: web, port: 80, targetPort: http }, { name: raw, port: 6379 }";

fn snapshot(documents: &[String]) -> Snapshot {
    Snapshot { config: Arc::new(compile(&resources(&documents.concat()))), ..Snapshot::default() }
}

fn workload() -> InboundWorkload {
    InboundWorkload {
        namespace: "shop".into(),
        labels: [("app".into(), "web".into()), ("version".into(), "v1".into())].into(),
        ports: [(8080, "http".into()), (6379, "".into()), (9090, "metrics".into())].into(),
    }
}

fn modes(snapshot: &Snapshot, workload: &InboundWorkload) -> Vec<Option<InboundMode>> {
    [8080, 6379, 9090].map(|port| inbound_plaintext(snapshot, workload, port).mode).to_vec()
}

#[test]
fn a_mode_holds_for_the_ports_of_its_service_alone() {
    let documents = [
        service("web", PORTS),
        policy("p", "web", "mode: permissive, ports: [{ port: 6379, mode: STRICT }], probePaths: [/healthz]"),
    ];
    let (snapshot, workload) = (snapshot(&documents), workload());
    assert_eq!(modes(&snapshot, &workload), [PERMISSIVE, STRICT, None]);
    let rule = inbound_plaintext(&snapshot, &workload, 8080);
    let expected = PlaintextRule { mode: PERMISSIVE, policy: Some("shop/p"), probe_paths: vec!["/healthz"] };
    assert_eq!(rule, expected);
    let strict_too = [
        service("web", "{ name: a, port: 80, targetPort: http }, { name: b, port: 81, targetPort: http }"),
        policy("p", "web", "mode: permissive, ports: [{ port: 81, mode: strict }]"),
    ];
    assert_eq!(modes(&self::snapshot(&strict_too), &workload)[0], STRICT, "two ports lead there");
    let elsewhere = InboundWorkload { namespace: "bank".into(), ..workload.clone() };
    let other = InboundWorkload { labels: [("app".into(), "other".into())].into(), ..workload.clone() };
    for not_behind in [elsewhere, other] {
        assert_eq!(modes(&snapshot, &not_behind), [None, None, None]);
    }
}

#[test]
fn of_several_services_the_strict_one_wins() {
    let (a, b) = (service("a", PORTS), service("b", "{ port: 1, targetPort: 8080 }"));
    for (of_a, of_b) in [("strict", "permissive"), ("permissive", "strict")] {
        let documents = [
            a.clone(),
            b.clone(),
            policy("pa", "a", &format!("mode: {of_a}")),
            policy("pb", "b", &format!("mode: {of_b}")),
        ];
        let (snapshot, workload) = (snapshot(&documents), workload());
        let rule = inbound_plaintext(&snapshot, &workload, 8080);
        let by = if of_a == "strict" { "shop/pa" } else { "shop/pb" };
        assert_eq!((rule.mode, rule.policy), (STRICT, Some(by)));
    }
}

#[test]
fn limits_are_found_by_port() {
    let documents = [service("web", PORTS), policy("p", "web", "maxConnections: 7, maxRequests: 5")];
    let (snapshot, workload) = (snapshot(&documents), workload());
    let limits = inbound_limits(&snapshot, &workload, 6379);
    assert_eq!((limits.connections().unwrap().most, limits.requests().unwrap().most), (7, 5));
    assert!(inbound_limits(&snapshot, &workload, 9090).is_empty());
    assert_eq!(modes(&snapshot, &workload), [None, None, None]);
}

#[test]
fn the_status_tells_ports_that_are_not_there_and_older_policies() {
    let documents = [
        service("web", PORTS),
        policy("a", "web", "ports: [{ port: 81, mode: strict }]"),
        policy("b", "web", "mode: permissive"),
    ];
    let snapshot = snapshot(&documents);
    let of = |name| conditions(&status(&snapshot.config, "TrafficPolicy", name)["ancestors"][0]);
    assert_eq!(of("a"), ["Accepted=True/Accepted", "ResolvedRefs=False/PortNotFound"]);
    assert_eq!(
        of("b"),
        ["Accepted=False/Conflicted", "Conflicted=True/Conflicted", "ResolvedRefs=True/ResolvedRefs"]
    );
    assert_eq!(modes(&snapshot, &workload()), [None, None, None], "the older one says nothing of these");
}
