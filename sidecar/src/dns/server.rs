//! The sockets: UDP and TCP on one address, within bounds.
//!
//! hickory-server reads and writes the messages; the loops are our own, because its loops take any number of
//! connections and do not say what they throw away.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::ResponseCode;
use hickory_server::net::xfer::Protocol;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tombolo_core::telemetry::Telemetry;

use super::{
    Answers,
    message::{self, Packet, Question, Reply},
};

/// A question is shorter than this, by UDP and TCP; a longer packet is refused as malformed.
const LONGEST_QUESTION: usize = 4096;
/// Forwarded questions at a time; one more is answered SERVFAIL.
const FORWARDED: usize = 512;
/// Questions of a TCP connection that others are asked at a time; no further one is read before.
const SENT_AHEAD: usize = 16;
/// TCP connections at a time; one more is closed.
const CONNECTIONS: usize = 128;
/// A TCP connection without a question is closed after this long (RFC 7766, section 6.2.3), and one that does not take
/// its answer.
const IDLE: Duration = Duration::from_secs(10);
/// The pause after a failure of a socket, so that its loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers on both sockets until it is dropped.
pub(super) struct Server {
    pub answers: Answers,
    pub telemetry: Arc<Telemetry>,
    forwarded: Semaphore,
    connections: Arc<Semaphore>,
}

impl Server {
    pub fn new(answers: Answers, telemetry: Arc<Telemetry>) -> Arc<Self> {
        let (forwarded, connections) = (Semaphore::new(FORWARDED), Arc::new(Semaphore::new(CONNECTIONS)));
        Arc::new(Self { answers, telemetry, forwarded, connections })
    }

    /// Serves UDP. Own names are answered in this loop; a forwarded question has a task of its own.
    pub async fn udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; LONGEST_QUESTION + 1];
        loop {
            let received = match socket.recv_from(&mut buffer).await {
                Ok((length, source)) => buffer.get(..length).map(|packet| (packet, source)),
                // On Linux an earlier answer that nobody took is told here; it is no failure of this socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    tracing::warn!(%error, "DNS: cannot receive");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some((packet, source)) = received else { continue };
            match self.first(packet, source, Protocol::Udp) {
                First::Ready(answer) => self.send(&socket, &answer, source).await,
                First::Forward(question) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let answer = server.forward(question).await;
                        server.send(&socket, &answer, source).await;
                    });
                }
                First::Nothing => {}
            }
        }
    }

    async fn send(&self, socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
        if let Err(error) = socket.send_to(answer, to).await {
            tracing::debug!(%error, %to, "DNS: an answer was not sent");
        }
    }

    /// Serves TCP.
    pub async fn tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (tcp, source) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "DNS: cannot accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                self.telemetry.dns_answer("own", "overload");
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(error) = server.connection(tcp, source).await {
                    tracing::debug!(%error, %source, "DNS: a TCP connection ended");
                }
                drop(place);
            });
        }
    }

    /// Questions may be sent ahead: each is answered as soon as it can be (RFC 7766, section 6.2.1.1). What cannot be
    /// answered ends the connection.
    async fn connection(&self, mut tcp: TcpStream, source: SocketAddr) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let (reader, mut tcp) = tcp.split();
        let mut packets = Packets { reader, bytes: Vec::with_capacity(LONGEST_QUESTION) };
        let (mut under_way, mut open) = (FuturesUnordered::new(), true);
        while open || !under_way.is_empty() {
            let answer = tokio::select! {
                Some(answer) = under_way.next() => answer,
                packet = timeout(IDLE, packets.next()), if open && under_way.len() < SENT_AHEAD => {
                    let Some(packet) = packet?.inspect_err(|error| self.count_malformed(error))? else {
                        open = false;
                        continue;
                    };
                    match self.first(&packet, source, Protocol::Tcp) {
                        First::Ready(answer) => answer,
                        First::Forward(question) => {
                            under_way.push(self.forward(question));
                            continue;
                        }
                        First::Nothing => return Ok(()),
                    }
                }
            };
            // An answer is written to fit into 16 bits.
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes();
            let framed: Vec<u8> = length.into_iter().chain(answer).collect();
            timeout(IDLE, tcp.write_all(&framed)).await??;
        }
        Ok(())
    }

    fn count_malformed(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            self.telemetry.bad_input("dns");
        }
    }

    /// What can be said without asking others.
    fn first(&self, packet: &[u8], source: SocketAddr, protocol: Protocol) -> First {
        if packet.len() > LONGEST_QUESTION {
            self.telemetry.bad_input("dns");
            return First::Nothing;
        }
        match message::read(packet, source, protocol) {
            Packet::Question(question) => match self.answers.own(&question.name, question.kind) {
                Some(reply) => {
                    self.telemetry.dns_answer("own", label(reply.code));
                    First::Ready(question.write(&reply))
                }
                None => First::Forward(question),
            },
            Packet::Refused(code, answer) => {
                if code == ResponseCode::FormErr {
                    self.telemetry.bad_input("dns");
                } else {
                    self.telemetry.dns_answer("own", label(code));
                }
                First::Ready(answer)
            }
            Packet::Ignored => {
                self.telemetry.bad_input("dns");
                First::Nothing
            }
        }
    }

    async fn forward(&self, question: Box<Question>) -> Vec<u8> {
        let reply = match self.forwarded.try_acquire() {
            Ok(_place) => self.answers.foreign(&question.name, question.kind).await,
            Err(_) => {
                self.telemetry.dns_answer("forwarded", "overload");
                Reply::code(ResponseCode::ServFail)
            }
        };
        self.telemetry.dns_answer("forwarded", label(reply.code));
        question.write(&reply)
    }
}

/// A response code as metrics show it.
fn label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "noerror",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::ServFail => "servfail",
        ResponseCode::Refused => "refused",
        _ => "other",
    }
}

/// What a packet leads to.
enum First {
    /// This answer.
    Ready(Vec<u8>),
    /// A question for other resolvers.
    Forward(Box<Question>),
    /// No answer.
    Nothing,
}

/// The messages of a TCP connection, each after its length.
struct Packets<R> {
    reader: R,
    /// What was read and not given. No more is read while there is a whole message.
    bytes: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Packets<R> {
    /// The next one; none at the end of the connection. Whoever stops waiting for it loses nothing.
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some((length, rest)) = self.bytes.split_first_chunk() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length > LONGEST_QUESTION {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a question that is too long"));
                }
                if let Some(packet) = rest.get(..length) {
                    let packet = packet.to_vec();
                    self.bytes.drain(..size_of::<u16>() + length);
                    return Ok(Some(packet));
                }
            }
            if self.reader.read_buf(&mut self.bytes).await? == 0 {
                return Ok(None);
            }
        }
    }
}
