//! Capture, with nothing changed in the applications: real clients and servers in network namespaces, each behind the
//! rules of `tombolo sidecar init`. Takes root, iproute2, nftables, iptables, Python with
//! grpcio, Node and Redis.
#![allow(clippy::unwrap_used)]

mod clients;
mod failures;
mod inbound;
mod mark;
mod names;
mod net;
mod order;
mod rules;
mod world;

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use tombolo_tests::wait_until;
use world::{LONG, World, contains};

const CLIENT: &str = "URI=spiffe://east.test/ns/shop/sa/client";

#[test]
fn unmodified_programs_meet_by_name_over_mutual_tls() {
    let Some(mut world) = World::new() else { return };
    world.captured(&[], &["--permissive-port", "8080"], &[]);
    let frames = world.watch("server");

    // The control: from the hub, which captures nothing, bytes are seen as they are.
    let (status, body) = world.curl_in("hub", &["http://10.77.0.3:8080/clearly-seen-marker"]);
    assert_eq!((status, body.contains("caller=None")), (200, true), "{body}");
    wait_until("a marker on the wire", LONG, || contains(&frames, "clearly-seen-marker"));

    // curl, by IPv4 and IPv6.
    for family in ["-4", "-6"] {
        let (status, body) = world.curl(&[family, "http://server.shop.svc.cluster.local/hidden-curl-marker"]);
        assert_eq!(status, 200, "{family} {body}");
        assert!(body.contains("GET /hidden-curl-marker") && body.contains(CLIENT), "{family} {body}");
    }
    // Python.
    let script = "import urllib.request as r; \
                  print(r.urlopen('http://server.shop.svc.cluster.local/hidden-python-marker', timeout=20).read())";
    let said = world.net.text("client", &["python3", "-c", script]);
    assert!(said.contains("hidden-python-marker") && said.contains(CLIENT), "{said}");
    // Redis: bytes that the mesh does not parse.
    let redis = |line: &[&str]| {
        let host = ["redis-cli", "-h", "server.shop.svc.cluster.local"];
        world.net.text("client", &[&host, line].concat())
    };
    assert_eq!(redis(&["set", "key", "hidden-redis-marker"]).trim(), "OK");
    assert_eq!(redis(&["get", "key"]).trim(), "hidden-redis-marker");
    // On a port of which nobody says so, a server that speaks first is waited for as long as it takes to get there.
    let script = "import socket, time\ndef greeted():\n    begun = time.monotonic()\n    \
                  s = socket.create_connection(('server.shop.svc.cluster.local', 7000), 20)\n    \
                  s.recv(1)\n    return time.monotonic() - begun\n\
                  print(min(greeted() for _ in range(20)))";
    let fastest: f64 = world.net.text("client", &["python3", "-c", script]).trim().parse().unwrap();
    eprintln!("greeted after {:.1} ms", fastest * 1e3);
    assert!(fastest < 0.05, "{fastest} s");
    // A protocol in which the server speaks first, on its well-known port and on another.
    for port in ["25", "7000"] {
        let script = format!(
            "import socket; s = socket.create_connection(('server.shop.svc.cluster.local', {port}), 20); \
             print(s.recv(100)); s.sendall(b'hidden-talk-marker'); print(s.recv(100))"
        );
        let said = world.net.text("client", &["python3", "-c", &script]);
        assert!(said.contains("220 greetings") && said.contains("you said hidden-talk-marker"), "{said}");
    }

    let seen = ["hidden-curl", "hidden-python", "hidden-redis", "hidden-talk", "server.shop", "shop.svc"];
    for marker in seen {
        assert!(!contains(&frames, marker), "{marker} crossed the wire in plaintext");
    }
    let from_client = |line: &serde_json::Value| line["caller"] == "spiffe://east.test/ns/shop/sa/client";
    world.logged("server", |line| from_client(line) && line["path"] == "/hidden-curl-marker");
    world.logged("server", |line| {
        from_client(line) && line["protocol"] == "TCP" && line["direction"] == "inbound"
    });
    // Nobody says what these ports speak: requests were told from bytes.
    world.logged("client", |line| {
        line["path"] == "/hidden-curl-marker" && line["service"] == "cluster/shop/server"
    });
    world.logged("client", |line| {
        line["protocol"] == "TCP" && line["endpoint"] == "east.test/shop/server/6379"
    });
}

