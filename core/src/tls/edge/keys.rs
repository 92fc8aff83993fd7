//! A chain with its key, and the OCSP response that goes with it for as long as it is good.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use rustls::sign::CertifiedKey;

use crate::ocsp::Staple;

/// What is shown in handshakes. The response may be swapped while it is served.
pub(super) struct Keys {
    pub(super) plain: Arc<CertifiedKey>,
    stapled: ArcSwapOption<Stapled>,
}

struct Stapled {
    certified: Arc<CertifiedKey>,
    /// In seconds since the Unix epoch.
    until: i64,
}

impl Keys {
    /// Without a response so far.
    pub(super) fn new(plain: CertifiedKey) -> Self {
        Self { plain: Arc::new(plain), stapled: ArcSwapOption::empty() }
    }

    /// From now on with this response; none: without.
    pub(super) fn staple(&self, staple: Option<&Staple>) {
        self.stapled.store(staple.map(|staple| {
            let mut certified = (*self.plain).clone();
            certified.ocsp = Some(staple.response.clone());
            Arc::new(Stapled { certified: Arc::new(certified), until: staple.next_update })
        }));
    }

    /// Until when there is a response; none: there is none that is good at `now`.
    pub(super) fn stapled_until(&self, now: i64) -> Option<i64> {
        self.stapled.load().as_ref().map(|stapled| stapled.until).filter(|until| now < *until)
    }

    /// What is shown at `now`: a response that has expired is left out.
    pub(super) fn at(&self, now: i64) -> Arc<CertifiedKey> {
        match &*self.stapled.load() {
            Some(stapled) if now < stapled.until => Arc::clone(&stapled.certified),
            Some(_) | None => Arc::clone(&self.plain),
        }
    }

    /// What is shown now.
    pub(super) fn now(&self) -> Arc<CertifiedKey> {
        // Most certificates have none: the clock is not read for them.
        if self.stapled.load().is_none() {
            return Arc::clone(&self.plain);
        }
        self.at(unix_now())
    }
}

/// Seconds since the Unix epoch.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}
