//! How renewals of the certificate go, and what that means for who has it: good, late, or expired.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::Credentials;

/// A certificate that is not renewed is late in the last part of its life, one in so many.
const LATE: u32 = 4;

/// Counts attempts to renew, and remembers why the last one failed.
#[derive(Debug, Default)]
pub struct Renewals {
    renewed: AtomicU64,
    failed: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// How a certificate stands at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Valid, and renewed in time so far.
    Good,
    /// Valid, but in the last quarter of its life, and the last attempt to renew it has failed.
    Late {
        /// How long it is still valid.
        left: Duration,
        /// Why it was not renewed.
        failure: String,
    },
    /// Not valid any more: no peer takes it.
    Expired {
        /// For how long.
        since: Duration,
        /// Why it was not renewed.
        failure: String,
    },
}

impl Renewals {
    pub(super) fn succeed(&self) {
        self.renewed.fetch_add(1, Relaxed);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn fail(&self, why: String) {
        self.failed.fetch_add(1, Relaxed);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Certificates that took an older one's place.
    pub fn renewed(&self) -> u64 {
        self.renewed.load(Relaxed)
    }

    /// Attempts that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// How the certificate stands at `now`.
    pub fn standing(&self, credentials: &Credentials, now: SystemTime) -> Standing {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (from, to) = (credentials.not_before(), credentials.not_after());
        let left = match to.duration_since(now) {
            Ok(left) if !left.is_zero() => left,
            _ => {
                let failure = failure.unwrap_or_else(|| "no attempt has ended yet".into());
                return Standing::Expired { since: now.duration_since(to).unwrap_or_default(), failure };
            }
        };
        match failure {
            Some(failure) if left <= to.duration_since(from).unwrap_or_default() / LATE => {
                Standing::Late { left, failure }
            }
            _ => Standing::Good,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("the mesh certificate is valid"),
            Self::Late { left, failure } => {
                let left = left.as_secs();
                write!(f, "the mesh certificate expires in {left} s, and is not renewed: {failure}")
            }
            Self::Expired { since, failure } => {
                let since = since.as_secs();
                write!(f, "the mesh certificate has expired {since} s ago, and is not renewed: {failure}")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::identity::testing::{FakeCa, Leaf};

    #[test]
    fn a_certificate_is_late_in_its_last_quarter_where_renewal_fails() {
        let ca = FakeCa::new("east.example");
        let (life, second) = (Duration::from_secs(4000), Duration::from_secs(1));
        let leaf = Leaf::at(&ca.id("shop", "checkout"), SystemTime::now(), life - Duration::from_secs(300));
        let credentials = ca.issue(&leaf);
        let (from, to) = (credentials.not_before(), credentials.not_after());
        assert_eq!(to.duration_since(from).unwrap(), life);
        let renewals = Renewals::default();
        let standing = |now| renewals.standing(&credentials, now);
        let last_quarter = from + life * 3 / 4;

        assert_eq!(standing(last_quarter + second), Standing::Good, "nothing has failed");
        renewals.fail("no route".into());
        renewals.fail("nobody there".into());
        assert_eq!(standing(last_quarter - second), Standing::Good, "there is time enough");
        let failure = || "nobody there".to_owned();
        assert_eq!(standing(last_quarter), Standing::Late { left: life / 4, failure: failure() });
        assert_eq!(standing(to - second), Standing::Late { left: second, failure: failure() });
        assert_eq!(standing(to), Standing::Expired { since: Duration::ZERO, failure: failure() });
        assert_eq!(standing(to + life), Standing::Expired { since: life, failure: failure() });
        let said = standing(to - second).to_string();
        assert_eq!(said, "the mesh certificate expires in 1 s, and is not renewed: nobody there");

        renewals.succeed();
        assert_eq!(standing(last_quarter), Standing::Good);
        assert_eq!((renewals.renewed(), renewals.failed()), (1, 2));
    }
}
