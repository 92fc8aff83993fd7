//! Both clusters together.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    client::Client,
    cluster::{Cluster, WorkloadPlan},
    documents::{self, PublicCertificate},
    ports::Ports,
};
use crate::{commands::admin, demo::Reply, failure::Failure, style};

/// How long a process may take to become ready.
const START_TIME: Duration = Duration::from_secs(60);

const fn plan(name: &'static str, app: &'static str, version: &'static str) -> WorkloadPlan {
    WorkloadPlan { name, namespace: "shop", app, version, lane: None, calls: &[], forget_baggage: false }
}

const EAST: &[WorkloadPlan] = &[
    WorkloadPlan {
        calls: &[
            "/=http://checkout.shop.svc.clusterset.local:8080/",
            "/ledger=http://ledger.bank.svc.clusterset.local:8080/",
            "/forbidden=http://payments.shop.svc.cluster.local:8080/",
        ],
        ..plan("storefront", "storefront", "v1")
    },
    WorkloadPlan { calls: CALLS_PAYMENTS, ..plan("checkout-v1", "checkout", "v1") },
    // This version passes on nothing but `traceparent`: its sidecar has to remember the lane.
    WorkloadPlan {
        calls: CALLS_PAYMENTS,
        lane: Some("v2"),
        forget_baggage: true,
        ..plan("checkout-v2", "checkout", "v2")
    },
    plan("payments-v1", "payments", "v1"),
    WorkloadPlan { lane: Some("v2"), ..plan("payments-v2", "payments", "v2") },
];

const WEST: &[WorkloadPlan] = &[
    WorkloadPlan { calls: CALLS_PAYMENTS, ..plan("checkout-v1", "checkout", "v1") },
    plan("payments-v1", "payments", "v1"),
    WorkloadPlan { namespace: "bank", ..plan("ledger", "ledger", "v1") },
];

const CALLS_PAYMENTS: &[&str] = &["/=http://payments.shop.svc.cluster.local:8080/"];

/// Two clusters, and the directory that holds their state.
pub struct Town {
    pub east: Cluster,
    pub west: Cluster,
    root: PathBuf,
    directory: Option<TempDir>,
    certificate: PublicCertificate,
    started: Instant,
}

impl Town {
    /// Chooses addresses and directories. Starts nothing.
    pub fn plan(port_base: Option<u16>) -> Result<Self, Failure> {
        let directory = tempfile::Builder::new()
            .prefix("tombolo-quickstart-")
            .tempdir()
            .map_err(|e| Failure::new(format!("cannot make a temporary directory: {e}")))?;
        let root = directory.path().to_owned();
        std::fs::create_dir_all(root.join("logs")).map_err(|e| Failure::new(e.to_string()))?;
        let certificate = PublicCertificate::new()?;
        let mut ports = Ports::new(port_base);
        let mut cluster = |name, workloads| {
            Cluster::plan(name, &root, &mut ports, workloads, documents::of_cluster(name, &certificate)?)
        };
        let (east, west) = (cluster("east", EAST)?, cluster("west", WEST)?);
        Ok(Self { east, west, root, directory: Some(directory), certificate, started: Instant::now() })
    }

