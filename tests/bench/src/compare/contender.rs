//! Who is measured, and how each is started.

use std::{fmt::Write, fs, net::SocketAddr};

use super::{
    ground::{Ground, Template},
    mesh, tombolo,
};
use crate::{
    Failure,
    documents::{ROUTES_PER_HOST, target},
    process::{PROXY_CORE, Process, pinned},
};

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// None: the clients reach the application itself.
    Nobody,
    Pingora,
    Nginx,
    Haproxy,
    Envoy,
    Tombolo,
}

/// A proxy in one of its forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nothing more than the case needs.
    Plain,
    /// With an access log in JSON, a gray release (a header's value, and a sticky 5%) and metrics.
    Featured,
    /// HTTP/2 between the two of a pair, whatever client and application speak.
    Http2,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contender(pub Who, pub Form);

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A gateway with so many routes.
    Gateway(usize),
    /// Two proxies with mutual TLS between them.
    Pair,
}

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Plain,
    Tls,
    Grpc,
    Passthrough,
    Tcp,
}

/// Processes that serve.
pub struct Running {
    /// Those that are measured.
    pub processes: Vec<Process>,
    /// Those that they need, held until the end.
    pub _others: Vec<Process>,
    /// Where.
    pub doors: Vec<(Door, SocketAddr)>,
}

impl Running {
    /// Where a client knocks.
    pub fn door(&self, wanted: Door) -> Result<SocketAddr, Failure> {
        let found = self.doors.iter().find(|(door, _)| *door == wanted);
        Ok(found.ok_or_else(|| format!("no listener for {wanted:?}"))?.1)
    }

    /// Microseconds that they used so far.
    pub fn cpu_time(&self) -> Result<f64, Failure> {
        self.processes.iter().map(Process::cpu_time).sum()
    }

    /// Their resident memory, in KiB.
    pub fn resident(&self) -> Result<f64, Failure> {
        Ok(self.processes.iter().map(Process::resident).sum::<Result<u64, Failure>>()? as f64)
    }
}

macro_rules! template {
    ($name:literal) => {
        Template { name: $name, text: include_str!(concat!("../../peers/", $name)) }
    };
}

impl Contender {
    /// For tables and `--peers`.
    pub fn name(self) -> String {
        let who = match self.0 {
            Who::Nobody => "no proxy",
            Who::Pingora => "bare pingora",
            Who::Nginx => "nginx",
            Who::Haproxy => "HAProxy",
            Who::Envoy => "Envoy",
            Who::Tombolo => "tombolo",
        };
        match self.1 {
            Form::Plain => who.into(),
            Form::Featured => format!("{who}, features on"),
            Form::Http2 => format!("{who}, HTTP/2 between"),
        }
    }

    /// Starts it and waits until its listeners are open.
    pub fn start(self, stage: Stage, ground: &Ground) -> Result<Running, Failure> {
        match (self.0, stage) {
            (Who::Nobody, _) => Ok(nobody(ground)),
            (Who::Pingora, Stage::Gateway(1)) => pingora(ground),
            (Who::Pingora, _) => Err("bare pingora has no routes and no pair".into()),
            (Who::Tombolo, Stage::Gateway(routes)) => {
                tombolo::gateway(routes, self.1 == Form::Featured, ground)
            }
            (Who::Tombolo, Stage::Pair) => mesh::pair(ground),
            (_, Stage::Gateway(routes)) => self.gateway(routes, ground),
            (_, Stage::Pair) => self.pair(ground),
        }
    }

    fn gateway(self, routes: usize, ground: &Ground) -> Result<Running, Failure> {
        let [plain, tls, grpc, pass] = ground.addresses()?;
        let addresses = [
            ("PLAIN", plain),
            ("TLS", tls),
            ("GRPC", grpc),
            ("PASS", pass),
            ("APP", ground.app),
            ("APP_V2", ground.app_v2),
            ("GRPC_APP", ground.grpc_app),
            ("TLS_APP", ground.tls_app),
        ];
        let dir = ground.dir().display().to_string();
        let dir = ("DIR", dir.as_str());
        let filled = match self.0 {
            Who::Nginx => {
                let servers = nginx_servers(routes, plain, tls);
                template!("nginx-gateway.conf").fill(&addresses, &[("SERVERS", &servers), dir])?
            }
            Who::Haproxy => {
                let targets = (0..routes).map(target).map(|(host, path)| (host, parent(&path).to_owned()));
                let map: String = targets.map(|(host, path)| format!("{host}{path} app\n")).collect();
                fs::write(ground.dir().join("routes.map"), map)?;
                template!("haproxy-gateway.cfg").fill(&addresses, &[dir])?
            }
            _ => {
                let featured = self.1 == Form::Featured;
                let mut hosts = envoy_hosts(routes);
                let mut log = "";
                if featured {
                    hosts = include_str!("../../peers/envoy-gray-route.yaml").to_owned();
                    log = include_str!("../../peers/envoy-access-log.yaml");
                }
                hosts.push_str(ENVOY_GRPC);
                let texts = [("VIRTUAL_HOSTS", hosts.as_str()), ("ACCESS_LOG", log), dir];
                template!("envoy-gateway.yaml").fill(&addresses, &texts)?
            }
        };
        let process = ground.peer(&self.name(), &filled, &[plain, tls, grpc, pass])?;
        let doors =
            vec![(Door::Plain, plain), (Door::Tls, tls), (Door::Grpc, grpc), (Door::Passthrough, pass)];
        Ok(Running { processes: vec![process], _others: Vec::new(), doors })
    }

