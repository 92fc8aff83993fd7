//! A cluster whose client and server live in namespaces of their own, each with a sidecar that captures.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
pub use tombolo_tests::processes::LONG;
use tombolo_tests::{netns::Net, processes::Processes, tombolo, wait_until};

use crate::net;

/// The user of the sidecars.
pub const USER: u32 = 1337;

const PORTS: [&str; 3] = ["8080=http", "6379=redis", "7000=talk"];

/// Speaks on three ports: HTTP (says what it was asked; `/hold` only after `/release`), Redis, and a protocol in which the
/// server speaks first.
const SERVER: &str = r#"
import http.server, socket, socketserver, threading
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1 # An answer is one write.
    released = threading.Event()
    def do_GET(self):
        if self.path == "/hold": self.released.wait(60)
        if self.path == "/release": self.released.set()
        body = ("%s %s caller=%s\n" % (self.command, self.path, self.headers.get("x-forwarded-client-cert"))).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
class First(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220 greetings\r\n")
        line = self.request.recv(1000)
        self.request.sendall(b"you said " + line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    def handle_error(self, *args): pass
threading.Thread(target=Server(("0.0.0.0", 7000), First).serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Echo).serve_forever()
"#;

const DOCUMENTS: &str = "
apiVersion: v1
kind: Service
metadata: { name: server, namespace: shop }
spec:
  selector: { app: server }
  ports:
    - { name: web, port: 80, targetPort: http }
    - { name: store, port: 6379, targetPort: redis }
    - { name: talk, port: 7000, targetPort: talk }
    - { name: smtp, port: 25, targetPort: talk }
---
apiVersion: v1
kind: Service
metadata: { name: each, namespace: shop }
spec:
  clusterIP: None
  selector: { group: each }
  ports: [{ name: web, port: 80, targetPort: http }]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: { name: each, namespace: shop }
";

pub struct World {
    pub net: Net,
    state: tempfile::TempDir,
    binary: PathBuf,
    running: Processes,
    /// Of the server's application, for its sidecar.
    pub ports: Vec<&'static str>,
    /// How rules know the sidecar's own traffic; nothing: by its user.
    pub known_by: Vec<&'static str>,
    /// Where sidecars that are started tell a service manager what they do.
    pub manager: Option<PathBuf>,
}

impl World {
    /// A controller in the hub and an application with three ports in `server`, without sidecars so far.
    pub fn new() -> Option<Self> {
        let mut world = Self::with(&["client", "server"])?;
        world.start_app("server");
        let redis = ["redis-server", "--save", "", "--protected-mode", "no", "--bind", "0.0.0.0"];
        world.running.add("redis", world.net.start("server", &redis));
        Some(world)
    }

    /// A controller in the hub, and machines on which nothing runs.
    pub fn with(machines: &[&str]) -> Option<Self> {
        let net = net::bridged(machines)?;
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where the sidecars' user can read it.
        let binary = state.path().join("tombolo");
        if fs::hard_link(tombolo(), &binary).is_err() {
            fs::copy(tombolo(), &binary).unwrap();
        }
        let running = Processes::new(state.path());
        let mut world =
            Self { net, state, binary, running, ports: PORTS.to_vec(), known_by: Vec::new(), manager: None };
        world.start_controller();
        Some(world)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    /// Starts the controller, with what an earlier one has kept.
    pub fn start_controller(&mut self) {
        let listen = format!("{}:15010", net::address(1));
        let state = self.path("controller");
        let documents = self.path("documents.yaml");
        fs::write(&documents, DOCUMENTS).unwrap();
        let mut command = self.net.command("hub", self.binary.to_str().unwrap());
        command.args(["controller", "--cluster", "east", "--trust-domain", "east.test", "--listen", &listen]);
        command.arg("--state-dir").arg(&state).arg("--config").arg(&documents);
        self.running.spawn("controller", &mut command);
    }

    /// Starts the application of a machine.
    pub fn start_app(&mut self, machine: &str) {
        self.program(machine, "python3", "app.py", SERVER, &[]);
    }

    /// A sidecar, as a user of its own, with more arguments.
    pub fn sidecar(&mut self, machine: &str, ports: &[&str], more: &[&str]) {
        self.start_sidecar(machine, machine, ports, more);
    }

    /// The same of a workload of an application; with the identity that an earlier one has kept, if there was one.
    pub fn start_sidecar(&mut self, machine: &str, app: &str, ports: &[&str], more: &[&str]) {
        let state = self.path(machine);
        let token = (!state.exists()).then(|| {
            fs::create_dir(&state).unwrap();
            chown(&state, Some(USER), Some(USER)).unwrap();
            self.command(["join-token", "--namespace", "shop", "--account", machine])
        });
        let mut command = self.net.command(machine, "setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        if more.contains(&"--mark") {
            command.args(["--inh-caps=+net_admin", "--ambient-caps=+net_admin"]);
        }
        command.arg("--").arg(&self.binary).args(["sidecar", "--controller", "10.77.0.1:15010"]);
        command.args(["--workload", machine]);
        if let Some(token) = token {
            command.args(["--join-token", token.trim()]);
        }
        if !more.contains(&"--resolver") {
            // Nobody answers there.
            command.args(["--resolver", "127.0.0.1:9"]);
        }
        command.args(["--label", &format!("app={app}"), "--log", "debug,h2=info"]);
        for port in ports {
            command.args(["--app-port", port]);
        }
        command.arg("--state-dir").arg(&state).arg("--access-log").arg(state.join("access")).args(more);
        command.envs(self.manager.iter().map(|manager| ("NOTIFY_SOCKET", manager)));
        self.running.spawn(&format!("{machine}-sidecar"), &mut command);
    }

    /// `tombolo sidecar init` in a machine; what it printed.
    pub fn init(&self, machine: &str, more: &[&str]) -> String {
        let user = USER.to_string();
        let binary = self.binary.to_str().unwrap();
        let by_user = ["--user", user.as_str()];
        let known_by = if self.known_by.is_empty() { &by_user[..] } else { &self.known_by };
        let line = [&[binary, "sidecar", "init"], known_by, more].concat();
        self.net.text(machine, &line)
    }

    /// Both machines with sidecars and rules; ready when the client knows the server as healthy.
    pub fn captured(&mut self, client: &[&str], server: &[&str], rules: &[&str]) {
        let server = [&["--capture"], server].concat();
        self.sidecar("server", &self.ports.clone(), &server);
        self.sidecar("client", &["8080=http"], &[&["--capture"], client].concat());
        for machine in ["client", "server"] {
            self.init(machine, rules);
        }
        self.reached(|| self.curl(&["http://server.shop.svc.cluster.local/first"]));
    }

    /// Waits for an answer of the server; says what was logged where there is none.
    pub fn reached(&self, ask: impl Fn() -> (u16, String)) {
        let deadline = Instant::now() + LONG;
        loop {
            let answer = ask();
            if answer.0 == 200 {
                return;
            }
            if Instant::now() > deadline {
                let logs = ["controller", "server-sidecar", "client-sidecar"].map(|name| {
                    let text = read(&self.path(&format!("{name}.log")));
                    let lines: Vec<&str> = text.lines().rev().take(40).collect();
                    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
                });
                let access = read(&self.path("client").join("access"));
                panic!("no answer, but {answer:?}\n{}\n{access}", logs.join("\n\n"));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Applies documents, and waits until all proxies decide by them.
    pub fn apply(&self, documents: &str) {
        let file = self.path("applied.yaml");
        fs::write(&file, documents).unwrap();
        self.command(["apply", "-f", file.to_str().unwrap(), "--timeout", "60"]);
    }

    /// Starts a program from its source in a machine, known as `MACHINE-NAME` without the name's ending.
    pub fn program(&mut self, machine: &str, interpreter: &str, name: &str, source: &str, more: &[&str]) {
        let script = self.path(name);
        fs::write(&script, source).unwrap();
        let known_as = format!("{machine}-{}", name.split('.').next().unwrap_or_default());
        let mut command = self.net.command(machine, interpreter);
        self.running.begin(&known_as, command.arg(script).args(more));
    }

    /// Sends a signal to a process: `MACHINE-app`, `MACHINE-sidecar`, `controller`.
    pub fn signal(&mut self, name: &str, signal: &str) {
        self.running.signal(name, signal);
    }

    /// Kills a process.
    pub fn kill(&mut self, name: &str) {
        self.running.kill(name);
    }

    /// Memory of its own that a process holds, in KiB: without what it shares with its file.
    pub fn memory(&mut self, name: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.running.id(name))));
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// Waits until a process has ended by itself.
    pub fn ended(&mut self, name: &str) {
        self.running.ended(name);
    }

    /// Starts a command whose output is in `NAME.log`.
    pub fn begin(&mut self, name: &str, command: &mut Command) {
        self.running.begin(name, command);
    }

    /// Tells a process to end, and waits for it.
    pub fn stop(&mut self, name: &str) {
        self.running.stop(name);
    }

    fn command<const N: usize>(&self, line: [&str; N]) -> String {
        let mut command = Command::new(&self.binary);
        let output = command.args(line).arg("--state-dir").arg(self.path("controller")).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What curl gets in the client's machine: status (0: none) and body.
    pub fn curl(&self, more: &[&str]) -> (u16, String) {
        self.curl_in("client", more)
    }

    /// The same in any machine.
    pub fn curl_in(&self, machine: &str, more: &[&str]) -> (u16, String) {
        let line = [&["curl", "-sS", "-m", "20", "-w", "%{http_code}"], more].concat();
        let text = String::from_utf8(self.net.output(machine, &line).stdout).unwrap();
        let (body, status) = text.split_at(text.len().saturating_sub(3));
        (status.parse().unwrap_or(0), body.to_string())
    }

    /// The lines of a sidecar's access log that are as wanted.
    pub fn lines(&self, machine: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let text = read(&self.path(machine).join("access"));
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| wanted(line)).collect()
    }

    /// Waits for such a line.
    pub fn logged(&self, machine: &str, wanted: impl Fn(&Value) -> bool) {
        wait_until("a line in the access log", LONG, || !self.lines(machine, &wanted).is_empty());
    }

    /// Starts to keep every frame from and to a machine.
    pub fn watch(&mut self, machine: &str) -> PathBuf {
        let file = self.path("frames");
        let script = format!(
            "import socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n\
             s.bind(('to-{machine}', 0))\nf = open('{}', 'wb', buffering=0)\nwhile True: f.write(s.recv(65536))\n",
            file.display()
        );
        self.running.add("watching", self.net.start("hub", &["python3", "-c", &script]));
        wait_until("a packet capture", LONG, || file.exists());
        file
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// True if these bytes are anywhere in the file.
pub fn contains(file: &Path, bytes: &str) -> bool {
    fs::read(file).unwrap().windows(bytes.len()).any(|window| window == bytes.as_bytes())
}
