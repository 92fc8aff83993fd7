//! Virtual addresses of services: an index, chosen by the controller, and the ranges that a sidecar adds it to.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use crate::loopback::{Range, RangeError};

/// Where services have their virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Addresses {
    /// By IPv4.
    pub v4: Range,
    /// By IPv6; none: names have no AAAA records.
    pub v6: Option<Range6>,
}

impl Addresses {
    /// The IPv6 address of the service with this index; none for index 0, and where it has no IPv4 address, so that both
    /// families know the same services.
    pub fn v6(&self, vip_index: u32) -> Option<Ipv6Addr> {
        self.v4.address(vip_index).and(self.v6).map(|range| range.address(vip_index))
    }

    /// The index of the service that an address would be of; none: it is no virtual address.
    pub fn index_of(&self, address: IpAddr) -> Option<u32> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.index_of(address),
            IpAddr::V6(address) => self.v6.and_then(|range| range.index_of(address)),
        }
    }
}

impl From<Range> for Addresses {
    fn from(v4: Range) -> Self {
        Self { v4, v6: None }
    }
}

/// A network of 64 bits of IPv6, from which each service gets one address: the network plus its `vip_index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range6(u64);

impl Range6 {
    fn address(self, vip_index: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from(self.0) << 64 | u128::from(vip_index))
    }

    /// Addresses past the highest index are of the range as well, and nobody's: index 0.
    fn index_of(self, address: Ipv6Addr) -> Option<u32> {
        let bits = address.to_bits();
        let below = bits & u128::from(u64::MAX);
        (bits >> 64 == u128::from(self.0)).then(|| u32::try_from(below).unwrap_or(0))
    }
}

impl Default for Range6 {
    /// fd74:6f6d:626f::/64, a unique local network (RFC 4193).
    fn default() -> Self {
        Self(0xfd74_6f6d_626f_0000)
    }
}

impl FromStr for Range6 {
    type Err = RangeError;

    /// Parses `NETWORK::/64` of unique local addresses (fc00::/7).
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let refuse =
            || RangeError::new(text, "use a network of unique local addresses, e.g. fd74:6f6d:626f::/64");
        let address = text.strip_suffix("/64").and_then(|address| address.parse::<Ipv6Addr>().ok());
        let bits = address.ok_or_else(refuse)?.to_bits();
        let network = u64::try_from(bits >> 64).map_err(|_| refuse())?;
        match bits & u128::from(u64::MAX) == 0 && network >> 57 == 0xfc >> 1 {
            true => Ok(Self(network)),
            false => Err(refuse()),
        }
    }
}

impl fmt::Display for Range6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.address(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back_to_its_service() {
        let all = Addresses { v4: Range::captured(), v6: Some(Range6::default()) };
        let v6 = all.v6(7).unwrap();
        assert_eq!(v6.to_string(), "fd74:6f6d:626f::7");
        assert_eq!(all.index_of(v6.into()), Some(7));
        assert_eq!(all.index_of("240.240.0.7".parse().unwrap()), Some(7));
        assert_eq!(all.index_of("::ffff:240.240.0.7".parse().unwrap()), Some(7));
        assert_eq!(all.index_of("fd74:6f6d:626f::1:0:0".parse().unwrap()), Some(0), "nobody's");
        for outside in ["10.0.0.7", "fd74:6f6d:626f:1::7", "::1"] {
            assert_eq!(all.index_of(outside.parse().unwrap()), None, "{outside}");
        }
        assert_eq!((all.v6(0), all.v6(65_535), Addresses::default().v6(7)), (None, None, None));
    }

    #[test]
    fn only_unique_local_networks_are_taken() {
        let range = Range6::default();
        assert_eq!(range.to_string().parse::<Range6>().unwrap(), range);
        for bad in ["", "fd00::", "fd00::/48", "fd00::1/64", "2001:db8::/64", "fe80::/64", "10.0.0.0/64"] {
            assert!(bad.parse::<Range6>().is_err(), "{bad:?}");
        }
    }
}