    fn pair(self, ground: &Ground) -> Result<Running, Failure> {
        let [plain, grpc, tcp, next_http, next_grpc, next_tcp] = ground.addresses()?;
        let dir = ground.dir().display().to_string();
        let between = self.1 == Form::Http2;
        let texts = [
            ("DIR", dir.as_str()),
            ("ALPN", if between { "h2" } else { "http/1.1" }),
            ("PROTOCOL", if between { "http2_protocol_options" } else { "http_protocol_options" }),
        ];
        let server = [
            ("HTTP", next_http),
            ("GRPC", next_grpc),
            ("TCP", next_tcp),
            ("APP", ground.app),
            ("GRPC_APP", ground.grpc_app),
        ];
        let client = [
            ("PLAIN", plain),
            ("GRPC", grpc),
            ("TCP", tcp),
            ("NEXT_HTTP", next_http),
            ("NEXT_GRPC", next_grpc),
            ("NEXT_TCP", next_tcp),
        ];
        let (for_server, for_client) = match self.0 {
            Who::Nginx => (template!("nginx-pair-server.conf"), template!("nginx-pair-client.conf")),
            Who::Haproxy => (template!("haproxy-pair-server.cfg"), template!("haproxy-pair-client.cfg")),
            _ => (template!("envoy-pair-server.yaml"), template!("envoy-pair-client.yaml")),
        };
        let (server, client) = (for_server.fill(&server, &texts)?, for_client.fill(&client, &texts)?);
        let server = ground.peer(&self.name(), &server, &[next_http, next_grpc, next_tcp])?;
        let client = ground.peer(&self.name(), &client, &[plain, grpc, tcp])?;
        let doors = vec![(Door::Plain, plain), (Door::Grpc, grpc), (Door::Tcp, tcp)];
        Ok(Running { processes: vec![client, server], _others: Vec::new(), doors })
    }
}

fn nobody(ground: &Ground) -> Running {
    let doors = vec![
        (Door::Plain, ground.app),
        (Door::Tls, ground.tls_app),
        (Door::Grpc, ground.grpc_app),
        (Door::Passthrough, ground.tls_app),
        (Door::Tcp, ground.app),
    ];
    Running { processes: Vec::new(), _others: Vec::new(), doors }
}

fn pingora(ground: &Ground) -> Result<Running, Failure> {
    let [plain, tls] = ground.addresses()?;
    let mut command = pinned(PROXY_CORE);
    command.arg(std::env::current_exe()?).arg("floor").arg("--tls").arg(ground.dir());
    command.args(["--listen", &plain.to_string(), "--listen-tls", &tls.to_string()]);
    command.args(["--upstream", &ground.app.to_string()]);
    let mut process = Process::start("bare-pingora", &mut command, ground.dir())?;
    process.ready(None, &[plain, tls])?;
    let doors = vec![(Door::Plain, plain), (Door::Tls, tls)];
    Ok(Running { processes: vec![process], _others: Vec::new(), doors })
}

/// `/r0/` of `/r0/x`.
fn parent(path: &str) -> &str {
    path.trim_end_matches(|c| c != '/')
}

/// Hosts, and the paths of each.
fn hosts(routes: usize) -> Vec<(String, Vec<String>)> {
    let numbers: Vec<usize> = (0..routes).collect();
    let host = |numbers: &[usize]| {
        let paths = numbers.iter().map(|number| parent(&target(*number).1).to_owned()).collect();
        (numbers.first().map(|number| target(*number).0).unwrap_or_default(), paths)
    };
    numbers.chunks(ROUTES_PER_HOST).map(host).collect()
}

/// The first host is there over TLS as well.
fn nginx_servers(routes: usize, plain: SocketAddr, tls: SocketAddr) -> String {
    let mut text = String::new();
    for (number, (host, paths)) in hosts(routes).into_iter().enumerate() {
        let tls = if number == 0 { format!(" listen {tls} ssl http2;") } else { String::new() };
        // Writing to a String does not fail.
        let _written = write!(text, "  server {{ listen {plain};{tls} server_name {host};");
        for path in paths {
            let _written = write!(text, " location {path} {{ proxy_pass http://app; }}");
        }
        text.push_str(" }\n");
    }
    text
}

const ENVOY_GRPC: &str = "                  { name: grpc, domains: [grpc.example.test], routes: [{ match: { prefix: / }, route: { cluster: grpc } }] }";

fn envoy_hosts(routes: usize) -> String {
    let host = |(host, paths): (String, Vec<String>)| {
        let route = |path: &String| format!("{{ match: {{ prefix: {path} }}, route: {{ cluster: app }} }}");
        let routes: Vec<String> = paths.iter().map(route).collect();
        format!("                  {{ name: {host}, domains: [{host}], routes: [{}] }},\n", routes.join(", "))
    };
    hosts(routes).into_iter().map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_the_same_routes() {
        let all = hosts(25);
        assert_eq!(all.len(), 3);
        assert_eq!(all.iter().map(|(_, paths)| paths.len()).sum::<usize>(), 25);
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        for (host, paths) in &all {
            let in_envoy = envoy_hosts(25);
            let line = in_envoy.lines().find(|line| line.contains(host.as_str())).unwrap_or_default();
            assert_eq!(line.matches("prefix: ").count(), paths.len(), "{line}");
            let in_nginx = nginx_servers(25, any, any);
            let line = in_nginx.lines().find(|line| line.contains(host.as_str())).unwrap_or_default();
            assert_eq!(line.matches("location ").count(), paths.len(), "{line}");
        }
    }
}
