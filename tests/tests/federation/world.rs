//! The clusters: their processes, and what an operator does.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tombolo_tests::{netns::Net, processes::Processes, tombolo, wait_until};

use crate::net;

/// The clusters, the one with the callers first.
pub const CLUSTERS: [&str; 3] = ["east", "west", "north"];
/// The machines of each.
const MACHINES: [(&str, &[&str]); 3] = [("east", &["client", "1"]), ("west", &["1", "2"]), ("north", &["1"])];
/// Where the servers of the test's service are.
pub const SERVERS: [&str; 4] = ["east-1", "west-1", "west-2", "north-1"];
/// The controllers' port.
pub const CONTROL: u16 = 15010;
/// The gateways' mesh listeners; a second one of a cluster listens on the next port.
pub const MESH: u16 = 15008;
/// The user of the sidecar that captures.
const USER: u32 = 1337;
/// Nothing may take longer, however busy the machine is.
pub use tombolo_tests::processes::LONG;

/// Says who it is.
const SERVER: &str = r#"
import http.server, sys
class Named(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1 # An answer is one write.
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Named).serve_forever()
"#;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: server, namespace: shop }
spec:
  selector: { app: server }
  ports: [{ name: web, port: 80, targetPort: web, appProtocol: http }]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: { name: server, namespace: shop }
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: server, namespace: shop }
spec:
  targetRefs: [{ kind: Service, name: server }]
  timeouts: { request: 7s, backendRequest: 500ms }
---
apiVersion: tombolo.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: server, namespace: shop }
spec:
  action: ALLOW
  selector: { app: server }
  rules:
    - from: { trustDomains: [east.test, west.test, north.test] }
";