#[test]
fn what_the_mesh_does_not_know_passes_untouched_or_is_refused() {
    let Some(mut world) = World::new() else { return };
    world.captured(&["--outbound-unknown", "passthrough"], &["--outbound-unknown", "refuse"], &[]);
    let mut outside = world.net.start("hub", &["python3", "-m", "http.server", "8000", "--bind", "::"]);
    let page = |machine: &str, url: &str| world.curl_in(machine, &["-g", "-o", "/dev/null", url]).0;
    wait_until("a server outside of the mesh", LONG, || page("hub", "http://10.77.0.1:8000/") == 200);
    assert_eq!(page("client", "http://10.77.0.1:8000/"), 200);
    assert_eq!(page("client", "http://[fd77::1]:8000/"), 200);
    for to in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        let passed = |line: &serde_json::Value| line["direction"] == "passed" && line["reason"].is_null();
        let all = |line: &serde_json::Value| line["bytes_in"].as_u64() > Some(50);
        world.logged("client", |line| passed(line) && all(line) && line["upstream"] == to);
    }

    // TLS is told by the name that was asked for, which leads nowhere.
    for name in ["ledger.example", "server.shop.svc.cluster.local"] {
        let resolved = format!("{name}:8000:10.77.0.1");
        assert_eq!(world.curl(&["-k", "--resolve", &resolved, &format!("https://{name}:8000/")]).0, 0);
        world.logged("client", |line| line["sni"] == name && line["upstream"] == "10.77.0.1:8000");
    }

    assert_eq!(page("server", "http://10.77.0.1:8000/"), 0, "refused");
    world.logged("server", |line| {
        line["reason"] == "unknown_destination" && line["upstream"] == "10.77.0.1:8000"
    });
    // Virtual addresses are nobody else's: what is not there is refused in either case.
    assert_eq!(page("client", "http://240.240.200.1/"), 0);
    assert_eq!(page("client", "http://server.shop.svc.cluster.local:81/"), 0);
    for to in ["240.240.200.1:80", ":81"] {
        let is_to = |line: &serde_json::Value| line["upstream"].as_str().is_some_and(|at| at.ends_with(to));
        world.logged("client", |line| line["reason"] == "no_service" && is_to(line));
    }
    // What nobody redirected goes nowhere.
    assert_eq!(page("client", "http://127.0.0.1:15001/"), 0);
    world.logged("client", |line| line["reason"] == "not_redirected");
    assert!(outside.child().try_wait().unwrap().is_none());
}

#[test]
fn a_strict_port_takes_the_mesh_and_health_checks_alone() {
    let Some(mut world) = World::new() else { return };
    world.captured(
        &[],
        &["--probe-path", "/healthz", "--permissive-port", "7000"],
        &["--exclude-inbound-port", "22"],
    );
    let hub = |url: &str| world.curl_in("hub", &["-g", url]);
    for host in ["10.77.0.3", "[fd77::3]"] {
        assert_eq!(hub(&format!("http://{host}:8080/")).0, 403, "{host}");
        let (status, body) = hub(&format!("http://{host}:8080/healthz"));
        assert_eq!((status, body.as_str()), (200, "GET /healthz caller=None\n"), "{host}");
    }
    world.logged("server", |line| line["reason"] == "plaintext_refused" && line["status"] == 403);
    // The same server by name, from within the mesh.
    assert_eq!(world.curl(&["http://server.shop.svc.cluster.local/"]).0, 200);
    // Raw bytes: refused on a strict port, let through on a permissive one.
    let redis = world.net.output("hub", &["redis-cli", "-h", "10.77.0.3", "ping"]);
    assert!(!String::from_utf8_lossy(&redis.stdout).contains("PONG"), "{redis:?}");
    world.logged("server", |line| line["reason"] == "plaintext_refused" && line["protocol"] == "TCP");
    let script = "import socket; print(socket.create_connection(('10.77.0.3', 7000), 20).recv(100))";
    assert!(world.net.text("hub", &["python3", "-c", script]).contains("220 greetings"));
    // What is excepted does not come to the sidecar: nobody listens there.
    assert!(
        String::from_utf8_lossy(&world.net.output("hub", &["curl", "-sS", "http://10.77.0.3:22/"]).stderr)
            .contains("Couldn't connect")
    );
}

