//! Whom a client of the proxy wants, and whether it may. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tombolo_core::{decide::Cidr, model::ServiceKey};

use crate::{addresses::Addresses, pages};

/// Whom a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A service of the mesh.
    Service(ServiceKey),
    /// The service with this virtual address.
    Virtual(u32),
    /// An address elsewhere.
    Address(IpAddr),
    /// A name elsewhere.
    Name,
    /// A name in the mesh's zones that is no service's: a host's, or nobody's.
    Host,
}

impl Target {
    /// What a host means; it is in lower case and has no last dot.
    pub fn of(host: &str, addresses: &Addresses) -> Self {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return addresses.index_of(ip).map_or(Self::Address(ip.to_canonical()), Self::Virtual);
        }
        match pages::service(host) {
            Some(service) => Self::Service(service),
            None if [".svc.cluster.local", ".svc.clusterset.local"]
                .iter()
                .any(|zone| host.ends_with(zone)) =>
            {
                Self::Host
            }
            None => Self::Name,
        }
    }
}

/// True for addresses that nobody is led to unless it is allowed: this machine's own, which are not the network's to reach;
/// link-local ones; and those where clouds tell a machine its credentials.
pub(super) fn is_kept_from(ip: IpAddr, allowed: &[Cidr]) -> bool {
    const AZURE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    const ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const AMAZON: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let kept = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let own = ip.is_loopback() || ip.octets()[0] == 0;
            own || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || [AZURE, ALIBABA].contains(&ip)
        }
        IpAddr::V6(ip) => {
            let own = ip.is_loopback() || ip.is_unspecified();
            own || ip.is_unicast_link_local() || ip.is_multicast() || ip == AMAZON
        }
    };
    kept && !allowed.iter().any(|block| block.contains(ip))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{addresses::Range6, loopback::Range};

    #[test]
    fn names_and_virtual_addresses_are_the_mesh() {
        let all = Addresses { v4: Range::captured(), v6: Some(Range6::default()) };
        let service = |text| Target::Service(ServiceKey::parse(text).unwrap());
        for (host, target) in [
            ("checkout.shop.svc.cluster.local", service("cluster/shop/checkout")),
            ("ledger.bank.svc.clusterset.local", service("clusterset/bank/ledger")),
            ("shop.svc.cluster.local", Target::Host),
            ("240.240.0.9", Target::Virtual(9)),
            ("fd74:6f6d:626f::9", Target::Virtual(9)),
            ("::ffff:10.0.0.1", Target::Address("10.0.0.1".parse().unwrap())),
            ("example.com", Target::Name),
        ] {
            assert_eq!(Target::of(host, &all), target, "{host}");
        }
    }

    #[test]
    fn nobody_is_led_to_this_machine_or_to_credentials() {
        let kept = [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "168.63.129.16",
            "100.100.100.200",
            "::ffff:169.254.169.254",
            "224.0.0.1",
            "ff02::1",
        ];
        let all = [Cidr::parse("0.0.0.0/0").unwrap(), Cidr::parse("::/0").unwrap()];
        for ip in kept.map(|ip| ip.parse().unwrap()) {
            assert!(is_kept_from(ip, &[]) && !is_kept_from(ip, &all), "{ip}");
        }
        for ip in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"].map(|ip| ip.parse().unwrap()) {
            assert!(!is_kept_from(ip, &[]), "{ip}");
        }
    }
}
