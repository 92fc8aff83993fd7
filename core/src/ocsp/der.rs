//! As much of DER (X.690) as OCSP needs. Lengths past 16 MiB and tags past 30 are refused.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

/// `[N]`, constructed.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// Tag and length with it.
    pub(super) whole: &'a [u8],
}

/// Values one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a>(pub(super) &'a [u8]);

impl<'a> Values<'a> {
    /// The next value if it has this tag; else nothing is taken.
    pub(super) fn take(&mut self, tag: u8) -> Option<Value<'a>> {
        let (value, rest) = split(self.0).filter(|(value, _)| value.tag == tag)?;
        self.0 = rest;
        Some(value)
    }

    /// The next value, whatever it is.
    pub(super) fn any(&mut self) -> Option<Value<'a>> {
        let (value, rest) = split(self.0)?;
        self.0 = rest;
        Some(value)
    }

    /// What is inside of the next value if it has this tag.
    pub(super) fn inside(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(|value| Self(value.content))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The one value with this tag that `der` is, and nothing after it.
pub(super) fn only(der: &[u8], tag: u8) -> Option<Values<'_>> {
    let mut values = Values(der);
    let inside = values.inside(tag)?;
    values.is_empty().then_some(inside)
}

fn split(der: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        long @ 0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    let whole = der.get(..der.len() - rest.len())?;
    // Tags of several bytes appear nowhere here.
    (tag & 0x1f != 0x1f).then_some((Value { tag: *tag, content, whole }, rest))
}

/// A value with these contents, one after the other.
pub(super) fn write(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|content| content.len()).sum();
    let bytes = length.to_be_bytes();
    let significant = bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
    let mut out = vec![tag];
    match (significant.as_slice(), u8::try_from(significant.len())) {
        ([], _) => out.push(0),
        ([short @ 0..=0x7f], _) => out.push(*short),
        (long, Ok(count)) => {
            out.push(0x80 | count);
            out.extend(long);
        }
        // An address space has no more than 16 bytes a length.
        (_, Err(_)) => {}
    }
    contents.iter().for_each(|content| out.extend(*content));
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; length];
            let written = write(SEQUENCE, &[&content]);
            assert_eq!(only(&written, SEQUENCE).unwrap().0, content, "{length}");
            let mut values = Values(&written);
            assert_eq!(values.take(OID), None);
            assert_eq!(values.any().unwrap().whole, written);
        }
    }

    #[test]
    fn what_is_cut_or_longer_or_odd_is_refused() {
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 3, 0x0a, 1],
            &[0x30, 1, 0, 0],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x84, 0, 0, 0, 0],
            &[0x3f, 1, 0],
            b"-----BEGIN",
        ] {
            assert!(only(bad, SEQUENCE).is_none(), "{bad:?}");
        }
    }
}