    /// Brings everything up and waits until it serves, telling of each stage.
    pub async fn start(&mut self) -> Result<(), Failure> {
        std::fs::write(self.public_ca_file(), self.certificate.root_pem())
            .map_err(|e| Failure::new(e.to_string()))?;
        println!("{}", style::dim(&format!("state in {}", self.root.display())));
        self.say("controllers of east and west");
        for cluster in [&mut self.east, &mut self.west] {
            cluster.controller.start()?;
        }
        self.wait_ready(&[self.east.controller_admin(), self.west.controller_admin()]).await?;
        self.say("configuration, and the link between them");
        for cluster in [&self.east, &self.west] {
            cluster.configure().await?;
            cluster.issue_tokens().await?;
        }
        let token = self.west.peer_token().await?;
        self.east.join_peer(token).await?;
        let count = self.east.data_plane().count() + self.west.data_plane().count();
        self.say(&format!("gateways, services and their sidecars ({count} processes)"));
        for process in self.east.data_plane().chain(self.west.data_plane()) {
            process.start()?;
        }
        let admins: Vec<_> =
            [&self.east, &self.west].iter().flat_map(|c| c.proxy_admins()).map(|(_, a)| a).collect();
        self.wait_ready(&admins).await?;
        self.say("first requests through both clusters");
        let client = self.client()?;
        // Each service counts as up once its sidecar has found it to answer; until then others stand in for it.
        for (path, gray, service, version, cluster) in [
            ("/", "stable", "payments", "v1", "east"),
            ("/", "v2", "payments", "v2", "east"),
            ("/buy", "stable", "checkout", "v1", "east"),
            ("/ledger", "stable", "ledger", "v1", "west"),
        ] {
            let expected = |reply: &Reply| {
                reply.find(service).is_some_and(|found| found.version == version && found.cluster == cluster)
            };
            self.wait_served(&client, path, &[("x-gray", gray)], expected).await?;
        }
        self.say("ready");
        Ok(())
    }

    fn say(&self, what: &str) {
        println!("{} {what}", style::dim(&format!("{:>6.1} s", self.started.elapsed().as_secs_f64())));
    }

    /// Waits until `/ready` of each says yes.
    pub async fn wait_ready(&mut self, admins: &[SocketAddr]) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIME;
        for address in admins {
            loop {
                let answer = admin::get(*address, "/ready").await;
                if answer.as_ref().is_ok_and(|(status, _)| *status == 200) {
                    break;
                }
                self.check_alive()?;
                if Instant::now() > deadline {
                    let why = answer.map_or_else(|e| e.to_string(), |(_, body)| body);
                    let tail = self.tail_of(*address);
                    return Err(Failure::new(format!(
                        "{address} is not ready after {START_TIME:?}: {why}\n{tail}"
                    )));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Waits until the path is answered as expected.
    async fn wait_served(
        &mut self,
        client: &Client,
        path: &str,
        headers: &[(&str, &str)],
        expected: impl Fn(&Reply) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIME;
        loop {
            let why = match client.get(path, headers).await.and_then(|a| a.reply()) {
                Ok(reply) if expected(&reply) => return Ok(()),
                Ok(reply) => format!("{reply:?}"),
                Err(why) => why,
            };
            self.check_alive()?;
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{path} is not served after {START_TIME:?}: {why}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn check_alive(&mut self) -> Result<(), Failure> {
        self.east.processes().chain(self.west.processes()).try_for_each(|p| p.check_alive())
    }

    fn tail_of(&mut self, admin: SocketAddr) -> String {
        let proxies = [&self.east, &self.west].into_iter().flat_map(|c| c.proxy_admins()).collect::<Vec<_>>();
        let name = proxies.into_iter().find(|(_, a)| *a == admin).map(|(name, _)| name);
        let mut processes = self.east.processes().chain(self.west.processes());
        processes.find(|p| Some(p.name()) == name.as_deref()).map(|p| p.tail()).unwrap_or_default()
    }

    /// A client of east's gateway.
    pub fn client(&self) -> Result<Client, Failure> {
        Client::new(self.east.https_address(), self.certificate.root_der())
    }

    /// The root that public clients trust.
    pub fn public_ca_file(&self) -> PathBuf {
        self.root.join("public-ca.pem")
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Names of processes whose log tells of a panic.
    pub fn panicked(&mut self) -> Vec<String> {
        let processes = self.east.processes().chain(self.west.processes());
        processes.filter(|p| p.has_panicked()).map(|p| p.name().to_owned()).collect()
    }

    /// Ends every process.
    pub async fn stop(&mut self) {
        let processes = self.east.processes().chain(self.west.processes());
        futures::future::join_all(processes.map(|p| p.stop())).await;
    }

    /// Removes the state, or keeps it and says where it is.
    pub fn clean_up(mut self, keep: bool) -> Option<PathBuf> {
        let directory = self.directory.take()?;
        if keep {
            return Some(directory.keep());
        }
        // What cannot be removed is only left in the system's own place for temporary files.
        let _removed = directory.close();
        None
    }

    /// The state directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
