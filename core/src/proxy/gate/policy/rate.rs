//! Token buckets, one for each key, by the generic cell rate algorithm: a bucket is one number, the time at which it is
//! full again.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderMap;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{
    decide::{RateKey, RateLimit, cookie},
    jwt::Claims,
    proxy::gate::random,
    quota::Taken,
};

/// Parts of the table, each with a lock of its own that is held for one look-up.
const SHARDS: usize = 64;
/// Buckets in a part, 262,144 in all. For one more, those that are full again are forgotten, which loses nothing; if
/// none is, the fullest of a few, which lets its client have a little more.
const BUCKETS: usize = 4096;
/// Buckets that are looked at for the fullest.
const SAMPLE: usize = 16;

/// Every bucket of an engine.
pub(super) struct Buckets {
    origin: Instant,
    /// So that nobody can choose a key that falls into somebody else's bucket.
    seed: u64,
    shards: Vec<Mutex<HashMap<u128, u64>>>,
}

impl Default for Buckets {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { origin: Instant::now(), seed: random(), shards }
    }
}

/// Whose token is taken.
pub(super) struct Asker<'a> {
    pub headers: &'a HeaderMap,
    /// Of its verified token.
    pub claims: Option<&'a Claims>,
    pub client: IpAddr,
}

impl Buckets {
    /// Takes a token.
    pub fn take(&self, limit: &RateLimit, asker: &Asker<'_>, now: Instant) -> Taken {
        let hash = self.key(limit, asker);
        let now = nanos(now.saturating_duration_since(self.origin));
        let shard = usize::try_from(hash % SHARDS as u128).unwrap_or_default();
        let Some(shard) = self.shards.get(shard) else { return Bucket::new(limit).take(&mut 0, now) };
        let mut buckets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS && !buckets.contains_key(&hash) {
            make_room(&mut buckets, now);
        }
        Bucket::new(limit).take(buckets.entry(hash).or_insert(0), now)
    }

    fn key(&self, limit: &RateLimit, asker: &Asker<'_>) -> u128 {
        let value = match &limit.key {
            RateKey::Client => None,
            RateKey::Header(name) => asker.headers.get(name).map(|value| value.as_bytes().into()),
            RateKey::Cookie(name) => cookie(asker.headers, name).map(Cow::Borrowed),
            RateKey::Claim(name) => {
                asker.claims.and_then(|claims| claims.text(name)).map(|text| Cow::Owned(text.into_bytes()))
            }
        };
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(limit.policy.as_bytes());
        match value.filter(|value| !value.is_empty()) {
            Some(value) => {
                text.push(0);
                text.extend_from_slice(&value);
            }
            None => match asker.client.to_canonical() {
                IpAddr::V4(address) => {
                    text.push(4);
                    text.extend_from_slice(&address.octets());
                }
                // One client has many addresses of its own, but one /64.
                IpAddr::V6(address) => {
                    text.push(6);
                    text.extend(address.octets().into_iter().take(8));
                }
            },
        }
        xxh3_128_with_seed(&text, self.seed)
    }
}

fn make_room(buckets: &mut HashMap<u128, u64>, now: u64) {
    buckets.retain(|_, full_at| *full_at > now);
    if buckets.len() >= BUCKETS {
        let fullest = buckets.iter().take(SAMPLE).min_by_key(|(_, full_at)| **full_at).map(|(hash, _)| *hash);
        fullest.and_then(|hash| buckets.remove(&hash));
    }
}

/// The numbers of a bucket, in nanoseconds.
struct Bucket {
    /// From one token to the next.
    step: u64,
    /// From empty to full.
    size: u64,
}

impl Bucket {
    fn new(limit: &RateLimit) -> Self {
        let step = (nanos(limit.per) / u64::from(limit.requests.max(1))).max(1);
        Self { step, size: step.saturating_mul(limit.burst.max(1).into()) }
    }

