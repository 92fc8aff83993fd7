//! What is written into files for the processes under test.

use std::{
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::Failure;

/// Of the service of gRPC.
pub const GRPC_HOST: &str = "grpc.example.test";
/// A method of it.
pub const CALL: &str = "/bench.Echo/Unary";
/// Routes of one host.
pub const ROUTES_PER_HOST: usize = 10;

/// A certificate for all hosts, and files with it.
pub struct Certificate {
    /// DER.
    pub der: rustls_pki_types::CertificateDer<'static>,
    chain: String,
    key: String,
}

impl Certificate {
    /// Makes one; the files `tls.crt` and `tls.key` are written to `dir`.
    pub fn make(dir: &Path) -> Result<Self, Failure> {
        let names = ["*.example.test".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(dir.join("tls.crt"), &chain)?;
        fs::write(dir.join("tls.key"), &key)?;
        Ok(Self { der: made.cert.der().clone(), chain, key })
    }
}

/// A directory of configuration: a Gateway with HTTP on port 80 and HTTPS on 443, one service, and so many routes.
pub fn write(
    dir: &Path,
    routes: usize,
    backend: SocketAddr,
    certificate: &Certificate,
) -> Result<(), Failure> {
    fs::create_dir_all(dir)?;
    let indented = |pem: &str| pem.lines().fold(String::new(), |all, line| all + "    " + line + "\n");
    let base = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{ name: tombolo }}
spec: {{ controllerName: tombolo.dev/gateway-controller }}
---
apiVersion: v1
kind: Namespace
metadata: {{ name: shop }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: public, namespace: shop }}
spec:
  gatewayClassName: tombolo
  addresses: [{{ type: IPAddress, value: 127.0.0.1 }}]
  listeners:
    - {{ name: http, protocol: HTTP, port: 80 }}
    - {{ name: https, protocol: HTTPS, port: 443, tls: {{ certificateRefs: [{{ name: public }}] }} }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: public, namespace: shop }}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}---
apiVersion: v1
kind: Service
metadata: {{ name: app, namespace: shop }}
spec: {{ ports: [{{ name: http, port: 80, targetPort: {port} }}] }}
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: {{ name: app, namespace: shop }}
spec: {{ services: [app], address: {ip}, ports: [{{ name: http, port: {port} }}] }}
",
        indented(&certificate.chain),
        indented(&certificate.key),
        ip = backend.ip(),
        port = backend.port(),
    );
    fs::write(dir.join("base.yaml"), base)?;
    for host in 0..routes.div_ceil(ROUTES_PER_HOST) {
        let of_host = (host * ROUTES_PER_HOST)..routes.min((host + 1) * ROUTES_PER_HOST);
        fs::write(route_file(dir, host), self::routes(host, of_host, "/"))?;
    }
    Ok(())
}

/// A service of this name at one address; `protocol` says more of its port.
pub fn service(name: &str, protocol: &str, address: SocketAddr) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: shop }}
spec: {{ ports: [{{ name: main, port: 80, targetPort: {port}{protocol} }}] }}
---
apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: {{ name: {name}, namespace: shop }}
spec: {{ services: [{name}], address: {ip}, ports: [{{ name: main, port: {port} }}] }}
",
        port = address.port(),
        ip = address.ip(),
    )
}

/// A service of gRPC, and its route.
pub fn grpc(address: SocketAddr) -> String {
    service("grpc", ", appProtocol: kubernetes.io/h2c", address)
        + &format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: grpc, namespace: shop }}
spec:
  parentRefs: [{{ name: public }}]
  hostnames: [{GRPC_HOST}]
  rules: [{{ backendRefs: [{{ name: grpc, port: 80 }}] }}]
"
        )
}

/// The file with the routes of a host.
pub fn route_file(dir: &Path, host: usize) -> PathBuf {
    dir.join(format!("host-{host:04}.yaml"))
}

/// These routes as documents. The last character of each path is `end`.
pub fn routes(host: usize, numbers: std::ops::Range<usize>, end: &str) -> String {
    let mut text = String::new();
    for number in numbers {
        // Writing to a String does not fail.
        let _written = write!(
            text,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: route-{number}, namespace: shop }}
spec:
  parentRefs: [{{ name: public }}]
  hostnames: [h{host}.example.test]
  rules:
    - name: all
      matches: [{{ path: {{ type: PathPrefix, value: /r{path}{end} }} }}]
      backendRefs: [{{ name: app, port: 80 }}]
",
            path = number % ROUTES_PER_HOST,
        );
    }
    text
}

/// Host and path of a request that only this route takes.
pub fn target(route: usize) -> (String, String) {
    (format!("h{}.example.test", route / ROUTES_PER_HOST), format!("/r{}/x", route % ROUTES_PER_HOST))
}

/// The request for each of so many routes, in an order that jumps.
pub fn requests(routes: usize) -> Vec<Bytes> {
    // 7,919 is prime: every route comes once.
    let numbers = (0..routes).map(|n| n * 7_919 % routes);
    let targets = numbers.map(target);
    targets.map(|(host, path)| request(&host, &path)).collect()
}

/// A request as a browser's call of an API might look.
pub fn request(host: &str, path: &str) -> Bytes {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench/1.0\r\naccept: */*\r\n\
         accept-encoding: gzip\r\ncookie: uid=abcdef0123456789\r\n\r\n"
    )
    .into()
}
