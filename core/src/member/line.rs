//! The one connection with the controller, which everything that a member says to it goes over.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tonic::transport::Channel;

use crate::{
    discovery::Connect,
    identity::{Credentials, Watch},
};

/// Makes a connection that proves itself with this certificate.
type Make = Box<dyn Fn(Arc<Credentials>) -> BoxFuture<'static, Result<Channel, String>> + Send + Sync>;

/// A connection that several share. Who asks for it again says with that that the one it was given is of no more use: then
/// another is made, to which the others come when they ask in turn.
pub(super) struct Line {
    make: Make,
    credentials: Watch,
    /// Tries so far: whoever waited for one takes its outcome.
    tries: AtomicU64,
    /// Held while a connection is made, which takes its bounded time.
    newest: Mutex<Newest>,
}

#[derive(Default)]
struct Newest {
    made: Option<Made>,
    /// Why the last try came to nothing.
    failed: Option<String>,
}

struct Made {
    /// From 1, in the order in which they were made.
    number: u64,
    channel: Channel,
    credentials: Arc<Credentials>,
}

impl Line {
    /// None is made yet. The certificate is the one of the moment in which it is made.
    pub(super) fn new(
        credentials: Watch,
        make: impl Fn(Arc<Credentials>) -> BoxFuture<'static, Result<Channel, String>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            make: Box::new(make),
            credentials,
            tries: AtomicU64::new(0),
            newest: Mutex::default(),
        })
    }

    /// For one that uses it.
    pub(super) fn user(self: &Arc<Self>) -> Connect {
        let (line, had) = (Arc::clone(self), Arc::new(AtomicU64::new(0)));
        Arc::new(move || {
            let (line, had) = (Arc::clone(&line), Arc::clone(&had));
            Box::pin(async move { line.get(&had).await })
        })
    }

    /// A connection with a number after `had`, which is that of the one that the user had last.
    async fn get(&self, had: &AtomicU64) -> Result<Channel, String> {
        let tries = self.tries.load(Relaxed);
        let mut newest = self.newest.lock().await;
        let credentials = Arc::clone(&self.credentials.borrow());
        let last = newest.made.as_ref().map_or(0, |made| made.number);
        // What is said over a connection is believed by the certificate that it was made with.
        let current = newest.made.as_ref().filter(|made| Arc::ptr_eq(&made.credentials, &credentials));
        if let Some(made) = current.filter(|made| made.number > had.load(Relaxed)) {
            had.store(made.number, Relaxed);
            return Ok(made.channel.clone());
        }
        if self.tries.load(Relaxed) != tries
            && let Some(reason) = &newest.failed
        {
            return Err(reason.clone());
        }
        let outcome = (self.make)(Arc::clone(&credentials)).await;
        self.tries.fetch_add(1, Relaxed);
        newest.failed = outcome.as_ref().err().cloned();
        let channel = outcome?;
        had.store(last + 1, Relaxed);
        newest.made = Some(Made { number: last + 1, channel: channel.clone(), credentials });
        Ok(channel)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("tries", &self.tries.load(Relaxed)).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::sync::{Semaphore, watch};
    use tonic::transport::Endpoint;

    use super::*;
    use crate::identity::testing::FakeCa;

    /// A line whose tries each wait for a permit, and fail while they are told to.
    struct World {
        line: Arc<Line>,
        permits: Arc<Semaphore>,
        failing: watch::Sender<bool>,
        renew: watch::Sender<Arc<Credentials>>,
        ca: FakeCa,
    }

    impl World {
        fn new() -> Self {
            let ca = FakeCa::new("east.example");
            let (renew, credentials) = watch::channel(ca.credentials("shop", "checkout"));
            let (permits, (failing, fails)) = (Arc::new(Semaphore::new(0)), watch::channel(false));
            let waited = Arc::clone(&permits);
            let make = move |_| {
                let (waited, fails) = (Arc::clone(&waited), fails.clone());
                let made = async move {
                    waited.acquire().await.unwrap().forget();
                    // Nobody is called over it.
                    let channel = Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
                    if *fails.borrow() { Err("away".to_owned()) } else { Ok(channel) }
                };
                Box::pin(made) as BoxFuture<'static, _>
            };
            Self { line: Line::new(credentials, make), permits, failing, renew, ca }
        }

        fn tries(&self) -> u64 {
            self.line.tries.load(Relaxed)
        }

        /// All of these ask at the same time. How many got a connection.
        async fn ask(&self, users: &[Connect], permits: usize) -> usize {
            let all = futures::future::join_all(users.iter().map(|user| user()));
            let all = tokio::time::timeout(Duration::from_secs(5), all);
            // Polled after them, when all are waiting.
            let permit = async { self.permits.add_permits(permits) };
            let (all, ()) = tokio::join!(all, permit);
            all.unwrap().iter().filter(|outcome| outcome.is_ok()).count()
        }
    }

    #[tokio::test]
    async fn all_share_one_and_who_asks_again_gets_another() {
        let world = World::new();
        let users: Vec<Connect> = (0..4).map(|_| world.line.user()).collect();
        assert_eq!((world.ask(&users, 1).await, world.tries()), (4, 1));
        // It broke: one is made for whoever sees it first, and the others come to that.
        assert_eq!((world.ask(&users[..1], 1).await, world.tries()), (1, 2));
        assert_eq!((world.ask(&users[1..], 0).await, world.tries()), (3, 2));
        assert_eq!((world.ask(&users, 1).await, world.tries()), (4, 3));
    }

    #[tokio::test]
    async fn who_waits_while_a_try_fails_does_not_try_once_more() {
        let world = World::new();
        let users: Vec<Connect> = (0..4).map(|_| world.line.user()).collect();
        world.failing.send_replace(true);
        assert_eq!((world.ask(&users, 1).await, world.tries()), (0, 1));
        world.failing.send_replace(false);
        assert_eq!((world.ask(&users, 1).await, world.tries()), (4, 2));
    }

    #[tokio::test]
    async fn a_connection_is_not_given_out_any_more_when_its_certificate_is_renewed() {
        let world = World::new();
        let (first, second) = (world.line.user(), world.line.user());
        assert_eq!(world.ask(&[first], 1).await, 1);
        world.renew.send_replace(world.ca.credentials("shop", "checkout"));
        assert_eq!((world.ask(&[second], 1).await, world.tries()), (1, 2));
    }

    #[tokio::test]
    async fn a_try_that_is_given_up_holds_nobody_up() {
        let world = World::new();
        let (first, second) = (world.line.user(), world.line.user());
        assert!(tokio::time::timeout(Duration::from_millis(10), first()).await.is_err());
        assert_eq!((world.ask(&[second], 1).await, world.tries()), (1, 1));
    }
}
