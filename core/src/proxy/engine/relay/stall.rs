//! How long one side may take nothing.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pingora_error::Error;
use tokio::time::Sleep;

/// What came of waiting for one side of an exchange.
pub(super) enum Event<T> {
    /// Something to pass on.
    Came(T),
    /// It takes more.
    Room,
    /// It takes no more at all.
    Closed(Box<Error>),
}

/// The time since a side has been full.
#[derive(Default)]
pub(super) struct Stall(Option<Pin<Box<Sleep>>>);

impl Stall {
    /// The side is full. Ready when it has been for too long.
    pub fn poll(&mut self, cx: &mut Context<'_>, limit: Option<Duration>) -> Poll<()> {
        let Some(limit) = limit else { return Poll::Pending };
        self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }

    /// It is not.
    pub fn end(&mut self) {
        self.0 = None;
    }
}
