//! The signature on issued cookies, and on the tokens of sessions: a client can keep what it was given, and cannot make
//! one up.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

/// Digits of an id.
pub(crate) const ID: usize = 32;
/// Characters of a signature: HMAC-SHA256 in base64url without padding.
const SIGNATURE: usize = 43;

/// The key that signs issued cookies. The same on all gateways that a user may come to, else each issues its own.
///
/// One for all releases: a cookie names a user and no arm, and each release has its own salt, so that one cookie is
/// enough for all releases of a host.
#[derive(Clone)]
pub struct CookieKey(Arc<hmac::Key>);

impl CookieKey {
    /// A key derived from a secret of at least 128 bits that has other uses as well.
    pub fn derive(secret: &[u8]) -> Self {
        let purpose = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"tombolo issued cookies v1");
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, purpose.as_ref())))
    }

    /// `ID.SIGNATURE`.
    pub(super) fn seal(&self, id: &str) -> String {
        format!("{id}.{}", self.signature(id.as_bytes()))
    }

    /// `TEXT.SIGNATURE`: the token of a session that goes by this name. No other name's is as good.
    pub(in crate::decide) fn seal_token(&self, name: &str, text: &str) -> String {
        format!("{text}.{}", self.signature(&named(name, text.as_bytes())))
    }

    fn signature(&self, of: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, of))
    }

    fn has_signed(&self, of: &[u8], signature: &[u8]) -> bool {
        let mut decoded = [0; 32];
        matches!(URL_SAFE_NO_PAD.decode_slice(signature, &mut decoded), Ok(32))
            && hmac::verify(&self.0, of, &decoded).is_ok()
    }
}

/// What is signed for a session's token. No issued id looks like it, and no name has a space.
fn named(name: &str, text: &[u8]) -> Vec<u8> {
    [b"session ", name.as_bytes(), b" ", text].concat()
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

/// Whose issued cookies and session tokens are believed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Issuing<'k> {
    /// At the edge: those with this key's signature; users without one get one.
    Signed(&'k CookieKey),
    /// At the edge of a process without a key: none, and none are issued.
    Never,
    /// In the mesh, where a gateway has looked at the signature, and no cookie is issued. Tokens of sessions are a matter
    /// between a workload and the sidecar beside it, and bear none.
    Mesh,
}

impl<'k> Issuing<'k> {
    /// The id in a cookie's value, if it is believed.
    pub(super) fn id(self, value: &[u8]) -> Option<&[u8]> {
        let sealed = Sealed::parse(value)?;
        let believed = match self {
            Self::Signed(key) => key.has_signed(sealed.id, sealed.signature),
            Self::Never => false,
            Self::Mesh => true,
        };
        believed.then_some(sealed.id)
    }

    /// The text of a token of the session that goes by this name, if it is believed.
    pub(in crate::decide) fn token<'v>(self, name: &str, value: &'v [u8]) -> Option<&'v [u8]> {
        match self {
            Self::Signed(key) => {
                let (text, rest) = value.split_at_checked(value.len().checked_sub(1 + SIGNATURE)?)?;
                let signature = rest.strip_prefix(b".")?;
                key.has_signed(&named(name, text), signature).then_some(text)
            }
            Self::Never => None,
            Self::Mesh => Some(value),
        }
    }

    /// The key to issue with.
    pub(in crate::decide) fn key(self) -> Option<&'k CookieKey> {
        match self {
            Self::Signed(key) => Some(key),
            Self::Never | Self::Mesh => None,
        }
    }
}

/// A value of the form that issued cookies have.
#[derive(Clone, Copy)]
pub(super) struct Sealed<'v> {
    id: &'v [u8],
    signature: &'v [u8],
}

impl<'v> Sealed<'v> {
    /// None: it is somebody else's value, e.g. an application's user id.
    pub(super) fn parse(value: &'v [u8]) -> Option<Self> {
        let (id, rest) = value.split_at_checked(ID)?;
        let signature = rest.strip_prefix(b".").filter(|signature| signature.len() == SIGNATURE)?;
        let is_id = id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then_some(Self { id, signature })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ME: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn every_changed_byte_of_a_sealed_id_is_noticed() {
        let key = CookieKey::derive(b"a secret of the cluster");
        let sealed = key.seal(ME);
        assert_eq!(Issuing::Signed(&key).id(sealed.as_bytes()), Some(ME.as_bytes()));
        for at in 0..sealed.len() {
            for other in b'-'..=b'z' {
                let mut bytes = sealed.clone().into_bytes();
                if bytes[at] == other {
                    continue;
                }
                bytes[at] = other;
                assert_eq!(Issuing::Signed(&key).id(&bytes), None, "byte {at} as {}", char::from(other));
            }
        }
        for other in ["", ME, &sealed[..sealed.len() - 1], &format!("{sealed}A")] {
            assert_eq!(Issuing::Signed(&key).id(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn other_keys_signatures_are_none_and_debug_shows_no_key() {
        let (ours, theirs) = (CookieKey::derive(b"one"), CookieKey::derive(b"two"));
        let sealed = theirs.seal(ME);
        assert_eq!(Issuing::Signed(&ours).id(sealed.as_bytes()), None);
        assert_eq!(Issuing::Never.id(sealed.as_bytes()), None);
        assert_eq!(Issuing::Mesh.id(sealed.as_bytes()), Some(ME.as_bytes()));
        assert_eq!(format!("{ours:?}"), "CookieKey(..)");
    }
}
