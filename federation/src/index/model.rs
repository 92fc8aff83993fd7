//! The index against a simple reference: random events in random order, the same answers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::Message;
use tombolo_core::identity::testing::FakeCa;

use super::{tests::kit::*, *};

const APPS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    /// A workload of an app registers, or sends its heartbeat.
    Register { workload: usize, app: usize },
    /// Its stream breaks.
    Close { workload: usize },
    /// So many seconds pass.
    Pass(i64),
    /// Services, exports, which of those the peer may see, and imports are these (bit sets of apps).
    Configure { services: u8, exports: u8, told: u8, import: u8 },
    /// The link to the peer comes up.
    Connect,
    /// The peer names a service with so many endpoints, some of another trust domain.
    Advertise { app: usize, endpoints: usize, foreign: usize },
    /// The peer withdraws a service.
    Withdraw { app: usize },
    /// All is said.
    Sync { full: bool },
    /// The peer's gateways are there, or not.
    Gateways(bool),
    /// The link breaks.
    Partition,
    /// The link is alive.
    Ping,
    /// The controller restarts from what it saved.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let app = 0..APPS.len();
    prop_oneof![
        4 => (0..4_usize, app.clone()).prop_map(|(workload, app)| Step::Register { workload, app }),
        2 => (0..4_usize).prop_map(|workload| Step::Close { workload }),
        4 => prop_oneof![Just(1), Just(5), Just(14), Just(15), Just(61), Just(86_400)].prop_map(Step::Pass),
        2 => (0..8_u8, 0..8_u8, 0..8_u8, 0..8_u8)
            .prop_map(|(services, exports, told, import)| Step::Configure { services, exports, told, import }),
        2 => Just(Step::Connect),
        4 => (app.clone(), 0..3_usize, 0..2_usize)
            .prop_map(|(app, endpoints, foreign)| Step::Advertise { app, endpoints, foreign }),
        1 => app.prop_map(|app| Step::Withdraw { app }),
        2 => any::<bool>().prop_map(|full| Step::Sync { full }),
        1 => any::<bool>().prop_map(Step::Gateways),
        2 => Just(Step::Partition),
        3 => Just(Step::Ping),
        1 => Just(Step::Restart),
    ]
}

/// What should be, in the plainest way: everything is computed from scratch each time it is asked for.
#[derive(Default)]
struct Reference {
    now: i64,
    /// By workload: its app, until when.
    workloads: BTreeMap<String, (String, i64)>,
    services: BTreeSet<String>,
    exports: BTreeSet<String>,
    import: BTreeSet<String>,
    up: bool,
    synced: bool,
    /// By app: endpoint ids, and whether named since the link came up.
    remote: BTreeMap<String, (BTreeSet<String>, bool)>,
    /// Apps that are said to have no endpoints any more before all is said.
    unsettled: BTreeSet<String>,
    have: bool,
    /// The link tells what has changed, not everything.
    resumes: bool,
    gateways: bool,
    /// It says that it has no gateways before all is said.
    no_gateways: bool,
    quiet_since: i64,
    grace_until: i64,
    stale: bool,
}

impl Reference {
    /// True if what was held was dropped: it has to be told anew, over another link.
    fn pass(&mut self, milliseconds: i64) -> bool {
        self.now += milliseconds;
        let now = self.now;
        self.workloads.retain(|_, (_, until)| *until > now);
        self.stale |= (self.quiet_since + PEER_LEASE).max(self.grace_until) <= now;
        let is_lost = self.stale && (self.quiet_since + PEER_DROP).max(self.grace_until) <= now;
        let is_dropped = is_lost && (self.have || !self.remote.is_empty());
        if is_dropped {
            self.remote.clear();
            (self.have, self.up) = (false, false);
        }
        is_dropped
    }

    fn alive(&mut self) {
        self.quiet_since = self.now;
        if self.up && self.synced {
            self.stale = false;
        }
    }

    fn local(&self, app: &str) -> BTreeSet<(String, bool)> {
        let of_app = self.workloads.iter().filter(|(_, (of, _))| of == app);
        of_app.map(|(name, _)| (format!("east.example/shop/{name}/8080"), false)).collect()
    }

    /// The endpoints of a published service; none: it is not published.
    fn expected(&self, scope: &str, app: &str) -> Option<BTreeSet<(String, bool)>> {
        let here = self.services.contains(app);
        if scope == "cluster" {
            return here.then(|| self.local(app));
        }
        let mut all = None;
        if here && self.exports.contains(app) {
            all.get_or_insert_with(BTreeSet::new).extend(self.local(app));
        }
        if let Some((ids, _)) = self.remote.get(app).filter(|_| self.import.contains(app)) {
            let all = all.get_or_insert_with(BTreeSet::new);
            if self.gateways {
                all.extend(ids.iter().map(|id| (id.clone(), self.stale)));
            }
        }
        all
    }
}

