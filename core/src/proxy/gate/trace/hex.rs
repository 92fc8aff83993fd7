//! Ids as hexadecimal digits.

/// 32 lower-case digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digits([u8; 32]);

impl Digits {
    pub fn of(number: u128) -> Self {
        let mut digits = [0; 32];
        write(&number.to_be_bytes(), &mut digits);
        Self(digits)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Two digits for each byte; as many as there is room for.
pub(super) fn write(bytes: &[u8], into: &mut [u8]) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    for (byte, pair) in bytes.iter().zip(into.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

/// A number of so many lower-case digits.
pub(super) fn read(text: &str, length: usize) -> Option<u128> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != length || !text.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

/// An id of 16 digits, not zero.
pub(super) fn span(text: &str) -> Option<std::num::NonZeroU64> {
    u64::try_from(read(text, 16)?).ok()?.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_all_their_digits_and_read_back() {
        for number in [1, 0x0123_4567_89ab_cdef, u128::MAX] {
            let digits = Digits::of(number);
            assert_eq!(digits.text(), format!("{number:032x}"));
            assert_eq!(read(digits.text(), 32), Some(number));
        }
        for wrong in ["", "12", "0123456789ABCDEF", "+123456789abcdef"] {
            assert_eq!(read(wrong, 16), None, "{wrong}");
        }
        assert_eq!(span("0000000000000000"), None);
    }
}
