//! ListenerSets.

use super::*;

fn set(name: &str, namespace: &str, listeners: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ parentRef: {{ name: edge, namespace: shop }}, listeners: [{listeners}] }}
"
    )
}

fn edge(listeners: &str, from: &str) -> String {
    gateway("edge", listeners)
        .replace("listeners:", &format!("allowedListeners: {{ namespaces: {{ {from} }} }}, listeners:"))
}

fn http(name: &str, host: &str) -> String {
    format!("{{ name: {name}, port: 80, protocol: HTTP, hostname: {host} }}")
}

fn of(compiled: &Compiled, name: &str) -> Vec<String> {
    conditions(&status(compiled, "ListenerSet", name))
}

fn attached(compiled: &Compiled) -> serde_json::Value {
    status(compiled, "Gateway", "edge")["attachedListenerSets"].clone()
}

#[test]
fn a_gateway_lets_in_the_sets_that_it_names() {
    let red = "
---
apiVersion: v1
kind: Namespace
metadata: { name: bank, labels: { team: red } }
";
    for (from, shop, bank) in [
        ("", false, false),
        ("from: None", false, false),
        ("from: Same", true, false),
        ("from: All", true, true),
        ("from: Selector, selector: { matchLabels: { team: red } }", false, true),
    ] {
        let compiled = world(&[
            edge(HTTP, from),
            red.into(),
            set("a", "shop", &http("l", "a.example")),
            set("b", "bank", &http("l", "b.example")),
        ]);
        for (name, is_in) in [("a", shop), ("b", bank)] {
            let expected = if is_in {
                ["Accepted=True/Accepted", "Programmed=True/Programmed"]
            } else {
                ["Accepted=False/NotAllowed", "Programmed=False/NotAllowed"]
            };
            assert_eq!(of(&compiled, name), expected, "{from} {name}");
        }
        assert_eq!(attached(&compiled), usize::from(shop) + usize::from(bank), "{from}");
        let hosts: Vec<_> =
            compiled.binds[0].listeners.iter().filter_map(|l| l.hostname.as_deref()).collect();
        assert_eq!(hosts.contains(&"a.example"), shop);
        assert_eq!(hosts.contains(&"b.example"), bank);
    }
}