/// Both, fed with the same steps, and what the index wanted saved.
struct Pair {
    index: Index,
    reference: Reference,
    session: Session,
    link: Option<Session>,
    streams: BTreeMap<String, Session>,
    configuration: Arc<Configuration>,
    vips: BTreeMap<String, u32>,
    registrations: BTreeMap<Name, Registration>,
    peer: Option<SavedPeer>,
    imports: BTreeMap<Name, v1::ExportedService>,
}

fn names(bits: u8) -> Vec<&'static str> {
    APPS.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, app)| *app).collect()
}

impl Pair {
    fn new(ca: &FakeCa) -> Self {
        let reference = Reference { now: 1_000_000, ..Reference::default() };
        let now = Moment(reference.now);
        let mut pair = Self {
            index: Index::new(settings(), Restored::default(), now),
            reference,
            session: 0,
            link: None,
            streams: BTreeMap::new(),
            configuration: Arc::default(),
            vips: BTreeMap::new(),
            registrations: BTreeMap::new(),
            peer: None,
            imports: BTreeMap::new(),
        };
        pair.event(peer(PeerEvent::Linked(identity(ca))));
        pair.reference.alive();
        pair
    }

    fn event(&mut self, event: Event) -> Vec<Refusal> {
        let refusals = self.index.apply(event, Moment(self.reference.now));
        for save in self.index.publish().saves {
            match save {
                Save::Vip(key, Some(index)) => drop(self.vips.insert(key, index)),
                Save::Vip(key, None) => drop(self.vips.remove(&key)),
                Save::Registration(name, Some(r)) => drop(self.registrations.insert(name, (*r).clone())),
                Save::Registration(name, None) => drop(self.registrations.remove(&name)),
                Save::Peer(_, saved) => self.peer = saved.map(|saved| *saved),
                Save::Import(_, name, Some(service)) => {
                    drop(self.imports.insert(name, v1::ExportedService::decode(service).unwrap()))
                }
                Save::Import(_, name, None) => drop(self.imports.remove(&name)),
                Save::Gateway(..) => {}
            }
        }
        refusals
    }

    fn next(&mut self) -> Session {
        self.session += 1;
        self.session
    }

    fn does(&mut self, step: &Step) {
        match step {
            Step::Register { workload, app } => {
                let name = format!("w{workload}");
                let app = APPS[*app];
                // A name belongs to an account as long as its lease runs.
                let taken = self.reference.workloads.get(&name).is_some_and(|(of, _)| of != app);
                let session = self.next();
                let refusals = self.event(registered(session, &name, app));
                assert_eq!(refusals.is_empty(), !taken, "{refusals:?}");
                if !taken {
                    let until = self.reference.now + LEASE;
                    self.reference.workloads.insert(name.clone(), (app.to_owned(), until));
                    self.streams.insert(name, session);
                }
            }
            Step::Close { workload } => {
                let name = format!("w{workload}");
                if let Some(session) = self.streams.remove(&name) {
                    self.event(Event::StreamClosed { session, name: Name::new("shop", &name) });
                    if let Some((_, until)) = self.reference.workloads.get_mut(&name) {
                        *until = self.reference.now + LEASE;
                    }
                }
            }
            Step::Pass(seconds) => {
                if self.reference.pass(seconds * 1000) {
                    self.link = None;
                }
                self.event(Event::Tick);
            }
            Step::Configure { services, exports, told, import } => {
                let (services, exports, import) = (names(*services), names(*exports), names(*import));
                let mut configuration = Configuration::clone(&configured(&services, &exports, &import));
                configuration.peers.get_mut("west").unwrap().export = patterns(&names(*told));
                self.configuration = Arc::new(configuration);
                let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
                self.reference.services = owned(&services);
                self.reference.exports = owned(&exports);
                self.reference.import = owned(&import);
                self.event(Event::Configured(Arc::clone(&self.configuration)));
            }
            Step::Restart => self.restart(),
            _ => self.link_step(step),
        }
    }

