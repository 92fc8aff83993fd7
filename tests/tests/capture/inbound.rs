//! What comes in, by document: modes of ports, health checks and limits, followed by a sidecar that runs.

use std::thread;

use tombolo_tests::wait_until;

use crate::world::{LONG, World};

fn policy(inbound: &str) -> String {
    format!(
        "
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: server, namespace: shop }}
spec:
  targetRefs: [{{ kind: Service, name: server }}]
  inbound: {{ {inbound} }}
"
    )
}

/// Who is greeted on a port where the server speaks first.
fn greeted(world: &World) -> bool {
    let script = "import socket; print(socket.create_connection(('10.77.0.3', 7000), 20).recv(100))";
    let said = world.net.output("hub", &["python3", "-c", script]).stdout;
    String::from_utf8_lossy(&said).contains("220 greetings")
}

#[test]
fn a_document_opens_and_closes_ports_of_a_sidecar_that_runs() {
    let Some(mut world) = World::new() else { return };
    world.captured(&[], &["--admin", "127.0.0.1:15000"], &[]);
    let hub = |path: &str| world.curl_in("hub", &[&format!("http://10.77.0.3:8080{path}")]).0;
    // On a strict port without health checks nothing is waited for.
    assert_eq!(hub("/"), 0);
    assert!(!greeted(&world));

    world.apply(&policy(
        "mode: permissive, ports: [{ port: 7000, mode: strict }, { port: 25, mode: strict }]",
    ));
    assert_eq!(hub("/"), 200);
    assert!(!greeted(&world), "strict by port");
    let shown = world.curl_in("server", &["http://127.0.0.1:15000/config"]).1;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let ports = |mode: &str| {
        let ports = shown["inbound"]["ports"].as_array().unwrap().iter();
        ports.filter(|port| port["mode"] == mode && port["policy"] == "shop/server").count()
    };
    assert_eq!((ports("permissive"), ports("strict")), (2, 1), "{shown}");

    world.apply(&policy("mode: strict, ports: [{ port: 7000, mode: permissive }], probePaths: [/healthz]"));
    assert_eq!((hub("/"), hub("/healthz")), (403, 200));
    assert!(!greeted(&world), "port 25 leads there as well, and is strict");
    world.apply(&policy("mode: permissive, probePaths: [/healthz]"));
    assert!(greeted(&world));
    // However late a client begins, on a port for HTTP its requests are judged as such.
    let late = "import socket, time; s = socket.create_connection(('10.77.0.3', 8080), 20); time.sleep(0.3); \
                s.sendall(b'GET /late HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n'); print(s.recv(100))";
    assert!(world.net.text("hub", &["python3", "-c", late]).contains("200 OK"));
    world.logged("server", |line| line["path"] == "/late" && line["status"] == 200);
    // The mesh is never asked.
    assert_eq!(world.curl(&["http://server.shop.svc.cluster.local/"]).0, 200);
}

#[test]
fn what_a_workload_takes_at_a_time_is_bounded_by_document() {
    let Some(mut world) = World::new() else { return };
    world.captured(&[], &[], &[]);
    let ask = |path: &str| world.curl(&[&format!("http://server.shop.svc.cluster.local{path}")]).0;
    world.apply(&policy("maxRequests: 1"));
    thread::scope(|scope| {
        let held = scope.spawn(|| ask("/hold"));
        wait_until("a request that is one too many", LONG, || ask("/other") == 503);
        world.logged("server", |line| line["reason"] == "policy_requests" && line["status"] == 503);
        assert_eq!(world.curl_in("server", &["http://127.0.0.1:8080/release"]).0, 200);
        assert_eq!(held.join().unwrap(), 200, "the one in flight is not touched");
    });
    wait_until("room again", LONG, || ask("/other") == 200);

    // A raw connection counts as a request. Its place may be free only a moment after an answer.
    let script = "
import socket, sys
def greeted():
    global s
    try:
        s = socket.create_connection(('server.shop.svc.cluster.local', 7000), 20)
        return s.recv(100)
    except OSError:
        return None
while not greeted(): pass
sys.stdin.readline()";
    let mut first = world.net.command("client", "python3");
    let first = first.args(["-c", script]).stdin(std::process::Stdio::piped());
    let first = tombolo_tests::Running::start(first.stdout(std::process::Stdio::null()));
    wait_until("one too many", LONG, || ask("/other") == 503);
    drop(first);
    wait_until("room again", LONG, || ask("/other") == 200);
}
