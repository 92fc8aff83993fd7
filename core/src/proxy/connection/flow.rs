//! What the relay and a connection of HTTP/1.1 tell each other, so that the two directions of an exchange do not wait for
//! one another.
//!
//! The engine's session of HTTP/1.1 is one object: while it waits to write, it cannot read. So a connection that absorbs takes
//! what is written to it at once, and sends it on while it is being read from; the relay gives it no more for as long as it is
//! full. No more than one part of a body is held in this way, and what the other side's reader had in its buffer.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use pingora_core::protocols::Stream;

use super::{Connection, WRITE_BUFFER, not_sent};

const ABSORBS: u8 = 1;
const CORKED: u8 = 2;
const HELD: u8 = 4;
const FULL: u8 = 8;

/// Shared by a connection and the relay. Both are polled by one task.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Flow(AtomicU8);

impl Flow {
    /// That of a connection; of anything else, one that says nothing.
    pub fn of(stream: &Stream) -> Arc<Self> {
        let connection = (**stream).as_any().downcast_ref::<Connection>();
        connection.and_then(|connection| connection.flow.clone()).unwrap_or_default()
    }

    /// A request begins: writing never waits, and nothing is held up.
    pub fn begin(&self) {
        self.0.store(ABSORBS | self.0.load(Relaxed) & FULL, Relaxed);
    }

    /// It has ended: who writes waits again.
    pub fn end(&self) {
        self.0.store(0, Relaxed);
    }

    /// While corked, a flush waits for what comes next, or until the connection is read from and has nothing.
    pub fn cork(&self, yes: bool) {
        self.set(CORKED, yes);
    }

    /// While held, reading gives nothing, and only sends on what was written.
    pub fn hold(&self, yes: bool) {
        self.set(HELD, yes);
    }

    /// True if the other side does not take what was written.
    pub fn is_full(&self) -> bool {
        self.is(FULL)
    }

    fn is(&self, bit: u8) -> bool {
        self.0.load(Relaxed) & bit != 0
    }

    fn set(&self, bit: u8, yes: bool) {
        // Not a read-modify-write: only one task is at it.
        let others = self.0.load(Relaxed) & !bit;
        self.0.store(if yes { others | bit } else { others }, Relaxed);
    }
}

impl Connection {
    /// From now on the relay may say how its bytes flow.
    pub(in crate::proxy) fn begin_flow(&mut self) {
        self.flow.get_or_insert_default();
    }

    pub(super) fn absorbs(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.is(ABSORBS))
    }

    pub(super) fn is_held(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.is(HELD))
    }

    fn set_full(&self, full: bool) {
        if let Some(flow) = &self.flow {
            flow.set(FULL, full);
        }
    }

    /// Takes it all, as far as the other side allows to the wire.
    pub(super) fn poll_absorb(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> io::Result<usize> {
        let mut rest = buf;
        if self.write_buffer.len() + buf.len() > WRITE_BUFFER {
            let mut sent = self.poll_drain(cx)?;
            while sent.is_ready() && rest.len() >= WRITE_BUFFER {
                let written = self.wire.write(cx, rest).map_err(|error| {
                    not_sent(&self.fate, &self.wire);
                    error
                })?;
                if matches!(written, Poll::Ready(0)) {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                sent = written.map(|n| rest = rest.get(n..).unwrap_or_default());
            }
            self.set_full(sent.is_pending());
        }
        self.write_buffer.extend_from_slice(rest);
        Ok(buf.len())
    }

    /// Flushes as far as the other side allows.
    pub(super) fn poll_absorbed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.flow.as_ref().is_some_and(|flow| flow.is(CORKED)) {
            return Ok(());
        }
        self.send_on(cx)?;
        self.set_full(self.unsent);
        Ok(())
    }

    /// Nothing is read: the exchange's other side is full.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(wait) = &mut self.wait {
            wait.pause();
        }
        match self.send_on(cx) {
            // A client that is gone.
            Err(error) if self.head.is_some() => Poll::Ready(Err(error)),
            // Of a backend it is found when it is read from again: until then, what has come in stays good.
            _ => Poll::Pending,
        }
    }

    /// Sends on what was written. Once nothing is left, whoever waits for room is woken.
    pub(super) fn send_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unsent && self.poll_drain(cx)?.is_ready() {
            // TLS records that wait for the socket are sent on by a later poll, for which this one asks.
            self.unsent = self.wire.flush(cx)?.is_pending();
        }
        if !self.unsent && self.flow.as_ref().is_some_and(|flow| flow.is_full()) {
            self.set_full(false);
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::{super::testing::to_backend, *};

    async fn pair() -> (Connection, Arc<Flow>, TcpStream) {
        let (connection, far) = to_backend().await;
        let flow = connection.flow.clone().unwrap();
        (connection, flow, far)
    }

    /// Nothing comes in this time, and what was written is sent on.
    async fn reads_nothing(connection: &mut Connection) {
        let reading = connection.read_u8();
        tokio::time::timeout(Duration::from_millis(1), reading).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_is_written_never_waits_and_comes_whole() {
        let (mut connection, flow, mut far) = pair().await;
        flow.begin();
        let whole: Vec<u8> = (0..30 << 20).map(|at: u32| (at % 251) as u8).collect();
        // The last of these is more than the kernel takes.
        for part in [&whole[..10], &whole[10..20_000], &whole[20_000..]] {
            assert!(!flow.is_full());
            connection.write_all(part).await.unwrap();
            connection.flush().await.unwrap();
        }
        assert!(flow.is_full());
        let reader = tokio::spawn(async move {
            let mut read = vec![0; 30 << 20];
            far.read_exact(&mut read).await.unwrap();
            far.write_all(b"x").await.unwrap();
            (read, far)
        });
        assert_eq!(connection.read_u8().await.unwrap(), b'x');
        assert!(!flow.is_full());
        assert!(reader.await.unwrap().0 == whole);
    }

    #[tokio::test]
    async fn while_held_nothing_is_read_and_what_was_written_goes_on() {
        let (mut connection, flow, mut far) = pair().await;
        flow.begin();
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        flow.hold(true);
        connection.write_all(b"y").await.unwrap();
        reads_nothing(&mut connection).await;
        assert_eq!(far.read_u8().await.unwrap(), b'y');
        flow.hold(false);
        assert_eq!(connection.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn while_corked_a_flush_waits_for_what_follows() {
        let (mut connection, flow, mut far) = pair().await;
        flow.begin();
        flow.cork(true);
        connection.write_all(b"head").await.unwrap();
        connection.flush().await.unwrap();
        tokio::time::timeout(Duration::from_millis(1), far.read_u8()).await.unwrap_err();
        flow.cork(false);
        connection.write_all(b" body").await.unwrap();
        connection.flush().await.unwrap();
        let mut read = [0; 16];
        let n = far.read(&mut read).await.unwrap();
        assert_eq!(&read[..n], b"head body");
        // Where nothing follows, it is sent as soon as an answer is waited for.
        flow.cork(true);
        connection.write_all(b"head").await.unwrap();
        connection.flush().await.unwrap();
        reads_nothing(&mut connection).await;
        assert_eq!(far.read_u8().await.unwrap(), b'h');
    }
}
