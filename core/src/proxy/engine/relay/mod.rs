//! Requests driven by a loop of our own: all but tunnels, and what is written in unusual ways.
//!
//! The engine's driver takes a request through two tasks, four channels and its cache, moves a future of 14 KiB twice for each,
//! and does not read from a side that it waits for to write. Here each direction goes on for itself. Sessions, parsers and
//! callbacks are the engine's, the same for both.

mod backend;
mod client;
mod exchange;
mod idle;
mod outlet;
mod stall;

use std::io::Cursor;

use pingora_core::{
    apps::{HttpPersistentSettings, ReusedHttpStream},
    connectors::http::custom::{Connection as Made, Connector},
    protocols::http::ServerSession,
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::{ProxyHttp, Session};
use tokio::sync::watch;

use super::TRIES;
use crate::proxy::{
    gate::{Context, Gate},
    upstream::{MeshConnector, is_http2},
};
use backend::Backend;
use idle::Idle;

/// Passes on requests.
pub(in crate::proxy) struct Relay {
    gate: Gate,
    /// Its connections over HTTP/2 are shared with the engine's driver.
    connector: MeshConnector,
    /// Those over HTTP/1 are not: the engine's pool is its own, and starts a task each time that one becomes idle.
    idle: Idle,
}

impl Relay {
    pub fn new(gate: Gate, connector: MeshConnector) -> Self {
        Self { gate, connector, idle: Idle::default() }
    }

    /// Serves one request, whose head was read whole and found good. `None`: the client's connection is over.
    pub async fn serve(
        &self,
        mut session: Session,
        stop: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        if !begin(&mut session).await {
            return None;
        }
        if *stop.borrow() {
            session.set_keepalive(None);
        }
        let mut context = self.gate.new_ctx();
        let error = self.proxy(&mut session, &mut context).await.err();
        let reusable = match &error {
            None => true,
            Some(error) => self.fail(&mut session, error, &mut context).await,
        };
        self.gate.logging(&mut session, error.as_deref(), &mut context).await;
        if !reusable {
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session.downstream_session);
        let stream = session.downstream_session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }

    /// Serves the request of one HTTP/2 stream.
    pub async fn serve_stream(&self, stream: ServerSession, stop: &watch::Receiver<bool>) {
        // The engine makes its session only around a connection of HTTP/1. This one is never read.
        let mut session = Session::new_h1(Box::new(Cursor::new(Vec::<u8>::new())));
        *session.downstream_session = stream;
        self.serve(session, stop).await;
    }

    async fn proxy(&self, session: &mut Session, context: &mut Box<Context>) -> Result<()> {
        self.gate.early_request_filter(session, context).await?;
        if self.gate.request_filter(session, context).await? {
            return Ok(());
        }
        self.gate.proxy_upstream_filter(session, context).await?;
        let mut tries = 1;
        loop {
            match self.attempt(session, context).await {
                Err(error) if error.retry() && tries < TRIES => tries += 1,
                ended => return ended,
            }
        }
    }

    /// Tells the client, where that can be. True: its connection is as good as before.
    async fn fail(&self, session: &mut Session, error: &Error, context: &mut Box<Context>) -> bool {
        let begun = session.response_written().is_some_and(|head| !head.status.is_informational());
        let told = self.gate.fail_to_proxy(session, error, context).await;
        if !told.can_reuse_downstream && !begun && told.error_code != 0 {
            // Where the client still sends, closing at once would lose it the answer.
            session.downstream_session.shutdown().await;
        }
        told.can_reuse_downstream
    }

    async fn attempt(&self, session: &mut Session, context: &mut Box<Context>) -> Result<()> {
        let peer = self.gate.upstream_peer(session, context).await?;
        let target = peer.reuse_hash();
        let (mut backend, reused) = match self.connect(&peer, target).await {
            Ok(connected) => connected,
            Err(mut error) => {
                error.as_up();
                return Err(self.gate.fail_to_connect(session, &peer, context, error).into_up());
            }
        };
        match exchange::pass_on(&self.gate, session, &mut backend, &peer, reused, context).await {
            Ok(true) => {
                if let (Some(stream), Some(time)) = (backend.reuse().await, peer.idle_timeout()) {
                    self.idle.give(target, stream, time);
                }
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => Err(self.gate.error_while_proxy(&peer, session, error, context, reused)),
        }
    }

    /// The flag says whether the connection has carried requests before.
    async fn connect(&self, peer: &HttpPeer, target: u64) -> Result<(Backend, bool)> {
        if is_http2(peer) {
            if let Some(stream) = self.connector.reused_http_session(peer).await {
                return Ok((Backend::two(stream, peer), true));
            }
        } else if let Some(stream) = self.idle.take(target) {
            return Ok((Backend::one(stream, peer), true));
        }
        Ok(match self.connector.get_http_session(peer).await? {
            (Made::Session(stream), reused) => (Backend::two(stream, peer), reused),
            (Made::Stream(stream), _) => (Backend::one(stream, peer), false),
        })
    }
}

/// Has the engine parse the head. What it takes for malformed, though we did not, has no single reading.
async fn begin(session: &mut Session) -> bool {
    let downstream = &mut session.downstream_session;
    match downstream.read_request().await {
        Ok(read) => read,
        Err(error) => {
            if *error.etype() == ErrorType::InvalidHTTPHeader
                && let Err(error) = downstream.respond_error(400).await
            {
                tracing::debug!(%error, "a client did not take an answer");
            }
            downstream.shutdown().await;
            false
        }
    }
}
