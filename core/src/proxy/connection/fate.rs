//! Whether a backend can have begun with a request that broke off (RFC 9110 section 9.2.2: only then it is not sent again,
//! where doing it twice is not the same as once).

use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use pingora_core::protocols::l4::ext::get_tcp_info;

const IDLE: u8 = 0;
const BEGUN: u8 = 1;
const SENT: u8 = 2;
const ANSWERED: u8 = 3;
const UNTOUCHED: u8 = 4;

/// What became of the last request on an HTTP/1.1 connection, shared by the connection and the engine.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Fate(AtomicU8);

impl Fate {
    /// A request begins.
    pub fn begin(&self) {
        self.0.store(BEGUN, Relaxed);
    }

    /// True if the other side has certainly not begun with the request.
    pub fn is_untouched(&self) -> bool {
        self.0.load(Relaxed) == UNTOUCHED
    }

    /// Bytes are about to be written. True: they are the request's first.
    pub(super) fn sends(&self) -> bool {
        self.0.compare_exchange(BEGUN, SENT, Relaxed, Relaxed).is_ok()
    }

    /// Something of an answer came in.
    pub(super) fn answered(&self) {
        self.0.store(ANSWERED, Relaxed);
    }

    /// Nothing of the request left this machine, or the other side has ended without having taken any of it.
    pub(super) fn untouched(&self) {
        // Not where an answer had begun.
        let _unless = self.0.compare_exchange(SENT, UNTOUCHED, Relaxed, Relaxed);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.0.load(Relaxed) == SENT
    }

    /// A new one, of which no request has begun.
    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(IDLE))
    }
}

/// True if the other side's TCP has acknowledged no more than these first bytes of the connection. Asked when the other
/// side's end (FIN) was read: that segment says itself what had come in before it. Of a reset the same cannot be said.
pub(super) fn took_no_more_than(fd: RawFd, bytes: u64) -> bool {
    // The SYN counts as one byte; and of a request, one byte is nothing that could be begun with.
    get_tcp_info(fd).is_ok_and(|info| info.tcpi_bytes_acked <= bytes + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::proxy::connection::{Connection, testing::to_backend};

    async fn pair() -> (Connection, Arc<Fate>, TcpStream) {
        let (connection, far) = to_backend().await;
        let fate = connection.fate.as_ref().unwrap().0.clone();
        (connection, fate, far)
    }

    async fn ask(connection: &mut Connection, fate: &Fate) {
        fate.begin();
        connection.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        connection.flush().await.unwrap();
    }

    async fn answered(connection: &mut Connection, fate: &Fate, far: &mut TcpStream) {
        ask(connection, fate).await;
        far.read_exact(&mut [0; 19]).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        connection.read_exact(&mut [0; 6]).await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_met_a_closed_connection_was_not_begun_with() {
        for before in [0, 1, 3] {
            let (mut connection, fate, mut far) = pair().await;
            for _ in 0..before {
                answered(&mut connection, &fate, &mut far).await;
                assert!(!fate.is_untouched());
            }
            drop(far);
            ask(&mut connection, &fate).await;
            assert_eq!(connection.read(&mut [0; 9]).await.unwrap(), 0);
            assert!(fate.is_untouched(), "after {before} others");
        }
    }

    #[tokio::test]
    async fn a_request_that_was_taken_may_have_been_begun_with() {
        // Read, and then the connection ends; not read, which ends it with a reset; answered in part.
        for (read, answer) in [(true, ""), (false, ""), (true, "HTT")] {
            let (mut connection, fate, mut far) = pair().await;
            answered(&mut connection, &fate, &mut far).await;
            ask(&mut connection, &fate).await;
            if read {
                far.read_exact(&mut [0; 19]).await.unwrap();
            } else {
                far.readable().await.unwrap();
            }
            far.write_all(answer.as_bytes()).await.unwrap();
            drop(far);
            let _ended = connection.read_to_end(&mut Vec::new()).await;
            assert!(!fate.is_untouched(), "{read} {answer:?}");
        }
    }

    #[tokio::test]
    async fn what_could_not_be_written_was_not_begun_with() {
        let (mut connection, fate, far) = pair().await;
        drop(far);
        // The first write is answered by a reset; then the kernel takes nothing more.
        ask(&mut connection, &fate).await;
        connection.read_to_end(&mut Vec::new()).await.unwrap();
        fate.begin();
        connection.write_all(b"POST").await.unwrap();
        connection.flush().await.unwrap_err();
        assert!(fate.is_untouched());
    }
}
