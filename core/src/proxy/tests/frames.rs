//! An HTTP/2 client that sends what no library would.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::harness::soon;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PROTOCOL_ERROR: u32 = 1;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A header block: each field literal, never indexed (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte of length");
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    block
}

pub fn get(path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", path)])
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A frame that came back.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The last stream that a GOAWAY lets through.
    pub fn last_stream(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

pub struct RawH2 {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl RawH2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (read, write) = tcp.into_split();
        let mut raw = Self { read, write };
        assert!(raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
        assert!(raw.send(&frame(SETTINGS, 0, 0, &[])).await);
        raw
    }

    /// False: the other side takes nothing more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        soon("sending", self.write.write_all(bytes)).await.is_ok()
    }

    /// The next frame; none at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        soon("a frame", async {
            let mut head = [0; 9];
            self.read.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.read.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some(Frame { kind: head[3], stream, payload })
        })
        .await
    }

    /// The next frame of this kind.
    pub async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection goes on");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The next HEADERS or RST_STREAM of a stream, or GOAWAY.
    pub async fn answer(&mut self, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.expect("an answer");
            let answer = frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM);
            if answer || frame.kind == GOAWAY {
                return frame;
            }
        }
    }

    /// Reads until the connection ends, and gives the code of its GOAWAY.
    pub async fn ends(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }

    /// Sends this again and again, and reads all the while, until the connection ends. Gives how often it was sent, no
    /// more than `most`, and the code of the GOAWAY.
    pub async fn flood(self, most: u32, mut each: impl FnMut(u32) -> Vec<u8>) -> (u32, Option<u32>) {
        let Self { read, mut write } = self;
        let mut reader = Self { read, write: dead_end().await };
        let ends = tokio::spawn(async move { reader.ends().await });
        let mut sent = 0;
        while sent < most && !ends.is_finished() && write.write_all(&each(sent)).await.is_ok() {
            sent += 1;
            if sent % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        (sent, soon("an end", ends).await.unwrap())
    }
}

/// A half that nobody writes to.
async fn dead_end() -> OwnedWriteHalf {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_split().1
}

/// The status of an answer: indexed, or a literal of three digits, perhaps in Huffman's code (RFC 7541 appendices A and B).
pub fn status_of(frame: &Frame) -> u16 {
    let known = [200, 204, 206, 304, 400, 404, 500];
    match frame.payload[..] {
        [index @ 0x88..=0x8e, ..] => known[usize::from(index - 0x88)],
        [_, length, ref rest @ ..] if length & 0x80 != 0 => {
            let mut bits = rest.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
            (0..3).fold(0, |status, _| {
                let mut take =
                    |count: u8, from| (0..count).fold(from, |code, _| code << 1 | bits.next().unwrap());
                // 0 to 2 have five bits, the others six.
                let short = take(5, 0);
                status * 10 + if short < 3 { short } else { take(1, short) - 0b011001 + 3 }
            })
        }
        [_, 3, a, b, c, ..] => {
            [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
        }
        _ => 0,
    }
}
