//! ListenerSets.

use super::{
    client::get,
    report::Stanza,
    world::{INFRA, WEB, World},
};

fn gateway(from: &str, listeners: &str) -> String {
    let allowed = if from.is_empty() {
        String::new()
    } else {
        format!("allowedListeners: {{ namespaces: {{ {from} }} }},")
    };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: parent, namespace: {INFRA} \
         }}\nspec: {{ gatewayClassName: tombolo, {allowed} listeners: [{listeners}] }}\n"
    )
}

fn set(namespace: &str, name: &str, listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{ name: {name}, namespace: \
         {namespace} }}\nspec: {{ parentRef: {{ group: gateway.networking.k8s.io, kind: Gateway, name: parent, \
         namespace: {INFRA} }}, listeners: [{listeners}] }}\n"
    )
}

fn http(name: &str, host: &str) -> String {
    format!(
        "{{ name: {name}, port: 80, protocol: HTTP, hostname: {host}, allowedRoutes: {{ namespaces: {{ from: All }} }} }}"
    )
}

fn route(namespace: &str, name: &str, parents: &str, n: u8) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: \
         {namespace} }}\nspec: {{ parentRefs: [{parents}], rules: [{{ matches: [{{ path: {{ value: /{name} }} }}], \
         backendRefs: [{{ name: infra-backend-v{n}, namespace: {INFRA}, port: 8080 }}] }}] }}\n"
    )
}

