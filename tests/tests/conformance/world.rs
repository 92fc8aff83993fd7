//! The stage of every scenario: namespaces, Gateways, Services with applications behind them, and a gateway process.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tombolo_tests::{Running, command, wait_until};

use super::{
    backend::Pod,
    certificates::{Authority, Issued},
    client::{Answer, Ask},
    report::Report,
};

/// Nothing may take longer.
const SOON: Duration = Duration::from_secs(20);

/// Namespaces of the suite, with the label that Gateways select by.
pub const INFRA: &str = "gateway-conformance-infra";
pub const APPS: &str = "gateway-conformance-app-backend";
pub const WEB: &str = "gateway-conformance-web-backend";

/// Namespaces, the class and the Gateways that most scenarios use.
const STAGE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: tombolo }
spec: { controllerName: tombolo.dev/gateway-controller }
---
apiVersion: v1
kind: Namespace
metadata: { name: gateway-conformance-infra, labels: { gateway-conformance: infra } }
---
apiVersion: v1
kind: Namespace
metadata: { name: gateway-conformance-app-backend, labels: { gateway-conformance: backend } }
---
apiVersion: v1
kind: Namespace
metadata: { name: gateway-conformance-web-backend, labels: { gateway-conformance: backend } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: same-namespace, namespace: gateway-conformance-infra }
spec:
  gatewayClassName: tombolo
  addresses: [{ type: IPAddress, value: 127.0.0.21 }]
  listeners: [{ name: http, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: Same } } }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: all-namespaces, namespace: gateway-conformance-infra }
