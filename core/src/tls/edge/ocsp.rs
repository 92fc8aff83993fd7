//! What has to be known of OCSP responses in order to staple them.

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, der_parser::oid, prelude::FromDer};

/// A response may be this long (bytes): it goes out with every full handshake.
const MAX_RESPONSE: usize = 16 * 1024;
/// `status_request` among the TLS features (RFC 7633 section 4, RFC 6066 section 1.1), as a DER INTEGER.
const STATUS_REQUEST: [u8; 3] = [2, 1, 5];

/// Checks that this is one whole OCSPResponse with the status `successful` (RFC 6960 section 4.2.1).
pub(super) fn check(response: &[u8]) -> Result<(), &'static str> {
    if response.len() > MAX_RESPONSE {
        return Err("the OCSP response is longer than 16 KiB");
    }
    let content = sequence(response).ok_or("the OCSP response is not well-formed DER")?;
    // ENUMERATED of one byte.
    match content {
        [0x0a, 1, 0, ..] => Ok(()),
        [0x0a, 1, ..] => Err("the OCSP response says that the responder could not answer"),
        _ => Err("the OCSP response is not well-formed DER"),
    }
}

/// The content of a SEQUENCE that is all there is.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (0x30, rest) = der.split_first().map(|(tag, rest)| (*tag, rest))? else { return None };
    let (first, rest) = rest.split_first()?;
    let (length, content) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        long @ 0x81..=0x83 => {
            let (bytes, content) = rest.split_at_checked(long - 0x80)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), content)
        }
        _ => return None,
    };
    (content.len() == length).then_some(content)
}

/// True if a certificate has the TLS feature `status_request`, which demands a staple.
pub(super) fn must_staple(leaf: &CertificateDer<'_>) -> bool {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
    let feature = leaf.get_extension_unique(&oid!(1.3.6.1.5.5.7.1.24)).ok().flatten();
    let features = feature.and_then(|extension| sequence(extension.value)).unwrap_or_default();
    features.windows(STATUS_REQUEST.len()).any(|window| window == STATUS_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_and_successful_responses_are_taken() {
        assert_eq!(check(&[0x30, 3, 0x0a, 1, 0]), Ok(()));
        let mut long = vec![0x30, 0x81, 200, 0x0a, 1, 0];
        long.resize(203, 0);
        assert_eq!(check(&long), Ok(()));
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 3, 0x0a, 1],
            &[0x30, 3, 0x0a, 1, 0, 0],
            &[0x30, 3, 0x0a, 1, 6],
            &[0x30, 0x80, 0x0a, 1, 0],
            &[0x30, 0x84, 0, 0, 0, 3, 0x0a, 1, 0],
            &[0x31, 3, 0x0a, 1, 0],
            b"-----BEGIN",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&vec![0x30; MAX_RESPONSE + 1]).is_err());
    }
}
