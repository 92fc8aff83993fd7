//! One cluster of the quickstart: its processes, and how they are brought up.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tombolo_proto::v1::{
    ApplyRequest, JoinTokenRequest, PeerJoinRequest, PeerTokenRequest, apply_request::File,
};

use super::{
    ports::{LoopbackNet, Ports},
    process::Process,
};
use crate::{commands::OperatorClient, commands::operator_in, failure::Failure};

/// A workload: a demo service and the sidecar beside it.
pub struct Workload {
    /// e.g. `checkout-v2`.
    pub name: &'static str,
    namespace: &'static str,
    /// Where the demo service listens.
    pub app: SocketAddr,
    /// The sidecar's inbound listener.
    pub inbound: SocketAddr,
    /// The sidecar's admin listener.
    pub admin: SocketAddr,
    /// The demo service.
    pub service: Process,
    /// The sidecar.
    pub sidecar: Process,
    token_file: PathBuf,
}

/// What a workload is made from.
pub struct WorkloadPlan {
    pub name: &'static str,
    pub namespace: &'static str,
    pub app: &'static str,
    pub version: &'static str,
    pub lane: Option<&'static str>,
    pub calls: &'static [&'static str],
    pub forget_baggage: bool,
}

/// One cluster.
pub struct Cluster {
    /// `east` or `west`.
    pub name: &'static str,
    directory: PathBuf,
    /// The controller.
    pub controller: Process,
    controller_admin: SocketAddr,
    /// The gateway.
    pub gateway: Process,
    gateway_admin: SocketAddr,
    https: SocketAddr,
    /// Services with their sidecars.
    pub workloads: Vec<Workload>,
    documents: String,
    _net: LoopbackNet,
}

