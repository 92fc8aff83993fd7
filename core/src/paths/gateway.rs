//! What is seen of one gateway: by probes, and by connections through it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::nanos_of;

/// Failures in a row after which a gateway is down.
const FALL: u32 = 2;
/// Successes in a row after which it is up again.
const RISE: u32 = 2;
/// What failed once is tried last for this long, or until it answers.
const SUSPECT: Duration = Duration::from_secs(5);
/// Part of a new round trip in the average (RFC 6298 section 2: alpha).
const ROUND_TRIP_GAIN: f64 = 1.0 / 8.0;
/// Part of a new success or failure in the average loss.
const LOSS_GAIN: f64 = 1.0 / 16.0;
/// It is lossy from the first on, until its loss is below the second.
const LOSSY: f64 = 0.25;
const LOSSY_NO_MORE: f64 = 0.1;

/// Probes of a gateway that requests go through, of one that they may go through, of one that has just failed, and of one
/// that is down. Each a quarter sooner or later by chance.
const BUSY: Duration = Duration::from_millis(750);
const QUIET: Duration = Duration::from_secs(5);
const HURRY: Duration = Duration::from_millis(200);
const DOWN: Duration = Duration::from_secs(1);
/// Requests go through it if one did within this time.
const USED: Duration = Duration::from_secs(10);
/// A probe may take so long: four round trips and a bit, within these bounds.
const SHORTEST: Duration = Duration::from_millis(300);
const LONGEST: Duration = Duration::from_secs(1);

/// How a gateway stands, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It answers.
    Up,
    /// It answers, but many connections fail.
    Lossy,
    /// It failed a moment ago.
    Suspect,
    /// It failed again and again.
    Down,
}

/// One gateway's mesh listener.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    down: AtomicBool,
    lossy: AtomicBool,
    /// 0: it is not suspect.
    suspect_until: AtomicU64,
    /// When it was last chosen for a connection; 0: never.
    used: AtomicU64,
    watched: Mutex<Watched>,
}

/// What is counted.
#[derive(Debug, Default)]
struct Watched {
    /// In a row.
    failures: u32,
    successes: u32,
    /// Nanoseconds, averaged.
    round_trip: Option<f64>,
    /// From 0 to 1, averaged.
    loss: f64,
    /// When it was last probed; 0: never.
    probed: u64,
    probing: bool,
}

/// A gateway as it is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Showing {
    /// How it stands.
    pub standing: Standing,
    /// Averaged, from probes.
    pub round_trip: Option<Duration>,
    /// The part of probes and connections that failed, averaged, from 0 to 1.
    pub loss: f64,
}

/// A probe that is to be made. Dropped before it is finished, it says nothing.
#[derive(Debug)]
pub struct Probe {
    gateway: Arc<Gateway>,
    limit: Duration,
}

impl Gateway {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            down: AtomicBool::new(false),
            lossy: AtomicBool::new(false),
            suspect_until: AtomicU64::new(0),
            used: AtomicU64::new(0),
            watched: Mutex::default(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// It failed again and again, and has not answered since.
    pub fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Many connections to it fail.
    pub fn is_lossy(&self) -> bool {
        self.lossy.load(Relaxed)
    }

    /// The average round trip; none before the first probe.
    pub fn round_trip(&self) -> Option<Duration> {
        self.watched().round_trip.map(|nanos| Duration::from_nanos(nanos as u64))
    }

    pub(super) fn standing(&self, now: u64) -> Standing {
        match (self.is_down(), now < self.suspect_until.load(Relaxed), self.is_lossy()) {
            (true, ..) => Standing::Down,
            (_, true, _) => Standing::Suspect,
            (.., true) => Standing::Lossy,
            _ => Standing::Up,
        }
    }

    /// As it is now.
    pub fn show(&self, now: u64) -> Showing {
        let watched = self.watched();
        let round_trip = watched.round_trip.map(|nanos| Duration::from_nanos(nanos as u64));
        Showing { standing: self.standing(now), round_trip, loss: watched.loss }
    }

    pub(super) fn used(&self, now: u64) {
        self.used.store(now.max(1), Relaxed);
    }

    pub(super) fn failed(&self, now: u64) {
        self.judge(&mut self.watched(), false, now);
    }

    /// Tried last, and probed soon; it may be the endpoint behind it.
    pub(super) fn unanswered(&self, now: u64) {
        self.suspect_until.store(now.saturating_add(nanos_of(SUSPECT)), Relaxed);
    }

    pub(super) fn answered(&self, now: u64) {
        self.judge(&mut self.watched(), true, now);
    }

    fn judge(&self, watched: &mut Watched, well: bool, now: u64) {
        watched.loss += (f64::from(u8::from(!well)) - watched.loss) * LOSS_GAIN;
        let lossy = if self.is_lossy() { watched.loss >= LOSSY_NO_MORE } else { watched.loss >= LOSSY };
        self.lossy.store(lossy, Relaxed);
        if well {
            (watched.successes, watched.failures) = (watched.successes.saturating_add(1), 0);
            self.suspect_until.store(0, Relaxed);
            if watched.successes >= RISE {
                self.down.store(false, Relaxed);
            }
        } else {
            (watched.successes, watched.failures) = (0, watched.failures.saturating_add(1));
            self.suspect_until.store(now.saturating_add(nanos_of(SUSPECT)), Relaxed);
            if watched.failures >= FALL {
                self.down.store(true, Relaxed);
            }
        }
    }

    /// When it was probed last; 0: never.
    pub fn probed(&self) -> u64 {
        self.watched().probed
    }

    /// The probe that is due by now, if one is. `chance` is from 0 to 1.
    pub fn due(self: &Arc<Self>, now: u64, chance: f64) -> Option<Probe> {
        let mut watched = self.watched();
        let used = self.used.load(Relaxed);
        let busy = used > 0 && now.saturating_sub(used) <= nanos_of(USED);
        // Also where only a connection failed: is it the gateway?
        let pause = match self.standing(now) {
            Standing::Down => DOWN,
            Standing::Suspect => HURRY,
            _ if watched.successes < RISE => HURRY,
            _ if busy => BUSY,
            _ => QUIET,
        };
        let pause = nanos_of(pause.mul_f64(0.75 + 0.5 * chance.clamp(0.0, 1.0)));
        let is_due = watched.probed == 0 || now.saturating_sub(watched.probed) >= pause;
        if watched.probing || !is_due {
            return None;
        }
        (watched.probing, watched.probed) = (true, now.max(1));
        let limit = watched.round_trip.map_or(LONGEST, |nanos| Duration::from_nanos(nanos as u64) * 4);
        let limit = (limit + LONGEST / 10).clamp(SHORTEST, LONGEST);
        Some(Probe { gateway: Arc::clone(self), limit })
    }

    /// Held only for moments, never across an await. A panic elsewhere leaves nothing half done here.
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    /// Who is probed.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// It may take so long.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Says how it ended: the round trip, or that there was no answer. Whether the gateway is up, where that has changed.
    pub fn finish(self, round_trip: Option<Duration>, now: u64) -> Option<bool> {
        let gateway = &self.gateway;
        let was_down = gateway.is_down();
        let mut watched = gateway.watched();
        if let Some(seen) = round_trip {
            let seen = nanos_of(seen) as f64;
            let known = watched.round_trip.get_or_insert(seen);
            *known += (seen - *known) * ROUND_TRIP_GAIN;
        }
        gateway.judge(&mut watched, round_trip.is_some(), now);
        drop(watched);
        (was_down != gateway.is_down()).then_some(was_down)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.gateway.watched().probing = false;
    }
}

impl Standing {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Lossy => "lossy",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}
