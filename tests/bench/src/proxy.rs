//! The processes under test.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::{Failure, documents, documents::Certificate};

/// Under callgrind, starting takes this long at most.
const START: Duration = Duration::from_secs(120);

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
    /// Of all hosts.
    pub certificate: Certificate,
}

impl World {
    /// An empty world.
    pub fn new(backend: SocketAddr) -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let certificate = Certificate::make(dir.path())?;
        Ok(Self { dir, backend, certificate })
    }
}

/// A proxy that runs until this is dropped.
pub struct Proxy {
    child: Child,
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
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
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
        command.env("TOKIO_WORKER_THREADS", "1").stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn()?;
        let (plain, tls) = listen;
        let mut proxy = Self { child, plain, tls, documents, callgrind: callgrind.then_some(out) };
        if kind != Kind::Floor {
            until_ready(proxy.child.stdout.take().ok_or("no output")?)?;
        }
        proxy.wait()?;
        Ok(proxy)
    }

    fn wait(&self) -> Result<(), Failure> {
        let end = Instant::now() + START;
        while TcpStream::connect(self.plain).is_err() {
            if Instant::now() > end {
                return Err("the proxy does not listen".into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its process id: `taskset` and `valgrind` become what they start.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Callgrind's dump of this number.
    pub fn dump(&self, number: usize) -> PathBuf {
        let base = self.callgrind.clone().unwrap_or_default();
        PathBuf::from(format!("{}.{}.{number}", base.display(), self.id()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Fails only if it has ended already, which then is said.
        let _killed = self.child.kill();
        match self.child.wait() {
            Ok(status) if status.signal() == Some(9) => {}
            ended => eprintln!("a proxy ended by itself: {ended:?}"),
        }
    }
}

/// Waits, at most [`START`], for the line that says that the gateway serves.
fn until_ready(output: ChildStdout) -> Result<(), Failure> {
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let ready = BufReader::new(output).lines().map_while(Result::ok).any(|l| l.contains("ready"));
        // Nobody waits for it any more if it came too late.
        let _late = said.send(ready);
    });
    match heard.recv_timeout(START) {
        Ok(true) => Ok(()),
        ended => Err(format!("tombolo gateway did not start: {ended:?}").into()),
    }
}

/// A number to which each of these can be added to have a port that nothing has now. All below 20,000, where the
/// kernel chooses none for connections, if there is such a number.
fn free_ports(added: &[u16]) -> Result<u16, Failure> {
    let from = 10_000 + u16::try_from(std::process::id() % 8_000)?;
    let free = |base: &u16| added.iter().all(|more| TcpListener::bind(("127.0.0.1", base + more)).is_ok());
    Ok((from..19_500).find(free).ok_or("no free port")?)
}

/// A binary of the same build.
fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let binary = own.parent().unwrap_or(Path::new(".")).join(name);
    if !binary.is_file() {
        return Err(format!("{} is not there: build it with the same profile", binary.display()).into());
    }
    Ok(binary)
}
