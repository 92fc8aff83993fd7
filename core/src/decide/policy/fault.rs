//! Faults on purpose: some requests to a service wait, or are answered in its place, so that its callers can be tried.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

/// What is done to some requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Such a share waits so long before it is sent.
    pub delay: Option<(Share, Duration)>,
    /// Such a share is answered so instead of being sent; of those that would wait as well, at once.
    pub abort: Option<(Share, StatusCode)>,
    /// Only requests with all of these headers.
    pub headers: Box<[(HeaderName, Box<str>)]>,
}

/// A share of requests, in hundredths of a percent: 0 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u16);

impl Share {
    /// True for this share of all numbers.
    fn takes(self, random: u64) -> bool {
        (u128::from(random) * 10_000) >> 64 < u128::from(self.0)
    }
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// It waits.
    Delay(Duration),
    /// It is answered.
    Abort(StatusCode),
}

impl Fault {
    /// For a request; `random` are 64 random bits.
    pub fn harm(&self, headers: &HeaderMap, random: u64) -> Harm {
        let meant = |(name, value): &(HeaderName, Box<str>)| {
            headers.get_all(name).iter().any(|found| found.as_bytes() == value.as_bytes())
        };
        if !self.headers.iter().all(meant) {
            return Harm::None;
        }
        // Two choices that know nothing of each other, nor of others by the same bits.
        let (first, second) =
            (random.wrapping_mul(0x9E37_79B9_7F4A_7C15), random.wrapping_mul(0xD134_2543_DE82_EF95));
        match (self.abort, self.delay) {
            (Some((share, status)), _) if share.takes(first) => Harm::Abort(status),
            (_, Some((share, time))) if share.takes(second) => Harm::Delay(time),
            _ => Harm::None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn randoms() -> impl Iterator<Item = u64> {
        (1..100_000_u64).map(|n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()))
    }

    #[test]
    fn shares_are_met() {
        let time = Duration::from_secs(1);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let fault = Fault {
            delay: Some((Share(5_000), time)),
            abort: Some((Share(1_000), status)),
            headers: Box::default(),
        };
        let all: Vec<Harm> = randoms().map(|random| fault.harm(&HeaderMap::new(), random)).collect();
        let count = |harm| all.iter().filter(|found| **found == harm).count();
        assert!(count(Harm::Abort(status)).abs_diff(10_000) < 500, "{}", count(Harm::Abort(status)));
        // Half of the rest.
        assert!(count(Harm::Delay(time)).abs_diff(45_000) < 1_000, "{}", count(Harm::Delay(time)));
    }

    #[test]
    fn the_ends_are_exact() {
        let fault = |share| Fault {
            abort: Some((Share(share), StatusCode::BAD_GATEWAY)),
            delay: None,
            headers: Box::default(),
        };
        assert!(randoms().chain([0, u64::MAX]).all(|r| fault(0).harm(&HeaderMap::new(), r) == Harm::None));
        assert!(
            randoms().chain([0, u64::MAX]).all(|r| fault(10_000).harm(&HeaderMap::new(), r) != Harm::None)
        );
    }

    #[test]
    fn only_who_is_meant_is_harmed() {
        let name = HeaderName::from_static("x-try");
        let fault = Fault {
            abort: Some((Share(10_000), StatusCode::BAD_GATEWAY)),
            delay: None,
            headers: Box::new([(name.clone(), "chaos".into())]),
        };
        let mut headers = HeaderMap::new();
        assert_eq!(fault.harm(&headers, 1), Harm::None);
        headers.append(&name, "calm".parse().unwrap());
        assert_eq!(fault.harm(&headers, 1), Harm::None);
        headers.append(&name, "chaos".parse().unwrap());
        assert_eq!(fault.harm(&headers, 1), Harm::Abort(StatusCode::BAD_GATEWAY));
    }
}
