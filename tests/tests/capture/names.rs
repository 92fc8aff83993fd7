//! Names, as unmodified clients look them up: by the C library with its search domains, and by `dig`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;
use tombolo_tests::{Running, wait_until};

use crate::net;
use crate::world::{LONG, World};

/// Knows two names, one of them with more records than fit into a packet, and writes down what it is asked.
const RESOLVER: &str = r#"
import socket, struct, sys, threading
def answer(q, udp):
    labels, at = [], 12
    while q[at]:
        labels.append(q[at + 1:at + 1 + q[at]].decode()); at += q[at] + 1
    name, kind = ".".join(labels), struct.unpack("!H", q[at + 1:at + 3])[0]
    asked.write("%s %s\n" % (name, "udp" if udp else "tcp"))
    found = []
    if name == "outside.test" and kind == 1: found = [bytes([192, 0, 2, 1])]
    if name == "big.test" and kind == 16: found = [bytes([200]) + b"%0200d" % n for n in range(30)]
    flags = 0x8180 if name in ("outside.test", "big.test") else 0x8183
    if udp and len(found) > 1: found, flags = [], flags | 0x0200
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data for data in found)
    return q[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0) + q[12:at + 5] + records
def serve(tcp):
    with tcp, tcp.makefile("rb") as messages:
        while length := messages.read(2):
            said = answer(messages.read(struct.unpack("!H", length)[0]), False)
            tcp.sendall(struct.pack("!H", len(said)) + said)
def accept():
    while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
listener = socket.create_server(("10.77.0.1", 53))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("10.77.0.1", 53))
asked = open(sys.argv[1], "w", buffering=1)
threading.Thread(target=accept, daemon=True).start()
while True:
    question, client = udp.recvfrom(4096)
    udp.sendto(answer(question, True), client)
"#;

const SEARCH: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

/// What is asked of the resolver outside of the mesh.
pub struct Resolver {
    asked: PathBuf,
    _running: Running,
}

impl Resolver {
    pub fn start(world: &World) -> Self {
        let (script, asked) = (world.path("resolver.py"), world.path("asked"));
        fs::write(&script, RESOLVER).unwrap();
        let line = ["python3", script.to_str().unwrap(), asked.to_str().unwrap()];
        let running = world.net.start("hub", &line);
        wait_until("a resolver", LONG, || asked.exists());
        Self { asked, _running: running }
    }

    /// The questions so far.
    pub fn asked(&self) -> String {
        fs::read_to_string(&self.asked).unwrap()
    }
}

/// Both machines are hosts of the headless service `each`, and the client's names may be looked up outside.
fn world() -> Option<(World, Resolver, Running)> {
    let mut world = World::new()?;
    let resolver = Resolver::start(&world);
    let script = world.path("app.py");
    let app = world.net.start("client", &["python3", script.to_str().unwrap()]);
    let host = ["--label", "group=each"];
    world.captured(&[&host[..], &["--resolver", "10.77.0.1:53"]].concat(), &host, &[]);
    net::resolv_conf(&world.net, "client", SEARCH);
    wait_until("both hosts", LONG, || {
        dig(&world, &["+short", "each.shop.svc.cluster.local"]).lines().count() == 2
    });
    Some((world, resolver, app))
}

fn dig(world: &World, more: &[&str]) -> String {
    world.net.text("client", &[&["dig", "+tries=1", "+time=20"], more].concat())
}

/// All addresses of names by `getaddrinfo`; none: there is no such name.
fn addresses(world: &World, names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let script = "import json, socket, sys\n\
        def find(name):\n\
        \x20   try: return sorted({found[4][0] for found in socket.getaddrinfo(name, 80)})\n\
        \x20   except socket.gaierror as error:\n\
        \x20       assert error.errno in (socket.EAI_NONAME, socket.EAI_NODATA), error\n\
        \x20       return []\n\
        print(json.dumps({name: find(name) for name in sys.argv[1:]}))";
    let said = world.net.text("client", &[&["python3", "-c", script], names].concat());
    serde_json::from_str(&said).unwrap()
}