#[test]
fn rules_can_be_put_in_force_again_and_leave_nothing_behind() {
    let Some(mut world) = World::new() else { return };
    let tables = |world: &World| {
        let text = |program: &str| {
            let lines = world.net.text("client", &[program, "-t", "nat"]);
            lines.lines().filter(|line| line.contains("TOMBOLO")).map(str::to_owned).collect::<Vec<_>>()
        };
        (world.net.text("client", &["nft", "list", "tables"]), text("iptables-save"), text("ip6tables-save"))
    };
    let reached = |world: &World| world.curl(&["http://server.shop.svc.cluster.local/"]).0 == 200;
    world.captured(&[], &[], &[]);
    let ruleset = world.net.text("client", &["nft", "list", "table", "inet", "tombolo"]);
    world.init("client", &[]);
    assert_eq!(
        world.net.text("client", &["nft", "list", "table", "inet", "tombolo"]),
        ruleset,
        "once more is as once"
    );
    assert!(reached(&world));
    for _ in 0..2 {
        world.init("client", &["--undo"]);
    }
    assert_eq!(tables(&world).0.trim(), "");
    assert!(!reached(&world), "nothing is captured any more");

    for _ in 0..2 {
        world.init("client", &["--iptables"]);
    }
    let (_, four, six) = tables(&world);
    let jumps = |lines: &[String]| lines.iter().filter(|line| line.contains("-j TOMBOLO")).count();
    assert_eq!((jumps(&four), jumps(&six)), (2, 2), "{four:?} {six:?}");
    assert!(reached(&world), "by iptables");
    assert_eq!(world.curl(&["-6", "http://server.shop.svc.cluster.local/"]).0, 200);
    // Also by who does not know for which of them they were written.
    for undo in [&["--iptables", "--undo"][..], &["--undo"], &["--undo", "--ipv4-only"]] {
        world.init("client", &["--iptables"]);
        world.init("client", undo);
        let (_, four, six) = tables(&world);
        assert_eq!((four.len(), six.len()), (0, 0), "{undo:?}: {four:?} {six:?}");
    }
    // Nothing is changed by looking.
    let printed = world.init("client", &["--dry-run"]);
    assert!(printed.contains("redirect to :15001") && !reached(&world), "{printed}");
}

