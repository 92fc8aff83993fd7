//! For how long a connection of the mesh may go on: no longer than its peer's certificate is valid, and only while
//! somebody is trusted who vouches for it. A handshake proves both once; tunnels and streams outlive it by days.
//!
//! Once a second all connections are looked at. Time is measured from the handshake by the monotonic clock, so that a
//! wall clock that is set ends nothing.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::Context,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use futures::task::AtomicWaker;
use rustls::pki_types::CertificateDer;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    model::{Snapshot, TrustBundles, TrustDomain},
    tls::{self, Leaf},
};

/// How often connections are looked at: a peer that is trusted no more is cut off within this, and the time that it
/// takes to check the chains.
const LOOK: Duration = Duration::from_secs(1);

/// A connection outlives its peer's certificate by this: who renews in time has long made another, and what still runs on
/// this one can end.
const GRACE: Duration = Duration::from_secs(30);

const LIVE: u8 = 0;
const EXPIRED: u8 = 1;
const DISTRUSTED: u8 = 2;

/// The mesh connections of a process, as many as its listeners and pools allow.
pub(super) struct Tenures {
    held: Mutex<Held>,
    grace: Duration,
    is_kept: AtomicBool,
}

#[derive(Default)]
struct Held {
    last: u64,
    all: HashMap<u64, Arc<Shared>>,
}

