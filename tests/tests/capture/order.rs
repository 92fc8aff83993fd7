//! Who starts and who ends first: the application is never without its sidecar.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    time::{Duration, Instant},
};

use tombolo_tests::wait_until;

use crate::world::{LONG, World};

const SERVER: &str = "http://server.shop.svc.cluster.local";

/// An application that, told to end, closes its port, and then calls the server for four seconds, each time anew. What went wrong
/// is in its report.
const FAREWELL: &str = r#"
import os, signal, socket, sys, time, urllib.request
report, done = sys.argv[1], False
def end(*_):
    global done
    done = True
signal.signal(signal.SIGTERM, end)
listener = socket.create_server(("0.0.0.0", 8080))
listener.settimeout(0.05)
while not done:
    try: listener.accept()[0].close()
    except socket.timeout: pass
listener.close()
wrong, until, n = [], time.monotonic() + 4, 0
while time.monotonic() < until:
    n += 1
    try: urllib.request.urlopen("http://server.shop.svc.cluster.local/farewell/%d" % n, timeout=10).read()
    except Exception as error: wrong.append("%d: %r" % (n, error))
    time.sleep(0.1)
with open(report + ".new", "w") as file: file.write("%d calls; %s" % (n, "; ".join(wrong) or "all well"))
os.replace(report + ".new", report)
"#;

#[test]
fn an_application_is_started_when_its_sidecar_is_ready() {
    let Some(mut world) = World::new() else { return };
    world.captured(&["--admin", "127.0.0.1:15000"], &[], &[]);
    world.stop("client-sidecar");
    assert_eq!(world.curl(&[SERVER]).0, 0, "without its sidecar it reaches nobody");
    let binary = world.path("tombolo");
    let wait = [binary.to_str().unwrap(), "sidecar", "wait", "--admin", "127.0.0.1:15000"];
    let given_up = world.net.output("client", &[&wait[..], &["--timeout", "1", "--", "true"]].concat());
    let said = String::from_utf8_lossy(&given_up.stderr);
    assert!(!given_up.status.success() && said.contains("not ready after 1 s"), "{said}");

    let first_call = format!("ulimit -Sn; exec curl -sS -w '%{{http_code}}' {SERVER}");
    let first_call = format!("ulimit -Sn 700; exec {} -- sh -c \"{first_call}\"", wait.join(" "));
    let mut command = world.net.command("client", "sh");
    world.begin("first-call", command.args(["-c", &first_call]));
    world.sidecar("client", &["8080=http"], &["--capture", "--admin", "127.0.0.1:15000"]);
    wait_until("the first call", LONG, || {
        fs::read_to_string(world.path("first-call.log")).is_ok_and(|said| said.ends_with("200"))
    });
    let said = fs::read_to_string(world.path("first-call.log")).unwrap();
    assert_eq!(said.lines().next(), Some("700"), "as many open files as it was given");
}

#[test]
fn a_sidecar_that_is_told_to_end_with_its_application_outlives_it() {
    let Some(mut world) = World::new() else { return };
    world.captured(&["--outlive-app"], &[], &[]);
    let report = world.path("report");
    world.program("client", "python3", "farewell.py", FAREWELL, &[report.to_str().unwrap()]);
    let listens = "import socket; socket.create_connection(('127.0.0.1', 8080), 5)";
    let listens = || world.net.output("client", &["python3", "-c", listens]).status.success();
    wait_until("an application", LONG, listens);
    let begun = Instant::now();
    world.signal("client-sidecar", "TERM");
    world.signal("client-farewell", "TERM");
    wait_until("a report", LONG, || report.exists());
    let report = fs::read_to_string(report).unwrap();
    assert!(report.ends_with("all well"), "{report}");
    // The second signal would end it at once: it has begun to go by itself.
    world.ended("client-sidecar");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(25), "{took:?}");
}

#[test]
fn a_service_manager_is_told_when_a_sidecar_is_ready_and_when_it_goes() {
    let Some(mut world) = World::new() else { return };
    let path = world.path("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    manager.set_read_timeout(Some(LONG)).unwrap();
    let told = || {
        let mut text = [0; 100];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    world.manager = Some(path);
    world.sidecar("server", &["8080=http"], &["--capture"]);
    let ready = told();
    assert!(ready.starts_with("READY=1\nMAINPID="), "{ready}");
    world.stop("server-sidecar");
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn a_sidecar_that_has_nothing_to_do_holds_little() {
    let Some(mut world) = World::new() else { return };
    world.captured(&[], &[], &[]);
    for name in ["client-sidecar", "server-sidecar"] {
        let held = world.memory(name);
        eprintln!("{name} holds {held} KiB");
        // With the pages of its file, which sidecars of one machine share, that is the 20 MiB that it is designed for.
        assert!(held < 10 * 1024, "{name} holds {held} KiB");
    }
}
