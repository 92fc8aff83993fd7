//! A bounded sample of the heads of recent requests.
//!
//! A request that is not taken costs a load and a comparison with its random bits. So many are taken that about
//! [`RATE`] come together in a second; once a second the share is adapted.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use crate::decide::{BindKey, Caller, Deciding, Named, RequestHead, Sample};

/// Samples that are wanted in a second.
const RATE: u32 = 20;
/// Samples that are taken in a second at most: then none until the next.
const BURST: u32 = 4 * RATE;
/// Samples that are kept; the oldest go.
const MOST: usize = 2_000;
/// Bytes that they may take together; the oldest go.
const MOST_BYTES: usize = 2 << 20;
/// Every request, of 32 random bits.
const ALL: u64 = 1 << 32;
/// One of so many requests is taken at least.
const RAREST: u64 = ALL >> 20;

/// The heads of recent requests.
#[derive(Debug)]
pub struct Samples {
    named: Named,
    /// Requests are taken whose random bits are below this.
    below: AtomicU64,
    /// The same, also while nothing is taken until the next second.
    level: AtomicU64,
    taken: AtomicU32,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    samples: VecDeque<(usize, Sample)>,
    bytes: usize,
}

impl Samples {
    /// Nothing yet. Of headers and cookies that are `named`, values are kept as well.
    pub fn new(named: Named) -> Self {
        Self {
            named,
            below: AtomicU64::new(ALL),
            level: AtomicU64::new(ALL),
            taken: AtomicU32::new(0),
            kept: Mutex::default(),
        }
    }

    /// Whether a request with these random bits is to be kept.
    pub fn wants(&self, random: u64) -> bool {
        random & (ALL - 1) < self.below.load(Relaxed)
    }

    /// Keeps what may be kept of a request's head. It is dropped where somebody else is at the samples just now.
    pub fn keep(
        &self,
        bind: BindKey,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
        deciding: &Deciding,
        unix_seconds: i64,
    ) {
        if self.taken.fetch_add(1, Relaxed) + 1 >= BURST {
            self.below.store(0, Relaxed);
        }
        let Some(sample) = Sample::of(bind, head, caller, (&self.named, deciding), unix_seconds) else {
            return;
        };
        let bytes = sample.bytes();
        let Ok(mut kept) = self.kept.try_lock() else { return };
        kept.bytes += bytes;
        kept.samples.push_back((bytes, sample));
        while kept.samples.len() > MOST || kept.bytes > MOST_BYTES {
            let Some((bytes, _)) = kept.samples.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(bytes);
        }
    }

    /// A second has passed: takes a smaller share of requests where more came together than are wanted, else a larger.
    pub fn tick(&self) {
        let taken = self.taken.swap(0, Relaxed);
        let level = self.level.load(Relaxed);
        let next = match taken {
            0..RATE => level.saturating_mul(2),
            _ => level * u64::from(RATE) / u64::from(taken),
        };
        let next = next.clamp(RAREST, ALL);
        self.level.store(next, Relaxed);
        self.below.store(next, Relaxed);
    }

    /// What is kept, from the oldest on.
    pub fn recent(&self) -> Vec<Sample> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.samples.iter().map(|(_, sample)| sample.clone()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn keep(samples: &Samples, headers: &HeaderMap, path: &str) {
        let method = Method::GET;
        let head =
            RequestHead { scheme: "http", host: "a", method: &method, path, query: Some("q=1"), headers };
        let caller = Caller {
            address: [192, 0, 2, 1].into(),
            identity: None,
            sni: None,
            claimed_lane: None,
            random: 7,
            now: 0,
        };
        samples.keep(BindKey { address: None, port: 80 }, &head, &caller, &Deciding::default(), 1);
    }

    #[test]
    fn values_are_kept_of_what_is_named_and_of_nothing_else() {
        let named = Named { headers: ["x-user".parse().unwrap()].into(), cookies: ["uid".into()].into() };
        let samples = Samples::new(named);
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-user", "me"), ("authorization", "Bearer s3cret"), ("cookie", "uid=7; session=s3cret")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        keep(&samples, &headers, "/p");
        let kept = serde_json::to_string(&samples.recent()).unwrap();
        assert!(!kept.contains("s3cret"), "{kept}");
        for there in ["\"me\"", "authorization", "session", "\"7\"", "/p"] {
            assert!(kept.contains(there), "{there}: {kept}");
        }
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many_or_too_large_ones() {
        let samples = Samples::new(Named::default());
        (0..3 * MOST).for_each(|n| keep(&samples, &HeaderMap::new(), &format!("/{n}")));
        let recent = samples.recent();
        assert_eq!((recent.len(), recent[0].path.as_str()), (MOST, format!("/{}", 2 * MOST).as_str()));
        let long = format!("/{}", "x".repeat(7000));
        (0..MOST).for_each(|_| keep(&samples, &HeaderMap::new(), &long));
        assert!(samples.recent().len() < MOST_BYTES / 7000 + 1);
        keep(&samples, &HeaderMap::new(), &format!("/too-long/{}", "x".repeat(9000)));
        assert!(!samples.recent().iter().any(|sample| sample.path.starts_with("/too-long")));
    }

    #[test]
    fn as_many_are_taken_as_are_wanted_whatever_the_load() {
        let samples = Samples::new(Named::default());
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut second = |requests: u32| {
            let mut taken = 0;
            for _ in 0..requests {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let bits = random >> 16;
                if samples.wants(bits) {
                    keep(&samples, &HeaderMap::new(), "/");
                    taken += 1;
                }
            }
            samples.tick();
            taken
        };
        assert_eq!(second(5), 5, "every request of a quiet gateway");
        assert_eq!(second(100_000), BURST, "bounded at once");
        let steady: Vec<u32> = (0..20).map(|_| second(100_000)).collect();
        assert!(steady[10..].iter().all(|taken| (1..=BURST).contains(taken)), "{steady:?}");
        for _ in 0..20 {
            assert_eq!(second(0), 0);
        }
        assert_eq!(second(5), 5, "quiet again");
    }
}
