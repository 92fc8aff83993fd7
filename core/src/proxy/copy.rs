//! Copying bytes both ways between two streams.

mod spliced;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

pub use spliced::copy_tcp;

/// Each direction holds at most this much that was read and not yet written.
const BUFFER: usize = 16 * 1024;

/// How many bytes went through, and how it ended.
#[derive(Debug)]
pub struct Copied {
    /// Bytes from the first stream to the second.
    pub sent: u64,
    /// Bytes from the second stream to the first.
    pub received: u64,
    /// `Ok`: both sides ended. `TimedOut`: nothing moved for the idle bound. Otherwise what broke.
    pub end: io::Result<()>,
}

impl Copied {
    /// Why it did not end well, for the access log: nothing moved for too long, or one side broke off.
    pub fn reason(&self) -> Option<&'static str> {
        match &self.end {
            Ok(()) => None,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Some("tunnel_idle"),
            Err(_) => Some("tunnel_broken"),
        }
    }
}

/// Copies until both sides have ended. When one ends, the other is told (half-close) and goes on until its own end.
/// Where nothing moves in either direction for `idle`, it is given up.
pub async fn copy_both<A, B>(a: &mut A, b: &mut B, idle: Duration) -> Copied
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Flow::new(), Flow::new());
    let end = until_done(idle, |cx| {
        let there_done = there.poll(cx, a, b)?.is_ready();
        let back_done = back.poll(cx, b, a)?.is_ready();
        Ok((there.moved + back.moved, there_done && back_done))
    })
    .await;
    Copied { sent: there.moved, received: back.moved, end }
}

/// Polls both directions until they are done. `step` says how much they have moved by now, and whether they are.
async fn until_done(
    idle: Duration,
    mut step: impl FnMut(&mut Context<'_>) -> io::Result<(u64, bool)>,
) -> io::Result<()> {
    let (mut moved, mut last) = (0, Instant::now());
    let mut alarm = Box::pin(tokio::time::sleep_until(last + idle));
    poll_fn(|cx| {
        let before = moved;
        let done;
        (moved, done) = step(cx)?;
        if done {
            return Poll::Ready(Ok(()));
        }
        if moved != before {
            last = Instant::now();
        }
        // The alarm is not moved with each byte: when it rings, it looks whether something moved since.
        while alarm.as_mut().poll(cx).is_ready() {
            let until = last + idle;
            if until <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            alarm.as_mut().reset(until);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
struct Flow {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    moved: u64,
    eof: bool,
    unflushed: bool,
    done: bool,
    /// Where this much has moved, it stops with nothing held.
    pause_at: u64,
}

impl Flow {
    fn new() -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let (eof, unflushed, done, pause_at) = (false, false, false, u64::MAX);
        Self { buffer, start: 0, end: 0, moved: 0, eof, unflushed, done, pause_at }
    }

    /// Goes on until it is done, or is to pause.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.done {
            ready!(self.empty(cx, to))?;
            if self.eof {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
                break;
            }
            if self.moved >= self.pause_at {
                break;
            }
            match self.fill(cx, from) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<()>> {
        let mut buf = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buf))?;
        (self.start, self.end) = (0, buf.filled().len());
        self.eof = self.end == 0;
        Poll::Ready(Ok(()))
    }

    fn empty<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while let Some(rest) = self.buffer.get(self.start..self.end).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
            self.moved += n as u64;
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn half_close_lets_the_other_side_finish() {
        let (mut client, mut a) = duplex(64);
        let (mut b, mut server) = duplex(64);
        let copying = tokio::spawn(async move { copy_both(&mut a, &mut b, Duration::from_secs(5)).await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        let long = "answer".repeat(10_000);
        let answer = long.clone();
        let writing = tokio::spawn(async move {
            server.write_all(answer.as_bytes()).await.unwrap();
            server.shutdown().await.unwrap();
        });
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        writing.await.unwrap();
        assert_eq!(read, long);
        let copied = copying.await.unwrap();
        assert_eq!((copied.sent, copied.received), (8, 60_000));
        assert!(copied.end.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_when_nothing_moves() {
        let (mut client, mut a) = duplex(64);
        let (mut b, _server) = duplex(64);
        let begun = Instant::now();
        let copying = tokio::spawn(async move { copy_both(&mut a, &mut b, Duration::from_secs(60)).await });
        tokio::time::sleep(Duration::from_secs(30)).await;
        client.write_all(b"x").await.unwrap();
        let copied = copying.await.unwrap();
        assert_eq!(copied.end.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_secs(90), "the byte at 30 s counts: {:?}", begun.elapsed());
    }
}
