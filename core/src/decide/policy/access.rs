//! Which clients may come in, by their addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A block of addresses in CIDR notation (RFC 4632, RFC 4291); an address alone is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// A text is no block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address or a block of addresses")]
pub struct CidrError(String);

impl Cidr {
    /// From what a user wrote. Bits past the prefix are ignored; IPv4 in IPv6 (`::ffff:10.0.0.0/104`) is IPv4.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // `+8` and `08` are numbers to Rust, and to nobody else.
            Some(bits)
                if bits.bytes().all(|b| b.is_ascii_digit())
                    && (bits.len() == 1 || !bits.starts_with('0')) =>
            {
                bits.parse::<u8>().ok().filter(|bits| *bits <= most).ok_or_else(error)?
            }
            Some(_) => return Err(error()),
            None => most,
        };
        match (address.to_canonical(), address) {
            (v4 @ IpAddr::V4(_), IpAddr::V6(_)) if bits >= 96 => Ok(Self { address: v4, bits: bits - 96 }),
            _ => Ok(Self { address, bits }),
        }
    }

    /// True if the address lies in the block. IPv4 in IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(block), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (block.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(block), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (block.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// True for blocks of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// First and last address.
    fn range(&self) -> (IpAddr, IpAddr) {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                let bits = address.to_bits();
                (Ipv4Addr::from_bits(bits & mask).into(), Ipv4Addr::from_bits(bits | !mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                let bits = address.to_bits();
                (Ipv6Addr::from_bits(bits & mask).into(), Ipv6Addr::from_bits(bits | !mask).into())
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Blocks in order and apart, so that a look-up is a binary search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocks(Box<[(IpAddr, IpAddr)]>);

impl Blocks {
    /// From blocks that may overlap.
    pub fn new(blocks: impl IntoIterator<Item = Cidr>) -> Self {
        let mut ranges: Vec<(IpAddr, IpAddr)> = blocks.into_iter().map(|block| block.range()).collect();
        ranges.sort();
        let mut apart: Vec<(IpAddr, IpAddr)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match apart.last_mut() {
                // CIDR blocks are apart, or one lies in the other.
                Some((_, end)) if end.is_ipv4() == first.is_ipv4() && first <= *end => *end = last.max(*end),
                _ => apart.push((first, last)),
            }
        }
        Self(apart.into())
    }

    /// True if one of the blocks holds the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .is_some_and(|(_, last)| last.is_ipv4() == address.is_ipv4() && address <= *last)
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Allow and deny lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpAccess {
    /// Only these come in; everybody where empty.
    pub allow: Blocks,
    /// These do not, also where they are allowed.
    pub deny: Blocks,
}

impl IpAccess {
    /// True if a client of this address may come in.
    pub fn permits(&self, address: IpAddr) -> bool {
        (self.allow.is_empty() || self.allow.contains(address)) && !self.deny.contains(address)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_are_read_as_people_write_them() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/8", "10.0.0.0", "9.255.255.255"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("::ffff:10.0.0.0/104", "10.1.1.1", "11.1.1.1"),
        ] {
            let block = Cidr::parse(text).unwrap();
            assert!(block.contains(inside.parse().unwrap()), "{text}");
            assert!(!block.contains(outside.parse().unwrap()), "{text}");
        }
        assert!(Cidr::parse("10.0.0.0/8").unwrap().contains("::ffff:10.0.0.1".parse().unwrap()));
        for text in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0/8"]
        {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_denial_beats_a_permission() {
        let blocks = |texts: &[&str]| Blocks::new(texts.iter().map(|text| Cidr::parse(text).unwrap()));
        let access = IpAccess { allow: blocks(&["10.0.0.0/8"]), deny: blocks(&["10.9.0.0/16"]) };
        assert!(access.permits("10.1.0.1".parse().unwrap()));
        assert!(!access.permits("10.9.0.1".parse().unwrap()));
        assert!(!access.permits("11.0.0.1".parse().unwrap()));
        let only_denied = IpAccess { deny: blocks(&["::1"]), ..Default::default() };
        assert!(only_denied.permits("127.0.0.1".parse().unwrap()));
        assert!(!only_denied.permits("::1".parse().unwrap()));
    }

    fn block() -> impl Strategy<Value = Cidr> {
        let v4 =
            (0u32..16, 24u8..=32).prop_map(|(a, bits)| (IpAddr::from(Ipv4Addr::from_bits(a << 4)), bits));
        let v6 =
            (0u128..16, 120u8..=128).prop_map(|(a, bits)| (IpAddr::from(Ipv6Addr::from_bits(a << 4)), bits));
        prop_oneof![v4, v6].prop_map(|(address, bits)| Cidr { address, bits })
    }

    proptest! {
        #[test]
        fn the_search_finds_what_a_look_at_each_finds(
            list in prop::collection::vec(block(), 0..8), at in 0u32..300, v6: bool,
        ) {
            let address: IpAddr = if v6 { Ipv6Addr::from_bits(at.into()).into() } else { Ipv4Addr::from_bits(at).into() };
            let expected = list.iter().any(|block| block.contains(address));
            prop_assert_eq!(Blocks::new(list).contains(address), expected);
        }
    }
}
