//! The address at which others reach this process.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use crate::outgoing;

/// The address to advertise for a listener that is bound to `bound`: `given` if there is one (its port 0 stands for the
/// bound port), else the bound address itself; where that is every address of this machine, the one from which this
/// machine reaches the first of `towards` (`HOST:PORT`). Nothing is sent.
pub async fn advertised(
    bound: SocketAddr,
    given: Option<SocketAddr>,
    towards: &[String],
) -> io::Result<SocketAddr> {
    if let Some(given) = given {
        let port = if given.port() == 0 { bound.port() } else { given.port() };
        return Ok(SocketAddr::new(given.ip(), port));
    }
    if !bound.ip().is_unspecified() {
        return Ok(bound);
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no controller's address is known");
    for target in towards {
        match local_ip(target).await {
            Ok(ip) => return Ok(SocketAddr::new(ip, bound.port())),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The source address that the kernel takes towards a target.
async fn local_ip(target: &str) -> io::Result<IpAddr> {
    let addresses = tokio::net::lookup_host(target).await?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
        let socket = outgoing::udp_socket(any)?;
        // Connecting a datagram socket only looks up the route.
        match socket.connect(address).await {
            Ok(()) => return Ok(socket.local_addr()?.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn what_is_given_comes_first_then_what_is_bound_then_the_route() {
        let controller = vec!["127.0.0.1:15010".to_string()];
        let none: &[String] = &[];
        let bound = at("0.0.0.0:15006");
        assert_eq!(advertised(bound, Some(at("10.1.1.1:7")), none).await.unwrap(), at("10.1.1.1:7"));
        assert_eq!(advertised(bound, Some(at("10.1.1.1:0")), none).await.unwrap(), at("10.1.1.1:15006"));
        assert_eq!(advertised(at("127.0.0.2:5"), None, none).await.unwrap(), at("127.0.0.2:5"));
        assert_eq!(advertised(bound, None, &controller).await.unwrap(), at("127.0.0.1:15006"));
        assert!(advertised(bound, None, none).await.is_err());
    }
}
