//! Where Gateways listen, and what their status says of it.

use std::net::IpAddr;

use super::*;
use crate::decide::BindKey;

fn addressed(name: &str, listeners: &str, addresses: &str) -> String {
    gateway(name, listeners).replace("listeners:", &format!("addresses: [{addresses}], listeners:"))
}

fn shown(compiled: &Compiled, gateway: &str) -> Vec<String> {
    let status = status(compiled, "Gateway", gateway);
    let addresses = status["addresses"].as_array().unwrap();
    addresses.iter().map(|address| address["value"].as_str().unwrap().to_string()).collect()
}

/// The Gateways on each socket.
fn sockets(compiled: &Compiled) -> Vec<(Option<IpAddr>, u16, Vec<String>)> {
    let gateways =
        |bind: &crate::decide::Bind| bind.listeners.iter().map(|l| l.gateway.to_string()).collect();
    compiled.binds.iter().map(|bind| (bind.key.address, bind.key.port, gateways(bind))).collect()
}

const HTTPS: &str = "{ name: s, port: 80, protocol: HTTPS, tls: { certificateRefs: [{ name: c }] } }";

#[test]
fn named_addresses_make_sockets() {
    let compiled =
        world(&[addressed("edge", HTTP, "{ value: 127.0.0.1 }, { type: IPAddress, value: \"::1\" }")]);
    let keys: Vec<_> = compiled.binds.iter().map(|bind| bind.key.address.unwrap().to_string()).collect();
    assert_eq!(keys, ["127.0.0.1", "::1"]);
    assert_eq!(shown(&compiled, "edge"), ["127.0.0.1", "::1"]);
    assert!(compiled.binds.iter().all(|bind| compiled.bind(bind.key).is_some()));
    let named = world(&[addressed("edge", HTTP, "{ type: Hostname, value: x.example }")]);
    let edge = conditions(&status(&named, "Gateway", "edge"));
    assert_eq!(edge, ["Accepted=False/UnsupportedAddress", "Programmed=False/AddressNotUsable"]);
    assert!(named.binds.is_empty());
    assert!(shown(&named, "edge").is_empty());
}

#[test]
fn a_gateway_alone_is_everywhere() {
    for addresses in ["", "{ type: IPAddress }", "{ type: IPAddress, value: \"\" }"] {
        let compiled = world(&[addressed("edge", HTTP, addresses)]);
        assert_eq!(shown(&compiled, "edge"), ["0.0.0.0"]);
        assert_eq!(sockets(&compiled), [(None, 80, vec!["shop/edge".into()])]);
    }
    let all = resources(&format!("{CLASS}{}", gateway("edge", HTTP)));
    let place = Place { listens: Some("127.0.0.9".parse().unwrap()), ..Place::default() };
    assert_eq!(shown(&compile_at(&all, &place), "edge"), ["127.0.0.9"]);
}

#[test]
fn gateways_that_share_a_port_share_a_socket_and_have_one_each() {
    let compiled = world(&[gateway("a", HTTP), gateway("b", HTTP), gateway("c", &HTTP.replace("80", "81"))]);
    let (a, b) = (shown(&compiled, "a"), shown(&compiled, "b"));
    for (own, name) in [(&a, "shop/a"), (&b, "shop/b")] {
        let ip: IpAddr = own[0].parse().unwrap();
        assert!(matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 127 && v4.octets()[1] >= 128), "{ip}");
        let bind = compiled.bind(BindKey { address: Some(ip), port: 80 }).unwrap();
        assert_eq!(bind.listeners.iter().map(|l| &*l.gateway).collect::<Vec<_>>(), [name]);
    }
    assert_ne!(a, b);
    let shared = compiled.bind(BindKey { address: None, port: 80 }).unwrap();
    assert_eq!(shared.listeners.iter().map(|l| &*l.gateway).collect::<Vec<_>>(), ["shop/a", "shop/b"]);
    assert_eq!(shown(&compiled, "c"), ["0.0.0.0"]);
    let again = world(&[gateway("b", HTTP), gateway("z", HTTP)]);
    assert_eq!(shown(&again, "b"), b, "an own address stays the same");
}

#[test]
fn on_a_shared_socket_the_oldest_says_what_is_spoken_and_the_others_have_their_own() {
    let compiled = world(&[gateway("a", HTTP), gateway("b", HTTPS)]);
    let shared = compiled.bind(BindKey { address: None, port: 80 }).unwrap();
    assert_eq!(shared.listeners.iter().map(|l| &*l.gateway).collect::<Vec<_>>(), ["shop/a"]);
    let own: IpAddr = shown(&compiled, "b")[0].parse().unwrap();
    assert!(compiled.bind(BindKey { address: Some(own), port: 80 }).is_some());
    assert!(conditions(&listener(&compiled, "b", 0)).contains(&"Conflicted=False/NoConflicts".into()));
}