    fn take(&self, full_at: &mut u64, now: u64) -> Taken {
        // A bucket may be left over from a larger one that the policy had before.
        let before = (*full_at).clamp(now, now.saturating_add(self.size));
        let after = before.saturating_add(self.step);
        let allowed = after - now <= self.size;
        let lasting = if allowed { after } else { before };
        *full_at = lasting;
        let free = self.size.saturating_sub(lasting - now);
        Taken {
            allowed,
            remaining: free / self.step,
            full_in: Duration::from_nanos(lasting - now),
            retry_in: Duration::from_nanos((after - now).saturating_sub(self.size)),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(requests: u32, per: u64, burst: u32, key: RateKey) -> RateLimit {
        RateLimit { policy: "shop/p".into(), requests, per: Duration::from_secs(per), burst, key }
    }

    fn take(buckets: &Buckets, limit: &RateLimit, client: IpAddr, now: Instant) -> Taken {
        buckets.take(limit, &Asker { headers: &HeaderMap::new(), claims: None, client }, now)
    }

    fn ask(buckets: &Buckets, limit: &RateLimit, client: &str, after: f64) -> Taken {
        let now = buckets.origin + Duration::from_secs_f64(after);
        take(buckets, limit, client.parse().unwrap(), now)
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let buckets = Buckets::default();
        let limit = limit(2, 10, 3, RateKey::Client);
        for left in [2, 1, 0] {
            let taken = ask(&buckets, &limit, "192.0.2.1", 1.0);
            assert!(taken.allowed && taken.remaining == left, "{taken:?}");
        }
        let refused = ask(&buckets, &limit, "192.0.2.1", 1.0);
        assert_eq!((refused.allowed, refused.remaining), (false, 0));
        assert_eq!((refused.retry_in, refused.full_in), (Duration::from_secs(5), Duration::from_secs(15)));
        assert!(!ask(&buckets, &limit, "192.0.2.1", 5.9).allowed);
        assert!(ask(&buckets, &limit, "192.0.2.1", 6.1).allowed, "refusals cost nothing");
        assert!(ask(&buckets, &limit, "192.0.2.2", 6.1).allowed, "somebody else");
        let rested = ask(&buckets, &limit, "192.0.2.1", 100.0);
        assert_eq!(rested.remaining, 2, "never more than the burst");
    }

    #[test]
    fn keys_are_told_apart() {
        let buckets = Buckets::default();
        let mut headers = HeaderMap::new();
        headers.insert("x-user", "ann".parse().unwrap());
        headers.insert("cookie", "a=1; uid=ann".parse().unwrap());
        let key = |key: RateKey, client: &str, headers: &HeaderMap| {
            let client = client.parse().unwrap();
            buckets.key(&limit(1, 1, 1, key), &Asker { headers, claims: None, client })
        };
        let user = || RateKey::Header(http::HeaderName::from_static("x-user"));
        assert_eq!(key(user(), "192.0.2.1", &headers), key(user(), "192.0.2.2", &headers));
        assert_eq!(
            key(RateKey::Cookie("uid".into()), "::1", &headers),
            key(user(), "::2", &headers),
            "the value counts"
        );
        assert_ne!(key(user(), "192.0.2.1", &HeaderMap::new()), key(user(), "192.0.2.2", &HeaderMap::new()));
        let none = HeaderMap::new();
        let client = |text: &str| key(RateKey::Client, text, &none);
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    }

    #[test]
    fn the_table_is_bounded() {
        let buckets = Buckets::default();
        let limit = limit(1, 3600, 1, RateKey::Client);
        for i in 0..(SHARDS * BUCKETS + 5000) as u32 {
            let client = IpAddr::from(i.to_be_bytes());
            assert!(take(&buckets, &limit, client, buckets.origin).allowed);
        }
        assert!(buckets.shards.iter().all(|shard| shard.lock().unwrap().len() <= BUCKETS));
        let later = buckets.origin + Duration::from_secs(4000);
        for i in 0..(SHARDS * BUCKETS) as u32 {
            take(&buckets, &limit, IpAddr::from((i | 1 << 31).to_be_bytes()), later);
        }
        let held: usize = buckets.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(held <= SHARDS * BUCKETS);
    }

    proptest! {
        #[test]
        fn no_more_than_the_burst_and_what_flows_in(
            requests in 1u32..50, per in 1u64..20, burst in 1u32..50, waits in prop::collection::vec(0.0f64..1.0, 1..200),
        ) {
            let buckets = Buckets::default();
            let limit = limit(requests, per, burst, RateKey::Client);
            let (mut now, mut allowed) = (0.0, 0u32);
            for wait in waits {
                now += wait;
                allowed += u32::from(ask(&buckets, &limit, "192.0.2.1", now).allowed);
                let most = f64::from(burst) + now * f64::from(requests) / per as f64;
                prop_assert!(f64::from(allowed) <= most + 1e-3, "{} of {} after {}", allowed, most, now);
            }
        }
    }
}
