//! Keeps the certificates that are wanted: one task that orders what is due, and tells what there is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Issued, Patience, Responder, Schedule,
    entry::{Entry, rfc3339},
    order::{OrderError, Orderer},
    store::Store,
};
use crate::{
    decide::{AcmeCertificate, AcmeProgress, AcmeUrgency},
    telemetry::Telemetry,
};

/// Orders that run at a time; the others wait for their turn.
const AT_A_TIME: usize = 4;
/// The authority is asked this often for its window, where it does not say when.
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// And never more often than this.
const ASK_LEAST: Duration = Duration::from_secs(60);
/// The longest sleep, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// While another process orders from the same directory, it is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The shortest, so that whatever is due and cannot be begun costs nothing.
const SHORTEST_SLEEP: Duration = Duration::from_millis(20);

/// What a keeper is given.
pub struct KeeperParts {
    /// Where it keeps account keys and certificates. Made with the first order.
    pub state_dir: PathBuf,
    /// Gives answers to challenges.
    pub responder: Arc<dyn Responder>,
    /// The command that writes records for `dns-01` where there is no server for updates.
    pub hook: Option<PathBuf>,
    /// Bounds of trying again.
    pub patience: Patience,
    /// For metrics.
    pub telemetry: Arc<Telemetry>,
    /// What is wanted; the keeper ends with its sender.
    pub wanted: watch::Receiver<Arc<[AcmeCertificate]>>,
}

/// What there is of the certificates that are wanted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Certificates by `NAMESPACE/NAME` of their Secret; also some that are not wanted any more.
    pub issued: BTreeMap<String, Arc<Issued>>,
    /// How each that is wanted is, by issuer.
    pub progress: BTreeMap<String, Vec<AcmeProgress>>,
}

impl fmt::Debug for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holdings")
            .field("issued", &self.issued.keys())
            .field("progress", &self.progress)
            .finish()
    }
}

/// What came of a task.
enum Done {
    Order(Arc<str>, Result<Issued, OrderError>),
    Window(Arc<str>, Option<((i64, i64), Duration)>),
}

/// Begins, with what was kept. Gives what there is, now and from then on.
pub fn start(parts: KeeperParts) -> watch::Receiver<Arc<Holdings>> {
    let kept = Store::certificates(&parts.state_dir.join("acme"));
    let issued = kept.into_iter().map(|issued| (issued.secret.clone(), Arc::new(issued))).collect();
    let holdings = Arc::new(Holdings { issued, progress: BTreeMap::new() });
    let (tell, told) = watch::channel(Arc::clone(&holdings));
    let keeper = Keeper {
        issued: holdings.issued.clone(),
        parts,
        entries: HashMap::new(),
        running: JoinSet::new(),
        orderer: None,
        is_blocked: false,
        seen: None,
        tell,
    };
    tokio::spawn(keeper.run());
    told
}

