//! What a controller costs that has many sidecars, and how soon a changed endpoint is in use. The sidecars open the
//! streams that real ones do, by the same code; of discovery they only take and acknowledge what they are sent.

mod sidecar;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;
use tombolo_core::{
    balance::{Placement, Pools},
    decide,
    discovery::{Discovery, type_url},
    identity::Token,
    member::{Discovering, JoinOptions, Member, PoolFeeder},
    model::{Labels, ServiceKey},
    proxy::Wanted,
    telemetry::{AccessLog, Telemetry},
};
use tombolo_proto::v1::JoinTokenRequest;

use crate::{
    Failure,
    controller::{Controller, held_to},
    measure::{cpu_time, median},
    rounds::runtime,
};
use sidecar::Sidecar;

/// The service whose endpoint changes, and that every sidecar uses.
const CHANGING: &str = "cluster/fleet/changing";
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Sidecars that start at a time.
const AT_ONCE: usize = 32;
/// Of one endpoint, at most so many in ten seconds: what the controller takes from one workload.
const CHANGES: u16 = 50;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Fleet {
    /// Sidecars
    #[arg(long, default_value_t = 2_000)]
    sidecars: usize,
    /// Services
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Services that a sidecar uses
    #[arg(long, default_value_t = 10)]
    used: usize,
}

impl Fleet {
    /// Measures and prints. Fails where a target is missed.
    pub fn run(self) -> Result<(), Failure> {
        runtime()?.block_on(self.measure())
    }

    async fn measure(&self) -> Result<(), Failure> {
        let mut controller = Controller::start().await?;
        controller.apply(&documents(self.services, self.endpoints)).await?;
        let state = tempfile::tempdir()?;
        // All sidecars join by it, each for itself.
        let token = token(&mut controller, self.sidecars + 1).await?;
        let member = join(&token, &state.path().join("member")).await?;
        let mut endpoint = Endpoint::start(&member).await?;
        let proxy = Proxy::start(&member, self.services).await?;
        controller.settle().await?;
        let (in_use, busy) = self.changes(&controller, &mut endpoint, &mut [], Some(&proxy)).await?;
        println!(
            "{} endpoints of {} services: a changed one is in use after {in_use}, {busy:.1} ms of the controller's CPU",
            self.services * self.endpoints,
            self.services,
        );
        drop(proxy);
        controller.settle().await?;

        let before = controller.resident()?;
        let (begun, cpu) = (Instant::now(), cpu_time(controller.id())?);
        let starting = (0..self.sidecars).map(|number| self.sidecar(&token, number, state.path()));
        let starting = futures::stream::iter(starting).buffer_unordered(AT_ONCE);
        let mut sidecars: Vec<Sidecar> = starting.try_collect().await?;
        println!(
            "{} sidecars have started after {:.1?}, {:.1} s of the controller's CPU",
            self.sidecars,
            begun.elapsed(),
            (cpu_time(controller.id())? - cpu) / 1e6,
        );
        controller.settle().await?;
        let after = controller.resident()?;
        let each = (after.saturating_sub(before)) as f64 / self.sidecars.max(1) as f64;
        println!("controller: {} MiB, {each:.1} KiB a sidecar", after >> 10);
        let (told, busy) = self.changes(&controller, &mut endpoint, &mut sidecars, None).await?;
        println!(
            "a changed endpoint is told to all of them after {told}, {busy:.1} ms of the controller's CPU"
        );
        let grown = (controller.resident()?.saturating_sub(before)) as f64 / self.sidecars.max(1) as f64;
        println!("controller: {grown:.1} KiB a sidecar after the changes");
        let misses = [
            ("an endpoint's change in use within 50 ms", in_use.median < 50.0),
            ("told to all sidecars within a second", told.median < 1_000.0),
            ("under 100 KiB a sidecar", each < 100.0),
        ];
        held_to(&misses)
    }

    /// One sidecar, which uses the changing service and some others.
    async fn sidecar(&self, token: &Arc<Token>, number: usize, state: &Path) -> Result<Sidecar, Failure> {
        let others = (1..self.used).map(|other| service((number * self.used + other) % self.services.max(1)));
        let others = others.map(|name| format!("cluster/fleet/{name}"));
        Sidecar::start(token, number, others.collect(), state).await
    }

