//! HTTP/2 connections to sidecars, shared by many requests. A cold pool makes one connection, not one per request.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dashmap::DashMap;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use pingora_core::{
    connectors::http::v2::{ConnectionRef, H2HandshakeSettings, handshake},
    protocols::http::v2::client::Http2Session,
};
use tokio::time::Instant;

use super::{DialError, H2_STREAMS, POOL_IDLE};
use crate::proxy::Connection;

/// Connections to one endpoint under one identity; past it, a request fails with [`DialError::Overflow`].
const CONNECTIONS: usize = 64;
/// A connection that answers no ping for so long (and five seconds more) is dead.
const PING: Duration = Duration::from_secs(20);
/// A stream is asked for this often, each time on another connection, before giving up.
const TURNS: usize = 4;

type Dialing = Shared<BoxFuture<'static, Result<ConnectionRef, Arc<DialError>>>>;

/// Pools by pingora's reuse hash, which covers address, identity, name, protocol and generation.
#[derive(Default)]
pub(super) struct Pools(DashMap<u64, Arc<Pool>>);

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connections: Vec<Pooled>,
    dialing: Option<Dialing>,
}

struct Pooled {
    connection: ConnectionRef,
    used: Instant,
    lent_until: Instant,
}

/// What to do next for a stream.
enum Step {
    Use(ConnectionRef),
    Wait(Dialing),
}

impl Pool {
    /// Held only for moments, never across an await. A panic elsewhere leaves nothing half done here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Option<ConnectionRef> {
        let (mut state, now) = (self.state(), Instant::now());
        state.connections.retain(|pooled| !pooled.connection.is_closed());
        let usable =
            |pooled: &&mut Pooled| now < pooled.lent_until && pooled.connection.can_accept_streams(1);
        let pooled = state.connections.iter_mut().find(usable)?;
        pooled.used = now;
        Some(pooled.connection.clone())
    }

    fn remove(&self, id: i32) {
        self.state().connections.retain(|pooled| pooled.connection.id() != id);
    }

    /// True if the connection had no request for the pool's idle time, or is not lent any more.
    fn is_over(&self, connection: &ConnectionRef) -> bool {
        let state = self.state();
        let pooled = state.connections.iter().find(|pooled| pooled.connection.id() == connection.id());
        let idle = connection.is_idle() && pooled.is_none_or(|pooled| pooled.used.elapsed() >= POOL_IDLE);
        idle || pooled.is_some_and(|pooled| pooled.lent_until <= Instant::now())
    }
}

impl Pools {
    /// A request on a connection that exists.
    pub async fn reused(&self, key: u64) -> Option<Http2Session> {
        let pool = self.0.get(&key)?.clone();
        let connection = pool.usable()?;
        connection.spawn_stream().await.ok().flatten()
    }

    /// A request on any connection, one made by `dial` if need be. The flag says whether it existed.
    pub async fn get<F>(
        self: &Arc<Self>,
        key: u64,
        address: SocketAddr,
        dial: impl Fn() -> F,
    ) -> Result<(Http2Session, bool), Arc<DialError>>
    where
        F: Future<Output = Result<Connection, DialError>> + Send + 'static,
    {
        let pool = self.0.entry(key).or_default().clone();
        for _ in 0..TURNS {
            let (connection, reused) = match self.step(key, &pool, address, &dial)? {
                Step::Use(connection) => (connection, true),
                Step::Wait(dialing) => (dialing.await?, false),
            };
            match connection.spawn_stream().await {
                Ok(Some(session)) => return Ok((session, reused)),
                Ok(None) => {}
                Err(_) => pool.remove(connection.id()),
            }
        }
        Err(Arc::new(DialError::Overflow(address)))
    }

    fn step<F>(
        self: &Arc<Self>,
        key: u64,
        pool: &Arc<Pool>,
        address: SocketAddr,
        dial: &impl Fn() -> F,
    ) -> Result<Step, Arc<DialError>>
    where
        F: Future<Output = Result<Connection, DialError>> + Send + 'static,
    {
        if let Some(connection) = pool.usable() {
            return Ok(Step::Use(connection));
        }
        let mut state = pool.state();
        if let Some(dialing) = &state.dialing {
            return Ok(Step::Wait(dialing.clone()));
        }
        if state.connections.len() >= CONNECTIONS {
            return Err(Arc::new(DialError::Overflow(address)));
        }
        // A task of its own: it goes on when the request that began it is cancelled, as others wait for it.
        let task = tokio::spawn(self.clone().open(key, pool.clone(), address, dial()));
        let dialing = async move { task.await.unwrap_or(Err(Arc::new(DialError::Http2(address)))) };
        let dialing = dialing.boxed().shared();
        state.dialing = Some(dialing.clone());
        Ok(Step::Wait(dialing))
    }

    async fn open(
        self: Arc<Self>,
        key: u64,
        pool: Arc<Pool>,
        address: SocketAddr,
        dial: impl Future<Output = Result<Connection, DialError>>,
    ) -> Result<ConnectionRef, Arc<DialError>> {
        let made = async {
            let stream = dial.await?;
            let lent_until = stream.lent_until();
            let mut settings = H2HandshakeSettings::new();
            settings.max_streams = H2_STREAMS;
            settings.ping_interval = Some(PING);
            let made = handshake(Box::new(stream), settings).await.map_err(|_| DialError::Http2(address))?;
            Ok::<_, DialError>((made, lent_until))
        };
        let made = made.await.map_err(Arc::new);
        let mut state = pool.state();
        state.dialing = None;
        let (connection, lent_until) = made?;
        state.connections.push(Pooled { connection: connection.clone(), used: Instant::now(), lent_until });
        drop(state);
        tokio::spawn(self.retire(key, pool, connection.clone()));
        Ok(connection)
    }

    /// Takes a connection out of its pool when it is closed, was idle for long or is too old, and the pool when it is empty.
    async fn retire(self: Arc<Self>, key: u64, pool: Arc<Pool>, connection: ConnectionRef) {
        loop {
            tokio::time::sleep(POOL_IDLE / 2).await;
            if connection.is_closed() || pool.is_over(&connection) {
                break;
            }
        }
        connection.mark_shutdown();
        pool.remove(connection.id());
        self.0.remove_if(&key, |_, pool| {
            let state = pool.state();
            state.connections.is_empty() && state.dialing.is_none()
        });
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").field("pools", &self.0.len()).finish()
    }
}