struct Keeper {
    parts: KeeperParts,
    issued: BTreeMap<String, Arc<Issued>>,
    entries: HashMap<Arc<str>, Entry>,
    running: JoinSet<Done>,
    /// Made with the first order, as a gateway that orders nothing needs no directory.
    orderer: Option<Arc<Orderer>>,
    /// Something is due, and another process orders.
    is_blocked: bool,
    /// When the directory had changed, as it was last read.
    seen: Option<SystemTime>,
    tell: watch::Sender<Arc<Holdings>>,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let wanted = Arc::clone(&self.parts.wanted.borrow_and_update());
            self.want(&wanted);
            self.begin_due();
            self.publish();
            let wake = Instant::now() + self.pause();
            tokio::select! {
                changed = self.parts.wanted.changed() => if changed.is_err() { return },
                Some(done) = self.running.join_next() => match done {
                    Ok(done) => self.done(done),
                    // It panicked: nothing is known of it, so that it has failed.
                    Err(error) => self.abandon(&error.to_string()),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Takes over what is wanted now.
    fn want(&mut self, wanted: &[AcmeCertificate]) {
        let names: BTreeSet<&Arc<str>> = wanted.iter().map(|certificate| &certificate.secret).collect();
        self.entries.retain(|secret, _| names.contains(secret));
        for certificate in wanted {
            let held = self.issued.get(&*certificate.secret).filter(|issued| covers(issued, certificate));
            match self.entries.get_mut(&certificate.secret) {
                Some(entry) if entry.wanted == *certificate => {}
                Some(entry) => {
                    entry.wanted = certificate.clone();
                    if held.is_none() {
                        entry.schedule.outdated();
                    }
                }
                None => {
                    let mut schedule = Schedule::new(self.parts.patience, random());
                    if let Some(lifetime) = held.and_then(|issued| issued.lifetime()) {
                        schedule.holds(lifetime);
                    }
                    let wanted = certificate.clone();
                    let entry = Entry {
                        wanted,
                        schedule,
                        failure: None,
                        ordering: false,
                        ask_at: 0,
                        told: AcmeUrgency::None,
                    };
                    self.entries.insert(Arc::clone(&certificate.secret), entry);
                }
            }
        }
    }

    fn begin_due(&mut self) {
        let now = now();
        self.is_blocked = false;
        let has_work =
            |entry: &Entry| !entry.ordering && (entry.schedule.due() <= now || entry.is_to_ask(now));
        if !self.entries.values().any(has_work) {
            return;
        }
        let orderer = match self.orderer() {
            Ok(Some(orderer)) => Ok(orderer),
            Ok(None) => {
                self.is_blocked = true;
                return self.follow_other();
            }
            Err(error) => Err(error),
        };
        let mut due: Vec<(i64, Arc<str>)> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.ordering && entry.schedule.due() <= now)
            .map(|(secret, entry)| (entry.schedule.due(), Arc::clone(secret)))
            .collect();
        due.sort();
        for (_, secret) in due {
            if self.running.len() >= AT_A_TIME {
                return;
            }
            self.begin(&secret, &orderer, now);
        }
        if let Ok(orderer) = orderer {
            self.ask(&orderer, now);
        }
    }

    fn begin(&mut self, secret: &Arc<str>, orderer: &Result<Arc<Orderer>, OrderError>, now: i64) {
        let Some(entry) = self.entries.get_mut(secret) else { return };
        let orderer = match orderer {
            Ok(orderer) => Arc::clone(orderer),
            Err(error) => return entry.fail(secret, error, now, &self.parts.telemetry),
        };
        entry.ordering = true;
        let (wanted, secret) = (entry.wanted.clone(), Arc::clone(secret));
        let replaces = self.issued.get(&*secret).cloned();
        let replaces = replaces.filter(|issued| *issued.directory == *wanted.authority.directory);
        tracing::info!(%secret, names = ?wanted.names, issuer = %wanted.authority.issuer, "ordering a certificate");
        self.running.spawn(async move {
            let ordered = orderer.order(&wanted, replaces.as_deref()).await;
            Done::Order(secret, ordered)
        });
    }

    /// Asks for windows of renewal, as there is room.
    fn ask(&mut self, orderer: &Arc<Orderer>, now: i64) {
        for (secret, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.is_to_ask(now)) {
            if self.running.len() >= AT_A_TIME {
                return;
            }
            entry.ask_at = now.saturating_add(millis(ASK_AGAIN));
            let Some(issued) = self.issued.get(&**secret) else { continue };
            let (orderer, secret, issued) = (Arc::clone(orderer), Arc::clone(secret), Arc::clone(issued));
            let authority = Arc::clone(&entry.wanted.authority);
            self.running.spawn(async move {
                let window = orderer.window(&authority, &issued).await;
                Done::Window(secret, window)
            });
        }
    }

    /// Who orders. None: another process does, as long as it holds the directory's lock.
    fn orderer(&mut self) -> Result<Option<Arc<Orderer>>, OrderError> {
        if let Some(orderer) = &self.orderer {
            return Ok(Some(Arc::clone(orderer)));
        }
        let directory = self.parts.state_dir.join("acme");
        // What could not be kept would be ordered again and again.
        let failed = |error| {
            OrderError::local(format!("certificates cannot be kept in {}: {error}", directory.display()))
        };
        let store = Store::open(&directory).map_err(failed)?;
        let Some(lock) = store.lock().map_err(failed)? else { return Ok(None) };
        // The one that ordered before may have had some meanwhile.
        self.read_kept();
        let (responder, hook) = (Arc::clone(&self.parts.responder), self.parts.hook.clone());
        let orderer = Arc::new(Orderer { store, responder, hook, _lock: lock });
        self.orderer = Some(Arc::clone(&orderer));
        Ok(Some(orderer))
    }

    /// Takes over what the process that orders has had since.
    fn follow_other(&mut self) {
        let directory = self.parts.state_dir.join("acme");
        let changed = std::fs::metadata(directory).and_then(|metadata| metadata.modified()).ok();
        if changed != self.seen {
            tracing::info!("another process orders certificates from this directory; this one follows");
            self.seen = changed;
            self.read_kept();
        }
    }

    fn read_kept(&mut self) {
        for issued in Store::certificates(&self.parts.state_dir.join("acme")) {
            let Some(lifetime) = issued.lifetime() else { continue };
            if self.issued.get(&issued.secret).is_some_and(|held| **held == issued) {
                continue;
            }
            if let Some(entry) = self.entries.get_mut(issued.secret.as_str())
                && covers(&issued, &entry.wanted)
            {
                entry.holds(lifetime);
            }
            self.issued.insert(issued.secret.clone(), Arc::new(issued));
        }
    }

    fn done(&mut self, done: Done) {
        let now = now();
        match done {
            Done::Window(secret, window) => {
                let Some(entry) = self.entries.get_mut(&secret) else { return };
                if let Some((window, again)) = window {
                    entry.schedule.renew_within(window);
                    entry.ask_at = now.saturating_add(millis(again.clamp(ASK_LEAST, ASK_AGAIN)));
                }
            }
            Done::Order(secret, result) => {
                if let Some(entry) = self.entries.get_mut(&secret) {
                    entry.ordering = false;
                }
                match result {
                    Ok(issued) => self.take(&secret, issued),
                    Err(error) => {
                        if let Some(entry) = self.entries.get_mut(&secret) {
                            entry.fail(&secret, &error, now, &self.parts.telemetry);
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, secret: &Arc<str>, issued: Issued) {
        self.parts.telemetry.acme().ordered("issued");
        if let Some(orderer) = &self.orderer
            && let Err(error) = orderer.store.keep(&issued)
        {
            tracing::error!(%secret, %error, "a certificate cannot be kept: it will be ordered anew after a restart");
        }
        let Some(lifetime) = issued.lifetime() else { return };
        tracing::info!(%secret, names = ?issued.names, until = rfc3339(lifetime.not_after), "a certificate was issued");
        if let Some(entry) = self.entries.get_mut(secret) {
            entry.holds(lifetime);
            if !covers(&issued, &entry.wanted) {
                entry.schedule.outdated();
            }
        }
        self.issued.insert(secret.to_string(), Arc::new(issued));
    }

    fn abandon(&mut self, reason: &str) {
        let (now, error) = (now(), OrderError::local(format!("internal error: {reason}")));
        if self.running.is_empty() {
            for (secret, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.ordering) {
                entry.ordering = false;
                entry.fail(secret, &error, now, &self.parts.telemetry);
            }
        }
    }

    fn publish(&mut self) {
        let now = now();
        let mut progress: BTreeMap<String, Vec<AcmeProgress>> = BTreeMap::new();
        let metrics = self.parts.telemetry.acme();
        let mut secrets: Vec<_> = self.entries.iter_mut().collect();
        secrets.sort_by_key(|(secret, _)| Arc::clone(secret));
        for (secret, entry) in secrets {
            let issued = self.issued.get(&**secret).and_then(|issued| issued.lifetime());
            let failures = entry.schedule.failures();
            let urgency = issued.map(|lifetime| lifetime.urgency(now, failures)).unwrap_or_default();
            entry.warn(secret, urgency);
            metrics.certificate(secret, issued.map(|lifetime| lifetime.not_after / 1000), failures, urgency);
            progress.entry(entry.wanted.authority.issuer.to_string()).or_default().push(AcmeProgress {
                secret: secret.to_string(),
                not_after: issued.map(|lifetime| rfc3339(lifetime.not_after)),
                next_attempt: (!entry.ordering && entry.schedule.due() > 0)
                    .then(|| rfc3339(entry.schedule.due())),
                failure: entry.failure.clone(),
                failures,
                urgency,
            });
        }
        metrics.retain(|secret| self.entries.contains_key(secret));
        let holdings = Arc::new(Holdings { issued: self.issued.clone(), progress });
        self.tell.send_if_modified(|told| {
            let changed = **told != *holdings;
            if changed {
                *told = holdings;
            }
            changed
        });
    }

    fn pause(&self) -> Duration {
        if self.is_blocked {
            return LOOK_AGAIN;
        }
        if self.running.len() >= AT_A_TIME {
            return LONGEST_SLEEP;
        }
        let waiting = self.entries.values().filter(|entry| !entry.ordering);
        let next = waiting.map(|entry| match entry.schedule.not_after() {
            Some(_) => entry.schedule.due().min(entry.ask_at),
            None => entry.schedule.due(),
        });
        let until = next.min().unwrap_or(i64::MAX).saturating_sub(now()).max(0);
        Duration::from_millis(until.unsigned_abs()).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
    }
}

/// True if it is from the right place, and for all names that are wanted.
fn covers(issued: &Issued, wanted: &AcmeCertificate) -> bool {
    *issued.directory == *wanted.authority.directory
        && wanted.names.iter().all(|name| issued.names.iter().any(|held| **held == **name))
}

fn random() -> u64 {
    crate::member::random_seed()
}
