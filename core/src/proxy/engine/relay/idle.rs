//! Idle HTTP/1 connections to backends, each good for one request at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::FutureExt;
use pingora_core::protocols::Stream;
use tokio::{io::AsyncReadExt, time::Instant};

use crate::proxy::Connection;

/// Connections kept in all; past it, what is given back is closed.
const KEPT: usize = 1024;
/// Connections whose other side has closed, or which were idle for too long, are noticed this often.
const SWEPT_EVERY: Duration = Duration::from_secs(1);

/// Connections by pingora's reuse hash, which covers address, identity, name, protocol and generation of trust.
#[derive(Default)]
pub(super) struct Idle(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    by_target: HashMap<u64, Vec<One>>,
    count: usize,
    /// Somebody looks after them.
    swept: bool,
}

struct One {
    stream: Stream,
    until: Instant,
}

impl Idle {
    /// The connection that was used last: the others may then grow old. None whose other side has closed it, or has said
    /// something unasked.
    pub fn take(&self, target: u64) -> Option<Stream> {
        loop {
            let mut one = lock(&self.0).pop(target)?;
            if is_quiet(&mut one.stream) {
                return Some(one.stream);
            }
        }
    }

    /// Keeps a connection for so long, and no longer than it is lent. Call it inside a tokio runtime.
    pub fn give(&self, target: u64, stream: Stream, time: Duration) {
        let now = Instant::now();
        let until =
            Connection::stream_lent_until(&stream).into_iter().chain([now + time]).min().unwrap_or(now);
        let mut kept = lock(&self.0);
        if kept.count >= KEPT || until <= now {
            return;
        }
        kept.count += 1;
        kept.by_target.entry(target).or_default().push(One { stream, until });
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

impl Kept {
    fn pop(&mut self, target: u64) -> Option<One> {
        let one = self.by_target.get_mut(&target)?.pop()?;
        self.count = self.count.saturating_sub(1);
        Some(one)
    }

    /// Takes out what is of no use any more.
    fn ended(&mut self, now: Instant) -> Vec<One> {
        let mut ended = Vec::new();
        self.by_target.retain(|_, all| {
            ended.extend(all.extract_if(.., |one| one.until <= now || !is_quiet(&mut one.stream)));
            !all.is_empty()
        });
        self.count = self.by_target.values().map(Vec::len).sum();
        ended
    }
}

/// Held only for moments, never across an await. A panic elsewhere leaves nothing half done here.
fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if there is nothing to read, not even an end.
fn is_quiet(stream: &mut Stream) -> bool {
    tokio::task::unconstrained(stream.read(&mut [0])).now_or_never().is_none()
}

/// Until none is left.
async fn sweep(kept: Weak<Mutex<Kept>>) {
    loop {
        tokio::time::sleep(SWEPT_EVERY).await;
        let Some(shared) = kept.upgrade() else { return };
        let mut kept = lock(&shared);
        let ended = kept.ended(Instant::now());
        kept.swept = kept.count > 0;
        let is_over = !kept.swept;
        drop(kept);
        drop(ended);
        if is_over {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A connection that is kept for so long, and its other side.
    fn given(idle: &Idle, target: u64, time: Duration) -> DuplexStream {
        let (ours, theirs) = duplex(64);
        idle.give(target, Box::new(ours), time);
        theirs
    }

    #[tokio::test]
    async fn the_last_of_a_target_is_lent_first_and_once() {
        let idle = Idle::default();
        let (mut first, mut second) = (given(&idle, 1, LONG), given(&idle, 1, LONG));
        assert!(idle.take(2).is_none());
        for theirs in [&mut second, &mut first] {
            idle.take(1).unwrap().write_all(b"x").await.unwrap();
            assert_eq!(theirs.read_u8().await.unwrap(), b'x');
        }
        assert!(idle.take(1).is_none());
    }

    #[tokio::test]
    async fn one_that_was_closed_or_says_something_unasked_is_passed_over() {
        let idle = Idle::default();
        let good = given(&idle, 1, LONG);
        let mut loud = given(&idle, 1, LONG);
        drop(given(&idle, 1, LONG));
        loud.write_all(b"HTTP/1.1 200 OK").await.unwrap();
        idle.take(1).unwrap();
        assert!(idle.take(1).is_none());
        drop(good);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_of_no_use_are_closed_soon() {
        let idle = Idle::default();
        let mut old = given(&idle, 1, Duration::from_secs(3));
        let mut loud = given(&idle, 2, LONG);
        let kept = given(&idle, 3, LONG);
        let begun = Instant::now();
        loud.write_all(b"x").await.unwrap();
        assert_eq!(loud.read(&mut [0]).await.unwrap(), 0);
        assert!(begun.elapsed() <= 2 * SWEPT_EVERY);
        assert_eq!(old.read(&mut [0]).await.unwrap(), 0);
        assert!((3..=5).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        assert!(idle.take(3).is_some());
        drop(kept);
        // The sweep has ended as nothing was left, and begins again with the next.
        tokio::time::sleep(2 * SWEPT_EVERY).await;
        assert!(!lock(&idle.0).swept);
        let mut next = given(&idle, 1, Duration::ZERO);
        assert_eq!(next.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn no_more_than_the_bound_are_kept() {
        let idle = Idle::default();
        let _theirs: Vec<_> = (0..KEPT as u64).map(|target| given(&idle, target, LONG)).collect();
        let mut beyond = given(&idle, 1, LONG);
        assert_eq!(beyond.read(&mut [0]).await.unwrap(), 0);
        idle.take(1).unwrap();
        let _kept = given(&idle, 1, LONG);
        assert!(idle.take(1).is_some());
    }
}