#[test]
fn a_gateway_steps_aside_for_one_that_names_loopback_or_every_address() {
    let compiled = world(&[gateway("a", HTTP), addressed("b", HTTP, "{ value: 127.0.0.1 }")]);
    assert_ne!(shown(&compiled, "a"), ["0.0.0.0"]);
    assert!(compiled.bind(BindKey { address: None, port: 80 }).is_some());
    let compiled = world(&[gateway("a", HTTP), addressed("b", HTTP, "{ value: 0.0.0.0 }")]);
    assert_ne!(shown(&compiled, "a"), ["0.0.0.0"]);
    assert!(compiled.bind(BindKey { address: None, port: 80 }).is_none(), "that socket is b's alone");
    let compiled = world(&[gateway("a", HTTP), addressed("b", HTTP, "{ value: 127.0.0.2 }")]);
    assert_eq!(shown(&compiled, "a"), ["0.0.0.0"]);
}

#[test]
fn on_an_address_that_two_gateways_name_the_older_says_what_is_spoken() {
    let compiled = world(&[
        addressed("a", HTTP, "{ value: 127.0.0.1 }"),
        addressed("b", HTTP, "{ value: 127.0.0.1 }"),
        addressed("c", HTTPS, "{ value: 127.0.0.1 }"),
    ]);
    let names = vec!["shop/a".to_owned(), "shop/b".to_owned()];
    assert_eq!(sockets(&compiled), [(Some("127.0.0.1".parse().unwrap()), 80, names)]);
    assert!(conditions(&listener(&compiled, "c", 0)).contains(&"Conflicted=True/ProtocolConflict".into()));
}

#[test]
fn of_two_gateways_that_end_tls_for_a_hostname_at_one_address_the_older_one_does() {
    let https = |hostname: &str, certificate: &str| {
        format!(
            "{{ name: s, port: 443, protocol: HTTPS, hostname: {hostname}, tls: {{ certificateRefs: [{{ name: \
             {certificate} }}] }} }}"
        )
    };
    let at = |name: &str, listener: &str| addressed(name, listener, "{ value: 127.0.0.1 }");
    let made = rcgen::generate_simple_self_signed(vec!["x.example".into()]).unwrap();
    let secret = super::gateways::secret(&made.cert.pem(), &made.signing_key.serialize_pem());
    let compiled = world(&[
        secret.clone(),
        secret.replace("name: c,", "name: d,"),
        at("a", &https("x.example", "c")),
        at("b", &https("x.example", "c")),
        at("d", &https("x.example", "d")),
        at("e", &https("y.example", "d")),
        gateway("f", &https("x.example", "d")),
    ]);
    let of = |name: &str| conditions(&listener(&compiled, name, 0)).join(" ");
    for name in ["a", "b", "e", "f"] {
        assert!(of(name).contains("Conflicted=False/NoConflicts"), "{name}: {}", of(name));
    }
    assert!(of("d").contains("Conflicted=True/HostnameConflict"), "{}", of("d"));
    assert!(of("d").contains("Programmed=False/Invalid"), "{}", of("d"));
    let listener = listener(&compiled, "d", 0);
    assert!(
        listener["conditions"].to_string().contains("shop/a"),
        "it says whose the hostname is: {listener}"
    );
}

#[test]
fn addresses_that_were_chosen_are_their_gateways_alone() {
    let compiled = world(&[gateway("a", HTTP), gateway("b", HTTP), gateway("c", &HTTP.replace("80", "81"))]);
    let mut apart: Vec<String> = [shown(&compiled, "a"), shown(&compiled, "b")].concat();
    apart.sort();
    let mut known: Vec<String> = compiled.apart.iter().map(ToString::to_string).collect();
    known.sort();
    assert_eq!(known, apart);
    assert!(world(&[gateway("a", HTTP)]).apart.is_empty());
}

#[test]
fn an_address_that_the_machine_does_not_have_is_told_and_the_others_serve() {
    let all = resources(&format!(
        "{CLASS}{}",
        addressed("edge", HTTP, "{ value: 192.0.2.1 }, { value: 127.0.0.1 }")
    ));
    let place = Place { unusable: ["192.0.2.1".parse().unwrap()].into(), ..Place::default() };
    let compiled = compile_at(&all, &place);
    let edge = conditions(&status(&compiled, "Gateway", "edge"));
    assert_eq!(edge, ["Accepted=True/Accepted", "Programmed=False/AddressNotUsable"]);
    assert_eq!(shown(&compiled, "edge"), ["127.0.0.1"]);
    assert_eq!(compiled.binds.len(), 2, "it may come later");
}
