//! The proxies under test: `tombolo gateway` and the floor.

use std::{fs, net::SocketAddr, path::PathBuf};

use crate::{
    Failure, backend, documents,
    documents::Certificate,
    process::{PROXY_CORE, Process, beside, free_ports, pinned},
};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// pingora alone.
    Floor,
    /// `tombolo gateway` with so many routes.
    Gateway {
        /// HTTPRoutes, ten for each host.
        routes: usize,
        /// An access log is written (to /dev/null).
        log: bool,
    },
}

impl Kind {
    /// For tables.
    pub fn name(self) -> String {
        match self {
            Self::Floor => "bare pingora".into(),
            Self::Gateway { routes: 1, log: false } => "tombolo".into(),
            Self::Gateway { routes: 1, log: true } => "tombolo, access log".into(),
            Self::Gateway { routes, .. } => format!("tombolo, {routes} routes"),
        }
    }
}

/// Where things are.
pub struct World {
    /// Files of all kinds.
    pub dir: tempfile::TempDir,
    /// Of the application.
    pub backend: SocketAddr,
    /// Of one that speaks gRPC.
    pub grpc: SocketAddr,
    /// Of all hosts.
    pub certificate: Certificate,
}

impl World {
    /// An empty world, with its applications.
    pub async fn new() -> Result<Self, Failure> {
        let (backend, grpc) = (backend::start().await?, backend::start_grpc().await?);
        let dir = tempfile::tempdir()?;
        let certificate = Certificate::make(dir.path())?;
        Ok(Self { dir, backend, grpc, certificate })
    }
}

/// A proxy that runs until this is dropped.
pub struct Proxy {
    process: Process,
    /// HTTP/1.1 and, on the gateway, h2c.
    pub plain: SocketAddr,
    /// HTTPS.
    pub tls: SocketAddr,
    /// The gateway's documents.
    pub documents: PathBuf,
    callgrind: Option<PathBuf>,
}

impl Proxy {
    /// Starts one and waits until it serves. The floor serves plaintext or TLS, as `tls` says.
    pub fn start(kind: Kind, world: &World, tls: bool, callgrind: bool) -> Result<Self, Failure> {
        let dir = world.dir.path();
        let mut command = pinned(PROXY_CORE);
        let out = dir.join("callgrind.out");
        if callgrind {
            command.args(["valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"]);
            command.arg(format!("--callgrind-out-file={}.%p", out.display()));
        }
        let (listen, documents) = match kind {
            Kind::Floor => {
                let listen = SocketAddr::from(([127, 0, 0, 1], free_ports(&[0])?));
                command.arg(std::env::current_exe()?).arg("floor");
                command.args(["--listen", &listen.to_string(), "--upstream", &world.backend.to_string()]);
                if tls {
                    command.arg("--tls").arg(dir);
                }
                ((listen, listen), PathBuf::new())
            }
            Kind::Gateway { routes, log } => {
                let documents = dir.join(format!("routes-{routes}"));
                documents::write(&documents, routes, world.backend, &world.certificate)?;
                fs::write(documents.join("grpc.yaml"), documents::grpc(world.grpc))?;
                let offset = free_ports(&[80, 443])?;
                command.arg(beside("tombolo")?).arg("gateway").arg("--config").arg(&documents);
                command.arg("--state-dir").arg(dir.join("state"));
                command.args(["--port-offset", &offset.to_string(), "--log", "error"]);
                if log {
                    command.args(["--access-log", "/dev/null"]);
                }
                let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + offset));
                ((at(80), at(443)), documents)
            }
        };
        // One thread for requests, as the floor has.
        command.env("TOKIO_WORKER_THREADS", "1");
        let (plain, tls) = listen;
        let mut process = Process::start(&kind.name(), &mut command, dir)?;
        process.ready((kind != Kind::Floor).then_some("ready"), &[plain])?;
        Ok(Self { process, plain, tls, documents, callgrind: callgrind.then_some(out) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Callgrind's dump of this number.
    pub fn dump(&self, number: usize) -> PathBuf {
        let base = self.callgrind.clone().unwrap_or_default();
        PathBuf::from(format!("{}.{}.{number}", base.display(), self.id()))
    }
}
