//! What a sidecar is made of: what it learns of its cluster, and its data path.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tombolo_core::{
    balance::{Placement, Pools},
    decide::{InboundWorkload, compile},
    discovery::{Discovery, type_url},
    member::{
        Checking, Discovering, Member, PoolFeeder, Probing, Registered, Reporting, Sharing, random_seed,
    },
    model::{Snapshot, opaque_sni},
    proxy::{EngineError, EngineParts, HttpEngine, MeshUpstream},
    quota::Quotas,
};

use crate::{
    capture::{Passing, plaintext::Admissions},
    in_flight::{EndObserver, InFlight},
    inbound::{InboundDirector, Names},
    options::Options,
    outbound::{OutboundDirector, Uses},
    way::Ways,
};

/// What is made once the cluster's name is known.
pub(crate) struct Core {
    pub workload: InboundWorkload,
    pub feeder: Arc<PoolFeeder>,
    pub discovery: Discovery,
    pub discovering: Discovering,
    pub reporting: Reporting,
    pub quotas: Arc<Quotas>,
    pub sharing: Sharing,
}

impl Core {
    /// Discovery begins, and telling the controller of traffic.
    pub fn new(options: &Options, member: &Member, registered: &Registered) -> Self {
        let placement = Placement {
            cluster: registered.cluster.as_str().into(),
            locality: options.locality.clone(),
            seat: random_seed(),
        };
        let quotas = Quotas::together();
        options.telemetry.watch_quotas(&quotas);
        let pools = Pools::new(placement, Instant::now(), random_seed());
        let pools = Arc::new(pools.holding(Arc::clone(&quotas)));
        let feeder = Arc::new(PoolFeeder::new(pools));
        let wildcard = vec![type_url::CONFIG_DOCUMENT, type_url::SERVICE, type_url::TRUST_BUNDLE];
        let (discovery, discovering) = member.discover(
            "sidecar",
            wildcard,
            compile,
            Arc::clone(&feeder),
            Arc::clone(&options.telemetry),
        );
        let labels = options.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
        let workload = InboundWorkload {
            namespace: member.id().namespace().into(),
            labels: labels.collect(),
            ports: options.ports.iter().map(|(port, name)| (*port, name.as_str().into())).collect(),
        };
        let reporting = Reporting::start(member.connect(), Arc::clone(&options.telemetry), None);
        let sharing = Sharing::start(member.connect(), Arc::clone(&quotas));
        Self { workload, feeder, discovery, discovering, reporting, quotas, sharing }
    }
}

/// The data path.
pub(crate) struct Parts {
    pub outbound: Arc<HttpEngine>,
    pub uses: Arc<Uses>,
    pub ways: Arc<ArcSwap<Ways>>,
    pub passing: Arc<Passing>,
    pub inbound: Arc<HttpEngine>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub admissions: Arc<Admissions>,
    pub names: Arc<ArcSwap<Names>>,
    pub checking: Checking,
    pub probing: Probing,
}

impl Parts {
    /// Nobody is served yet.
    pub fn new(
        options: &Options,
        member: &Member,
        core: &Core,
        registered: watch::Receiver<Option<Arc<Registered>>>,
    ) -> Result<Self, EngineError> {
        let (id, snapshot) = (member.id(), core.discovery.snapshot());
        let names = Arc::new(ArcSwap::from_pointee(names_of(options, member)));
        tokio::spawn(follow_names(Arc::clone(&names), registered));
        let (in_flight, pools) = (Arc::<InFlight>::default(), core.feeder.pools());
        let upstream = MeshUpstream::along(
            Arc::clone(pools.paths()),
            Some(member.credentials()),
            Arc::clone(snapshot),
            Arc::default(),
        );
        let checked = Arc::clone(&upstream);
        let outbound =
            OutboundDirector { own: id.clone(), pools: Arc::clone(pools), in_flight: Arc::clone(&in_flight) };
        let admissions =
            Arc::new(Admissions { workload: core.workload.clone(), told: options.plaintext.clone() });
        let inbound = InboundDirector::new(
            id.trust_domain().clone(),
            &options.workload,
            options.app_address,
            Arc::clone(&names),
            Arc::clone(&in_flight),
            Arc::clone(&admissions),
        );
        let observer = EndObserver { in_flight, next: Arc::clone(&options.telemetry) as _ };
        let outbound = HttpEngine::new(EngineParts {
            snapshot: Arc::clone(snapshot),
            director: Arc::new(outbound),
            picker: Arc::clone(pools) as _,
            upstream: Arc::clone(&upstream),
            observer: Arc::clone(&options.telemetry) as _,
            quotas: Arc::clone(&core.quotas),
        })?;
        let inbound = HttpEngine::new(EngineParts {
            snapshot: Arc::clone(snapshot),
            director: Arc::new(inbound),
            picker: Arc::clone(pools) as _,
            upstream,
            observer: Arc::new(observer),
            quotas: Arc::clone(&core.quotas),
        })?;
        let passing = Passing::new(options.unknown, Arc::clone(&options.telemetry) as _);
        let uses = Uses::new(core.discovery.clone());
        let telemetry = Arc::clone(&options.telemetry);
        let probing = Probing::start(Arc::clone(pools), Arc::clone(&checked), Arc::clone(&telemetry));
        let checking = Checking::start(Arc::clone(pools), checked, Arc::clone(snapshot), telemetry);
        let (ways, snapshot) = (Arc::default(), Arc::clone(snapshot));
        Ok(Self { outbound, uses, ways, passing, inbound, snapshot, admissions, names, checking, probing })
    }
}

/// The names of the workload's ports, as everybody can work them out.
fn names_of(options: &Options, member: &Member) -> Names {
    let (domain, namespace) = (member.id().trust_domain(), member.id().namespace());
    let name = |port: u16| opaque_sni(domain, namespace, &options.workload, port);
    options.ports.iter().map(|(port, _)| (name(*port), *port)).collect()
}

/// Adds what the controller calls them. It cannot lead anywhere but to this workload's ports.
async fn follow_names(names: Arc<ArcSwap<Names>>, mut registered: watch::Receiver<Option<Arc<Registered>>>) {
    let own = names.load_full();
    loop {
        if let Some(registered) = registered.borrow_and_update().clone() {
            let known = |port: &u16| own.values().any(|own| own == port);
            let told = registered.inbound.iter().filter(|(_, port)| known(port));
            let mut all = (*own).clone();
            all.extend(told.map(|(name, port)| (name.clone(), *port)));
            names.store(Arc::new(all));
        }
        if registered.changed().await.is_err() {
            return;
        }
    }
}
