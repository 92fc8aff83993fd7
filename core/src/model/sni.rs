//! The opaque server names by which proxies ask for a workload's port, so that a gateway can pass a connection on
//! without decrypting it and a watcher on the wire reads no service names.

use std::fmt::Write;

use ring::digest::{Context, SHA256};

use super::TrustDomain;

/// How many bytes of the digest make the name: 128 bits, so that two workloads do not meet by chance.
const DIGEST_BYTES: usize = 16;

/// The server name of one workload's port: 32 lowercase hex digits and `.t`, a valid DNS name.
///
/// It is a digest of the trust domain, namespace, workload and port: everybody who knows these computes the same name,
/// and nobody reads them from it. It is no secret: the connection behind it is mutual TLS.
pub fn opaque_sni(trust_domain: &TrustDomain, namespace: &str, workload: &str, port: u16) -> String {
    let mut digest = Context::new(&SHA256);
    let port = port.to_string();
    for part in ["tombolo-sni/v1", trust_domain.as_str(), namespace, workload] {
        digest.update(part.as_bytes());
        // None of the parts can hold a NUL, so the boundaries cannot be moved.
        digest.update(&[0]);
    }
    digest.update(port.as_bytes());
    let digest = digest.finish();
    let mut name = String::with_capacity(2 * DIGEST_BYTES + 2);
    for byte in digest.as_ref().iter().take(DIGEST_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(".t");
    name
}

/// Whether a text has the form that [`opaque_sni`] makes.
pub fn is_opaque_sni(text: &str) -> bool {
    text.strip_suffix(".t").is_some_and(|digits| {
        digits.len() == 2 * DIGEST_BYTES && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_every_port_differently_and_always_the_same() {
        let east = TrustDomain::parse("east.example").unwrap();
        let west = TrustDomain::parse("west.example").unwrap();
        let base = opaque_sni(&east, "shop", "checkout-1", 8080);
        assert_eq!(base, opaque_sni(&east, "shop", "checkout-1", 8080));
        let others = [
            opaque_sni(&west, "shop", "checkout-1", 8080),
            opaque_sni(&east, "shop2", "checkout-1", 8080),
            opaque_sni(&east, "shop", "checkout-2", 8080),
            opaque_sni(&east, "shop", "checkout-1", 808),
            opaque_sni(&east, "shopc", "heckout-1", 8080),
        ];
        assert!(others.iter().all(|other| *other != base), "{base} is among {others:?}");
    }

    #[test]
    fn is_the_digest_that_is_written_down() {
        // printf 'tombolo-sni/v1\0east.example\0shop\0checkout-1\0008080' | sha256sum
        let east = TrustDomain::parse("east.example").unwrap();
        assert_eq!(opaque_sni(&east, "shop", "checkout-1", 8080), "8eeafcedbe74ecca963c12d79622c792.t");
    }

    #[test]
    fn is_a_valid_server_name() {
        let east = TrustDomain::parse("east.example").unwrap();
        let name = opaque_sni(&east, "shop", "checkout-1", 8080);
        assert!(is_opaque_sni(&name));
        assert!(rustls_pki_types::DnsName::try_from(name.as_str()).is_ok());
        for bad in ["", ".t", "abc.t", "checkout.shop.svc.cluster.local"] {
            assert!(!is_opaque_sni(bad), "{bad:?}");
        }
    }
}