    /// Changes the endpoint again and again. How long it takes until all have it, and milliseconds of CPU for each.
    async fn changes(
        &self,
        controller: &Controller,
        endpoint: &mut Endpoint,
        sidecars: &mut [Sidecar],
        proxy: Option<&Proxy>,
    ) -> Result<(Times, f64), Failure> {
        let mut times = Vec::new();
        let cpu = cpu_time(controller.id())?;
        for _ in 0..CHANGES {
            let begun = Instant::now();
            let port = endpoint.change();
            if let Some(proxy) = proxy {
                proxy.uses(port).await?;
            }
            for sidecar in &mut *sidecars {
                sidecar.has(port).await?;
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            // Not faster than workloads may change.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let cpu = (cpu_time(controller.id())? - cpu) / 1e3 / f64::from(CHANGES);
        let most = times.iter().copied().fold(0.0, f64::max);
        Ok((Times { median: median(&mut times), most }, cpu))
    }
}

/// Milliseconds.
struct Times {
    median: f64,
    most: f64,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms (median; at most {:.1})", self.median, self.most)
    }
}

async fn token(controller: &mut Controller, uses: usize) -> Result<Arc<Token>, Failure> {
    let (namespace, account) = ("fleet".into(), "side".into());
    let request = JoinTokenRequest { namespace, account, ttl_seconds: 600, uses: u32::try_from(uses)? };
    let token = controller.operator.join_token(request).await?.into_inner().token;
    Ok(Arc::new(Token::parse(&token)?))
}

async fn join(token: &Arc<Token>, state_dir: &Path) -> Result<Member, Failure> {
    let (token, state_dir) = (Some(Arc::clone(token)), state_dir.to_owned());
    Ok(Member::join(JoinOptions { controllers: Vec::new(), token, state_dir }).await?)
}

/// The workload whose port changes, again and again.
struct Endpoint {
    request: watch::Sender<u16>,
    _registration: tokio::task::JoinHandle<()>,
}

impl Endpoint {
    async fn start(member: &Member) -> Result<Self, Failure> {
        let (request, ports) = watch::channel(20_000);
        let channel = (member.connect())().await?;
        Ok(Self { request, _registration: sidecar::register(channel, ports).await? })
    }

    /// The port that it has from now on.
    fn change(&mut self) -> u16 {
        self.request.send_modify(|port| *port += 1);
        *self.request.borrow()
    }
}

/// A proxy that has all services, as a real one has those that it uses.
struct Proxy {
    discovery: Discovery,
    pools: Arc<Pools>,
    service: ServiceKey,
    _discovering: Discovering,
}

impl Proxy {
    async fn start(member: &Member, services: usize) -> Result<Self, Failure> {
        let pools = Arc::new(Pools::new(Placement::default(), Instant::now(), 1));
        let wildcard = vec![type_url::CONFIG_DOCUMENT, type_url::SERVICE, type_url::TRUST_BUNDLE];
        let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
        let feeder = Arc::new(PoolFeeder::new(Arc::clone(&pools)));
        let (discovery, discovering) =
            member.discover("sidecar", wildcard, decide::compile, feeder, telemetry);
        let key = |name: &str| ServiceKey::parse(name);
        for number in 0..services {
            discovery.want(&key(&format!("cluster/fleet/{}", service(number)))?);
        }
        let service = key(CHANGING)?;
        if !discovery.wait_for(&service, LIMIT).await {
            return Err("the proxy gets no endpoints".into());
        }
        Ok(Self { discovery, pools, service, _discovering: discovering })
    }

    /// Waits until requests go to this port.
    async fn uses(&self, port: u16) -> Result<(), Failure> {
        let mut changes = self.discovery.changes();
        let uses = || {
            let (labels, avoid) = (Labels::new(), []);
            let wanted = Wanted {
                service: &self.service,
                port: 80,
                labels: &labels,
                lane: None,
                prefer: None,
                hash: None,
                avoid: &avoid,
                around: &avoid,
            };
            self.pools.pick(&wanted, Instant::now()).is_ok_and(|pick| pick.endpoint().target_port == port)
        };
        let waiting = async {
            while !uses() {
                if changes.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        let used = tokio::time::timeout(LIMIT, waiting).await.unwrap_or(false);
        if used { Ok(()) } else { Err("the proxy does not use the changed endpoint".into()) }
    }
}

fn service(number: usize) -> String {
    format!("s{number:04}")
}

fn documents(services: usize, endpoints: usize) -> String {
    let service = |number: usize| {
        let name = service(number);
        let addresses: String = (0..endpoints)
            .map(|e| format!("{{ addresses: [10.{}.{}.{}] }},", number / 250, number % 250, 1 + e % 250))
            .collect();
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: fleet }}\n\
             spec: {{ ports: [{{ name: http, port: 80 }}] }}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{ name: {name}, namespace: fleet, labels: {{ kubernetes.io/service-name: {name} }} }}\n\
             addressType: IPv4\nports: [{{ name: http, port: 80 }}]\nendpoints: [{addresses}]\n---\n"
        )
    };
    let changing = "apiVersion: v1\nkind: Service\nmetadata: { name: changing, namespace: fleet }\n\
                    spec: { selector: { app: changing }, ports: [{ name: http, port: 80, targetPort: http }] }\n---\n";
    (0..services).map(service).collect::<String>() + changing
}