#[test]
fn connections_that_were_there_before_the_rules_go_on() {
    let Some(mut world) = World::new() else { return };
    world.sidecar("server", &["7000=talk"], &["--capture"]);
    wait_until("the application listens", LONG, || {
        let knock = "import socket; socket.create_connection(('10.77.0.3', 7000), 5)";
        let mut knocking = world.net.command("hub", "python3");
        knocking.args(["-c", knock]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    let script = "import socket, sys; s = socket.create_connection(('10.77.0.3', 7000), 20); print(s.recv(100)); \
                  sys.stdout.flush(); sys.stdin.readline(); s.sendall(b'after all'); print(s.recv(100))";
    for filter in [&[][..], &["--iptables"]] {
        let mut client = world.net.command("hub", "python3");
        client.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client.spawn().unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("220 greetings"));
        world.init("server", filter);
        client.stdin.take().unwrap().write_all(b"\n").unwrap();
        let said = lines.next().map(Result::unwrap);
        client.wait().unwrap();
        assert!(said.as_ref().is_some_and(|said| said.contains("after all")), "{filter:?}: {said:?}");
        world.init("server", &[filter, &["--undo"]].concat());
    }
}

#[test]
fn a_sidecar_that_is_captured_itself_refuses_the_loop() {
    let Some(mut world) = World::new() else { return };
    world.captured(&[], &[], &[]);
    let mut outside = world.net.start("hub", &["python3", "-m", "http.server", "8000"]);
    wait_until("a server outside of the mesh", LONG, || {
        world.curl_in("hub", &["http://10.77.0.1:8000/"]).0 == 200
    });
    // Rules that except somebody else: the sidecar's own connections come back to it.
    world.init("client", &["--undo"]);
    let binary = world.path("tombolo");
    let line = [binary.to_str().unwrap(), "sidecar", "init", "--user", "4711"];
    world.net.text("client", &line);
    for _ in 0..20 {
        assert_eq!(world.curl(&["http://10.77.0.1:8000/"]).0, 0);
    }
    // The one that is noticed is the second or, where two begin at the same moment, the third.
    let loops = || world.lines("client", |line| line["reason"] == "loop").len();
    wait_until("loops in the access log", LONG, || loops() >= 20);
    let all = world.lines("client", |line| line["direction"] == "passed").len();
    assert!(all <= 100, "{} loops, {all} connections", loops());
    // With the right ones again, all is well.
    world.init("client", &[]);
    assert_eq!(world.curl(&["-o", "/dev/null", "http://10.77.0.1:8000/"]).0, 200);
    assert!(outside.child().try_wait().unwrap().is_none());
}

#[test]
fn without_capture_programs_use_the_http_proxy() {
    let Some(mut world) = World::new() else { return };
    world.sidecar(
        "server",
        &["8080=http", "6379=redis", "7000=talk"],
        &["--capture", "--permissive-port", "8080"],
    );
    world.sidecar("client", &["8080=http"], &["--http-proxy-listen", "127.0.0.1:15002"]);
    let proxied = |more: &[&str]| world.curl(&[&["-x", "http://127.0.0.1:15002"], more].concat());
    let name = "http://server.shop.svc.cluster.local";
    world.reached(|| proxied(&[&format!("{name}/first")]));
    // Absolute form, several requests of one program, and a tunnel.
    let (status, body) = proxied(&[&format!("{name}/a"), &format!("{name}/b")]);
    assert!(status == 200 && body.contains("GET /a") && body.contains("GET /b"), "{body}");
    assert_eq!(body.matches(CLIENT).count(), 2, "{body}");
    let (status, body) = proxied(&["-p", &format!("{name}/tunnel")]);
    assert!(status == 200 && body.contains("GET /tunnel") && body.contains(CLIENT), "{body}");
    let script = format!(
        "import os, urllib.request as r; os.environ['http_proxy'] = 'http://127.0.0.1:15002'; \
         print(r.urlopen('{name}/python', timeout=20).read())"
    );
    let said = world.net.text("client", &["python3", "-c", &script]);
    assert!(said.contains("GET /python") && said.contains(CLIENT), "{said}");
    // A name that is nobody's, a service's port that is none, what is this machine's own, and a cloud's metadata.
    for (url, status) in [
        ("http://nobody.shop.svc.cluster.local/", 404),
        ("http://server.shop.svc.cluster.local:81/", 404),
        ("http://127.0.0.1:15002/", 403),
        ("http://169.254.169.254/latest/meta-data/", 403),
        ("http://[::ffff:169.254.169.254]/", 403),
        ("http://10.77.0.3:8080/elsewhere", 200),
        ("http://10.77.0.3:9/", 502),
    ] {
        for tunnel in [&[][..], &["-p"]] {
            let (found, body) = proxied(
                &[tunnel, &["-g", "-o", "/dev/null", "-w", "%{http_connect}%{http_code}", url]].concat(),
            );
            // The last three digits are the answer's, those before them the proxy's to CONNECT.
            let expected = match (tunnel, status) {
                ([], _) => (status, "000".to_string()),
                (_, 200) => (200, "200".into()),
                _ => (0, status.to_string()),
            };
            assert_eq!((found, body), expected, "{url} {tunnel:?}");
        }
    }
    // Whoever asks it as if it were the server.
    assert_eq!(world.curl(&["http://127.0.0.1:15002/"]).0, 400);
}