spec:
  gatewayClassName: tombolo
  listeners: [{ name: http, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: backend-namespaces, namespace: gateway-conformance-infra }
spec:
  gatewayClassName: tombolo
  listeners:
    - name: http
      port: 80
      protocol: HTTP
      allowedRoutes:
        namespaces: { from: Selector, selector: { matchLabels: { gateway-conformance: backend } } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: same-namespace-with-https-listener, namespace: gateway-conformance-infra }
spec:
  gatewayClassName: tombolo
  addresses: [{ type: IPAddress, value: 127.0.0.24 }]
  listeners:
    - name: https
      port: 443
      protocol: HTTPS
      allowedRoutes: { namespaces: { from: Same } }
      tls: { certificateRefs: [{ name: tls-validity-checks-certificate }] }
    - name: https-with-hostname
      port: 443
      protocol: HTTPS
      hostname: second-example.org
      allowedRoutes: { namespaces: { from: Same } }
      tls: { certificateRefs: [{ name: tls-validity-checks-certificate }] }
"#;

/// A stage with a gateway process on it.
pub struct World {
    dir: TempDir,
    offset: u16,
    /// What signed every certificate here.
    pub authority: Authority,
    /// The applications.
    pub pods: Vec<Pod>,
    // Ends the process when the test ends.
    gateway: Option<Running>,
}

impl World {
    /// The stage, these documents, and a gateway that serves them.
    pub async fn with(documents: &str) -> Self {
        let mut world = Self::stage().await;
        world.write("scenario", documents);
        world.serve();
        world
    }

    /// The stage without documents of a scenario and without a gateway.
    pub async fn stage() -> Self {
        let mut world = Self {
            dir: TempDir::new().unwrap(),
            offset: free_offset(),
            authority: Authority::new(),
            pods: Vec::new(),
            gateway: None,
        };
        fs::create_dir(world.config()).unwrap();
        world.write("stage", STAGE);
        let certificate = world.authority.issue(&["*.org", "*.example.org", "second-example.org"]);
        world.write("certificate", &certificate.secret(INFRA, "tls-validity-checks-certificate"));
        for name in ["infra-backend-v1", "infra-backend-v2", "infra-backend-v3"] {
            world.add_service(INFRA, name, 2).await;
        }
        for name in ["app-backend-v1", "app-backend-v2"] {
            world.add_service(APPS, name, 2).await;
        }
        world.add_service(WEB, "web-backend", 2).await;
        for name in ["grpc-infra-backend-v1", "grpc-infra-backend-v2", "grpc-infra-backend-v3"] {
            world.add_grpc_service(INFRA, name).await;
        }
        world
    }

    fn config(&self) -> std::path::PathBuf {
        self.dir.path().join("config")
    }

    /// Writes a file of documents, whole, in one step.
    pub fn write(&self, file: &str, documents: &str) {
        let draft = self.dir.path().join("draft");
        fs::write(&draft, documents).unwrap();
        fs::rename(&draft, self.config().join(format!("{file}.yaml"))).unwrap();
    }

    /// Removes a file of documents.
    pub fn remove(&self, file: &str) {
        fs::remove_file(self.config().join(format!("{file}.yaml"))).unwrap();
    }

    /// A Service with three ports on its pods: 8080 (HTTP), 8081 (h2c), 8082 (WebSocket).
    pub async fn add_service(&mut self, namespace: &str, name: &str, pods: usize) {
        let ports = [
            ("first-port", 8080, ""),
            ("second-port", 8081, "kubernetes.io/h2c"),
            ("third-port", 8082, "kubernetes.io/ws"),
        ];
        let mut started = Vec::new();
        for at in 0..pods {
            started.push(Pod::start(namespace, &format!("{name}-{at}")).await);
        }
        self.publish(namespace, name, &ports, started);
    }

    /// A Service whose port 8080 speaks h2c, for gRPC.
    pub async fn add_grpc_service(&mut self, namespace: &str, name: &str) {
        let pod = Pod::start(namespace, &format!("{name}-0")).await;
        self.publish(namespace, name, &[("grpc", 8080, "kubernetes.io/h2c")], vec![pod]);
    }

    /// A Service whose port 443 speaks TLS with this certificate.
    pub async fn add_tls_service(&mut self, namespace: &str, name: &str, certificate: &Issued) {
        let pod = Pod::start_tls(namespace, &format!("{name}-0"), certificate).await;
        self.publish(namespace, name, &[("https", 443, "")], vec![pod]);
    }

    /// A Service whose port 8080 is spoken to as its application protocol says (empty: HTTP/1.1), at this address.
    pub fn add_backend(&self, namespace: &str, name: &str, protocol: &str, address: SocketAddr) {
        let ports = [("port", 8080, protocol)];
        let text = service(namespace, name, &ports) + &slice(namespace, name, &ports, name, address);
        self.write(&format!("service-{namespace}-{name}"), &text);
    }

    fn publish(&mut self, namespace: &str, name: &str, ports: &[(&str, u16, &str)], pods: Vec<Pod>) {
        let mut text = service(namespace, name, ports);
        for pod in &pods {
            text += &slice(namespace, name, ports, &pod.name, pod.address);
        }
        self.write(&format!("service-{namespace}-{name}"), &text);
        self.pods.extend(pods);
    }

    /// Starts the gateway, and waits until it is ready.
    pub fn serve(&mut self) {
        self.gateway = Some(self.start(&[]));
    }

    /// Ends the gateway.
    pub fn stop(&mut self) {
        self.gateway = None;
    }

    /// Starts a gateway process with more arguments, and waits until it is ready.
    pub fn start(&self, more: &[&str]) -> Running {
        let (running, output) = self.launch(more);
        says(&output, "ready");
        running
    }

    /// Starts a gateway process with more arguments. Gives where it writes what it says.
    pub fn launch(&self, more: &[&str]) -> (Running, PathBuf) {
        static STARTED: AtomicU16 = AtomicU16::new(0);
        let output = self.dir.path().join(format!("output-{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        let file = fs::File::create(&output).unwrap();
        let (config, offset) = (self.config(), self.offset.to_string());
        let mut command =
            command(["gateway", "--config", config.to_str().unwrap(), "--port-offset", &offset]);
        command.args(more).stdout(file.try_clone().unwrap()).stderr(Stdio::from(file));
        (Running::start(&mut command), output)
    }

    /// What the documents' status is.
    pub fn report(&self) -> Report {
        Report::of(&self.config())
    }

    /// The address of a Gateway (`NAME` in the infra namespace, or `NAMESPACE/NAME`) and one of its ports.
    pub fn address(&self, gateway: &str, port: u16) -> SocketAddr {
        let key = if gateway.contains('/') { gateway.to_owned() } else { format!("{INFRA}/{gateway}") };
        let status = self.report().object("Gateway", &key).value;
        let text = status["addresses"][0]["value"]
            .as_str()
            .unwrap_or_else(|| panic!("{key} has no address: {status:#}"));
        let ip: IpAddr = text.parse().unwrap();
        let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip };
        SocketAddr::new(ip, port + self.offset)
    }

    /// Sends a request until its answer is as wanted three times in a row, bounded. Returns the last answer.
    ///
    /// Configuration is picked up a moment after it is written; that is what the repetition is for.
    #[track_caller]
    pub fn expect<'a>(
        &'a self,
        to: SocketAddr,
        ask: &'a Ask,
        what: &'a str,
        wanted: impl Fn(&Answer) -> bool + 'a,
    ) -> impl Future<Output = Answer> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let end = tokio::time::Instant::now() + SOON;
            let mut row = 0;
            loop {
                let answer = ask.send(to).await;
                match &answer {
                    Ok(good) if wanted(good) => row += 1,
                    _ => row = 0,
                }
                if row == 3 {
                    return answer.unwrap();
                }
                assert!(
                    tokio::time::Instant::now() < end,
                    "{place}: {} {}{}: wanted {what}, but {answer:#?}",
                    ask.method,
                    ask.host,
                    ask.path
                );
                if row == 0 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Asserts that the request is answered with 200 by a pod of this Service.
    #[track_caller]
    pub fn reaches<'a>(
        &'a self,
        to: SocketAddr,
        ask: &'a Ask,
        service: &'a str,
    ) -> impl Future<Output = Answer> + 'a {
        self.expect(to, ask, service, move |answer| {
            let pod = answer.echo.as_ref().map(|echo| echo.pod.as_str()).unwrap_or_default();
            answer.status == 200 && pod.starts_with(service)
        })
    }

    /// Asserts that the request is answered with this status.
    #[track_caller]
    pub fn answers<'a>(
        &'a self,
        to: SocketAddr,
        ask: &'a Ask,
        status: u16,
    ) -> impl Future<Output = Answer> + 'a {
        self.expect(to, ask, "another status", move |answer| answer.status == status)
    }

    /// Where documents lie, for tests that run other commands on them.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Waits until a process has said so.
