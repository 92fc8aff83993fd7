//! When the next request has its turn, and what its time was.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::Semaphore;

use super::Until;
use crate::Failure;

/// The order of requests.
pub struct Pace {
    until: Until,
    taken: AtomicUsize,
    schedule: Option<Schedule>,
}

/// Turns that come whether or not anybody is free.
struct Schedule {
    begun: Instant,
    /// Requests whose turn has come and that no connection has taken.
    due: Arc<Semaphore>,
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.due.close();
    }
}

/// How long after the beginning this request has its turn.
fn turn(number: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

/// How many requests have had their turn by then.
fn turns(elapsed: Duration, rate: f64) -> usize {
    (elapsed.as_secs_f64() * rate) as usize + 1
}

impl Pace {
    /// Begins now.
    pub fn begin(until: Until) -> Result<Self, Failure> {
        let schedule = match until {
            Until::Rate(count, rate) => Some(Schedule::begin(count, rate)?),
            Until::Requests(_) | Until::Time(_) => None,
        };
        Ok(Self { until, taken: AtomicUsize::new(0), schedule })
    }

    /// The number of the next request and when its turn was, once that is here; nothing if there are no more.
    pub async fn next(&self) -> Option<(usize, Instant)> {
        let number = self.taken.fetch_add(1, Relaxed);
        match (self.until, &self.schedule) {
            (Until::Requests(all), _) => (number < all).then(|| (number, Instant::now())),
            (Until::Time(end), _) => {
                let now = Instant::now();
                (now < end).then_some((number, now))
            }
            (Until::Rate(all, rate), Some(schedule)) if number < all => {
                schedule.due.acquire().await.ok()?.forget();
                Some((number, schedule.begun + turn(number, rate)))
            }
            (Until::Rate(..), _) => None,
        }
    }
}

impl Schedule {
    fn begin(count: usize, rate: f64) -> Result<Self, Failure> {
        // The kernel's timer: tokio's own has steps of a millisecond, and sleeping is 50 us late.
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let nanoseconds = turn(1, rate).as_nanos().clamp(1, 999_999_999);
        let step = Timespec { tv_sec: 0, tv_nsec: nanoseconds.try_into()? };
        let every = Itimerspec { it_interval: step, it_value: step };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
        let (begun, due) = (Instant::now(), Arc::new(Semaphore::new(0)));
        let released = due.clone();
        std::thread::spawn(move || {
            let mut given = 0;
            while given < count && !released.is_closed() {
                // How often it rang is not asked: the time says it.
                if rustix::io::read(&timer, &mut [0; 8]).is_err() {
                    return released.close();
                }
                let now = turns(begun.elapsed(), rate).min(count);
                released.add_permits(now.saturating_sub(given));
                given = now.max(given);
            }
        });
        Ok(Self { begun, due })
    }
}

/// Times of requests, in order.
pub struct Times(Vec<Duration>);

impl Times {
    /// Sorts them.
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// The least time within which this share of the requests, 0 to 1, was answered.
    pub fn within(&self, share: f64) -> Duration {
        percentile(&self.0, share).copied().unwrap_or_default()
    }
}

/// Of sorted values, the least one that this share of them, 0 to 1, does not exceed (the nearest rank).
pub fn percentile<T>(sorted: &[T], share: f64) -> Option<&T> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        let at = |share| percentile(&hundred, share).copied();
        assert_eq!(at(0.5), Some(50));
        assert_eq!(at(0.99), Some(99));
        assert_eq!(at(0.999), Some(100));
        assert_eq!(at(1.0), Some(100));
        assert_eq!(at(0.0), Some(1));
        assert_eq!(percentile(&[7], 0.999), Some(&7));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn a_schedule_gives_as_many_turns_as_have_come() {
        for number in [0, 1, 7, 1_000, 39_999] {
            let at = turn(number, 4_000.0) + Duration::from_nanos(1);
            assert_eq!(turns(at, 4_000.0), number + 1);
        }
        assert_eq!(turn(4_000, 2_000.0), Duration::from_secs(2));
    }

    #[tokio::test]
    async fn who_is_late_has_waited_since_his_turn() {
        let pace = Pace::begin(Until::Rate(50, 1_000.0)).unwrap();
        let begun = pace.schedule.as_ref().unwrap().begun;
        // As a connection that was busy for long: all turns have come meanwhile.
        while begun.elapsed() < Duration::from_millis(60) {
            tokio::task::yield_now().await;
        }
        for number in 0..50 {
            assert_eq!(pace.next().await, Some((number, begun + turn(number, 1_000.0))));
        }
        assert_eq!(pace.next().await, None);
    }

    #[tokio::test]
    async fn nobody_is_asked_before_his_turn() {
        let pace = Pace::begin(Until::Rate(20, 500.0)).unwrap();
        while let Some((_, turn)) = pace.next().await {
            assert!(Instant::now() >= turn);
        }
    }
}
