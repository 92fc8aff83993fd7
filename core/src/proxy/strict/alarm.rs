//! A moment, with a timer that is made only where something waits for it.

use std::{future::Future, pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep};

#[derive(Debug)]
pub(super) struct Alarm {
    at: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    pub fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, sleep: None }
    }

    /// True if the moment has come; else the task is woken when it has.
    pub fn rings(&mut self, cx: &mut Context<'_>) -> bool {
        let at = self.at;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        sleep.as_mut().poll(cx).is_ready()
    }
}
