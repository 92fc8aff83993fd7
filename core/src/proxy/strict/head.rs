//! The head of a request, byte by byte (RFC 9112 sections 2 to 6), in one pass.

use std::ops::Range;

use super::{Body, Refused, host::is_host};
use crate::proxy::HttpLimits;

/// Digits of a Content-Length; more than any body has, and no overflow.
const LENGTH_DIGITS: usize = 18;
/// Bytes of a method.
const METHOD_BYTES: usize = 32;

/// Byte classes, one bit each.
const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const VALUE: u8 = 4;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut all = [0; 256];
    let mut at: usize = 0;
    while at < 256 {
        let byte = at as u8;
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            )
        {
            all[at] |= TOKEN;
        }
        // A fragment is never sent (RFC 9112 section 3.2), and those behind cut it off, or do not.
        if matches!(byte, 0x21..=0x7e) && byte != b'#' {
            all[at] |= TARGET;
        }
        if matches!(byte, b'\t' | 0x20..=0x7e | 0x80..) {
            all[at] |= VALUE;
        }
        at += 1;
    }
    all
}

fn is_of(byte: u8, class: u8) -> bool {
    // Indexing cannot fail: the table has a place for every byte.
    CLASS[usize::from(byte)] & class != 0
}

/// A byte of a method or a field's name (RFC 9110 section 5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    is_of(byte, TOKEN)
}

/// A byte of a field's value (RFC 9110 section 5.5).
pub(super) fn is_value_byte(byte: u8) -> bool {
    is_of(byte, VALUE)
}

/// How many bytes at the beginning are of this class.
fn run(line: &[u8], class: u8) -> usize {
    line.iter().position(|byte| !is_of(*byte, class)).unwrap_or(line.len())
}

/// A head that is whole and has one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Head {
    /// Empty lines before it, to be passed over.
    pub skip: usize,
    /// Its bytes from there, with the empty line that ends it.
    pub length: usize,
    /// What follows it.
    pub body: Body,
}

/// Reads a head in as many pieces as it comes in. Give it all bytes so far each time: no line is read twice once it is
/// whole.
#[derive(Debug, Default)]
pub(in crate::proxy) struct HeadScan {
    /// Where the first line begins that is not read yet.
    at: usize,
    /// Bytes that are known to hold no end of that line.
    searched: usize,
    begun: Option<usize>,
    method: Range<usize>,
    target: Range<usize>,
    http11: bool,
    fields: usize,
    host: Option<Range<usize>>,
    length: Option<u64>,
    chunked: bool,
    /// Upgrade says `websocket`, and Connection that it is meant.
    websocket: bool,
    upgrade: bool,
}

impl HeadScan {
    /// `None`: more bytes are needed. Of a refusal, the connection must be closed: where the next message begins cannot be
    /// known.
    pub fn scan(&mut self, bytes: &[u8], limits: &HttpLimits) -> Result<Option<Head>, Refused> {
        while let Some(line) = self.line(bytes)? {
            let (from, to) = (line.start, line.end);
            let text = bytes.get(line).unwrap_or_default();
            self.at = to + 2;
            match (self.begun, text.is_empty()) {
                // RFC 9112 section 2.2: an empty line before a request is passed over. One.
                (None, true) if from == 0 => {}
                (None, true) => return Err(Refused::bad("bad_request_line")),
                (None, false) => self.request_line(from, text, limits)?,
                (Some(begun), true) => return self.end(bytes, begun, to + 2).map(Some),
                (Some(_), false) => self.field(from, text, limits)?,
            }
            if self.at > limits.head_bytes {
                return Err(too_large());
            }
        }
        if bytes.len() > limits.head_bytes {
            return Err(self.too_long(bytes, limits));
        }
        Ok(None)
    }

