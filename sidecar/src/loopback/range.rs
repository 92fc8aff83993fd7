//! The range of loopback addresses that services get.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// A part of 127.0.0.0/8 from which each service gets one address: the first address plus its `vip_index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    base: u32,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range of loopback addresses: {rule}")]
pub struct RangeError {
    text: String,
    rule: &'static str,
}

const LOOPBACK: u32 = 0x7f00_0000;
const FORM: &str = "use ADDRESS/PREFIX, e.g. 127.64.0.0/16";

impl Range {
    /// The address of the service with this index; none for index 0 (no virtual address) and for those that do not fit:
    /// the last address of the range is left out as the first one is.
    pub fn address(&self, vip_index: u32) -> Option<Ipv4Addr> {
        let fits = (1..self.size() - 1).contains(&vip_index);
        fits.then(|| Ipv4Addr::from_bits(self.base + vip_index))
    }

    /// True if the address lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits().checked_sub(self.base).is_some_and(|offset| offset < self.size())
    }

    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }
}

impl Default for Range {
    /// 127.64.0.0/16.
    fn default() -> Self {
        Self { base: LOOPBACK + (64 << 16), prefix: 16 }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    /// Parses `ADDRESS/PREFIX`: within 127.0.0.0/8, a prefix of 9 to 29 bits, no bit set behind it, and not the part
    /// that holds 127.0.0.1.
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let refuse = |rule| RangeError { text: text.chars().take(64).collect(), rule };
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse(FORM))?;
        let base = address.parse::<Ipv4Addr>().map_err(|_| refuse(FORM))?.to_bits();
        let prefix = prefix.parse::<u8>().map_err(|_| refuse(FORM))?;
        if !(9..=29).contains(&prefix) {
            return Err(refuse("the prefix is 9 to 29"));
        }
        let range = Self { base, prefix };
        if base & (range.size() - 1) != 0 {
            return Err(refuse("there are bits set behind the prefix"));
        }
        if base & 0xff00_0000 != LOOPBACK {
            return Err(refuse("stay within 127.0.0.0/8"));
        }
        if range.contains(Ipv4Addr::LOCALHOST) {
            return Err(refuse("leave 127.0.0.1 out of it"));
        }
        Ok(range)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.prefix)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gives_every_index_an_address_of_its_own_until_the_range_ends() {
        let range: Range = "127.64.0.0/16".parse().unwrap();
        assert_eq!(range, Range::default());
        assert_eq!(range.address(0), None);
        assert_eq!(range.address(1), Some(Ipv4Addr::new(127, 64, 0, 1)));
        assert_eq!(range.address(256), Some(Ipv4Addr::new(127, 64, 1, 0)));
        assert_eq!(range.address(65_534), Some(Ipv4Addr::new(127, 64, 255, 254)));
        assert_eq!(range.address(65_535), None);
        assert_eq!(range.address(u32::MAX), None);
        let small: Range = "127.1.2.8/29".parse().unwrap();
        let all: Vec<_> = (0..10).filter_map(|index| small.address(index)).collect();
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|address| small.contains(*address)));
        assert!(
            !small.contains(Ipv4Addr::new(127, 1, 2, 16)) && !small.contains(Ipv4Addr::new(127, 1, 2, 7))
        );
    }

    #[test]
    fn prints_what_it_parses_and_refuses_the_rest() {
        assert_eq!("127.64.0.0/16".parse::<Range>().unwrap().to_string(), "127.64.0.0/16");
        for bad in [
            "",
            "127.64.0.0",
            "127.64.0.0/",
            "127.64.0.0/x",
            "127.64.0.1/16",
            "10.0.0.0/16",
            "127.0.0.0/8",
            "127.0.0.0/16",
            "127.0.0.0/29",
            "127.64.0.0/30",
            "127.64.0.0/33",
            "::1/16",
            "127.64.0.0/16/1",
        ] {
            assert!(bad.parse::<Range>().is_err(), "{bad:?}");
        }
    }
}