fn args<const N: usize>(args: [&str; N]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

impl Cluster {
    /// Chooses addresses and writes down what to start. Starts nothing.
    pub fn plan(
        name: &'static str,
        root: &Path,
        ports: &mut Ports,
        workloads: &[WorkloadPlan],
        documents: String,
    ) -> Result<Self, Failure> {
        let directory = root.join(name);
        let logs = root.join("logs");
        make_dir(&directory)?;
        let net = LoopbackNet::claim()?;
        let (listen, controller_admin) = (ports.next()?, ports.next()?);
        let controller_args = {
            let mut list = args(["controller", "--cluster", name, "--trust-domain"]);
            list.push(format!("{name}.test"));
            list.extend(["--network".into(), name.into(), "--listen".into(), listen.to_string()]);
            list.extend(["--admin".into(), controller_admin.to_string(), "--state-dir".into()]);
            list.push(directory.join("controller").display().to_string());
            list
        };
        let (offset, https) = ports.offset_for_443()?;
        let (mesh, gateway_admin) = (ports.next()?, ports.next()?);
        let gateway_args = {
            let mut list = args(["gateway", "--address", "127.0.0.1", "--controller"]);
            list.extend([listen.to_string(), "--mesh-listen".into(), mesh.to_string()]);
            list.extend([
                "--port-offset".into(),
                offset.to_string(),
                "--admin".into(),
                gateway_admin.to_string(),
            ]);
            list.extend(["--state-dir".into(), directory.join("gateway").display().to_string()]);
            list.extend(["--join-token".into(), format!("@{}", directory.join("gateway.token").display())]);
            list.extend(args(["--region", name]));
            list.extend(access_log(&logs, &format!("{name}-gateway")));
            list
        };
        let mut cluster = Self {
            name,
            controller: Process::new(format!("{name}-controller"), &logs, controller_args),
            gateway: Process::new(format!("{name}-gateway"), &logs, gateway_args),
            directory,
            controller_admin,
            gateway_admin,
            https,
            workloads: Vec::new(),
            documents,
            _net: net,
        };
        for (position, plan) in (0u8..).zip(workloads) {
            let workload = cluster.plan_workload(plan, position, listen, ports, &logs)?;
            cluster.workloads.push(workload);
        }
        Ok(cluster)
    }

    fn plan_workload(
        &self,
        plan: &WorkloadPlan,
        position: u8,
        controller: SocketAddr,
        ports: &mut Ports,
        logs: &Path,
    ) -> Result<Workload, Failure> {
        let (app, inbound, admin) = (ports.next()?, ports.next()?, ports.next()?);
        let dns = self._net.dns(position);
        let mut service =
            args(["demo-service", "--name", plan.app, "--version", plan.version, "--cluster", self.name]);
        service.extend(["--listen".into(), app.to_string(), "--dns".into(), dns.to_string()]);
        service.extend(plan.calls.iter().flat_map(|call| ["--call".to_owned(), (*call).to_owned()]));
        service.extend(plan.forget_baggage.then(|| "--forget-baggage".to_owned()));

        let token_file = self.directory.join(format!("{}.token", plan.name));
        let mut sidecar = args(["sidecar", "--workload", plan.name, "--controller"]);
        sidecar.extend([controller.to_string(), "--app-port".into(), format!("{}=http", app.port())]);
        sidecar.extend(["--join-token".into(), format!("@{}", token_file.display())]);
        sidecar.extend(["--state-dir".into(), self.directory.join(plan.name).display().to_string()]);
        sidecar.extend(["--inbound-listen".into(), inbound.to_string(), "--admin".into(), admin.to_string()]);
        sidecar.extend([
            "--outbound-range".into(),
            self._net.range(position),
            "--dns-listen".into(),
            dns.to_string(),
        ]);
        sidecar.extend(args(["--region", self.name, "--network", self.name]));
        sidecar.extend(access_log(logs, &format!("{}-{}-sidecar", self.name, plan.name)));
        sidecar.extend(["--label".into(), format!("app={}", plan.app)]);
        sidecar.extend(["--label".into(), format!("version={}", plan.version)]);
        if let Some(lane) = plan.lane {
            sidecar.extend(["--label".into(), format!("{}={lane}", tombolo_core::model::LANE_LABEL)]);
        }
        Ok(Workload {
            name: plan.name,
            namespace: plan.namespace,
            app,
            inbound,
            admin,
            service: Process::new(format!("{}-{}", self.name, plan.name), logs, service),
            sidecar: Process::new(format!("{}-{}-sidecar", self.name, plan.name), logs, sidecar),
            token_file,
        })
    }

    /// The public HTTPS address of the gateway.
    pub fn https_address(&self) -> SocketAddr {
        self.https
    }

    /// The gateway's admin listener.
    pub fn gateway_admin(&self) -> SocketAddr {
        self.gateway_admin
    }

    /// The controller's admin listener.
    pub fn controller_admin(&self) -> SocketAddr {
        self.controller_admin
    }

    /// The controller's state directory.
    pub fn controller_state(&self) -> PathBuf {
        self.directory.join("controller")
    }

    /// The documents, as a file to edit.
    pub fn documents_file(&self) -> PathBuf {
        self.directory.join("documents.yaml")
    }

    /// The workload of this name.
    pub fn workload(&mut self, name: &str) -> Result<&mut Workload, String> {
        self.workloads.iter_mut().find(|w| w.name == name).ok_or_else(|| format!("no workload {name}"))
    }

    /// A connection to the controller's operator socket.
    pub async fn operator(&self) -> Result<OperatorClient, Failure> {
        operator_in(&self.controller_state()).await
    }

    /// Applies the documents.
    pub async fn apply(&self, name: &str, text: &str) -> Result<u64, Failure> {
        let files = vec![File { name: name.into(), text: text.into() }];
        let request = ApplyRequest { files, author: "quickstart".into(), ..Default::default() };
        let answer =
            self.operator().await?.apply(request).await.map_err(|s| Failure::new(s.message()))?.into_inner();
        if answer.errors.is_empty() {
            return Ok(answer.generation);
        }
        Err(Failure::new(format!("{}'s documents are refused:\n{}", self.name, answer.errors.join("\n"))))
    }

    /// Applies its own documents and writes them to a file.
    pub async fn configure(&self) -> Result<(), Failure> {
        let file = self.documents_file();
        write_private(&file, &self.documents)?;
        self.apply("documents.yaml", &self.documents).await?;
        Ok(())
    }

    /// Writes a join token for the gateway and for each sidecar.
    pub async fn issue_tokens(&self) -> Result<(), Failure> {
        let mut operator = self.operator().await?;
        let gateway = ("tombolo-system", "gateway", self.directory.join("gateway.token"));
        let account = |w: &Workload| w.name.split('-').next().unwrap_or_default().to_owned();
        let of_workloads = self.workloads.iter().map(|w| (w.namespace, account(w), w.token_file.clone()));
        for (namespace, account, file) in of_workloads.chain([(gateway.0, gateway.1.to_owned(), gateway.2)]) {
            let request =
                JoinTokenRequest { namespace: namespace.into(), account, ttl_seconds: 600, uses: 1 };
            let answer = operator.join_token(request).await.map_err(|s| Failure::new(s.message()))?;
            write_private(&file, &answer.into_inner().token)?;
        }
        Ok(())
    }

    /// A token for a peer.
    pub async fn peer_token(&self) -> Result<String, Failure> {
        let request = PeerTokenRequest { ttl_seconds: 300, uses: 1 };
        let answer =
            self.operator().await?.peer_token(request).await.map_err(|s| Failure::new(s.message()))?;
        Ok(answer.into_inner().token)
    }

    /// Joins the peer that issued the token.
    pub async fn join_peer(&self, token: String) -> Result<(), Failure> {
        let request = PeerJoinRequest { token };
        self.operator().await?.peer_join(request).await.map_err(|s| Failure::new(s.message()))?;
        Ok(())
    }

    /// The data plane with the services.
    pub fn data_plane(&mut self) -> impl Iterator<Item = &mut Process> {
        let workloads = self.workloads.iter_mut().flat_map(|w| [&mut w.service, &mut w.sidecar]);
        std::iter::once(&mut self.gateway).chain(workloads)
    }

    /// Every process.
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let workloads = self.workloads.iter_mut().flat_map(|w| [&mut w.service, &mut w.sidecar]);
        [&mut self.controller, &mut self.gateway].into_iter().chain(workloads)
    }

    /// Admin listeners of the proxies.
    pub fn proxy_admins(&self) -> Vec<(String, SocketAddr)> {
        let sidecars = self.workloads.iter().map(|w| (w.sidecar.name().to_owned(), w.admin));
        sidecars.chain([(self.gateway.name().to_owned(), self.gateway_admin)]).collect()
    }
}

fn access_log(logs: &Path, name: &str) -> [String; 2] {
    ["--access-log".into(), logs.join(format!("{name}.access.json")).display().to_string()]
}

fn make_dir(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|e| Failure::new(format!("cannot make {}: {e}", path.display())))
}

/// Tokens and keys are for this user alone.
fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let failure = |e| Failure::new(format!("cannot write {}: {e}", path.display()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failure)?;
    file.write_all(text.as_bytes()).map_err(failure)
}