    fn link_step(&mut self, step: &Step) {
        if let Step::Connect = step {
            let session = self.next();
            self.link = Some(session);
            assert_eq!(self.event(hello(session)), []);
            let reference = &mut self.reference;
            (reference.up, reference.synced) = (true, false);
            reference.remote.values_mut().for_each(|(_, seen)| *seen = false);
            reference.unsettled.clear();
            (reference.no_gateways, reference.resumes) = (false, reference.have);
            return reference.alive();
        }
        let Some(session) = self.link else { return };
        match step {
            Step::Partition => {
                self.link = None;
                self.event(peer(PeerEvent::Disconnected { session }));
                self.reference.up = false;
                return;
            }
            Step::Advertise { app, endpoints, foreign } => {
                let app = APPS[*app];
                let own = (0..*endpoints).map(|n| remote_endpoint("west.example", &format!("{app}-{n}")));
                let ids = own.clone().map(|endpoint| endpoint.id).collect();
                let other = (0..*foreign).map(|n| remote_endpoint("north.example", &format!("{app}-{n}")));
                let service = exported(app, own.chain(other).collect());
                self.event(peer(PeerEvent::Service { session, service }));
                let reference = &mut self.reference;
                let held = reference.remote.get(app).is_some_and(|(ids, _)| !ids.is_empty());
                if !reference.synced && held && endpoints + foreign == 0 {
                    reference.unsettled.insert(app.to_owned());
                } else {
                    reference.unsettled.remove(app);
                    reference.remote.insert(app.to_owned(), (ids, true));
                }
            }
            Step::Withdraw { app } => {
                self.event(peer(PeerEvent::Withdrawn { session, name: Name::new("shop", APPS[*app]) }));
                self.reference.remote.remove(APPS[*app]);
                self.reference.unsettled.remove(APPS[*app]);
            }
            Step::Sync { full } => {
                self.event(synced(session, 1, *full));
                let reference = &mut self.reference;
                for app in std::mem::take(&mut reference.unsettled) {
                    reference.remote.insert(app, (BTreeSet::new(), true));
                }
                if *full || !reference.resumes {
                    reference.remote.retain(|_, (_, seen)| *seen);
                }
                reference.gateways &= !std::mem::take(&mut reference.no_gateways);
                (reference.synced, reference.have, reference.stale) = (true, true, false);
            }
            Step::Gateways(there) => {
                let addresses = if *there { vec!["203.0.113.9:15443".to_owned()] } else { vec![] };
                self.event(peer(PeerEvent::Gateways { session, addresses }));
                let reference = &mut self.reference;
                reference.no_gateways = !there && !reference.synced;
                reference.gateways = *there || (reference.gateways && reference.no_gateways);
            }
            _ => drop(self.event(peer(PeerEvent::Heard { session }))),
        }
        self.reference.alive();
    }

    fn restart(&mut self) {
        let now = Moment(self.reference.now);
        let mut saved = self.peer.clone().unwrap();
        saved.services = self.imports.values().cloned().collect();
        let restored = Restored {
            vips: self.vips.clone().into_iter().collect(),
            registrations: self.registrations.values().cloned().collect(),
            gateways: vec![],
            peers: vec![(west(), saved)],
        };
        self.index = Index::new(settings(), restored, now);
        (self.link, self.streams) = (None, BTreeMap::new());
        self.event(Event::Configured(Arc::clone(&self.configuration)));
        let reference = &mut self.reference;
        let until = reference.now + GRACE;
        reference.workloads.values_mut().for_each(|(_, lease)| *lease = until);
        reference.remote.values_mut().for_each(|(_, seen)| *seen = false);
        (reference.up, reference.synced) = (false, false);
        reference.stale = self.index.peer("west").unwrap().stale;
        reference.grace_until = until;
        // Not all of the silence was saved, and a sign of life that was not ends less of it.
        let silence = self.index.peer("west").unwrap().contact.silence(now);
        reference.quiet_since = reference.now - silence;
    }

    fn check(&self) {
        for app in APPS {
            for scope in ["cluster", "clusterset"] {
                let key = format!("{scope}/shop/{app}");
                let found = endpoints(&self.index, &key);
                let found = found.map(|found| found.into_iter().collect::<BTreeSet<_>>());
                assert_eq!(found, self.reference.expected(scope, app), "{key}");
            }
        }
        let mut anew = self.index.clone();
        anew.dirty = Dirty::everything();
        let missed = anew.publish();
        assert!(missed.resources.is_empty() && !missed.exports, "not computed anew: {:?}", missed.resources);
        for (key, _) in self.index.endpoint_sets() {
            let set = self.index.endpoint_set(key).unwrap();
            for endpoint in set.ports.iter().flat_map(|list| &list.endpoints) {
                let domain = if endpoint.cluster == "west" { "west.example" } else { "east.example" };
                assert!(endpoint.spiffe_id.starts_with(&format!("spiffe://{domain}/")), "{endpoint:?}");
            }
        }
    }

    fn vip_indexes(&self) -> BTreeMap<String, u32> {
        let services = self.index.published(Kind::Service).map(|(name, resource)| match resource {
            Resource::Service(service) => (name.clone(), service.vip_index),
            _ => panic!("another kind"),
        });
        services.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_reference_and_never_moves_a_virtual_address(steps in prop::collection::vec(step(), 1..60)) {
        // Making a key costs more than all the rest.
        thread_local!(static CA: FakeCa = FakeCa::new("west.example"));
        let mut pair = CA.with(Pair::new);
        let mut vips: BTreeMap<String, u32> = BTreeMap::new();
        for step in &steps {
            let before: Vec<_> = APPS.iter().map(|app| endpoints(&pair.index, &format!("clusterset/shop/{app}"))).collect();
            pair.does(step);
            pair.check();
            if matches!(step, Step::Partition | Step::Close { .. } | Step::Connect) {
                let after: Vec<_> = APPS.iter().map(|app| endpoints(&pair.index, &format!("clusterset/shop/{app}"))).collect();
                prop_assert_eq!(before, after, "nothing changes because a link or stream comes or goes");
            }
            for (key, index) in pair.vip_indexes() {
                let first = *vips.entry(key.clone()).or_insert(index);
                prop_assert_eq!(first, index, "{} has moved", key);
            }
            let distinct: BTreeSet<_> = vips.values().collect();
            prop_assert_eq!(distinct.len(), vips.len(), "two services share an address");
        }
    }
}
