//! A sidecar that runs as its application's user: the kernel tells its connections by their mark.

use serde_json::Value;
use tombolo_tests::wait_until;

use crate::{
    CLIENT,
    names::Resolver,
    world::{LONG, USER, World},
};

const MARK: &str = "0x539";

/// Takes one connection, and says who made it.
const COLLECTOR: &str = "
import socket, sys
peer = socket.create_server(('10.77.0.1', 4317)).accept()[1]
open(sys.argv[1], 'w').write(peer[0])
";

/// A command line as the sidecars' user.
fn as_user<'a>(id: &'a [String; 2], line: &[&'a str]) -> Vec<&'a str> {
    [&["setpriv", &id[0], &id[1], "--clear-groups", "--"], line].concat()
}

#[test]
fn a_sidecar_known_by_its_mark_may_run_as_its_applications_user() {
    let Some(mut world) = World::new() else { return };
    let resolver = Resolver::start(&world);
    let mut outside = world.net.start("hub", &["python3", "-m", "http.server", "8000"]);
    let collected = world.path("collected");
    let _collector = world.net.start("hub", &["python3", "-c", COLLECTOR, collected.to_str().unwrap()]);
    let outside_is = |machine: &str| world.curl_in(machine, &["-o", "/dev/null", "http://10.77.0.1:8000/"]).0;
    wait_until("a server outside of the mesh", LONG, || outside_is("hub") == 200);
    world.known_by = vec!["--mark", MARK];
    let spans = ["--otlp-endpoint", "http://10.77.0.1:4317", "--trace-sampling", "1"];
    let client = [&["--mark", MARK, "--resolver", "10.77.0.1:53"], &spans[..]].concat();
    world.captured(&client, &["--mark", MARK], &[]);

    let id = [format!("--reuid={USER}"), format!("--regid={USER}")];
    let said = |line: &[&str]| world.net.text("client", &as_user(&id, line));
    let body = said(&["curl", "-sS", "-m", "20", "http://server.shop.svc.cluster.local/marked"]);
    assert!(body.contains("GET /marked") && body.contains(CLIENT), "over mutual TLS: {body}");
    assert_eq!(said(&["dig", "+short", "+tries=1", "+time=20", "outside.test"]).trim(), "192.0.2.1");
    assert!(resolver.asked().contains("outside.test"));
    said(&["curl", "-sS", "-m", "20", "-o", "/dev/null", "http://10.77.0.1:8000/"]);
    wait_until("a connection to the collector", LONG, || {
        std::fs::read_to_string(&collected).is_ok_and(|peer| peer == "10.77.0.2")
    });

    // Whatever is captured and not the mesh's has its line: so would connections of the sidecars themselves.
    let passed = |line: &Value| line["direction"] == "passed";
    world.logged("client", |line| passed(line) && line["upstream"] == "10.77.0.1:8000");
    for machine in ["client", "server"] {
        let own = world.lines(machine, |line| passed(line) && line["upstream"] != "10.77.0.1:8000");
        assert!(own.is_empty(), "{machine}: {own:?}");
    }
    assert!(outside.child().try_wait().unwrap().is_none());
}

#[test]
fn a_mark_that_cannot_be_set_is_told_at_the_start() {
    let Some(world) = World::new() else { return };
    let id = [format!("--reuid={USER}"), format!("--regid={USER}")];
    let binary = world.path("tombolo");
    let sidecar =
        [binary.to_str().unwrap(), "sidecar", "--controller", "10.77.0.1:15010", "--workload", "client"];
    let line = [&sidecar[..], &["--app-port", "8080", "--state-dir", "/nowhere", "--mark", MARK]].concat();
    let output = world.net.output("client", &as_user(&id, &line));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("--mark: packets cannot be marked with 0x539"), "{error}");
    assert!(error.contains("CAP_NET_ADMIN"), "{error}");
}
