//! What breaks under load, in a mesh of two servers: nothing of it may cost a request that may be tried again.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;
use tombolo_tests::wait_until;

use crate::world::{LONG, World};

/// Each failure comes so often.
const ROUNDS: usize = 3;
/// However bad it is, nobody waits longer: three tries of half a second, on a busy machine.
const SLOWEST: f64 = 8000.0;

const POLICY: &str = "
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: server, namespace: shop }
spec:
  targetRefs: [{ kind: Service, name: server }]
  timeouts: { request: 7s, backendRequest: 500ms }
";

/// Four callers, each with a connection that it keeps for fifty requests. Says how far it is in one file, and what it has seen
/// at the end in another.
const CALLERS: &str = r#"
import http.client, json, os, sys, threading, time
progress, stop, report = sys.argv[1:]
asked, failed, begun_only, slowest, lock = 0, [], 0, 0.0, threading.Lock()
def call():
    global asked, begun_only, slowest
    connection, used = None, 0
    while not os.path.exists(stop):
        begun = time.monotonic()
        try:
            if connection is None:
                connection, used = http.client.HTTPConnection("server.shop.svc.cluster.local", timeout=30), 0
            connection.request("GET", "/load")
            response = connection.getresponse()
            body = response.read()
            problem = None if response.status == 200 else "%d %r" % (response.status, body)
        except http.client.IncompleteRead:
            with lock: begun_only += 1
            problem, connection = None, None
        except Exception as error:
            problem, connection = repr(error), None
        took, used = time.monotonic() - begun, used + 1
        if used == 50: connection = None
        with lock:
            asked += 1
            slowest = max(slowest, took * 1000)
            if problem: failed.append("%s %s after %d ms" % (time.strftime("%H:%M:%S"), problem, took * 1000))
            if asked % 20 == 0:
                with open(progress + ".new", "w") as file: file.write(str(asked))
                os.replace(progress + ".new", progress)
        time.sleep(0.005)
threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with open(report + ".new", "w") as file: json.dump({"asked": asked, "failed": failed, "begun_only": begun_only, "slowest": slowest}, file)
os.replace(report + ".new", report)
"#;

/// Asks the server before it answers, and, told to end, answers what it has begun with.
const MIDDLE: &str = r#"
import http.server, os, signal, threading, time, urllib.request
class Middle(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    running, lock = 0, threading.Lock()
    def do_GET(self):
        with Middle.lock: Middle.running += 1
        try:
            time.sleep(0.05)
            try: status, body = 200, urllib.request.urlopen("http://server.shop.svc.cluster.local/load", timeout=10).read()
            except Exception as error: status, body = 502, repr(error).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        finally:
            with Middle.lock: Middle.running -= 1
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Middle)
def finish():
    server.shutdown()
    server.server_close()
    until = time.monotonic() + 5
    while Middle.running and time.monotonic() < until: time.sleep(0.01)
    os._exit(0)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=finish).start())
threading.Thread(target=server.serve_forever, daemon=True).start()
while True: signal.pause()
"#;

const MIDDLE_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: middle, namespace: shop }
spec:
  selector: { app: middle }
  ports: [{ name: web, port: 80, targetPort: http }]
";

/// Two servers under load.
struct Scene {
    world: World,
    progress: PathBuf,
}

impl Scene {
    fn new() -> Option<Self> {
        let mut world = World::with(&["client", "server", "second"])?;
        for machine in ["server", "second"] {
            world.start_app(machine);
            world.start_sidecar(machine, "server", &["8080=http"], &["--capture"]);
        }
        world.start_sidecar("client", "client", &["9=none"], &["--capture"]);
        for machine in ["client", "server", "second"] {
            world.init(machine, &[]);
        }
        world.apply(POLICY);
        let scene = Self::loaded(world, "server");
        for machine in ["server", "second"] {
            scene.serves_again(machine);
        }
        Some(scene)
    }

    /// A service with two workloads that call a server, under load.
    fn with_middle() -> Option<Self> {
        let mut world = World::with(&["client", "server", "one", "two"])?;
        world.start_app("server");
        world.start_sidecar("server", "server", &["8080=http"], &["--capture"]);
        world.start_sidecar("client", "client", &["9=none"], &["--capture"]);
        world.apply(MIDDLE_SERVICE);
        for machine in ["client", "server", "one", "two"] {
            world.init(machine, &[]);
        }
        for machine in ["one", "two"] {
            Self::start_middle(&mut world, machine);
        }
        let scene = Self::loaded(world, "middle");
        for machine in ["one", "two"] {
            scene.serves_again(machine);
        }
        Some(scene)
    }

    fn start_middle(world: &mut World, machine: &str) {
        world.start_sidecar(machine, "middle", &["8080=http"], &["--capture"]);
        world.program(machine, "python3", "middle.py", MIDDLE, &[]);
    }

    /// The client calls a service from now on.
    fn loaded(mut world: World, service: &str) -> Self {
        world.reached(|| world.curl(&[&format!("http://{service}.shop.svc.cluster.local/first")]));
        let (progress, stop, report) = (world.path("progress"), world.path("stop"), world.path("report"));
        let files = [&progress, &stop, &report].map(|path| path.to_str().unwrap().to_string());
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let callers = CALLERS.replace("server.shop", &format!("{service}.shop"));
        world.program("client", "python3", "callers.py", &callers, &files);
        Self { world, progress }
    }