    /// The next whole line, without its end. A line feed alone ends no line.
    fn line(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, Refused> {
        let from = self.at.max(self.searched);
        let Some(length) = memchr::memchr(b'\n', bytes.get(from..).unwrap_or_default()) else {
            self.searched = bytes.len();
            return Ok(None);
        };
        let end = from + length;
        match end.checked_sub(1).filter(|cr| *cr >= self.at && bytes.get(*cr) == Some(&b'\r')) {
            Some(cr) => Ok(Some(self.at..cr)),
            None => Err(Refused::bad("bare_line_feed")),
        }
    }

    fn request_line(&mut self, from: usize, line: &[u8], limits: &HttpLimits) -> Result<(), Refused> {
        const BAD: Refused = Refused::bad("bad_request_line");
        self.begun = Some(from);
        let method = run(line, TOKEN);
        if method == 0 || method > METHOD_BYTES || line.get(method) != Some(&b' ') {
            return Err(BAD);
        }
        self.method = from..from + method;
        let rest = line.get(method + 1..).unwrap_or_default();
        let target = run(rest, TARGET);
        if target > limits.target_bytes {
            return Err(Refused { status: 414, reason: "target_too_long" });
        }
        self.target = from + method + 1..from + method + 1 + target;
        self.http11 = match rest.get(target..) {
            Some(b" HTTP/1.1") => true,
            Some(b" HTTP/1.0") => false,
            Some([b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Refused { status: 505, reason: "http_version" });
            }
            _ => return Err(BAD),
        };
        if target == 0 { Err(BAD) } else { Ok(()) }
    }

    fn field(&mut self, from: usize, line: &[u8], limits: &HttpLimits) -> Result<(), Refused> {
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(Refused { status: 431, reason: "too_many_fields" });
        }
        let name = run(line, TOKEN);
        let value = line.get(name + 1..).unwrap_or_default();
        if name == 0 || line.get(name) != Some(&b':') {
            return Err(match line.first() {
                Some(b' ' | b'\t') => Refused::bad("folded_field"),
                _ => Refused::bad("bad_field_name"),
            });
        }
        if run(value, VALUE) != value.len() {
            return Err(Refused::bad("bad_field_value"));
        }
        let name = line.get(..name).unwrap_or_default();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(from + 5, value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.websocket |= is_tunnel(value.trim_ascii());
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let mut options = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
                self.upgrade |= options.any(|option| option.eq_ignore_ascii_case(b"upgrade"));
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value.trim_ascii()),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.coding(value.trim_ascii()),
            _ => Ok(()),
        }
    }

    fn host(&mut self, from: usize, value: &[u8]) -> Result<(), Refused> {
        let leading = value.len() - value.trim_ascii_start().len();
        let host = value.trim_ascii();
        let start = from + leading;
        if self.host.replace(start..start + host.len()).is_some() {
            return Err(Refused::bad("several_hosts"));
        }
        match host.is_empty() {
            true => Err(Refused::bad("no_host")),
            false if !is_host(host) => Err(Refused::bad("bad_host")),
            false => Ok(()),
        }
    }

    /// One field of digits. Repeating it, though the same each time, is allowed to be refused (RFC 9112 section 6.3).
    fn content_length(&mut self, value: &[u8]) -> Result<(), Refused> {
        const BAD: Refused = Refused::bad("bad_content_length");
        if value.is_empty() || value.len() > LENGTH_DIGITS || !value.iter().all(u8::is_ascii_digit) {
            return Err(BAD);
        }
        let length = value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'));
        if self.length.replace(length).is_some() { Err(BAD) } else { Ok(()) }
    }

    /// `chunked`, once, and nothing else: no other coding is understood here.
    fn coding(&mut self, value: &[u8]) -> Result<(), Refused> {
        const BAD: Refused = Refused::bad("bad_transfer_encoding");
        if value.eq_ignore_ascii_case(b"chunked") {
            return if std::mem::replace(&mut self.chunked, true) { Err(BAD) } else { Ok(()) };
        }
        let last = value.rsplit(|b| *b == b',').next().unwrap_or_default();
        match last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            true => Err(Refused { status: 501, reason: "transfer_coding" }),
            false => Err(BAD),
        }
    }

    /// What only the whole head tells.
    fn end(&self, bytes: &[u8], begun: usize, end: usize) -> Result<Head, Refused> {
        let method = bytes.get(self.method.clone()).unwrap_or_default();
        let host = self.host.clone().and_then(|host| bytes.get(host));
        if matches!(method, b"TRACE" | b"CONNECT") {
            return Err(Refused { status: 405, reason: "method_refused" });
        }
        // RFC 9112 section 3.2; asked of HTTP/1.0 too, as no route can be found without it.
        let host = host.ok_or(Refused::bad("no_host"))?;
        let target = bytes.get(self.target.clone()).unwrap_or_default();
        check_target(target, method, host)?;
        if self.chunked && self.length.is_some() {
            return Err(Refused::bad("length_and_coding"));
        }
        if self.chunked && !self.http11 {
            return Err(Refused::bad("coding_in_http10"));
        }
        let body = match (self.chunked, self.length) {
            (true, _) => Body::Chunked,
            (false, None | Some(0)) if self.upgrade && self.websocket && self.http11 => Body::Tunnel,
            (false, length) => Body::Length(length.unwrap_or(0)),
        };
        Ok(Head { skip: begun, length: end - begun, body })
    }

    /// A head past its bound, of which the last line has no end yet.
    fn too_long(&self, bytes: &[u8], limits: &HttpLimits) -> Refused {
        let line = bytes.get(self.at..).unwrap_or_default();
        match self.begun {
            None if line.len() > limits.target_bytes => Refused { status: 414, reason: "target_too_long" },
            _ => too_large(),
        }
    }

    /// Method, target and host, as far as they were read: for the access log.
    pub fn seen<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let part = |range: Range<usize>| bytes.get(range).unwrap_or_default();
        (part(self.method.clone()), part(self.target.clone()), part(self.host.clone().unwrap_or_default()))
    }
}

const fn too_large() -> Refused {
    Refused { status: 431, reason: "head_too_large" }
}

/// A path, `*` of OPTIONS, or a whole URL whose authority is what Host says (RFC 9112 section 3.2).
fn check_target(target: &[u8], method: &[u8], host: &[u8]) -> Result<(), Refused> {
    const BAD: Refused = Refused::bad("bad_target");
    match target {
        [b'/', ..] => Ok(()),
        b"*" if method == b"OPTIONS" => Ok(()),
        _ => {
            let rest = strip_scheme(target, b"http://").or_else(|| strip_scheme(target, b"https://"));
            let rest = rest.ok_or(BAD)?;
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            match rest.get(..end) {
                Some(authority) if authority == host => Ok(()),
                _ => Err(Refused::bad("host_mismatch")),
            }
        }
    }
}

fn strip_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = target.split_at_checked(scheme.len())?;
    begin.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// True if an upgrade to this is passed on. Any other is not taken up, as every server may (RFC 9110 section 7.8): requests
/// in a tunnel of another HTTP would be seen by nobody here.
pub(in crate::proxy) fn is_tunnel(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"websocket")
}
