//! AcmeIssuers: which listeners get which certificate.

use super::*;
use crate::decide::{AcmeCertificate, AcmeChallengeType};

const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: tombolo }
spec: { controllerName: tombolo.dev/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: foreign }
spec: { controllerName: example.com/other }
";

fn issuer(spec: &str) -> String {
    format!(
        "---
apiVersion: tombolo.dev/v1alpha1
kind: AcmeIssuer
metadata: {{ name: le, namespace: shop, generation: 3 }}
spec: {{ termsOfServiceAgreed: true{spec} }}
"
    )
}

fn gateway(name: &str, class: &str, listeners: &[(&str, &str, &str)]) -> String {
    let listeners: Vec<String> = listeners
        .iter()
        .map(|(name, hostname, secret)| {
            let hostname =
                if hostname.is_empty() { String::new() } else { format!("hostname: \"{hostname}\",") };
            format!(
                "{{ name: {name}, port: 443, protocol: HTTPS, {hostname}
                    tls: {{ certificateRefs: [{{ name: {secret} }}] }} }}"
            )
        })
        .collect();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: {name}, namespace: shop, annotations: {{ tombolo.dev/acme-issuer: le }} }}
spec: {{ gatewayClassName: {class}, listeners: [{}] }}
",
        listeners.join(", ")
    )
}

fn compiled(parts: &[String]) -> Compiled {
    compile(&resources(&format!("{CLASS}{}", parts.concat())))
}

fn wanted(compiled: &Compiled) -> Vec<(String, Vec<String>)> {
    let names = |c: &AcmeCertificate| c.names.iter().map(ToString::to_string).collect();
    compiled.acme.iter().map(|c| (c.secret.to_string(), names(c))).collect()
}

fn pair(secret: &str, names: &[&str]) -> (String, Vec<String>) {
    (secret.into(), names.iter().map(ToString::to_string).collect())
}

#[test]
fn listeners_of_one_secret_share_a_certificate_and_other_classes_get_none() {
    let listeners = [("a", "a.example", "one"), ("b", "b.example", "one"), ("c", "c.example", "two")];
    let compiled = compiled(&[
        issuer(""),
        gateway("edge", "tombolo", &listeners),
        gateway("other", "foreign", &[("d", "d.example", "three")]),
    ]);
    let expected = [pair("shop/one", &["a.example", "b.example"]), pair("shop/two", &["c.example"])];
    assert_eq!(wanted(&compiled), expected);
    let authority = &compiled.acme[0].authority;
    assert_eq!(&*authority.directory, "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!(authority.challenge, AcmeChallengeType::Http01);
    let status = status(&compiled, "AcmeIssuer", "le");
    assert_eq!(
        conditions(&status),
        ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "Ready=Unknown/Pending"]
    );
    assert_eq!(status["conditions"][0]["observedGeneration"], 3);
    let listener = conditions(&listener(&compiled, "edge", 0));
    assert!(listener.contains(&"ResolvedRefs=True/ResolvedRefs".into()), "{listener:?}");
    assert!(listener.contains(&"Programmed=False/Pending".into()), "{listener:?}");
}

#[test]
fn a_directory_is_one_of_lets_encrypts_or_ones_own() {
    for (named, directory) in [
        ("", "https://acme-v02.api.letsencrypt.org/directory"),
        (", directory: production", "https://acme-v02.api.letsencrypt.org/directory"),
        (", directory: staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
        (", directory: \"https://ca.shop.example/dir\"", "https://ca.shop.example/dir"),
    ] {
        let listeners = [("a", "a.example", "one")];
        let compiled = compiled(&[issuer(named), gateway("edge", "tombolo", &listeners)]);
        assert_eq!(&*compiled.acme[0].authority.directory, directory, "{named:?}");
    }
}

fn listener_set(name: &str, namespace: &str, annotations: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{ name: {name}, namespace: {namespace}, annotations: {{ {annotations} }} }}
spec:
  parentRef: {{ name: edge, namespace: shop }}
  listeners:
    - {{ name: a, port: 443, protocol: HTTPS, hostname: {name}.example, tls: {{ certificateRefs: [{{ name: {name} }}] }} }}
"
    )
}

#[test]
fn listener_sets_that_are_let_in_get_certificates_too() {
    let edge = |allowed: &str| {
        gateway("edge", "tombolo", &[("main", "main.example", "main")]).replace(
            "listeners: [",
            &format!("allowedListeners: {{ namespaces: {{ from: {allowed} }} }}, listeners: ["),
        )
    };
    let sets = [
        listener_set("inherits", "shop", ""),
        listener_set("own", "team", "tombolo.dev/acme-issuer: le"),
        listener_set("silent", "team", ""),
        listener_set("elsewhere", "shop", "tombolo.dev/acme-issuer: another"),
    ]
    .concat();
    let teams = issuer("").replace("namespace: shop", "namespace: team");
    let with = |allowed: &str| wanted(&compiled(&[issuer(""), teams.clone(), edge(allowed), sets.clone()]));
    let main = pair("shop/main", &["main.example"]);
    let (inherits, own) = (pair("shop/inherits", &["inherits.example"]), pair("team/own", &["own.example"]));
    assert_eq!(with("All"), [inherits.clone(), main.clone(), own]);
    assert_eq!(with("Same"), [inherits, main.clone()]);
    assert_eq!(with("None"), [main]);
}