/// One connection's part that others can reach.
struct Shared {
    domain: TrustDomain,
    chain: Vec<CertificateDer<'static>>,
    /// A time at which the chain is valid, if it ever is.
    valid_at: SystemTime,
    /// When the peer's certificate ends; none: too far to be told.
    expires: Option<Instant>,
    /// When the connection does.
    until: Option<Instant>,
    ended: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// A connection's place among them, for as long as it is open.
pub(super) struct Tenure {
    shared: Arc<Shared>,
    tenures: Arc<Tenures>,
    number: u64,
}

impl Default for Tenures {
    fn default() -> Self {
        Self::with_grace(GRACE)
    }
}

impl Tenures {
    fn with_grace(grace: Duration) -> Self {
        Self { held: Mutex::default(), grace, is_kept: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection whose handshake has just been finished with this peer. None: the peer is nobody of the mesh.
    pub fn enter(self: &Arc<Self>, chain: Option<&[CertificateDer<'_>]>) -> Option<Tenure> {
        let chain = chain?;
        let leaf = Leaf::parse(chain.first()?).ok()?;
        let now = SystemTime::now();
        let left = leaf.not_after.duration_since(now).unwrap_or_default();
        let shared = Arc::new(Shared {
            domain: leaf.id.trust_domain().clone(),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            valid_at: now.min(leaf.not_after),
            expires: Instant::now().checked_add(left),
            until: Instant::now().checked_add(left + self.grace),
            ended: AtomicU8::new(LIVE),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        let mut held = self.lock();
        held.last += 1;
        let number = held.last;
        held.all.insert(number, Arc::clone(&shared));
        drop(held);
        Some(Tenure { shared, tenures: Arc::clone(self), number })
    }

    /// Looks at them from now on, for as long as they are; a second call changes nothing.
    pub fn keep(self: &Arc<Self>, snapshot: Arc<ArcSwap<Snapshot>>) {
        if self.is_kept.swap(true, Relaxed) {
            return;
        }
        let (tenures, mut trust) = (Arc::downgrade(self), Arc::clone(&snapshot.load().trust));
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::spawn(async move {
            loop {
                ticks.tick().await;
                let Some(tenures) = Weak::upgrade(&tenures) else { return };
                tenures.end_expired(Instant::now());
                let newer = Arc::clone(&snapshot.load().trust);
                if !Arc::ptr_eq(&trust, &newer) {
                    let suspects = tenures.suspects(&trust, &newer);
                    trust = newer;
                    if !suspects.is_empty() {
                        let trust = Arc::clone(&trust);
                        // Signatures take their time. A panic there was reported when it happened.
                        let _checked = tokio::task::spawn_blocking(move || distrust(&suspects, &trust)).await;
                    }
                }
            }
        });
    }

    fn end_expired(&self, now: Instant) {
        for shared in self.lock().all.values().filter(|shared| shared.until.is_some_and(|until| until <= now))
        {
            shared.end(EXPIRED);
        }
    }

    /// Connections of trust domains whose roots are others now.
    fn suspects(&self, before: &TrustBundles, now: &TrustBundles) -> Vec<Arc<Shared>> {
        let held = self.lock();
        let changed = |shared: &&Arc<Shared>| before.get(&shared.domain) != now.get(&shared.domain);
        held.all.values().filter(changed).cloned().collect()
    }
}

/// Ends those that nobody vouches for any more.
fn distrust(suspects: &[Arc<Shared>], trust: &TrustBundles) {
    // Many connections are with the same peer.
    let mut judged: HashMap<&[CertificateDer<'_>], bool> = HashMap::new();
    for shared in suspects {
        let vouched = *judged.entry(&shared.chain).or_insert_with(|| {
            let bundle = trust.get(&shared.domain);
            bundle.is_some_and(|bundle| tls::check_chain(&shared.chain, bundle, shared.valid_at).is_ok())
        });
        if !vouched {
            shared.end(DISTRUSTED);
        }
    }
}

impl Shared {
    fn end(&self, why: u8) {
        if self.ended.compare_exchange(LIVE, why, Relaxed, Relaxed).is_ok() {
            let reason = if why == EXPIRED { "its certificate has expired" } else { "it is trusted no more" };
            tracing::info!(trust_domain = %self.domain, reason, "a connection with a mesh peer is ended");
        }
        self.reader.wake();
        self.writer.wake();
    }
}

impl Tenure {
    /// When the peer's certificate ends; none: too far to be told.
    pub fn expires(&self) -> Option<Instant> {
        self.shared.expires
    }

    /// Fails once it is over; else what is polled next is polled again when it is over. `write`: for writing.
    pub fn check(&self, cx: &Context<'_>, write: bool) -> io::Result<()> {
        let waker = if write { &self.shared.writer } else { &self.shared.reader };
        waker.register(cx.waker());
        match self.shared.ended.load(Relaxed) {
            LIVE => Ok(()),
            EXPIRED => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer's certificate has expired"))
            }
            _ => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer is trusted no more")),
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.tenures.lock().all.remove(&self.number);
    }
}

impl fmt::Debug for Tenures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenures").field("held", &self.lock().all.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::identity::testing::{FakeCa, Leaf, trust};

    /// Waits until a connection is over, and says why.
    async fn over(tenure: &Tenure) -> String {
        let over = poll_fn(|cx| match tenure.check(cx, false) {
            Ok(()) => std::task::Poll::Pending,
            Err(error) => std::task::Poll::Ready(error.to_string()),
        });
        tokio::time::timeout(Duration::from_secs(10), over).await.expect("an end")
    }

    fn is_live(tenure: &Tenure) -> bool {
        tenure.shared.ended.load(Relaxed) == LIVE
    }

    #[tokio::test]
    async fn a_connection_ends_a_while_after_its_peers_certificate_and_one_that_is_gone_is_forgotten() {
        let ca = FakeCa::new("east.example");
        let short = Leaf::at(&ca.id("shop", "a"), SystemTime::now(), Duration::from_secs(2));
        let (short, long) = (ca.issue(&short), ca.credentials("shop", "b"));
        let tenures = Arc::new(Tenures::with_grace(Duration::ZERO));
        let snapshot = Snapshot { trust: trust(&[&ca]), ..Snapshot::default() };
        let (short, long) =
            (tenures.enter(Some(short.chain())).unwrap(), tenures.enter(Some(long.chain())).unwrap());
        tenures.keep(Arc::new(ArcSwap::from_pointee(snapshot)));
        assert_eq!(over(&short).await, "the peer's certificate has expired");
        assert!(is_live(&long));
        drop(short);
        assert_eq!(tenures.lock().all.len(), 1);
        assert!(tenures.enter(None).is_none());
    }

    #[tokio::test]
    async fn a_connection_ends_with_the_trust_in_its_peer_and_others_go_on() {
        let (east, west) = (FakeCa::new("east.example"), FakeCa::new("west.example"));
        let tenures = Arc::new(Tenures::default());
        let with = |trust| Snapshot { trust, ..Snapshot::default() };
        let snapshot = Arc::new(ArcSwap::from_pointee(with(trust(&[&east, &west]))));
        let own = tenures.enter(Some(east.credentials("shop", "a").chain())).unwrap();
        let foreign = tenures.enter(Some(west.credentials("shop", "a").chain())).unwrap();
        tenures.keep(Arc::clone(&snapshot));
        // A bundle that holds one root more, and still the old one.
        let mut more = TrustBundles::default();
        more.insert(east.bundle());
        let mut roots = west.bundle().roots;
        roots.push(Arc::from(&**FakeCa::new("west.example").root()));
        let bundle = crate::model::TrustBundle { roots, sequence: 2, ..west.bundle() };
        more.insert(bundle.clone());
        let before = with(trust(&[&east, &west])).trust;
        distrust(&tenures.suspects(&before, &more), &more);
        assert!(is_live(&own) && is_live(&foreign), "another root beside it changes nothing");
        let new_alone = crate::model::TrustBundle { roots: vec![bundle.roots[1].clone()], ..bundle };
        let mut only = TrustBundles::default();
        only.insert(east.bundle());
        only.insert(new_alone);
        snapshot.store(Arc::new(with(Arc::new(only))));
        assert_eq!(over(&foreign).await, "the peer is trusted no more");
        assert!(is_live(&own));
        // The whole trust domain.
        let again = tenures.enter(Some(west.credentials("shop", "a").chain())).unwrap();
        snapshot.store(Arc::new(with(trust(&[&east]))));
        assert_eq!(over(&again).await, "the peer is trusted no more");
        assert!(is_live(&own));
    }
}
