//! OCSP responses for the certificates that want them: fetched and refreshed off the request path, and put where
//! handshakes find them.
//!
//! A response stays in use until it expires, whatever its responder says or does not say meanwhile; only that the
//! certificate was revoked ends it at once.

mod kept;
mod shown;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tombolo_core::{
    member::random_seed,
    ocsp::{OcspError, Staple, StapleSchedule, Target, Times, fetch, verify},
    telemetry::Telemetry,
    tls::EdgeCertificate,
};

pub(crate) use shown::{show, show_conditions};

use crate::options::OcspOptions;
use kept::Kept;

/// Responders that are asked at a time; the others wait for their turn.
const AT_A_TIME: usize = 4;
/// The longest sleep, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The shortest, so that whatever is due and cannot be begun costs nothing.
const SHORTEST_SLEEP: Duration = Duration::from_millis(20);

/// A certificate that goes with an OCSP response.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub certificate: Arc<EdgeCertificate>,
    /// The one that its Secret holds.
    pub own: Option<Arc<[u8]>>,
    /// Whether others are fetched.
    pub fetch: bool,
}

/// How a certificate's response is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StapleState {
    /// Until when it is good, in seconds since the Unix epoch; none: there is none.
    pub until: Option<i64>,
    /// The certificate demands one.
    pub demanded: bool,
    /// What went wrong last; none: nothing.
    pub failure: Option<String>,
    /// When the responder is asked next, in milliseconds since the Unix epoch; none: never.
    pub next: Option<i64>,
}

impl StapleState {
    /// True if some clients refuse the certificate.
    pub fn is_missing(&self) -> bool {
        self.demanded && self.until.is_none()
    }
}

/// How the responses are, by `NAMESPACE/NAME` of the Secret.
pub(crate) type Staples = BTreeMap<Arc<str>, StapleState>;

/// The task's end of which one says what is wanted.
#[derive(Debug)]
pub(crate) struct Stapling {
    wanted: watch::Sender<Vec<Wanted>>,
    staples: Arc<ArcSwap<Staples>>,
}

impl Stapling {
    /// Begins a task that ends when this is dropped.
    pub fn start(options: OcspOptions, telemetry: Arc<Telemetry>) -> Self {
        let (wanted, wanting) = watch::channel(Vec::new());
        let staples: Arc<ArcSwap<Staples>> = Arc::default();
        let task = Task {
            times: options.times,
            kept: Kept::open(options.dir),
            telemetry,
            wanting,
            entries: HashMap::new(),
            running: JoinSet::new(),
            staples: Arc::clone(&staples),
        };
        tokio::spawn(task.run());
        Self { wanted, staples }
    }

    /// Says what is wanted from now on.
    pub fn want(&self, wanted: Vec<Wanted>) {
        self.wanted.send_replace(wanted);
    }

    /// How they are, at any time.
    pub fn staples(&self) -> Arc<ArcSwap<Staples>> {
        Arc::clone(&self.staples)
    }
}

struct Entry {
    wanted: Wanted,
    target: Option<Arc<Target>>,
    schedule: StapleSchedule,
    staple: Option<Staple>,
    failure: Option<String>,
    /// Fetches are begun: there is somebody to ask.
    fetches: bool,
    asking: bool,
    /// It was told that it is missing.
    told: bool,
}

/// For which Secret and certificate somebody was asked, and what came of it.
type Answered = (Arc<str>, Arc<Target>, Result<Vec<u8>, String>);

struct Task {
    times: Times,
    kept: Kept,
    telemetry: Arc<Telemetry>,
    wanting: watch::Receiver<Vec<Wanted>>,
    entries: HashMap<Arc<str>, Entry>,
    running: JoinSet<Answered>,
    staples: Arc<ArcSwap<Staples>>,
}