/// Routes of any namespace of the suite may send to the infra namespace.
fn grants() -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{ name: g, namespace: \
         {INFRA} }}\nspec:\n  from: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {WEB} }}]\n  to: \
         [{{ group: \"\", kind: Service }}]\n"
    )
}

const OWN: &str = "{ name: gateway-listener, port: 80, protocol: HTTP, hostname: gateway-listener.com }";

fn key(name: &str) -> String {
    format!("{INFRA}/{name}")
}

fn is_attached(stanza: &Stanza) {
    stanza.has("Programmed", "True", "Programmed");
}

fn good(listener: &Stanza) -> &Stanza {
    listener.has("Accepted", "True", "Accepted").has("ResolvedRefs", "True", "ResolvedRefs").has(
        "Programmed",
        "True",
        "Programmed",
    )
}

fn conflicted(listener: &Stanza, reason: &str) {
    listener.has("Accepted", "False", reason).has("Programmed", "False", reason).has(
        "Conflicted",
        "True",
        reason,
    );
}

#[tokio::test]
async fn listener_set_allowed_namespaces() {
    for (from, same, other) in [
        ("", false, false),
        ("from: None", false, false),
        ("from: Same", true, false),
        ("from: All", true, true),
        ("from: Selector, selector: { matchLabels: { gateway-conformance: backend } }", false, true),
    ] {
        let world = World::stage().await;
        let sets = set(INFRA, "same", &http("l", "same.com")) + &set(WEB, "other", &http("l", "other.com"));
        world.write("scenario", &format!("{}{sets}", gateway(from, OWN)));
        let report = world.report();
        let parent = report.object("Gateway", &key("parent"));
        parent.has("Accepted", "True", "Accepted");
        assert_eq!(parent.value["attachedListenerSets"], u64::from(same) + u64::from(other), "{from}");
        for (name, is_in) in [(key("same"), same), (format!("{WEB}/other"), other)] {
            let found = report.object("ListenerSet", &name);
            match is_in {
                true => found.has("Accepted", "True", "Accepted").has("Programmed", "True", "Programmed"),
                false => {
                    found.has("Accepted", "False", "NotAllowed").has("Programmed", "False", "NotAllowed")
                }
            };
        }
    }
}

#[tokio::test]
async fn listener_set_hostname_and_protocol_conflict() {
    let world = World::stage().await;
    let clash = http("clash", "conflict-with-gateway.com");
    let tcp = "{ name: tcp, port: 80, protocol: TCP }";
    let documents = [
        gateway("from: Same", &format!("{OWN}, {clash}")),
        set(
            INFRA,
            "a-1",
            &format!(
                "{}, {clash}, {}, {tcp}",
                http("own", "set-1.com"),
                http("later", "conflict-with-set.com")
            ),
        ),
        set(INFRA, "a-2", &clash),
        set(
            INFRA,
            "b-1",
            &format!("{}, {}", http("own", "set-2.com"), http("later", "conflict-with-set.com")),
        ),
        set(INFRA, "b-2", &http("later", "conflict-with-set.com")),
        set(INFRA, "b-3", tcp),
    ];
    world.write("scenario", &documents.concat());
    let report = world.report();
    let parent = report.object("Gateway", &key("parent"));
    parent.has("Accepted", "True", "Accepted");
    assert_eq!(parent.value["attachedListenerSets"], 2);
    for name in ["gateway-listener", "clash"] {
        good(&report.listener("Gateway", &key("parent"), name));
    }
    let listener = |set: &str, name: &str| report.listener("ListenerSet", &key(set), name);
    for set in ["a-1", "b-1"] {
        is_attached(&report.object("ListenerSet", &key(set)));
        good(&listener(set, "own"));
    }
    good(&listener("a-1", "later"));
    conflicted(&listener("a-1", "clash"), "HostnameConflict");
    conflicted(&listener("a-1", "tcp"), "ProtocolConflict");
    conflicted(&listener("b-1", "later"), "HostnameConflict");
    for (set, name, reason) in [
        ("a-2", "clash", "HostnameConflict"),
        ("b-2", "later", "HostnameConflict"),
        ("b-3", "tcp", "ProtocolConflict"),
    ] {
        let found = report.object("ListenerSet", &key(set));
        found.has("Accepted", "False", "ListenersNotValid").has("Programmed", "False", "ListenersNotValid");
        conflicted(&listener(set, name), reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_set_routes_attach_by_parent_and_namespace() {
    let from = |name: &str, host: &str, from: &str| http(name, host).replace("from: All", from);
    let listeners = [
        from("all", "all.com", "from: All"),
        from("same", "same.com", "from: Same"),
        from(
            "selector",
            "selector.com",
            "from: Selector, selector: { matchLabels: { gateway-conformance: backend } }",
        ),
    ];
    let to_set =
        format!("{{ group: gateway.networking.k8s.io, kind: ListenerSet, name: more, namespace: {INFRA} }}");
    let documents = [
        gateway("from: All", OWN),
        set(INFRA, "more", &listeners.join(", ")),
        set(WEB, "theirs", &from("cross", "cross.com", "from: Same")),
        grants(),
        route(INFRA, "here", &to_set, 1),
        route(WEB, "there", &to_set, 2),
        route(INFRA, "both", &format!("{{ name: parent, sectionName: gateway-listener }}, {to_set}"), 3),
        route(INFRA, "bad-section", &format!("{{ name: parent, sectionName: all }}, {to_set}"), 3),
        route(INFRA, "stranger", &format!("{{ kind: ListenerSet, name: theirs, namespace: {WEB} }}"), 1),
        route(WEB, "friend", "{ kind: ListenerSet, name: theirs }", 1),
    ];
    let world = World::with(&documents.concat()).await;
    let report = world.report();
    assert_eq!(report.object("Gateway", &key("parent")).value["attachedListenerSets"], 2);
    for (name, count) in [("all", 4), ("same", 3), ("selector", 1)] {
        good(&report.listener("ListenerSet", &key("more"), name)).attached(count);
    }
    report.listener("Gateway", &key("parent"), "gateway-listener").attached(1);
    report.listener("ListenerSet", &format!("{WEB}/theirs"), "cross").attached(1);
    report.parent("HTTPRoute", &key("both"), "parent#gateway-listener").has("Accepted", "True", "Accepted");
    report.parent("HTTPRoute", &key("both"), "more").has("Accepted", "True", "Accepted");
    report.parent("HTTPRoute", &key("bad-section"), "parent#all").has(
        "Accepted",
        "False",
        "NoMatchingParent",
    );
    report.parent("HTTPRoute", &key("bad-section"), "more").has("Accepted", "True", "Accepted");
    report.parent("HTTPRoute", &key("stranger"), "theirs").has("Accepted", "False", "NotAllowedByListeners");
    let only = report.object("HTTPRoute", &key("here")).value["parents"].clone();
    assert_eq!(only.as_array().unwrap().len(), 1);
    assert_eq!(only[0]["parentRef"]["kind"], "ListenerSet");
    let at = world.address("parent", 80);
    for (host, path, service) in [
        ("all.com", "/here", "infra-backend-v1"),
        ("all.com", "/there", "infra-backend-v2"),
        ("same.com", "/here", "infra-backend-v1"),
        ("selector.com", "/there", "infra-backend-v2"),
        ("gateway-listener.com", "/both", "infra-backend-v3"),
        ("cross.com", "/friend", "infra-backend-v1"),
    ] {
        world.reaches(at, &get(host, path), service).await;
    }
    for (host, path) in [
        ("same.com", "/there"),
        ("selector.com", "/here"),
        ("gateway-listener.com", "/here"),
        ("gateway-listener.com", "/bad-section"),
        ("cross.com", "/stranger"),
    ] {
        world.answers(at, &get(host, path), 404).await;
    }
}

#[tokio::test]
async fn listener_set_reference_grant() {
    let world = World::stage().await;
    let theirs = "gateway-conformance-web-backend";
    world.write("theirs", &world.authority.issue(&["c.example"]).secret(theirs, "certificate"));
    let https = |name: &str, host: &str| {
        format!(
            "{{ name: {name}, port: 443, protocol: HTTPS, hostname: {host}, tls: {{ certificateRefs: [{{ name: certificate, namespace: {theirs} }}] }} }}"
        )
    };
    let grant = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{ name: sets, namespace: \
         {theirs} }}\nspec:\n  from: [{{ group: gateway.networking.k8s.io, kind: ListenerSet, namespace: {INFRA} }}]\n  \
         to: [{{ group: \"\", kind: Secret }}]\n"
    );
    let documents = [
        gateway("from: All", OWN),
        grant,
        set(INFRA, "granted", &https("l", "a.com")),
        set("gateway-conformance-app-backend", "refused", &https("l", "b.com")),
    ];
    world.write("scenario", &documents.concat());
    let report = world.report();
    report.object("ListenerSet", &key("granted")).has("Accepted", "True", "Accepted");
    report.listener("ListenerSet", &key("granted"), "l").has("ResolvedRefs", "True", "ResolvedRefs");
    let refused = "gateway-conformance-app-backend/refused";
    let found = report.object("ListenerSet", refused);
    found.has("Accepted", "False", "ListenersNotValid").has("Programmed", "False", "ListenersNotValid");
    report.listener("ListenerSet", refused, "l").has("ResolvedRefs", "False", "RefNotPermitted");
}

#[tokio::test]
async fn listener_set_protocol_and_route_kind_conflicts() {
    let world = World::stage().await;
    let tls = |name: &str, port: u16, host: &str, kind: &str| {
        format!(
            "{{ name: {name}, port: {port}, protocol: TLS, hostname: {host}, tls: {{ mode: Passthrough }}, allowedRoutes: {{ kinds: [{{ kind: {kind} }}] }} }}"
        )
    };
    let https = "{ name: https, port: 8443, protocol: HTTPS, tls: { certificateRefs: [{ name: tls-validity-checks-certificate }] } }";
    let sets = set(
        INFRA,
        "more",
        &[
            tls("wrong-kind", 443, "a.com", "HTTPRoute"),
            tls("control", 9443, "abc.example.com", "TLSRoute"),
            tls("clash", 8443, "abc.example.com", "TLSRoute"),
        ]
        .join(", "),
    );
    let control = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{ name: t, namespace: {INFRA} \
         }}\nspec: {{ parentRefs: [{{ kind: ListenerSet, name: more, sectionName: control }}], hostnames: \
         [abc.example.com], rules: [{{ backendRefs: [{{ name: infra-backend-v1, port: 8080 }}] }}] }}\n"
    );
    world.write("scenario", &format!("{}{sets}{control}", gateway("from: All", &format!("{OWN}, {https}"))));
    let report = world.report();
    let listener = |name: &str| report.listener("ListenerSet", &key("more"), name);
    listener("wrong-kind").has("ResolvedRefs", "False", "InvalidRouteKinds");
    good(&listener("control")).attached(1);
    conflicted(&listener("clash"), "ProtocolConflict");
    is_attached(&report.object("ListenerSet", &key("more")));
    good(&report.listener("Gateway", &key("parent"), "https"));
    report.parent("TLSRoute", &key("t"), "more#control").has("Accepted", "True", "Accepted");
}
