//! What is known of one HTTP/2 stream, shared by those who accept it and the engine that serves it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::pace::Pace;

tokio::task_local! {
    /// The stream that this task serves.
    pub(super) static STREAM: Arc<StreamState>;
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    /// Bytes of the request's body that have come in.
    received: AtomicU64,
    /// The backend does not take what has come in.
    held: AtomicBool,
    /// The body is at its end, or waits by right.
    settled: AtomicBool,
    /// The client did not wait for its answer.
    cancelled: AtomicBool,
}

impl StreamState {
    /// A part of the request's body was read.
    pub fn body_moved(&self, bytes: usize, end: bool) {
        self.received.fetch_add(bytes as u64, Relaxed);
        if end {
            self.body_settled();
        }
    }

    /// Says whether the backend holds up the body, and not the client.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Relaxed);
    }

    /// From now on the body may pause as long as it likes: it is whole, or the answer has begun.
    pub fn body_settled(&self) {
        self.settled.store(true, Relaxed);
    }

    /// The client went away.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    pub fn was_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Resolves when the body came in too slowly; never, once it is settled. The time in which the backend held it up does
    /// not count.
    pub async fn stalled(&self, pace: Pace) {
        let tick = pace.tick();
        let (mut last, mut quiet, mut waited) = (0, Duration::ZERO, Duration::ZERO);
        // Most bodies are whole before anybody asks, and need no timer.
        while !self.settled.load(Relaxed) {
            tokio::time::sleep(tick).await;
            if self.settled.load(Relaxed) {
                break;
            }
            let received = self.received.load(Relaxed);
            if self.held.load(Relaxed) {
                last = received;
                continue;
            }
            waited += tick;
            quiet = if received == last { quiet + tick } else { Duration::ZERO };
            last = received;
            if quiet >= pace.idle || waited > pace.allowed(received) {
                return;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::proxy::HttpLimits;

    const IDLE: Duration = Duration::from_secs(60);

    fn pace(rate: u32) -> Pace {
        let limits =
            HttpLimits { body_idle: IDLE, body_grace: IDLE, body_rate: rate, ..HttpLimits::default() };
        Pace::of_body(&limits)
    }

    /// How long it takes until a body stalls of which so many bytes come in at each interval.
    async fn stalls(stream: &StreamState, pace: Pace, bytes: usize, interval: Duration) -> Duration {
        let begun = Instant::now();
        let moving = async {
            loop {
                tokio::time::sleep(interval).await;
                stream.body_moved(bytes, false);
            }
        };
        tokio::select! { () = stream.stalled(pace) => {}, () = moving => {}, () = tokio::time::sleep(20 * IDLE) => {} }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_stalls_when_nothing_moves_or_too_little() {
        let none = stalls(&StreamState::default(), pace(0), 0, 20 * IDLE).await;
        assert!(none >= IDLE && none < IDLE * 11 / 10, "{none:?}");
        let drops = stalls(&StreamState::default(), pace(100), 1, IDLE / 2).await;
        assert!(drops >= IDLE && drops < IDLE * 11 / 10, "{drops:?}");
        let no_rate = stalls(&StreamState::default(), pace(0), 1, IDLE / 2).await;
        assert_eq!(no_rate, 20 * IDLE);
        let fair = stalls(&StreamState::default(), pace(100), 3000, IDLE / 2).await;
        assert_eq!(fair, 20 * IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_whole_or_held_up_by_its_backend_never_stalls() {
        let whole = StreamState::default();
        whole.body_moved(1, true);
        assert_eq!(stalls(&whole, pace(100), 0, IDLE).await, 20 * IDLE);
        let held = StreamState::default();
        held.hold(true);
        assert_eq!(stalls(&held, pace(100), 0, IDLE).await, 20 * IDLE);
    }
}
