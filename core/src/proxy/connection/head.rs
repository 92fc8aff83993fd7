//! The head of a request that is being read, as connection and engine both see it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

use crate::proxy::{Arrival, gate::Places};

/// Ties a connection to the requests on it: found by the engine through pingora's session digest.
#[derive(Debug)]
pub(in crate::proxy) struct Link {
    /// Where the connection came from.
    pub arrival: Arc<Arrival>,
    /// Of the request's head.
    pub head: Arc<HeadState>,
    /// Held under TrafficPolicies for as long as the connection lives.
    pub places: Places,
}

/// The state of a request's head, shared by the connection and the engine.
#[derive(Debug, Default)]
pub(in crate::proxy) struct HeadState {
    /// It is being read: its deadline holds.
    pub reading: AtomicBool,
    /// Its answer has begun: its body may come in as slowly as it likes.
    pub answered: AtomicBool,
}

impl HeadState {
    /// True if a head was begun and did not become a request.
    pub fn is_open(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }
}

/// The head's total deadline, from its first byte.
pub(super) struct HeadDeadline {
    pub state: Arc<HeadState>,
    pub until: Instant,
    /// Made only when a head does not come in one piece.
    pub sleep: Option<Pin<Box<Sleep>>>,
}

impl HeadDeadline {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let until = self.until;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        sleep.as_mut().poll(cx).map(|()| self.over())
    }

    pub fn over(&self) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, "a request's head took too long")
    }
}