#[track_caller]
pub fn says(output: &Path, text: &str) {
    wait_until(&format!("the gateway says {text:?}"), SOON, || {
        fs::read_to_string(output).is_ok_and(|said| said.contains(text))
    });
}

fn service(namespace: &str, name: &str, ports: &[(&str, u16, &str)]) -> String {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port, protocol)| {
            let mut port = serde_json::json!({ "name": name, "port": port, "protocol": "TCP" });
            if !protocol.is_empty() {
                port["appProtocol"] = serde_json::json!(protocol);
            }
            port
        })
        .collect();
    let ports = serde_json::json!(ports);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: {{ ports: {ports} }}\n"
    )
}

fn slice(
    namespace: &str,
    service: &str,
    ports: &[(&str, u16, &str)],
    name: &str,
    address: SocketAddr,
) -> String {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, _, _)| serde_json::json!({ "name": name, "port": address.port(), "protocol": "TCP" }))
        .collect();
    let ports = serde_json::json!(ports);
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {}\n  namespace: {namespace}\n  \
         labels: {{ kubernetes.io/service-name: {service} }}\naddressType: IPv4\nports: {ports}\nendpoints: \
         [{{ addresses: [\"{}\"], conditions: {{ ready: true }} }}]\n",
        name,
        address.ip()
    )
}

/// An offset at which the suite's ports are free on every address. Each process of tests takes from a range of its own.
fn free_offset() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: [u16; 8] = [80, 443, 8080, 8081, 8090, 8443, 9443, 90];
    for _ in 0..200 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = u16::try_from(std::process::id() % 97).unwrap_or_default();
        // Below the ports that the system gives out by itself (from 32768 on).
        let offset = 11_000 + (spread * 113 + step * 10) % 11_000;
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port + offset)).is_ok();
        if PORTS.iter().all(is_free) {
            return offset;
        }
    }
    panic!("no free range of ports")
}
