//! A pair of `tombolo sidecar` processes, and the controller that they have joined.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use super::{
    contender::{Door, Running},
    ground::Ground,
};
use crate::{
    Failure,
    process::{OTHER_CORE, PROXY_CORE, Process, pinned},
};

/// Until endpoints are known.
const SOON: Duration = Duration::from_secs(30);
/// What each port of the service carries.
const PORTS: &[(Door, u16, &str, &str)] = &[
    (Door::Plain, 7080, "http", "http"),
    (Door::Grpc, 7081, "grpc", "kubernetes.io/h2c"),
    (Door::Tcp, 7082, "tcp", "tcp"),
];

/// One sidecar beside the clients, one beside the application.
pub fn pair(ground: &Ground) -> Result<Running, Failure> {
    let [address, inbound, unused, admin, server_dns, client_dns] = ground.addresses()?;
    let controller = Controller::start(ground, address)?;

    let mut command = controller.sidecar("server", server_dns, "127.77.0.0/16")?;
    command.args(["--inbound-listen", &inbound.to_string()]);
    for (door, _, name, _) in PORTS {
        // A port of the application has one name: bytes go to the other one of the same kind.
        let app = match door {
            Door::Grpc => ground.grpc_app,
            Door::Tcp => ground.app_v2,
            _ => ground.app,
        };
        command.args(["--app-port", &format!("{}={name}", app.port())]);
    }
    let mut server = Process::start("sidecar-server", &mut command, ground.dir())?;
    server.ready(Some("ready"), &[inbound])?;

    let mut command = controller.sidecar("client", client_dns, "127.78.0.0/16")?;
    command.args(["--inbound-listen", &unused.to_string(), "--admin", &admin.to_string()]);
    command.args(["--app-port", &format!("{}=http", ground.app.port())]);
    let mut client = Process::start("sidecar-client", &mut command, ground.dir())?;
    client.ready(Some("ready"), &[admin])?;
    let doors = outbound(admin)?;
    Ok(Running { processes: vec![client, server], _others: vec![controller.process], doors })
}

struct Controller<'a> {
    process: Process,
    ground: &'a Ground,
    address: SocketAddr,
    state: PathBuf,
}

impl<'a> Controller<'a> {
    fn start(ground: &'a Ground, address: SocketAddr) -> Result<Self, Failure> {
        let documents = ground.dir().join("mesh.yaml");
        fs::write(&documents, service())?;
        let state = emptied(ground, "controller")?;
        let mut command = pinned(OTHER_CORE);
        command.arg(ground.program("tombolo")?).arg("controller").arg("--state-dir").arg(&state);
        command.args(["--cluster", "bench", "--trust-domain", "bench.example", "--log", "error"]);
        command.args(["--listen", &address.to_string()]).arg("--config").arg(documents);
        let mut process = Process::start("controller", &mut command, ground.dir())?;
        process.ready(Some("ready"), &[address])?;
        Ok(Self { process, ground, address, state })
    }

    /// A sidecar that will join, on the core of proxies, with one thread for requests as all others have.
    fn sidecar(&self, name: &str, dns: SocketAddr, range: &str) -> Result<Command, Failure> {
        let tombolo = self.ground.program("tombolo")?;
        let mut token = Command::new(&tombolo);
        token.args(["join-token", "--namespace", "shop", "--account", name, "--state-dir"]).arg(&self.state);
        let token = token.output()?;
        if !token.status.success() {
            return Err(String::from_utf8_lossy(&token.stderr).into());
        }
        let mut command = pinned(PROXY_CORE);
        command.arg(tombolo).arg("sidecar").arg("--state-dir").arg(emptied(self.ground, name)?);
        command.args(["--controller", &self.address.to_string(), "--log", "error", "--workload", name]);
        command.args(["--join-token", String::from_utf8(token.stdout)?.trim()]);
        command.args(["--label", &format!("app={name}"), "--outbound-range", range]);
        command.args(["--dns-listen", &dns.to_string(), "--resolver", "127.0.0.1:9"]);
        command.env("TOKIO_WORKER_THREADS", "1");
        Ok(command)
    }
}

/// A state directory. Whoever had it before had certificates of another authority.
fn emptied(ground: &Ground, name: &str) -> Result<PathBuf, Failure> {
    let state = ground.dir().join(format!("{name}-state"));
    if state.exists() {
        fs::remove_dir_all(&state)?;
    }
    Ok(state)
}

fn service() -> String {
    let port = |(_, port, name, protocol): &(Door, u16, &str, &str)| {
        format!("{{ name: {name}, port: {port}, targetPort: {name}, appProtocol: {protocol} }}")
    };
    let ports: Vec<String> = PORTS.iter().map(port).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: echo, namespace: shop }}
spec: {{ selector: {{ app: server }}, ports: [{}] }}
",
        ports.join(", ")
    )
}

/// Where the client's sidecar listens for the service's ports, once it does.
fn outbound(admin: SocketAddr) -> Result<Vec<(Door, SocketAddr)>, Failure> {
    let end = Instant::now() + SOON;
    loop {
        let config = config(admin)?;
        let bound = |wanted: u16| {
            let all = config.get("outbound")?.as_array()?;
            let is_it = |one: &&serde_json::Value| {
                one["service"] == "cluster/shop/echo" && one["port"] == wanted && one["host"].is_null()
            };
            all.iter().find(is_it)?["bound"].as_str()?.parse::<SocketAddr>().ok()
        };
        let doors: Option<Vec<_>> =
            PORTS.iter().map(|(door, port, ..)| Some((*door, bound(*port)?))).collect();
        match doors {
            Some(doors) => return Ok(doors),
            None if Instant::now() > end => {
                return Err(format!("the sidecar does not listen for the service: {config}").into());
            }
            None => std::thread::park_timeout(Duration::from_millis(50)),
        }
    }
}

/// The admin listener's `/config`.
fn config(admin: SocketAddr) -> Result<serde_json::Value, Failure> {
    let mut tcp = TcpStream::connect(admin)?;
    tcp.set_read_timeout(Some(SOON))?;
    tcp.write_all(b"GET /config HTTP/1.0\r\nhost: admin\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer of the admin listener")?;
    Ok(serde_json::from_str(body)?)
}
