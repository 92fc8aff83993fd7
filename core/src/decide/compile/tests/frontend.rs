//! What clients have to show.

use super::*;

fn authorities(name: &str, text: &str) -> String {
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "
---
apiVersion: v1
kind: ConfigMap
metadata: {{ name: {name}, namespace: shop }}
data:
  ca.crt: |
{indented}"
    )
}

fn https(name: &str, port: u16) -> String {
    format!("{{ name: {name}, port: {port}, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: c }}] }} }}")
}

fn asking(listeners: &str, frontend: &str) -> String {
    gateway("edge", listeners)
        .replace("listeners:", &format!("tls: {{ frontend: {{ {frontend} }} }}, listeners:"))
}

fn validation(references: &str, mode: &str) -> String {
    format!("{{ validation: {{ caCertificateRefs: [{references}]{mode} }} }}")
}

fn map(name: &str) -> String {
    format!("{{ group: \"\", kind: ConfigMap, name: {name} }}")
}

#[test]
fn each_listener_has_what_its_port_asks_or_says_why_not() {
    let made = rcgen::generate_simple_self_signed(vec!["ca".into()]).unwrap();
    let certificate = made.cert.pem();
    let per_port =
        |port: u16, reference: &str| format!("{{ port: {port}, tls: {} }}", validation(reference, ""));
    let frontend = format!(
        "default: {}, perPort: [{}, {}, {}, {}, {{ port: 1006, tls: {{}} }}]",
        validation(&map("ca"), ""),
        per_port(1002, &map("none")),
        per_port(1003, "{ group: \"\", kind: Service, name: web }"),
        per_port(1004, "{ group: \"\", kind: ConfigMap, name: ca, namespace: bank }"),
        per_port(1005, &format!("{}, {}", map("broken"), map("ca"))),
    );
    let listeners: Vec<String> =
        (1..=6).map(|n| https(&format!("l{n}"), 1000 + n)).chain([HTTP.to_owned()]).collect();
    let compiled = world(&[
        asking(&listeners.join(", "), &frontend),
        authorities("ca", &certificate),
        authorities("broken", "hello"),
        gateways::secret(&certificate, &made.signing_key.serialize_pem()),
    ]);
    for (at, accepted, resolved) in [
        (0, "True/Accepted", "True/ResolvedRefs"),
        (1, "False/NoValidCACertificate", "False/InvalidCACertificateRef"),
        (2, "False/NoValidCACertificate", "False/InvalidCACertificateKind"),
        (3, "False/NoValidCACertificate", "False/RefNotPermitted"),
        (4, "True/Accepted", "False/InvalidCACertificateRef"),
        (5, "True/Accepted", "True/ResolvedRefs"),
        (6, "True/Accepted", "True/ResolvedRefs"),
    ] {
        let found = conditions(&listener(&compiled, "edge", at));
        for expected in [format!("Accepted={accepted}"), format!("ResolvedRefs={resolved}")] {
            assert!(found.contains(&expected), "{at}: {found:?} has no {expected}");
        }
        let programmed = found.contains(&"Programmed=True/Programmed".into());
        assert_eq!(programmed, accepted == "True/Accepted", "{at}: {found:?}");
    }
    let asked: Vec<(u16, usize)> = compiled
        .binds
        .iter()
        .filter_map(|bind| Some((bind.key.port, bind.listeners[0].clients.as_ref()?.roots.len())))
        .collect();
    assert_eq!(asked, [(1001, 1), (1005, 1)]);
    assert!(!conditions(&status(&compiled, "Gateway", "edge")).iter().any(|c| c.starts_with("Insecure")));
}

#[test]
fn letting_in_everybody_is_pointed_out() {
    let certificate = rcgen::generate_simple_self_signed(vec!["ca".into()]).unwrap().cert.pem();
    let frontend = format!("default: {}", validation(&map("ca"), ", mode: AllowInsecureFallback"));
    let compiled = world(&[asking(&https("s", 443), &frontend), authorities("ca", &certificate)]);
    let edge = conditions(&status(&compiled, "Gateway", "edge"));
    assert!(edge.contains(&"InsecureFrontendValidationMode=True/ConfigurationChanged".into()), "{edge:?}");
    assert!(compiled.binds[0].listeners[0].clients.as_ref().unwrap().insecure_fallback);
}