#[test]
fn names_are_found_with_search_domains_and_nothing_of_the_mesh_is_asked_outside() {
    let Some((world, resolver, _app)) = world() else { return };
    let short = ["server", "server.shop", "server.shop.svc", "server.shop.svc.cluster.local"];
    let others = ["nobody", "nobody.shop", "outside.test", "nobody.test", "each.shop.svc.clusterset.local"];
    let found = addresses(&world, &[&short[..], &others].concat());
    let server = &found["server"];
    assert!(
        server.len() == 2 && server[0].starts_with("240.240.") && server[1].starts_with("fd74:"),
        "{found:?}"
    );
    assert!(short.iter().all(|name| found[*name] == *server), "{found:?}");
    assert_eq!(found["outside.test"], ["192.0.2.1"]);
    assert_eq!(found["each.shop.svc.clusterset.local"].len(), 4, "{found:?}");
    assert!(["nobody", "nobody.shop", "nobody.test"].iter().all(|name| found[*name].is_empty()), "{found:?}");
    let asked = resolver.asked();
    assert!(asked.contains("outside.test udp") && asked.contains("nobody.test udp"), "{asked}");
    assert!(!asked.contains("cluster"), "{asked}");

    // What exists without such a record, and what does not exist; by UDP and TCP.
    for more in ["+notcp", "+tcp"] {
        let none = dig(&world, &[more, "server.shop.svc.cluster.local", "TXT"]);
        assert!(none.contains("status: NOERROR") && none.contains("ANSWER: 0, AUTHORITY: 1"), "{none}");
        let nobody = dig(&world, &[more, "NOBODY.shop.svc.cluster.local"]);
        assert!(nobody.contains("status: NXDOMAIN") && nobody.contains(";NOBODY.shop.svc"), "{nobody}");
    }
    let version = dig(&world, &["+short", "dns-version.clusterset.local", "TXT"]);
    assert_eq!(version.trim(), "\"1.0.0\"");
    assert_eq!(dig(&world, &["+short", "-x", &server[0]]).trim(), "server.shop.svc.cluster.local.");
    assert_eq!(dig(&world, &["+short", "-x", &server[1]]).trim(), "server.shop.svc.cluster.local.");

    // More than a packet holds: asked again by TCP, there and here.
    let cut = dig(&world, &["+ignore", "big.test", "TXT"]);
    assert!(cut.lines().any(|line| line.contains("flags:") && line.contains(" tc ")), "{cut}");
    assert!(dig(&world, &["big.test", "TXT"]).contains("ANSWER: 30,"));
    assert!(resolver.asked().contains("big.test tcp"), "{}", resolver.asked());
}

#[test]
fn each_host_of_a_headless_service_is_called_by_its_name_over_mutual_tls() {
    let Some((mut world, _resolver, _app)) = world() else { return };
    let frames = world.watch("server");
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let srv = |name: &str| sorted(dig(&world, &["+short", &format!("_web._tcp.{name}"), "SRV"]));
    let expected = ["client", "server"].map(|host| format!("0 100 8080 {host}.each.shop.svc.cluster.local."));
    assert_eq!(srv("each.shop.svc.cluster.local"), expected);
    let expected =
        ["client", "server"].map(|host| format!("0 100 8080 {host}.east.each.shop.svc.clusterset.local."));
    assert_eq!(srv("each.shop.svc.clusterset.local"), expected);

    // By the workload's port, as in Kubernetes, and by the service's; in both scopes, both families.
    let hosts = [
        ("server", "server.each", "cluster"),
        ("client", "client.each", "cluster"),
        ("server", "server.east.each.shop.svc.clusterset.local", "clusterset"),
    ];
    for (number, (host, name, scope)) in hosts.into_iter().enumerate() {
        for (family, port) in [("-4", 8080), ("-6", 8080), ("-4", 80)] {
            let path = format!("/hidden-host-{number}{family}-{port}");
            for _ in 0..4 {
                let (status, body) = world.curl(&[family, &format!("http://{name}:{port}{path}")]);
                assert!(
                    status == 200 && body.contains("spiffe://east.test/ns/shop/sa/client"),
                    "{name} {body}"
                );
            }
            let called = |line: &Value| line["path"] == *path && line["direction"] == "outbound";
            wait_until("four lines in the access log", LONG, || world.lines("client", called).len() == 4);
            for line in world.lines("client", called) {
                assert_eq!(line["endpoint"], format!("east.test/shop/{host}/8080"), "{name}: that one alone");
                assert_eq!(line["service"], format!("{scope}/shop/each"));
            }
        }
    }
    assert!(!crate::world::contains(&frames, "hidden-host"), "it crossed the wire in plaintext");
    // A port that it does not serve.
    assert_eq!(world.curl(&["http://server.each:81/"]).0, 0);
}