const EDGE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: tombolo }
spec: { controllerName: tombolo.dev/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: public, namespace: shop }
spec:
  gatewayClassName: tombolo
  listeners: [{ name: web, protocol: HTTP, port: 8000 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: shop, namespace: shop }
spec:
  parentRefs: [{ name: public }]
  rules:
    - backendRefs: [{ group: multicluster.x-k8s.io, kind: ServiceImport, name: server, port: 80 }]
      timeouts: { request: 7s, backendRequest: 500ms }
";

pub struct World {
    pub net: Net,
    pub processes: Processes,
    state: tempfile::TempDir,
    binary: PathBuf,
}

impl World {
    /// All of it up, linked, and serving. None where namespaces cannot be made, and the run was told that this is no
    /// failure.
    pub fn new() -> Option<Self> {
        let net = net::three(&MACHINES)?;
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where the sidecar's user can read it.
        let binary = state.path().join("tombolo");
        if fs::hard_link(tombolo(), &binary).is_err() {
            fs::copy(tombolo(), &binary).unwrap();
        }
        let mut world = Self { net, processes: Processes::new(state.path()), state, binary };
        for cluster in CLUSTERS {
            world.start_controller(cluster);
        }
        world.link_all();
        for cluster in CLUSTERS {
            world.begin_gateway(cluster);
        }
        for machine in SERVERS {
            world.start_app(machine);
            world.begin_sidecar(machine);
        }
        world.begin_client();
        world.begin_second_gateway();
        for process in CLUSTERS.map(gateway).into_iter().chain([second_gateway()]).chain(SERVERS.map(sidecar))
        {
            world.processes.ready(&process);
        }
        world.processes.ready(&sidecar("east-client"));
        world.net.text(
            "east-client",
            &[world.binary.to_str().unwrap(), "sidecar", "init", "--user", &USER.to_string()],
        );
        Some(world)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// Starts a controller, with what an earlier one has kept.
    pub fn start_controller(&mut self, cluster: &str) {
        let mut command = self.controller(cluster);
        self.processes.spawn(&controller(cluster), &mut command);
    }

    /// The variables that give a process a wall clock of its own, if it has one.
    fn with_clock(&self, process: &str) -> Vec<String> {
        let clock = self.path(&format!("{process}.clock"));
        let variables = || {
            let (library, clock) = (faketime(), clock.display());
            let files =
                [format!("LD_PRELOAD={}", library.display()), format!("FAKETIME_TIMESTAMP_FILE={clock}")];
            files.into_iter().chain(["FAKETIME_NO_CACHE=1".into(), "DONT_FAKE_MONOTONIC=1".into()])
        };
        clock.exists().then(variables).into_iter().flatten().collect()
    }

    /// Sets the wall clock of a process by so many seconds, if it was started after the first such setting.
    pub fn set_clock(&self, process: &str, seconds: i64) {
        let (clock, new) = (self.path(&format!("{process}.clock")), self.path("clock.new"));
        fs::write(&new, format!("{seconds:+}s")).unwrap();
        fs::rename(&new, &clock).unwrap();
        let date = Command::new("env").args(self.with_clock(process)).args(["date", "+%s"]).output().unwrap();
        let said: i64 = String::from_utf8(date.stdout).unwrap().trim().parse().unwrap();
        let off = said - i64::try_from(crate::calls::now().as_secs()).unwrap() - seconds;
        assert!(off.abs() < 60, "the clock is off by {off} s");
    }

    /// The command of a controller, with the wall clock that [`Self::set_clock`] gives it.
    fn controller(&self, cluster: &str) -> Command {
        let mut command = self.net.command(cluster, "env");
        command.args(self.with_clock(&controller(cluster))).arg(&self.binary);
        let documents = self.path(&format!("{cluster}.yaml"));
        fs::write(&documents, documents_of(cluster)).unwrap();
        let domain = format!("{cluster}.test");
        command.args(["controller", "--cluster", cluster, "--trust-domain", &domain, "--network", cluster]);
        command.args(["--listen", &format!("0.0.0.0:{CONTROL}")]);
        command.args(["--advertise", &format!("{}:{CONTROL}", net::outside(cluster))]);
        command.args(["--admin", "127.0.0.1:15100", "--log", "info,tombolo_federation=debug"]);
        command.arg("--state-dir").arg(self.path(&controller(cluster))).arg("--config").arg(documents);
        command
    }

    /// Each pair, by a token of one and a join of the other.
    fn link_all(&self) {
        for (at, one) in CLUSTERS.iter().enumerate() {
            for other in &CLUSTERS[at + 1..] {
                let token = self.operator(one, &["peer", "token"]);
                self.operator(other, &["peer", "join", token.trim()]);
            }
        }
    }

    /// Starts a gateway, and does not wait.
    pub fn begin_gateway(&mut self, cluster: &str) {
        self.begin_gateway_at(cluster, &gateway(cluster), MESH);
    }

    /// West has another gateway. Starts it, and does not wait.
    pub fn begin_second_gateway(&mut self) {
        self.begin_gateway_at("west", &second_gateway(), MESH + 1);
    }

    fn begin_gateway_at(&mut self, cluster: &str, name: &str, mesh: u16) {
        let state = self.path(name);
        let token = (!state.exists()).then(|| self.token(cluster, "tombolo-system", "gateway"));
        let mut command = self.net.command(cluster, "env");
        command.args(self.with_clock(name)).arg(&self.binary);
        command.args(["gateway", "--controller", &format!("10.80.0.1:{CONTROL}")]);
        command.args(["--mesh-listen", &format!("0.0.0.0:{mesh}"), "--name", name, "--drain-time", "3"]);
        command.args(["--mesh-advertise", &format!("{}:{mesh}", net::outside(cluster))]);
        command.args(["--region", cluster, "--log", "debug,h2=info"]);
        command.arg("--state-dir").arg(&state);
        command.arg("--access-log").arg(self.path(&format!("{name}.access")));
        command.args(token.iter().flat_map(|token| ["--join-token", token]));
        self.processes.begin(name, &mut command);
    }

    pub fn start_app(&mut self, machine: &str) {
        let script = self.path("server.py");
        fs::write(&script, SERVER).unwrap();
        let mut command = self.net.command(machine, "python3");
        self.processes.begin(&app(machine), command.arg(script).arg(machine));
    }

    /// Starts the sidecar of a server, and does not wait.
    pub fn begin_sidecar(&mut self, machine: &str) {
        let (cluster, _) = machine.split_once('-').unwrap();
        let state = self.path(&sidecar(machine));
        let token = (!state.exists()).then(|| {
            fs::create_dir(&state).unwrap();
            self.token(cluster, "shop", "server")
        });
        let mut command = self.net.command(machine, "env");
        command.args(self.with_clock(&sidecar(machine))).arg(&self.binary);
        self.arguments(&mut command, machine, token.as_deref());
        let inbound = format!("{}:15006", self.address(machine));
        command.args(["--label", "app=server", "--app-port", "8080=web"]);
        command.args(["--inbound-listen", &inbound, "--inbound-advertise", &inbound]);
        self.processes.begin(&sidecar(machine), &mut command);
    }

    /// Starts the sidecar of the callers, which captures, and does not wait.
    pub fn begin_client(&mut self) {
        let machine = "east-client";
        let state = self.path(&sidecar(machine));
        let token = (!state.exists()).then(|| {
            fs::create_dir(&state).unwrap();
            chown(&state, Some(USER), Some(USER)).unwrap();
            self.token("east", "shop", "client")
        });
        let mut command = self.net.command(machine, "setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--", "env"]);
        command.args(self.with_clock(&sidecar(machine))).arg(&self.binary);
        self.arguments(&mut command, machine, token.as_deref());
        command.args(["--capture", "--app-port", "9=none"]);
        self.processes.begin(&sidecar(machine), &mut command);
    }

    fn arguments(&self, command: &mut Command, machine: &str, token: Option<&str>) {
        let (cluster, _) = machine.split_once('-').unwrap();
        let state = self.path(&sidecar(machine));
        command.args(["sidecar", "--controller", &format!("10.80.0.1:{CONTROL}"), "--workload", machine]);
        command.args(["--region", cluster, "--network", cluster, "--admin", "127.0.0.1:15102"]);
        command.args(["--resolver", "127.0.0.1:9", "--log", "debug,h2=info"]);
        command.arg("--state-dir").arg(&state).arg("--access-log").arg(state.join("access"));
        command.args(token.iter().flat_map(|token| ["--join-token", token]));
    }

    fn address(&self, machine: &str) -> String {
        let (cluster, name) = machine.split_once('-').unwrap();
        let (_, machines) = MACHINES.iter().find(|(known, _)| *known == cluster).unwrap();
        let position = machines.iter().position(|known| *known == name).unwrap();
        format!("10.80.0.{}", position + 2)
    }

    fn token(&self, cluster: &str, namespace: &str, account: &str) -> String {
        let line = ["join-token", "--namespace", namespace, "--account", account];
        self.operator(cluster, &line).trim().to_owned()
    }

    /// What an operator of a cluster does; what was printed.
    pub fn operator(&self, cluster: &str, line: &[&str]) -> String {
        let output = self.asks(cluster, line);
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Why what an operator asked for was not done.
    pub fn refused(&self, cluster: &str, line: &[&str]) -> String {
        let output = self.asks(cluster, line);
        assert!(!output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    fn asks(&self, cluster: &str, line: &[&str]) -> Output {
        let mut command = Command::new(&self.binary);
        command.args(line).arg("--state-dir").arg(self.path(&controller(cluster))).output().unwrap()
    }

    /// What a controller says of its cluster.
    pub fn status(&self, cluster: &str) -> Value {
        serde_json::from_str(&self.operator(cluster, &["status", "--output", "json"])).unwrap()
    }

    /// What a controller says of one of its peers.
    pub fn peer(&self, cluster: &str, peer: &str) -> Value {
        let status = self.status(cluster);
        let mut peers = status["peers"].as_array().unwrap().iter();
        peers.find(|known| known["name"] == peer).cloned().unwrap_or_default()
    }

    /// What a cluster is to know whatever happens: its documents, its roots, its members, and of its peers who they are, what
    /// they export and how they are reached; and the addresses that it has given to services.
    pub fn kept(&self, cluster: &str) -> Value {
        let status = self.status(cluster);
        let only = |list: &Value, fields: &[&str]| -> Vec<Value> {
            let list = list.as_array().unwrap().iter();
            list.map(|one| fields.iter().map(|field| (*field, one[*field].clone())).collect()).collect()
        };
        let services = self.operator(cluster, &["get", "serviceimports", "--output", "json"]);
        serde_json::json!({
            "generation": status["generation"],
            "roots": status["ca"]["roots"],
            "workloads": only(&status["workloads"], &["name", "address", "identity"]),
            "gateways": only(&status["gateways"], &["name", "meshAddress"]),
            "peers": only(&status["peers"], &["name", "trustDomain", "state", "connected", "imported", "exported", "gateways"]),
            "services": services,
        })
    }

    /// Waits until a controller has heard from a peer so many times more: while the link is quiet, at its pings.
    pub fn signs_of_life(&self, cluster: &str, peer: &str, times: usize) {
        let silence = || self.peer(cluster, peer)["heardSecondsAgo"].as_i64();
        for _ in 0..times {
            let mut last = None;
            wait_until(&format!("{cluster} hears of {peer}"), LONG, || {
                let now = silence();
                now < std::mem::replace(&mut last, now)
            });
        }
    }

    /// Waits until a controller says so of one of its peers. Gives the time that it took.
    pub fn peer_is(
        &self,
        cluster: &str,
        peer: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Duration {
        let begun = std::time::Instant::now();
        wait_until(&format!("{cluster} says that {peer} is {what}"), LONG, || {
            wanted(&self.peer(cluster, peer))
        });
        begun.elapsed()
    }
}

/// The library that gives a process another wall clock.
fn faketime() -> PathBuf {
    let libraries = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let mut found = libraries.map(|path| path.join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).expect("libfaketime is installed (tests/run sees to it)")
}

/// The name of a process.
pub fn controller(cluster: &str) -> String {
    format!("{cluster}-controller")
}

/// As above.
pub fn gateway(cluster: &str) -> String {
    format!("{cluster}-gateway")
}

/// West's other gateway.
pub fn second_gateway() -> String {
    "west-gateway-2".into()
}

/// As above.
pub fn app(machine: &str) -> String {
    format!("{machine}-app")
}

/// As above.
pub fn sidecar(machine: &str) -> String {
    format!("{machine}-sidecar")
}

fn documents_of(cluster: &str) -> String {
    let mut documents = SERVICE.to_owned();
    for (order, peer) in (1..).zip(CLUSTERS).filter(|(_, peer)| *peer != cluster) {
        documents += &format!(
            "---
apiVersion: tombolo.dev/v1alpha1
kind: Peer
metadata: {{ name: {peer} }}
spec:
  trustDomain: {peer}.test
  order: {order}
  lease: {{ deprioritizeAfter: 10s }}
  export: {{ services: [{{ namespace: shop, name: server }}] }}
  import: {{ services: [{{ namespace: shop, name: server }}] }}
"
        );
    }
    if cluster == "east" {
        documents += "---";
        documents += EDGE;
    }
    documents
}
