//! What the DNS server counts.

use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    own: Codes,
    forwarded: Codes,
    malformed: AtomicU64,
    overload: AtomicU64,
}

#[derive(Debug, Default)]
struct Codes {
    no_error: AtomicU64,
    no_name: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Answers by where they are from (`own`, `forwarded`) and response code (`noerror`, `nxdomain`, `servfail`,
    /// `refused` for every other).
    pub answers: [(&'static str, &'static str, u64); 8],
    /// Packets that are no questions: unreadable, too long, or answers.
    pub malformed: u64,
    /// Questions and connections past a bound.
    pub overload: u64,
}

impl Stats {
    pub(super) fn answered(&self, code: ResponseCode, forwarded: bool) {
        let codes = if forwarded { &self.forwarded } else { &self.own };
        let counter = match code {
            ResponseCode::NoError => &codes.no_error,
            ResponseCode::NXDomain => &codes.no_name,
            ResponseCode::ServFail => &codes.failed,
            _ => &codes.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn overload(&self) {
        self.overload.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the counters.
    pub fn read(&self) -> Counted {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of = |source, codes: &Codes| {
            [
                (source, "noerror", get(&codes.no_error)),
                (source, "nxdomain", get(&codes.no_name)),
                (source, "servfail", get(&codes.failed)),
                (source, "refused", get(&codes.refused)),
            ]
        };
        let ([a, b, c, d], [e, f, g, h]) = (of("own", &self.own), of("forwarded", &self.forwarded));
        Counted {
            answers: [a, b, c, d, e, f, g, h],
            malformed: get(&self.malformed),
            overload: get(&self.overload),
        }
    }
}
