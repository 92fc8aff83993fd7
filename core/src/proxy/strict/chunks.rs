//! A chunked body, watched as its bytes go by (RFC 9112 section 7.1): chunk sizes, extensions and trailers have one
//! reading, and where the message ends is known.

use super::{Refused, head::is_value_byte};

/// Extensions are read by nobody. All of a body's together may have this many bytes; past it 400.
const EXTENSION_BYTES: u32 = 16 * 1024;
/// All trailer fields together may have this many bytes; past it 400.
const TRAILER_BYTES: u32 = 16 * 1024;
/// Hexadecimal digits of a chunk's size.
const SIZE_DIGITS: u8 = 15;

const BAD: Refused = Refused::bad("bad_chunk");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size { digits: u8 },
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Name,
    Value,
    LineEnd,
    LastLf,
    End,
}

/// Where in a chunked body we are.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk: its size, then how much of it is to come.
    size: u64,
    extensions: u32,
    trailers: u32,
}

impl Chunks {
    pub fn new() -> Self {
        Self { at: At::Size { digits: 0 }, size: 0, extensions: 0, trailers: 0 }
    }

    /// The whole body went by.
    pub fn ended(&self) -> bool {
        self.at == At::End
    }

    /// Looks at the next bytes. Gives how many of them are of this body: all, or up to its end.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first() {
            match self.at {
                At::End => break,
                At::Data => {
                    let skipped = usize::try_from(self.size).unwrap_or(usize::MAX).min(rest.len());
                    self.size -= skipped as u64;
                    if self.size == 0 {
                        self.at = At::DataCr;
                    }
                    rest = rest.get(skipped..).unwrap_or_default();
                }
                _ => {
                    self.at = self.step(*byte)?;
                    rest = after;
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn step(&mut self, byte: u8) -> Result<At, Refused> {
        match (self.at, byte) {
            (At::Size { digits }, _) if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                Ok(At::Size { digits: digits + 1 })
            }
            (At::Size { digits: 1.. }, b';') => Ok(At::Extension),
            (At::Size { digits: 1.. } | At::Extension, b'\r') => Ok(At::SizeEnd),
            (At::Extension, _) if is_value_byte(byte) => {
                bounded(&mut self.extensions, EXTENSION_BYTES, At::Extension)
            }
            (At::SizeEnd, b'\n') => Ok(if self.size == 0 { At::LineStart } else { At::Data }),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::Size { digits: 0 }),
            (At::LineStart, b'\r') => Ok(At::LastLf),
            (At::LastLf, b'\n') => Ok(At::End),
            (At::Name, b':') => Ok(At::Value),
            (At::LineStart | At::Name, _) if super::head::is_token_byte(byte) => {
                bounded(&mut self.trailers, TRAILER_BYTES, At::Name)
            }
            (At::Value, b'\r') => Ok(At::LineEnd),
            (At::Value, _) if is_value_byte(byte) => bounded(&mut self.trailers, TRAILER_BYTES, At::Value),
            (At::LineEnd, b'\n') => Ok(At::LineStart),
            _ => Err(BAD),
        }
    }
}

fn bounded(count: &mut u32, bound: u32, next: At) -> Result<At, Refused> {
    *count += 1;
    if *count > bound { Err(BAD) } else { Ok(next) }
}
