//! One cluster of real processes: a controller, a gateway, and applications behind it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tombolo_tests::{Running, command, wait_until};

/// The controller's port, before the offset.
const CONTROLLER: u16 = 90;

/// An offset at which the ports of a stage are free. They are below those that the system gives out by itself (from 32768 on):
/// one of these may be some client's when the gateway comes to it.
pub fn free_offset() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..200 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = u16::try_from(std::process::id() % 97).unwrap_or_default();
        let offset = 23_000 + (spread * 89 + step * 20) % 9_000;
        let is_free = |port: &u16| StdListener::bind((Ipv4Addr::LOCALHOST, port + offset)).is_ok();
        if [80, CONTROLLER, CONTROLLER + 1, 443].iter().all(is_free) {
            return offset;
        }
    }
    panic!("no free range of ports")
}

/// Nothing may take longer.
pub const SOON: Duration = Duration::from_secs(30);

/// An application that answers with its name, or with 500 while it fails.
pub struct App {
    pub name: &'static str,
    pub address: SocketAddr,
    failing: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl App {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let failing = Arc::new(AtomicBool::new(false));
        let fails = failing.clone();
        let serving = tokio::spawn(async move {
            // They end with it.
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let fails = fails.clone();
                let answer = service_fn(move |_| {
                    let mut response = Response::new(Full::new(Bytes::from_static(name.as_bytes())));
                    if fails.load(Ordering::Relaxed) {
                        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    }
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                connections.spawn(async move {
                    // A connection that breaks says nothing.
                    let _ended = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tcp), answer)
                        .await;
                });
            }
        });
        Self { name, address, failing, serving }
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// Its Service, on port 80, with its endpoint.
    pub fn documents(&self) -> String {
        let (name, ip, port) = (self.name, self.address.ip(), self.address.port());
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: shop }}
spec: {{ ports: [{{ name: http, port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: {name}, namespace: shop, labels: {{ kubernetes.io/service-name: {name} }} }}
addressType: IPv4
ports: [{{ name: http, port: {port} }}]
endpoints: [{{ addresses: [\"{ip}\"] }}]
"
        )
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The class, and a Gateway with a listener for HTTP; more listeners may be added at its end.
pub const EDGE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: tombolo }
spec: { controllerName: tombolo.dev/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: tombolo
  listeners:
    - { name: http, protocol: HTTP, port: 80 }
";

/// An HTTPRoute of everything below these paths, each to a service.
pub fn route(rules: &[(&str, &str)]) -> String {
    let rule = |(path, service): &(&str, &str)| {
        format!(
            "    - {{ name: r{}, matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: {service}, port: 80 }}] }}\n",
            path.trim_start_matches('/')
        )
    };
    let rules: String = rules.iter().map(rule).collect();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: checkout, namespace: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  rules:
{rules}"
    )
}

/// The processes.
pub struct Stage {
    dir: TempDir,
    controller: SocketAddr,
    offset: u16,
    running: Vec<Running>,
}

impl Stage {
    /// A controller with these documents, and a gateway that serves them.
    pub async fn start(documents: &str) -> Self {
        let offset = free_offset();
        let controller = SocketAddr::from((Ipv4Addr::LOCALHOST, offset + CONTROLLER));
        let dir = TempDir::new().unwrap();
        let mut stage = Self { dir, controller, offset, running: Vec::new() };
        stage.control();
        stage.apply(documents);
        stage.serve();
        stage
    }

    /// Starts the controller.
    fn control(&mut self) {
        let listen = self.controller.to_string();
        self.spawn(
            "controller",
            &["--cluster", "east", "--trust-domain", "east.example", "--listen", &listen],
        );
    }

    /// Kills the controller and starts it anew.
    pub fn restart_controller(&mut self) {
        drop(self.running.remove(0));
        self.control();
        // It stays where it was among those that run.
        self.running.rotate_right(1);
    }

    /// Kills the gateway and starts it anew.
    pub fn restart_gateway(&mut self) {
        drop(self.running.pop());
        self.serve();
    }

    /// Starts the gateway.
    fn serve(&mut self) {
        let (code, token, said) =
            self.run(&["join-token", "--namespace", "tombolo-system", "--account", "gateway"]);
        assert_eq!(code, 0, "{said}");
        let (controller, offset) = (self.controller.to_string(), self.offset.to_string());
        let mut args =
            vec!["--controller", &controller, "--join-token", token.trim(), "--port-offset", &offset];
        args.extend(["--address", "127.0.0.1", "--mesh-listen", "127.0.0.1:0"]);
        args.extend(["--sample-header", "x-user"]);
        self.spawn("gateway", &args);
    }

    /// Starts a process, and waits until it is ready.
    fn spawn(&mut self, what: &'static str, args: &[&str]) {
        let output = self.path(&format!("{what}.log"));
        let file = fs::File::create(&output).unwrap();
        let mut command = command([what, "--state-dir", self.path(what).to_str().unwrap()]);
        command.args(args).stdout(file.try_clone().unwrap()).stderr(Stdio::from(file));
        self.running.push(Running::start(&mut command));
        wait_until(&format!("{what} is ready"), SOON, || {
            fs::read_to_string(&output).is_ok_and(|text| text.contains("ready"))
        });
    }

    /// A file in the stage's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of documents.
    pub fn file(&self, name: &str, documents: &str) -> String {
        let path = self.path(name);
        fs::write(&path, documents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The public address of a configured port.
    pub fn address(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port + self.offset).into()
    }

    /// A command for operators: exit code, output, errors.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = command([]);
        command.args(args).args(["--state-dir", self.path("controller").to_str().unwrap()]);
        let Output { status, stdout, stderr } = command.env("USER", "ann").output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// One that must succeed: its output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out
    }

    /// One that must succeed and prints JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(args);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Applies documents.
    #[track_caller]
    pub fn apply(&self, documents: &str) -> String {
        let file = self.file("apply.yaml", documents);
        self.ok(&["apply", &file])
    }

    /// The number of the generation in force.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        let history = self.json(&["history", "--output", "json"]);
        history[0]["generation"].as_u64().unwrap_or_else(|| panic!("{history}"))
    }
}
