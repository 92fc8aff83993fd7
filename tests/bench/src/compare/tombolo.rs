//! `tombolo gateway` as a contender.

use std::{fs, net::SocketAddr};

use super::{
    contender::{Door, Running},
    ground::Ground,
};
use crate::{
    Failure, documents,
    process::{PROXY_CORE, Process, free_ports, pinned},
};

/// The port of the listener that passes TLS through.
const PASS: u16 = 8443;

/// A static gateway with so many routes; featured: with an access log and a gray release.
pub fn gateway(routes: usize, featured: bool, ground: &Ground) -> Result<Running, Failure> {
    let name = format!("tombolo-{routes}{}", if featured { "-featured" } else { "" });
    let documents = ground.dir().join(&name);
    documents::write(&documents, routes, ground.app, &ground.certificate)?;
    fs::write(documents.join("others.yaml"), others(ground))?;
    if featured {
        fs::write(documents.join("gray.yaml"), gray(ground.app_v2))?;
    }
    let offset = free_ports(&[80, 443, PASS])?;
    let mut command = pinned(PROXY_CORE);
    command.arg(ground.program("tombolo")?).arg("gateway").arg("--config").arg(&documents);
    command.arg("--state-dir").arg(ground.dir().join(format!("{name}-state")));
    command.args(["--port-offset", &offset.to_string(), "--log", "error"]);
    if featured {
        command.args(["--access-log", "/dev/null"]);
    }
    // One thread for requests, as all others have.
    command.env("TOKIO_WORKER_THREADS", "1");
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + offset));
    let mut process = Process::start(&name, &mut command, ground.dir())?;
    process.ready(Some("ready"), &[at(80), at(443), at(PASS)])?;
    let doors = vec![
        (Door::Plain, at(80)),
        (Door::Tls, at(443)),
        (Door::Grpc, at(80)),
        (Door::Passthrough, at(PASS)),
    ];
    Ok(Running { processes: vec![process], _others: Vec::new(), doors })
}

/// A service for gRPC, and one behind TLS that is passed through.
fn others(ground: &Ground) -> String {
    documents::grpc(ground.grpc_app)
        + &documents::service("behind", ", appProtocol: tcp", ground.tls_app)
        + &format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: pass, namespace: shop }}
spec:
  gatewayClassName: tombolo
  addresses: [{{ type: IPAddress, value: 127.0.0.1 }}]
  listeners: [{{ name: pass, protocol: TLS, port: {PASS}, tls: {{ mode: Passthrough }} }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{ name: pass, namespace: shop }}
spec:
  parentRefs: [{{ name: pass }}]
  hostnames: [h0.example.test]
  rules: [{{ backendRefs: [{{ name: behind, port: 80 }}] }}]
"
        )
}

/// Another version, for a header's value and 5% of the users, who stay on it.
fn gray(other: SocketAddr) -> String {
    format!(
        "apiVersion: tombolo.dev/v1alpha1
kind: Workload
metadata: {{ name: app-v2, namespace: shop }}
spec:
  services: [app]
  address: {ip}
  ports: [{{ name: http, port: {port} }}]
  labels: {{ version: v2, tombolo.dev/lane: v2 }}
---
apiVersion: tombolo.dev/v1alpha1
kind: GrayRelease
metadata: {{ name: app-v2, namespace: shop }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: route-0, sectionName: all }}]
  arms: [{{ name: v2, lane: v2, backendRefs: [{{ name: app, port: 80, labels: {{ version: v2 }} }}] }}]
  rules: [{{ arm: v2, headers: [{{ name: x-gray, value: v2 }}] }}]
  split: {{ key: {{ cookie: uid }}, weights: {{ v2: 5 }} }}
",
        ip = other.ip(),
        port = other.port(),
    )
}