    fn asked(&self) -> u64 {
        fs::read_to_string(&self.progress).unwrap_or_default().parse().unwrap_or(0)
    }

    /// Waits until so many more requests were answered.
    fn goes_on(&self, more: u64) {
        let wanted = self.asked() + more;
        wait_until("calls go on", LONG, || self.asked() >= wanted);
    }

    /// Waits until requests come to a machine again.
    fn serves_again(&self, machine: &str) {
        let log = || fs::read(self.world.path(machine).join("access")).unwrap_or_default();
        let before = log().len();
        let served = || {
            let new = String::from_utf8_lossy(log().get(before..).unwrap_or_default()).into_owned();
            new.lines().filter(|line| line.contains("\"/load\"") && line.contains("\"status\":200")).count()
        };
        wait_until(&format!("calls come to {machine} again"), LONG, || served() > 5);
    }

    /// Ends the load: nothing may have failed. An answer of which the first part is with its caller cannot be had from
    /// another server: so many may have been cut.
    fn end(self, cut: u64) {
        fs::write(self.world.path("stop"), "").unwrap();
        let report = self.world.path("report");
        wait_until("a report", LONG, || report.exists());
        let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
        let (asked, slowest) = (&report["asked"], report["slowest"].as_f64().unwrap());
        let (failed, begun) = (report["failed"].as_array().unwrap(), report["begun_only"].as_u64().unwrap());
        eprintln!("{} of {asked} requests failed, {begun} were cut, slowest {slowest:.0} ms", failed.len());
        let odd = self.world.lines("client", |line| line["path"] == "/load" && line["status"] != 200);
        assert!(failed.is_empty(), "{failed:#?}\n{:#?}", &odd[..odd.len().min(5)]);
        assert!(begun <= cut, "{begun} were cut");
        assert!(slowest < SLOWEST, "one took {slowest} ms");
    }
}

#[test]
fn endpoints_that_freeze_or_are_killed_cost_no_request() {
    let Some(mut scene) = Scene::new() else { return };
    for _ in 0..ROUNDS {
        for process in ["second-app", "second-sidecar"] {
            scene.world.signal(process, "STOP");
            scene.goes_on(200);
            scene.world.signal(process, "CONT");
            scene.serves_again("second");
        }
        scene.world.kill("second-app");
        scene.goes_on(200);
        scene.world.start_app("second");
        scene.serves_again("second");
        scene.world.kill("second-sidecar");
        scene.goes_on(200);
        scene.world.start_sidecar("second", "server", &["8080=http"], &["--capture"]);
        scene.serves_again("second");
    }
    scene.end(2 * ROUNDS as u64);
}

#[test]
fn partitions_cost_no_request() {
    let Some(scene) = Scene::new() else { return };
    for _ in 0..ROUNDS {
        // Packets that vanish.
        let drop = |verb| {
            for direction in ["INPUT", "OUTPUT"] {
                scene.world.net.text("second", &["iptables", "-w", verb, direction, "-j", "DROP"]);
                scene.world.net.text("second", &["ip6tables", "-w", verb, direction, "-j", "DROP"]);
            }
        };
        drop("-A");
        scene.goes_on(200);
        drop("-D");
        scene.serves_again("second");
        // A cable that is pulled.
        scene.world.net.text("hub", &["ip", "link", "set", "to-second", "down"]);
        scene.goes_on(200);
        scene.world.net.text("hub", &["ip", "link", "set", "to-second", "up"]);
        scene.serves_again("second");
    }
    scene.end(2 * ROUNDS as u64);
}

#[test]
fn rolling_restarts_cost_no_request() {
    let Some(mut scene) = Scene::new() else { return };
    for _ in 0..ROUNDS {
        for machine in ["server", "second"] {
            scene.world.stop(&format!("{machine}-app"));
            scene.goes_on(50);
            scene.world.start_app(machine);
            scene.serves_again(machine);

            let begun = Instant::now();
            scene.world.stop(&format!("{machine}-sidecar"));
            assert!(begun.elapsed() < Duration::from_secs(20), "a drain without anything to wait for");
            scene.goes_on(50);
            scene.world.start_sidecar(machine, "server", &["8080=http"], &["--capture"]);
            scene.serves_again(machine);
        }
        scene.world.stop("controller");
        scene.goes_on(100);
        scene.world.start_controller();
        scene.goes_on(100);
    }
    // What is said now is heard by everybody.
    scene.world.apply(&POLICY.replace("7s", "6s"));
    scene.end(0);
}

#[test]
fn callers_that_are_replaced_with_their_sidecars_cost_no_request() {
    let Some(mut scene) = Scene::with_middle() else { return };
    for _ in 0..ROUNDS {
        for machine in ["one", "two"] {
            // Both are told at the same time, as in a pod.
            for process in ["sidecar", "middle"] {
                scene.world.signal(&format!("{machine}-{process}"), "TERM");
            }
            for process in ["middle", "sidecar"] {
                scene.world.ended(&format!("{machine}-{process}"));
            }
            scene.goes_on(50);
            Scene::start_middle(&mut scene.world, machine);
            scene.serves_again(machine);
        }
    }
    scene.end(0);
}
