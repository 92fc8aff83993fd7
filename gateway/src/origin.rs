//! Where everything that a gateway decides from comes from: files, or a controller.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    sync::{watch, watch::Receiver},
};
use tombolo_core::{
    acme::{Challenges, told_answers},
    balance::{Placement, Pools},
    decide::{CookieKey, compile},
    discovery::{Discovery, type_url},
    identity::{self, files::random_secret},
    lifecycle::Readiness,
    member::{
        Discovering, JoinOptions, Member, PoolFeeder, Registration, RegistrationParts, Reporting, Sharing,
        advertised, random_seed,
    },
    model::{Locality, Snapshot, check_dns_label},
    proxy::{Inherited, ListenLimits, Serving, Sharing as SocketSharing, open, serve},
    quota::Quotas,
    resources::ResourceSet,
    telemetry::{Samples, Telemetry},
};
use tombolo_proto::v1;

use crate::{
    certificates::{CertificateBook, Certificates},
    files::Files,
    mesh::MeshNames,
    options::{AcmeOptions, Source},
    ordering::Ordering,
    running::Error,
    state::State,
    static_source::{Slots, StaticSource},
};

/// What the data path is made from, kept fresh by tasks of its own.
pub(crate) struct Origin {
    /// The snapshot in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The pools that are fed with it.
    pub pools: Arc<Pools>,
    /// Certificates that are shown to backends, in force before the snapshot that refers to them.
    pub certificates: Arc<ArcSwap<Certificates>>,
    /// Changes after each snapshot. The first value is empty.
    pub state: Receiver<Arc<State>>,
    /// This process's shares of limits that the cluster holds together.
    pub quotas: Arc<Quotas>,
    /// The membership in a mesh; none: there is no controller.
    pub membership: Option<Membership>,
}

/// A gateway's place in its cluster.
pub(crate) struct Membership {
    member: Member,
    registration: Registration,
    discovering: Discovering,
    _reporting: Reporting,
    sharing: Sharing,
    /// The mesh listener.
    pub mesh: Serving,
}

impl Membership {
    /// See [`Member::show_certificate`].
    pub fn show_certificate(&self, readiness: &Readiness, telemetry: &Arc<Telemetry>) {
        self.member.show_certificate(readiness, telemetry);
    }

    /// The certificate in force.
    pub fn credentials(&self) -> identity::Watch {
        self.member.credentials()
    }

    /// Leaves the place to a process that has registered under the same name, and gives back what lasts until the drain is
    /// over.
    pub fn leave(self) -> Remains {
        // The other process keeps the snapshot now.
        Remains { mesh: self.mesh, sharing: self.sharing, discovering: None }
    }

    /// Says that this gateway goes away, no longer than `limit`, and gives back the same.
    pub async fn withdraw(self, limit: Duration) -> Remains {
        if !self.registration.withdraw(limit).await {
            tracing::warn!("the controller has not taken note that this gateway goes away");
        }
        Remains { mesh: self.mesh, sharing: self.sharing, discovering: Some(self.discovering) }
    }
}

/// What is left of a membership until the drain is over.
pub(crate) struct Remains {
    mesh: Serving,
    sharing: Sharing,
    discovering: Option<Discovering>,
}

impl Remains {
    /// Waits for the connections of the mesh listener, no longer than `limit`. False: some are cut.
    pub async fn drained(&self, limit: Duration) -> bool {
        self.mesh.drained(limit).await
    }

    /// Gives back the shares of limits, and saves what was heard last.
    pub async fn finish(self) {
        self.sharing.give_back().await;
        if let Some(discovering) = self.discovering {
            discovering.finish().await;
        }
    }
}

impl Origin {
    /// Begins. With a controller it waits for the identity and the name of the cluster, which both outlive a process.
    pub async fn new(
        source: Source,
        ordering: (AcmeOptions, Arc<Challenges>),
        book: CertificateBook,
        (telemetry, samples): (&Arc<Telemetry>, &Arc<Samples>),
        inherited: &Inherited,
        stop: Receiver<bool>,
    ) -> Result<Self, Error> {
        match source {
            Source::Static { paths, poll, cookies } => {
                let own = || random_secret().ok().map(|secret| CookieKey::derive(&secret));
                Self::from_files((paths, poll), cookies.or_else(own), ordering, book, telemetry)
            }
            Source::Controller { join, name, mesh_listen, mesh_advertise, locality } => {
                let joining = Joining {
                    join,
                    name,
                    listen: mesh_listen,
                    advertise: mesh_advertise,
                    locality,
                    challenges: ordering.1,
                    book,
                    samples: Arc::clone(samples),
                };
                joining.run(telemetry, inherited, stop).await
            }
        }
    }

