//! HTTP/2 frames, watched by their headers as they come in (RFC 9113 section 4.1): floods that the engine would answer one
//! by one, and heads that never end.

use std::{task::Context, time::Duration};

use tokio::time::Instant;

use super::{Refused, alarm::Alarm};

const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// So many frames that carry nothing (settings, pings, priorities, resets, window updates, empty data, unknown ones) may
/// come in a row. Past it the connection ends with ENHANCE_YOUR_CALM.
const CREDIT: u64 = 2000;
/// What gives credit back: time, heads and data that come in, and bytes that go out, which need window updates.
const PER_SECOND: u64 = 200;
const PER_HEAD: u64 = 3;
const PER_DATA: u64 = 1;
const BYTES_OUT: u64 = 512;

/// What a client's frames have used up.
#[derive(Debug)]
pub(in crate::proxy) struct Frames {
    preface: usize,
    header: [u8; HEADER],
    /// Bytes of the frame's header that are there.
    have: usize,
    /// Bytes of its payload that are to come.
    payload: usize,
    /// The payload that is to come ends a head.
    ends_head: bool,
    credit: u64,
    /// Up to when time has given its credit.
    counted: Instant,
    bytes_out: u64,
    head_time: Duration,
    /// A head is being read: it must be whole by then.
    head: Option<Alarm>,
}

impl Frames {
    /// A connection that begins with its preface.
    pub fn new(head_time: Duration) -> Self {
        Self {
            preface: PREFACE,
            header: [0; HEADER],
            have: 0,
            payload: 0,
            ends_head: false,
            credit: CREDIT,
            counted: Instant::now(),
            bytes_out: 0,
            head_time,
            head: None,
        }
    }

    /// Looks at the next bytes that came in.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut rest = skip(bytes, &mut self.preface);
        while !rest.is_empty() {
            if self.payload > 0 {
                rest = skip(rest, &mut self.payload);
            } else {
                let Some((byte, after)) = rest.split_first() else { break };
                if let Some(place) = self.header.get_mut(self.have) {
                    *place = *byte;
                }
                self.have += 1;
                rest = after;
                if self.have < HEADER {
                    continue;
                }
                self.begin_frame()?;
            }
            if self.payload == 0 && self.ends_head {
                self.ends_head = false;
                self.head = None;
            }
        }
        Ok(())
    }

    /// So many bytes went out.
    pub fn wrote(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
        self.give(self.bytes_out / BYTES_OUT);
        self.bytes_out %= BYTES_OUT;
    }

    /// Nothing more came in. Wakes the task when a head that was begun is late.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Result<(), Refused> {
        if self.head.as_mut().is_some_and(|alarm| alarm.rings(cx)) {
            return Err(Refused { status: 408, reason: "head_too_slow" });
        }
        Ok(())
    }

    fn begin_frame(&mut self) -> Result<(), Refused> {
        self.have = 0;
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            HEADERS => self.give(PER_HEAD),
            DATA if self.payload > 0 || flags & END_STREAM != 0 => self.give(PER_DATA),
            _ => self.spend()?,
        }
        if matches!(kind, HEADERS | CONTINUATION) {
            self.ends_head = flags & END_HEADERS != 0;
            if self.payload > 0 || !self.ends_head {
                let limit = self.head_time;
                self.head.get_or_insert_with(|| Alarm::after(limit));
            }
        }
        Ok(())
    }

    fn give(&mut self, credit: u64) {
        self.credit = (self.credit + credit).min(CREDIT);
    }

    fn spend(&mut self) -> Result<(), Refused> {
        if self.credit == 0 {
            let now = Instant::now();
            let passed = now.saturating_duration_since(self.counted);
            self.counted = now;
            self.give(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX) * PER_SECOND / 1000);
        }
        match self.credit.checked_sub(1) {
            Some(left) => self.credit = left,
            None => return Err(Refused { status: 429, reason: "http2_flood" }),
        }
        Ok(())
    }
}

/// Passes over as many of the bytes as are to come.
fn skip<'a>(bytes: &'a [u8], to_come: &mut usize) -> &'a [u8] {
    let skipped = bytes.len().min(*to_come);
    *to_come -= skipped;
    bytes.get(skipped..).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![0; payload][..]].concat()
    }

    fn frames() -> Frames {
        let mut frames = Frames::new(SECOND);
        frames.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        frames
    }

    /// How many of these are taken in a row; all of 10,000 is as good as any number.
    fn taken(frames: &mut Frames, kind: u8, flags: u8, payload: usize) -> usize {
        let frame = frame(kind, flags, payload);
        (0..10_000).take_while(|_| frames.take(&frame).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_nothing_is_bounded() {
        for (kind, flags, payload) in
            [(4, 0, 6), (4, 1, 0), (6, 0, 8), (2, 0, 5), (3, 0, 4), (8, 0, 4), (0, 0, 0), (99, 0, 1)]
        {
            assert_eq!(taken(&mut frames(), kind, flags, payload), 2000, "{kind}");
        }
        assert_eq!(taken(&mut frames(), HEADERS, END_HEADERS | END_STREAM, 20), 10_000);
        assert_eq!(taken(&mut frames(), DATA, 0, 1), 10_000);
        assert_eq!(taken(&mut frames(), DATA, END_STREAM, 0), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn work_and_time_give_credit_back() {
        // What is refused is not read on; without payload the next frame begins all the same.
        let (mut frames, ping) = (frames(), 6);
        assert_eq!(taken(&mut frames, ping, 0, 0), 2000);
        frames.wrote(1024);
        assert_eq!(taken(&mut frames, ping, 0, 0), 2);
        frames.take(&frame(HEADERS, END_HEADERS, 9)).unwrap();
        assert_eq!(taken(&mut frames, ping, 0, 0), 3);
        tokio::time::advance(SECOND).await;
        assert_eq!(taken(&mut frames, ping, 0, 0), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_must_end() {
        let late = |frames: &mut Frames| {
            frames.poll_late(&mut Context::from_waker(std::task::Waker::noop())).is_err()
        };
        let mut whole = frames();
        whole.take(&frame(HEADERS, END_HEADERS, 9)).unwrap();
        whole.take(&frame(HEADERS, 0, 9)).unwrap();
        whole.take(&frame(CONTINUATION, END_HEADERS, 0)).unwrap();
        let mut part = frames();
        part.take(&frame(HEADERS, END_HEADERS, 9)[..15]).unwrap();
        let mut open = frames();
        open.take(&frame(HEADERS, 0, 9)).unwrap();
        assert!(!late(&mut whole) && !late(&mut part) && !late(&mut open));
        tokio::time::advance(SECOND).await;
        open.take(&frame(CONTINUATION, 0, 9)).unwrap();
        assert!(!late(&mut whole) && late(&mut part) && late(&mut open));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_found_however_they_come() {
        let mut bytes = frame(HEADERS, END_HEADERS, 30);
        bytes.extend(frame(DATA, 0, 300));
        for _ in 0..2001 {
            bytes.extend(frame(6, 0, 8));
        }
        for at_a_time in [1, 2, 7, 9, 10, 4096] {
            let mut frames = frames();
            let flood =
                bytes.chunks(at_a_time).map(|piece| frames.take(piece)).position(|taken| taken.is_err());
            assert_eq!(flood, Some((bytes.len() - 9) / at_a_time), "{at_a_time}");
        }
    }
}
