//! Lines on their way to a file: whoever has one adds it to what is gathered in memory, a thread writes that out.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Bytes that wait to be written; a line that does not fit any more is dropped and counted.
pub(super) const BOUND: usize = 4 * 1024 * 1024;
/// Memory that is kept for what comes next.
const KEPT: usize = 256 * 1024;
/// So long lines are gathered from the first on. To wake a thread for each would cost more than to make it.
const GATHER: Duration = Duration::from_millis(10);

/// Where lines are put. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The first line has come, or all are to be written now.
    wake: Condvar,
    /// All lines that had come are written, or have failed to be.
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    gathered: Vec<u8>,
    lines: u64,
    /// Somebody waits until they are written.
    hurry: bool,
    writing: bool,
}

impl Lines {
    /// Starts the thread. It lives as long as the process.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn to(writer: Box<dyn Write + Send>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let its = shared.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || its.write(writer))?;
        Ok(Self(shared))
    }

    /// Adds a whole line. Never waits for the writer.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.gathered.len() + line.len() > BOUND {
            drop(state);
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        let first = state.gathered.is_empty();
        state.gathered.extend_from_slice(line);
        state.lines += 1;
        drop(state);
        if first {
            self.0.wake.notify_one();
        }
    }

    /// Waits until what was added is written, so long at most.
    pub fn flush(&self, limit: Duration) {
        let mut state = self.0.lock();
        state.hurry = true;
        self.0.wake.notify_one();
        let is_waiting = |state: &mut State| state.writing || !state.gathered.is_empty();
        // The time may be over: then the rest is not written.
        let _waited = self.0.written.wait_timeout_while(state, limit, is_waiting);
    }

    /// Lines that were not written: there were too many, or the writer failed.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }
}

impl Shared {
    /// A thread that panicked while it held the lock left whole lines behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut writer: Box<dyn Write + Send>) {
        let mut batch = Vec::new();
        loop {
            let lines = self.next(&mut batch);
            if writer.write_all(&batch).and_then(|()| writer.flush()).is_err() {
                self.dropped.fetch_add(lines, Relaxed);
            }
            batch.clear();
            batch.shrink_to(KEPT);
            self.lock().writing = false;
            self.written.notify_all();
        }
    }

    /// Waits for lines and takes them: how many there are.
    fn next(&self, batch: &mut Vec<u8>) -> u64 {
        let state = self.lock();
        let none = |state: &mut State| state.gathered.is_empty();
        let mut state = self.wake.wait_while(state, none).unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + GATHER;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.hurry || left.is_zero() {
                break;
            }
            (state, _) = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.gathered, batch);
        state.hurry = false;
        state.writing = true;
        std::mem::take(&mut state.lines)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Hands on what is written; fails where nobody takes it.
    struct Pipe(Sender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (Lines, Receiver<Vec<u8>>) {
        let (sender, received) = channel();
        (Lines::to(Box::new(Pipe(sender))).unwrap(), received)
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn lines_of_all_threads_come_whole_and_in_their_order() {
        let (lines, received) = lines();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let lines = lines.clone();
                scope.spawn(move || {
                    for number in 0..1000 {
                        lines.push(format!("{thread} {number}\n").as_bytes());
                    }
                });
            }
        });
        lines.flush(LONG);
        let all = String::from_utf8(received.try_iter().flatten().collect()).unwrap();
        for thread in 0..4 {
            let of_it = all.lines().filter_map(|line| line.strip_prefix(&format!("{thread} ")));
            assert!(of_it.eq((0..1000).map(|number: u32| number.to_string())));
        }
        assert_eq!((all.lines().count(), lines.dropped()), (4000, 0));
    }

    #[test]
    fn a_line_is_written_without_being_asked_for() {
        let (lines, received) = lines();
        for _ in 0..2 {
            lines.push(b"one\n");
            assert_eq!(received.recv_timeout(LONG).unwrap(), b"one\n");
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let (lines, received) = lines();
        drop(received);
        lines.push(b"one\n");
        lines.push(b"two\n");
        lines.flush(LONG);
        assert_eq!(lines.dropped(), 2);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Until the test is over.
                let _over = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (over, until) = channel();
        let lines = Lines::to(Box::new(Stuck(until))).unwrap();
        let line = [b'x'; 64 * 1024];
        for _ in 0..3 * BOUND / line.len() {
            lines.push(&line);
        }
        assert!(lines.dropped() > 0);
        assert!(lines.0.lock().gathered.len() <= BOUND);
        lines.flush(Duration::from_millis(1));
        drop(over);
    }
}