    fn from_files(
        (paths, poll): (Vec<PathBuf>, Duration),
        cookies: Option<CookieKey>,
        (options, challenges): (AcmeOptions, Arc<Challenges>),
        book: CertificateBook,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Self, Error> {
        // A path that is not there at the start is a mistake; later it is a problem that passes.
        for path in paths.iter().filter(|path| path.as_os_str() != "-") {
            std::fs::metadata(path).map_err(|source| Error::Config { path: path.clone(), source })?;
        }
        let pools = Arc::new(Pools::new(Placement::default(), Instant::now(), random_seed()));
        let feeder = Arc::new(PoolFeeder::new(Arc::clone(&pools)));
        let snapshot: Arc<ArcSwap<Snapshot>> = Arc::default();
        let certificates: Arc<ArcSwap<Certificates>> = Arc::default();
        let (states, state) = watch::channel(Arc::default());
        let into = Slots { snapshot: Arc::clone(&snapshot), certificates: Arc::clone(&certificates) };
        let ordering = Ordering::start(options, challenges, Arc::clone(telemetry));
        let source =
            StaticSource::new(Files::new(paths), ordering, Arc::clone(telemetry), feeder, into, book)
                .with_cookies(cookies);
        tokio::spawn(source.watch(poll, states));
        Ok(Self { snapshot, pools, certificates, state, quotas: Quotas::alone(), membership: None })
    }
}

/// Becoming a member of the mesh.
struct Joining {
    join: JoinOptions,
    name: String,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
    locality: Locality,
    challenges: Arc<Challenges>,
    book: CertificateBook,
    samples: Arc<Samples>,
}

impl Joining {
    async fn run(
        self,
        telemetry: &Arc<Telemetry>,
        inherited: &Inherited,
        stop: Receiver<bool>,
    ) -> Result<Origin, Error> {
        check_dns_label(&self.name)?;
        let member = Member::join(self.join.clone()).await?;
        if !member.id().is_gateway() {
            return Err(Error::NoGateway(member.id().clone()));
        }
        let failed = |source| Error::Listen { what: "the mesh listener", address: self.listen, source };
        let listener = open(self.listen, inherited, SocketSharing::None).map_err(failed)?;
        let mut registration = self.register(&member, &listener).await?;
        let registered = registration.registered().await;
        let placement = Placement {
            cluster: registered.cluster.as_str().into(),
            locality: self.locality.clone(),
            seat: random_seed(),
        };
        let quotas = Quotas::together();
        telemetry.watch_quotas(&quotas);
        let pools = Pools::new(placement, Instant::now(), random_seed());
        let pools = Arc::new(pools.holding(Arc::clone(&quotas)));
        let feeder = Arc::new(PoolFeeder::new(Arc::clone(&pools)));
        // Also all endpoints: those of public routes are needed with the first request, and peers may ask for any.
        let wildcard = type_url::ALL.to_vec();
        // Before the controller is told: it has the authority ask as soon as it hears that the answer is given.
        let challenges = self.challenges;
        let answer = move |documents: &ResourceSet| challenges.follow(&told_answers(documents));
        let (discovery, discovering) =
            member.discover_following("gateway", wildcard, compile, feeder, Arc::clone(telemetry), answer);
        let names = MeshNames::new(&registered.cluster);
        names.update(&discovery.snapshot().load());
        let service = Arc::new(names.passthrough().observed(Arc::clone(telemetry) as _));
        let mesh = serve(listener, service, ListenLimits::default(), stop).map_err(failed)?;
        telemetry.watch_listener("mesh", true, Arc::clone(mesh.stats()));
        let snapshot = Arc::clone(discovery.snapshot());
        let (states, state) = watch::channel(Arc::default());
        let certificates: Arc<ArcSwap<Certificates>> = Arc::default();
        let shown = Arc::clone(&certificates);
        let into = Followed { shown, book: self.book };
        tokio::spawn(follow(discovery, names, into, states, Arc::clone(telemetry)));
        let reporting = Reporting::start(member.connect(), Arc::clone(telemetry), Some(self.samples));
        let sharing = Sharing::start(member.connect(), Arc::clone(&quotas));
        let membership =
            Membership { member, registration, discovering, _reporting: reporting, sharing, mesh };
        Ok(Origin { snapshot, pools, certificates, state, quotas, membership: Some(membership) })
    }

    async fn register(&self, member: &Member, listener: &TcpListener) -> Result<Registration, Error> {
        let failed = |source| Error::Listen {
            what: "the address to advertise to peers",
            address: self.listen,
            source,
        };
        let bound = listener.local_addr().map_err(failed)?;
        let address = advertised(bound, self.advertise, &self.join.controllers).await.map_err(failed)?;
        let request = v1::RegisterRequest {
            name: self.name.clone(),
            gateway_mesh_address: address.to_string(),
            ..Default::default()
        };
        // A gateway that runs is healthy.
        let (_, health) = watch::channel(v1::Health::Healthy);
        Ok(Registration::start(RegistrationParts {
            connect: member.connect(),
            request,
            health,
            state_dir: self.join.state_dir.clone(),
        }))
    }
}

/// What follows the documents.
struct Followed {
    shown: Arc<ArcSwap<Certificates>>,
    book: CertificateBook,
}

/// Makes a state of each snapshot, from the first whole one on.
async fn follow(
    discovery: Discovery,
    names: MeshNames,
    Followed { shown, mut book }: Followed,
    states: watch::Sender<Arc<State>>,
    telemetry: Arc<Telemetry>,
) {
    let mut changes = discovery.changes();
    if discovery.synced().wait_for(|synced| *synced).await.is_err() {
        return;
    }
    loop {
        changes.borrow_and_update();
        let snapshot = discovery.snapshot().load_full();
        names.update(&snapshot);
        let documents = discovery.documents().load_full();
        book.update(&documents, &telemetry);
        let certificates = Arc::new(book.certificates());
        shown.store(Arc::clone(&certificates));
        states.send_replace(Arc::new(State {
            snapshot,
            certificates,
            problems: Vec::new(),
            certificate_problems: book.problems(),
            kept: Vec::new(),
        }));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = states.closed() => return,
        }
    }
}