#[test]
fn the_gateway_comes_first_then_the_older_set() {
    let old =
        set("z-old", "shop", &format!("{}, {}", http("mine", "old.example"), http("theirs", "gw.example")))
            .replace("name: z-old", "name: z-old, creationTimestamp: \"2020-01-01T00:00:00Z\"");
    let lost = set("lost", "shop", &http("l", "old.example"));
    let tcp =
        set("tcp", "shop", "{ name: t, port: 80, protocol: TCP }, { name: u, port: 90, protocol: TCP }");
    let compiled = world(&[edge(&http("gw", "gw.example"), "from: Same"), lost, tcp, old]);
    assert_eq!(of(&compiled, "z-old"), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    assert_eq!(
        of(&compiled, "lost"),
        ["Accepted=False/ListenersNotValid", "Programmed=False/ListenersNotValid"]
    );
    assert_eq!(of(&compiled, "tcp")[0], "Accepted=True/ListenersNotValid");
    assert_eq!(attached(&compiled), 2);
    let listener = |set: &str, at: usize| conditions(&status(&compiled, "ListenerSet", set)["listeners"][at]);
    assert!(listener("z-old", 0).contains(&"Accepted=True/Accepted".into()));
    for (set, at, reason) in
        [("z-old", 1, "HostnameConflict"), ("lost", 0, "HostnameConflict"), ("tcp", 0, "ProtocolConflict")]
    {
        let found = listener(set, at);
        for expected in ["Accepted=False", "Programmed=False", "Conflicted=True"] {
            assert!(found.contains(&format!("{expected}/{reason}")), "{set} {at}: {found:?}");
        }
    }
    assert_eq!(conditions(&status(&compiled, "Gateway", "edge"))[0], "Accepted=True/Accepted");
}

#[test]
fn routes_attach_to_a_set_and_to_a_gateway_each_for_itself() {
    let parent = |parents: &str| format!("parentRefs: [{parents}], {TO_WEB}");
    let gateway_only = "{ name: edge, namespace: shop }";
    let set_only = "{ group: gateway.networking.k8s.io, kind: ListenerSet, name: more }";
    let compiled = world(&[
        edge(&http("gw", "gw.example"), "from: All"),
        set("more", "bank", &http("added", "added.example")),
        http_route("a", "shop", &parent(gateway_only)),
        http_route("b", "bank", &parent(set_only)),
        http_route(
            "c",
            "bank",
            &parent(&format!("{{ name: edge, namespace: shop, sectionName: added }}, {set_only}")),
        ),
        http_route("d", "shop", &parent("{ kind: ListenerSet, name: more, namespace: bank }")),
        http_route("e", "shop", &parent("{ kind: ListenerSet, name: none }")),
    ]);
    let parents = |name: &str| {
        let all = status(&compiled, "HTTPRoute", name)["parents"].as_array().unwrap().clone();
        all.iter().map(|parent| conditions(parent)[0].clone()).collect::<Vec<_>>()
    };
    assert_eq!(parents("a"), ["Accepted=True/Accepted"]);
    assert_eq!(parents("b"), ["Accepted=True/Accepted"]);
    assert_eq!(parents("c"), ["Accepted=False/NoMatchingParent", "Accepted=True/Accepted"]);
    assert_eq!(parents("d"), ["Accepted=False/NotAllowedByListeners"]);
    assert_eq!(parents("e"), ["Accepted=False/NoMatchingParent"]);
    let reference = &status(&compiled, "HTTPRoute", "b")["parents"][0]["parentRef"];
    assert_eq!((&reference["kind"], &reference["name"]), (&"ListenerSet".into(), &"more".into()));
    assert_eq!(listener(&compiled, "edge", 0)["attachedRoutes"], 1);
    assert_eq!(status(&compiled, "ListenerSet", "more")["listeners"][0]["attachedRoutes"], 2);
    let titles: Vec<_> = compiled.binds[0].listeners.iter().map(|l| l.title()).collect();
    assert_eq!(titles, ["bank/more/added", "shop/edge/gw"]);
}

#[test]
fn a_set_has_its_own_references_and_may_be_of_the_experimental_kind() {
    let tls = "{ name: s, port: 443, protocol: HTTPS, hostname: HOST, tls: { certificateRefs: [{ name: c, namespace: certs }] } }";
    let grant = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: { name: g, namespace: certs }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: Gateway, namespace: shop }, { group: gateway.networking.x-k8s.io, kind: XListenerSet, namespace: shop }]
  to: [{ group: \"\", kind: Secret }]
";
    let experimental = set("x", "shop", &tls.replace("HOST", "x.example"))
        .replace("gateway.networking.k8s.io/v1", "gateway.networking.x-k8s.io/v1alpha1")
        .replace("kind: ListenerSet", "kind: XListenerSet");
    let compiled = world(&[
        edge(&tls.replace("HOST", "gw.example"), "from: All"),
        grant.into(),
        experimental,
        set("a", "shop", &tls.replace("HOST", "a.example")),
    ]);
    let resolved = |kind: &str, name: &str| {
        let found = conditions(&status(&compiled, kind, name)["listeners"][0]);
        found.into_iter().find(|c| c.starts_with("ResolvedRefs")).unwrap()
    };
    // Where the reference is permitted, that there is no such Secret is all that is wrong.
    assert_eq!(resolved("Gateway", "edge"), "ResolvedRefs=False/InvalidCertificateRef");
    assert_eq!(resolved("XListenerSet", "x"), "ResolvedRefs=False/InvalidCertificateRef");
    assert_eq!(resolved("ListenerSet", "a"), "ResolvedRefs=False/RefNotPermitted");
    assert_eq!(of(&compiled, "a")[0], "Accepted=False/ListenersNotValid");
}

#[test]
fn a_set_without_a_gateway_says_so() {
    let compiled = world(&[set("lost", "shop", &http("l", "a.example"))]);
    assert_eq!(
        of(&compiled, "lost"),
        ["Accepted=False/ParentNotAccepted", "Programmed=False/ParentNotAccepted"]
    );
}
