//! What this machine can do for the Gateways of a configuration.

use std::net::{IpAddr, UdpSocket};

use crate::{decide::Place, resources::ResourceSet};

/// Tries each address that a Gateway names, without opening a port that anybody could notice.
pub fn place_of(resources: &ResourceSet) -> Place {
    let addresses = resources.gateways.values().flat_map(|gateway| &gateway.spec.addresses);
    let named = addresses.filter_map(|address| address.value.as_ref()?.parse::<IpAddr>().ok());
    Place { unusable: named.filter(|ip| UdpSocket::bind((*ip, 0)).is_err()).collect(), listens: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::resources::{Source, parse};

    #[test]
    fn an_address_of_somebody_else_is_found_out() {
        let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: x
  addresses: [{ value: 127.0.0.1 }, { value: 192.0.2.1 }, { type: IPAddress }, { type: Hostname, value: localhost }]
  listeners: [{ name: http, port: 80, protocol: HTTP }]
";
        let parsed = parse(&[Source { name: "test".into(), text: text.into() }]);
        assert!(parsed.problems.is_empty());
        let unusable: Vec<_> = place_of(&parsed.resources).unusable.into_iter().collect();
        assert_eq!(unusable, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }
}