#[test]
fn a_secret_of_somebody_else_is_left_alone_and_one_of_ours_is_kept_fresh() {
    let secret = |name: &str, annotations: &str| {
        format!(
            "---
apiVersion: v1
kind: Secret
metadata: {{ name: {name}, namespace: shop, annotations: {{ {annotations} }} }}
type: kubernetes.io/tls
stringData: {{ tls.crt: x, tls.key: y }}
"
        )
    };
    let listeners = [("a", "a.example", "theirs"), ("b", "b.example", "ours")];
    let compiled = compiled(&[
        issuer(""),
        secret("theirs", ""),
        secret("ours", "tombolo.dev/acme-issuer: le"),
        gateway("edge", "tombolo", &listeners),
    ]);
    assert_eq!(wanted(&compiled), [pair("shop/ours", &["b.example"])]);
}

#[test]
fn wildcards_need_dns_and_hosts_need_a_name() {
    let listeners = [("wild", "*.example", "one"), ("any", "", "two"), ("fine", "a.example", "three")];
    let http = compiled(&[issuer(""), gateway("edge", "tombolo", &listeners)]);
    assert_eq!(wanted(&http), [pair("shop/three", &["a.example"])]);
    let told = status(&http, "AcmeIssuer", "le");
    assert_eq!(conditions(&told)[1], "ResolvedRefs=False/ListenerNotSupported");
    let message = told["conditions"][1]["message"].as_str().unwrap();
    assert!(message.contains("listener shop/edge/wild: *.example needs challenge dns-01"), "{message}");
    assert!(message.contains("listener shop/edge/any: has no hostname"), "{message}");
    let dns = compiled_dns(&listeners);
    assert_eq!(wanted(&dns), [pair("shop/one", &["*.example"]), pair("shop/three", &["a.example"])]);
}

fn compiled_dns(listeners: &[(&str, &str, &str)]) -> Compiled {
    compiled(&[issuer(", challenge: dns-01"), gateway("edge", "tombolo", listeners)])
}

#[test]
fn what_an_issuer_refers_to_has_to_be_there_and_is_never_shown() {
    let spec = ", externalAccount: { keyId: kid-1, secretRef: { name: eab } }, caBundleRef: { name: roots }";
    let edge = gateway("edge", "tombolo", &[("a", "a.example", "one")]);
    let without = compiled(&[issuer(spec), edge.clone()]);
    assert!(without.acme.is_empty());
    assert_eq!(conditions(&status(&without, "AcmeIssuer", "le"))[0], "Accepted=False/RefNotFound");
    let more = "---
apiVersion: v1
kind: Secret
metadata: { name: eab, namespace: shop }
stringData: { hmac: aGlkZGVuLWtleQ }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: roots, namespace: shop }
data: { ca.crt: PEM }
";
    let with = compiled(&[issuer(spec), edge, more.into()]);
    let authority = &with.acme[0].authority;
    let (id, key) = authority.external.as_ref().unwrap();
    assert_eq!((&**id, &*key.0), ("kid-1", b"hidden-key".as_slice()));
    assert_eq!(authority.roots_pem.as_deref(), Some("PEM"));
    let shown = format!("{with:?}");
    assert!(!shown.contains("hidden-key") && !shown.contains("aGlkZGVu"), "{shown}");
}

#[test]
fn the_state_of_certificates_is_told() {
    let mut set = resources(&format!(
        "{CLASS}{}{}",
        issuer(""),
        gateway("edge", "tombolo", &[("a", "a.example", "one")])
    ));
    let mut tell = |progress: Value| {
        let key = crate::resources::ObjectKey::new("shop", "le");
        let mut object = crate::resources::Object::clone(&set.acme_issuers[&key]);
        object.meta.status = Some(std::sync::Arc::new(serde_json::json!({ "certificates": [progress] })));
        set.acme_issuers.insert(key, std::sync::Arc::new(object));
        status(&compile(&set), "AcmeIssuer", "le")
    };
    let fine = tell(serde_json::json!({ "secret": "shop/one", "notAfter": "2030-01-01T00:00:00Z" }));
    assert_eq!(conditions(&fine)[2], "Ready=True/Ready");
    assert_eq!(fine["certificates"][0]["names"], serde_json::json!(["a.example"]));
    let failing = tell(serde_json::json!(
        { "secret": "shop/one", "notAfter": "2030-01-01T00:00:00Z", "failure": "it is down", "failures": 4 }));
    assert_eq!(conditions(&failing)[2], "Ready=False/RenewalFailing");
    let message = failing["conditions"][2]["message"].as_str().unwrap();
    assert_eq!(message, "shop/one: it is down; the one in use is good until 2030-01-01T00:00:00Z");
    let urgent = tell(serde_json::json!(
        { "secret": "shop/one", "notAfter": "2030-01-01T00:00:00Z", "failure": "it is down", "urgency": "critical" }));
    assert_eq!(conditions(&urgent)[2], "Ready=False/NearExpiry");
    assert_eq!(urgent["certificates"][0]["urgency"], "critical");
    let over = tell(
        serde_json::json!({ "secret": "shop/one", "notAfter": "2030-01-01T00:00:00Z", "urgency": "expired" }),
    );
    assert_eq!(conditions(&over)[2], "Ready=False/Expired");
    let message = over["conditions"][2]["message"].as_str().unwrap();
    assert_eq!(message, "shop/one: it is not renewed; the one in use has expired at 2030-01-01T00:00:00Z");
    let never = tell(serde_json::json!({ "secret": "shop/one", "failure": "it is down" }));
    assert_eq!(conditions(&never)[2], "Ready=False/OrderFailing");
}
