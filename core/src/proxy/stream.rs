//! What is known of one HTTP/2 stream, shared by those who accept it and the engine that serves it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

tokio::task_local! {
    /// The stream that this task serves.
    pub(super) static STREAM: Arc<StreamState>;
}

/// One stream.
#[derive(Debug)]
pub(super) struct StreamState {
    begun: Instant,
    /// Milliseconds from there to when a part of the body was last passed on.
    moved: AtomicU64,
    /// The body is at its end, or waits by right.
    settled: AtomicBool,
    /// The client did not wait for its answer.
    cancelled: AtomicBool,
}

impl StreamState {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
        })
    }

    /// A part of the request's body was read.
    pub fn body_moved(&self, end: bool) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Relaxed);
        if end {
            self.body_settled();
        }
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

    /// Resolves when the body has paused for `idle`; never, once it is settled.
    pub async fn stalled(&self, idle: Duration) {
        loop {
            let moved = self.begun + Duration::from_millis(self.moved.load(Relaxed));
            tokio::time::sleep_until(moved + idle).await;
            if self.settled.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            let last = self.begun + Duration::from_millis(self.moved.load(Relaxed));
            if last + idle <= Instant::now() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_body_stalls_when_nothing_moves() {
        let begun = Instant::now();
        StreamState::new().stalled(IDLE).await;
        assert_eq!(begun.elapsed(), IDLE);

        let stream = StreamState::new();
        let moving = async {
            tokio::time::sleep(IDLE / 2).await;
            stream.body_moved(false);
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        tokio::select! { () = stream.stalled(IDLE) => {}, () = moving => {} }
        assert_eq!(begun.elapsed(), IDLE / 2 + IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_whole_never_stalls() {
        let stream = StreamState::new();
        stream.body_moved(true);
        assert!(tokio::time::timeout(10 * IDLE, stream.stalled(IDLE)).await.is_err());
    }
}