/// Milliseconds since the Unix epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Task {
    async fn run(mut self) {
        loop {
            let wanted = self.wanting.borrow_and_update().clone();
            self.want(wanted);
            self.begin_due();
            self.publish();
            let wake = Instant::now() + self.pause();
            tokio::select! {
                changed = self.wanting.changed() => if changed.is_err() { return },
                Some(done) = self.running.join_next() => match done {
                    Ok((secret, target, answer)) => self.done(&secret, &target, answer),
                    // It panicked: whom it was for is not known, so that all are asked again.
                    Err(error) => {
                        tracing::error!(%error, "internal error: an OCSP request");
                        self.entries.values_mut().for_each(|entry| entry.asking = false);
                    }
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    fn want(&mut self, wanted: Vec<Wanted>) {
        let mut before = std::mem::take(&mut self.entries);
        for wanted in wanted {
            let secret = Arc::clone(wanted.certificate.secret());
            let entry = match before.remove(&secret) {
                Some(entry) if Arc::ptr_eq(&entry.wanted.certificate, &wanted.certificate) => entry,
                older => Entry::new(wanted, older, self.times, &self.kept),
            };
            self.entries.insert(secret, entry);
        }
    }

    fn begin_due(&mut self) {
        let now = now();
        let due = |entry: &Entry| entry.fetches && !entry.asking && entry.schedule.due() <= now;
        let mut waiting: Vec<_> = self.entries.iter_mut().filter(|(_, entry)| due(entry)).collect();
        waiting.sort_by_key(|(_, entry)| entry.schedule.due());
        for (secret, entry) in waiting {
            if self.running.len() >= AT_A_TIME {
                return;
            }
            let Some(target) = entry.target.clone() else { continue };
            let Some(url) = target.responder().map(str::to_owned) else { continue };
            entry.asking = true;
            let secret = Arc::clone(secret);
            self.running.spawn(async move {
                let answer = fetch(&url, target.request()).await;
                (secret, target, answer.map_err(|error| error.to_string()))
            });
        }
    }

    fn done(&mut self, secret: &str, target: &Arc<Target>, answer: Result<Vec<u8>, String>) {
        let Some(entry) = self.entries.get_mut(secret) else { return };
        // Asked for a certificate that has been replaced meanwhile.
        if !entry.target.as_ref().is_some_and(|held| Arc::ptr_eq(held, target)) {
            return;
        }
        entry.asking = false;
        let result = match entry.take(answer) {
            Ok(()) => {
                if let Some(staple) = &entry.staple {
                    self.kept.write(secret, staple.response.clone());
                }
                "good"
            }
            Err(error) => {
                entry.schedule.failed(now());
                let until = entry.staple.as_ref().map(|staple| staple.next_update);
                tracing::warn!(
                    secret,
                    error,
                    ?until,
                    "no OCSP response; the last good one stays until it expires"
                );
                entry.failure = Some(error);
                "failed"
            }
        };
        self.telemetry.ocsp().fetched(result);
    }

    fn publish(&mut self) {
        let (now, metrics) = (now(), self.telemetry.ocsp());
        let mut staples = Staples::new();
        for (secret, entry) in &mut self.entries {
            let state = entry.state(now);
            let missing = state.is_missing();
            metrics.staple(secret, state.until, missing);
            // Until it was tried, there is nothing to tell.
            let tell = missing && (state.failure.is_some() || entry.staple.is_some());
            if tell && !entry.told {
                let reason = state.failure.as_deref().unwrap_or("it has expired");
                tracing::error!(%secret, reason, "the certificate demands an OCSP response, and there is none: some clients refuse it");
            }
            entry.told = tell;
            staples.insert(Arc::clone(secret), state);
        }
        metrics.retain(|secret| self.entries.contains_key(secret));
        if **self.staples.load() != staples {
            self.staples.store(Arc::new(staples));
        }
    }

    fn pause(&self) -> Duration {
        let now = now();
        let full = self.running.len() >= AT_A_TIME;
        let next = |entry: &Entry| {
            let due = (entry.fetches && !entry.asking && !full).then(|| entry.schedule.due());
            let until = entry.staple.as_ref().map(|staple| staple.next_update.saturating_mul(1000));
            due.into_iter().chain(until.filter(|until| *until > now)).min()
        };
        let next = self.entries.values().filter_map(next).min().unwrap_or(i64::MAX);
        let until = next.saturating_sub(now).max(0).unsigned_abs();
        Duration::from_millis(until).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
    }
}

impl Entry {
    /// With the response of its Secret, or with the one that the same certificate had before, be it in an earlier process.
    fn new(wanted: Wanted, before: Option<Self>, times: Times, kept: &Kept) -> Self {
        let target = wanted.certificate.ocsp_target();
        let mut failure = target.as_ref().err().map(ToString::to_string);
        let target = target.ok().map(Arc::new);
        let fetches = wanted.fetch && target.as_ref().is_some_and(|target| target.responder().is_some());
        if wanted.fetch && !fetches && failure.is_none() {
            failure = Some("the certificate names no OCSP responder with an http URL".into());
        }
        let before = match before {
            Some(before) => before.staple.map(|staple| staple.response),
            None => kept.read(wanted.certificate.secret()),
        };
        let schedule = StapleSchedule::new(times, random_seed());
        let own = wanted.own.clone();
        let mut entry =
            Self { wanted, target, schedule, staple: None, failure, fetches, asking: false, told: false };
        // Whether it is about this certificate is seen when it is verified.
        let kept = before.is_some_and(|response| entry.take(Ok(response)).is_ok());
        if let Some(own) = own
            && let Err(error) = entry.take(Ok(own.to_vec()))
            && !kept
        {
            let secret = entry.wanted.certificate.secret();
            tracing::warn!(%secret, error, "ocsp.der of the Secret is not stapled");
            entry.failure = Some(format!("ocsp.der: {error}"));
        }
        entry
    }

    /// Takes over an answer, if it says now that the certificate is good.
    fn take(&mut self, answer: Result<Vec<u8>, String>) -> Result<(), String> {
        let target = self.target.as_ref().ok_or("there is nobody to verify it by")?;
        match verify(&answer?, target, now() / 1000) {
            Ok(staple) => {
                self.wanted.certificate.staple(Some(&staple));
                self.schedule.holds(now(), &staple);
                self.staple = Some(staple);
                self.failure = None;
                Ok(())
            }
            Err(error) => {
                if error == OcspError::Revoked {
                    self.wanted.certificate.staple(None);
                    self.staple = None;
                }
                Err(error.to_string())
            }
        }
    }

    fn state(&self, now: i64) -> StapleState {
        StapleState {
            until: self.wanted.certificate.stapled_until(now / 1000),
            demanded: self.wanted.certificate.must_staple(),
            failure: self.failure.clone(),
            next: (self.fetches && !self.asking).then(|| self.schedule.due()),
        }
    }
}
