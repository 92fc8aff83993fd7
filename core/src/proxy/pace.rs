//! How slowly a request's body may come in. Only the time counts in which its client is waited for: where the backend takes
//! nothing, a client can send nothing.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::HttpLimits;

/// Bounds of one body, until it is whole or its answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// It may pause so long.
    pub idle: Duration,
    /// In all it may be waited for so long,
    grace: Duration,
    /// and one second more for so many bytes that have come; 0: as long as it likes.
    rate: u32,
}

impl Pace {
    /// Of an ordinary body.
    pub fn of_body(limits: &HttpLimits) -> Self {
        Self { idle: limits.body_idle, grace: limits.body_grace, rate: limits.body_rate }
    }

    /// Of a stream, in which both sides are quiet for as long as they have nothing to say.
    pub fn of_stream(limits: &HttpLimits) -> Self {
        Self { idle: limits.stream_idle, grace: Duration::ZERO, rate: 0 }
    }

    /// How long the client may be waited for in all, now that so much has come.
    pub fn allowed(&self, received: u64) -> Duration {
        match self.rate {
            0 => Duration::MAX,
            rate => self.grace.saturating_add(Duration::from_secs(received) / rate),
        }
    }

    /// How often a body is looked at.
    pub fn tick(&self) -> Duration {
        let least = if self.rate == 0 { self.idle } else { self.idle.min(self.grace) };
        (least / 8).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}

/// The wait for the body of an HTTP/1.1 request. Pauses are bounded by the engine's own timeout.
#[derive(Debug)]
pub(super) struct Wait {
    pace: Pace,
    received: u64,
    /// In all, up to the last part.
    waited: Duration,
    /// The client is being waited for.
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Wait {
    pub fn new(pace: Pace) -> Self {
        Self { pace, received: 0, waited: Duration::ZERO, since: None, alarm: None }
    }

    /// A part has come in.
    pub fn came(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
        self.pause();
    }

    /// The client is not waited for until it is asked again.
    pub fn pause(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited = self.waited.saturating_add(since.elapsed());
        }
        self.alarm = None;
    }

    /// Nothing has. True if that is so for too long; else the task is woken when it is.
    pub fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let left = self.pace.allowed(self.received).saturating_sub(self.waited);
        let Some(until) = since.checked_add(left) else { return false };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        matches!(alarm.as_mut().poll(cx), Poll::Ready(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wait() -> Wait {
        let limits = HttpLimits { body_grace: 10 * SECOND, body_rate: 100, ..HttpLimits::default() };
        Wait::new(Pace::of_body(&limits))
    }

    fn late(wait: &mut Wait) -> bool {
        wait.is_late(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn drops_do_not_buy_time_and_bytes_do() {
        let (mut slow, mut fair) = (wait(), wait());
        for second in 1..=30 {
            // Ten seconds, and a tenth for ten bytes.
            assert_eq!(late(&mut slow), second > 11, "second {second}");
            assert!(!late(&mut fair));
            tokio::time::advance(SECOND).await;
            slow.came(1);
            fair.came(100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_counts() {
        let mut wait = wait();
        for _ in 0..100 {
            assert!(!late(&mut wait));
            wait.came(1);
            // The backend is slow.
            tokio::time::advance(SECOND).await;
        }
    }
}
