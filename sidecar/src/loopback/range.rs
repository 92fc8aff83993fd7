//! The range of IPv4 addresses that services get.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// A range of IPv4 addresses from which each service gets one: the first address plus its `vip_index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    base: u32,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range of virtual addresses: {rule}")]
pub struct RangeError {
    text: String,
    rule: &'static str,
}

impl RangeError {
    pub(crate) fn new(text: &str, rule: &'static str) -> Self {
        Self { text: text.chars().take(64).collect(), rule }
    }
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

    /// Parses `ADDRESS/PREFIX` as captured connections have it: anywhere but in 127.0.0.0/8 and among the multicast
    /// addresses, a prefix of 8 to 29 bits, no bit set behind it.
    pub fn parse_captured(text: &str) -> Result<Self, RangeError> {
        let (range, refuse) = (Self::parse(text)?, |rule| Err(RangeError::new(text, rule)));
        let first = Ipv4Addr::from_bits(range.base);
        if first.is_loopback() || first.is_multicast() || first.is_unspecified() {
            return refuse("captured connections need addresses that are routed, e.g. 240.240.0.0/16");
        }
        Ok(range)
    }

    /// The range of captured connections unless another is given: 240.240.0.0/16, which nobody else uses.
    pub const fn captured() -> Self {
        Self { base: 0xf0f0_0000, prefix: 16 }
    }

    /// The index of the service that this address would be of; none: it lies outside.
    pub fn index_of(&self, address: Ipv4Addr) -> Option<u32> {
        address.to_bits().checked_sub(self.base).filter(|offset| *offset < self.size())
    }

    fn parse(text: &str) -> Result<Self, RangeError> {
        let refuse = |rule| RangeError::new(text, rule);
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse(FORM))?;
        let base = address.parse::<Ipv4Addr>().map_err(|_| refuse(FORM))?.to_bits();
        let prefix = prefix.parse::<u8>().map_err(|_| refuse(FORM))?;
        if !(8..=29).contains(&prefix) {
            return Err(refuse("the prefix is 8 to 29"));
        }
        let range = Self { base, prefix };
        if base & (range.size() - 1) != 0 {
            return Err(refuse("there are bits set behind the prefix"));
        }
        Ok(range)
    }

    /// True if the address lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.index_of(address).is_some()
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
        let (range, refuse) = (Self::parse(text)?, |rule| RangeError::new(text, rule));
        if range.base & 0xff00_0000 != LOOPBACK {
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
    #[test]
    fn captured_connections_have_another_range() {
        let range = Range::parse_captured("240.240.0.0/16").unwrap();
        assert_eq!(range, Range::captured());
        let address = range.address(258).unwrap();
        assert_eq!((address, range.index_of(address)), (Ipv4Addr::new(240, 240, 1, 2), Some(258)));
        assert_eq!(range.index_of(Ipv4Addr::new(240, 241, 0, 0)), None);
        assert_eq!(range.index_of(Ipv4Addr::new(240, 239, 255, 255)), None);
        assert!(Range::parse_captured("10.0.0.0/8").is_ok());
        for bad in ["127.64.0.0/16", "224.0.0.0/8", "0.0.0.0/8", "240.240.1.0/16", "240.0.0.0/7", "fd00::/64"]
        {
            assert!(Range::parse_captured(bad).is_err(), "{bad}");
        }
    }
}
