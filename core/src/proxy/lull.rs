//! The time between two requests of an HTTP/1.1 connection.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::{Connection, engine::LAST_REQUEST, listen::signalled};

/// Waits for requests. What it waits by is made once for a connection: a timer, and a place among those that wait for
/// the listener's drain, cost more to make for each request than most else that is done for it.
pub(super) struct Lull {
    idle: Duration,
    stop: BoxFuture<'static, ()>,
    stopped: bool,
    /// Never later than the lull's end. Where it is earlier, as it is of a lull before, it is set anew when it is over.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Lull {
    /// `idle`: as long as it may be. When `stop` turns true, only what comes soon is waited for.
    pub fn new(mut stop: watch::Receiver<bool>, idle: Duration) -> Self {
        let stop = Box::pin(async move { signalled(&mut stop).await });
        Self { idle, stop, stopped: false, timer: None }
    }

    /// Waits for the first byte of a request, holding little. False: the connection is to be closed.
    pub async fn ends_in_request(&mut self, connection: &mut Connection) -> bool {
        if !connection.ahead().is_empty() {
            return true;
        }
        connection.end_head();
        connection.rest();
        let begun = Instant::now();
        let mut until = begun + if self.stopped { self.idle.min(LAST_REQUEST) } else { self.idle };
        poll_fn(|cx| self.poll(cx, connection, &mut until)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, connection: &mut Connection, until: &mut Instant) -> Poll<bool> {
        if let Poll::Ready(read) = connection.poll_fill(cx) {
            return Poll::Ready(matches!(read, Ok(1..)));
        }
        if !self.stopped && self.stop.as_mut().poll(cx).is_ready() {
            self.stopped = true;
            *until = (*until).min(Instant::now() + LAST_REQUEST);
        }
        self.poll_timer(cx, *until).map(|()| false)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}
