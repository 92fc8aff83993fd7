//! Reading responses, and believing them.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use time::{Date, Month, PrimitiveDateTime, Time};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    MAX_RESPONSE, Target,
    der::{
        self, BIT_STRING, ENUMERATED, GENERALIZED_TIME, OCTET_STRING, OID, SEQUENCE, Value, Values, context,
    },
};
use crate::tls::provider;

/// `id-pkix-ocsp-basic` (RFC 6960 section 4.2.1).
const BASIC: [u8; 9] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// By how much a responder's clock may be ahead of ours, in seconds.
const SKEW: i64 = 300;
/// Certificates of a response that are looked at: one is enough, and signatures cost time.
const MOST_CERTIFICATES: usize = 4;

/// A response that says that a certificate is good.
#[derive(Clone, PartialEq, Eq)]
pub struct Staple {
    /// The OCSPResponse, DER.
    pub response: Vec<u8>,
    /// From when, in seconds since the Unix epoch.
    pub this_update: i64,
    /// Until when; past it the response says nothing any more.
    pub next_update: i64,
}

impl std::fmt::Debug for Staple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staple")
            .field("this_update", &self.this_update)
            .field("next_update", &self.next_update)
            .finish_non_exhaustive()
    }
}

/// Why a response is not stapled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OcspError {
    /// Longer than [`MAX_RESPONSE`].
    #[error("the OCSP response is longer than 16 KiB")]
    TooLong,
    /// Not as RFC 6960 has it.
    #[error("the OCSP response is not well-formed")]
    Malformed,
    /// The responder could not answer, or did not want to (RFC 6960 section 4.2.1).
    #[error("the OCSP responder answers {}", status(*.0))]
    Unanswered(u8),
    /// About some other certificate.
    #[error("the OCSP response is about another certificate")]
    Other,
    /// Signed by nobody whom the issuer has put in charge, or with an algorithm that is not known here.
    #[error("the OCSP response is not signed by the issuer or by a responder of its own")]
    Signature,
    /// It says not for how long it is good, so that it could be stapled for ever.
    #[error("the OCSP response has no nextUpdate")]
    Endless,
    /// From the future.
    #[error("the OCSP response is not valid yet")]
    NotYet,
    /// Its time is over.
    #[error("the OCSP response has expired")]
    Expired,
    /// The certificate was revoked.
    #[error("the authority has revoked the certificate")]
    Revoked,
    /// The responder does not know the certificate.
    #[error("the OCSP responder does not know the certificate")]
    Unknown,
}

fn status(code: u8) -> &'static str {
    match code {
        1 => "malformedRequest",
        2 => "internalError",
        3 => "tryLater",
        5 => "sigRequired",
        6 => "unauthorized",
        _ => "with an unknown status",
    }
}

/// Verifies that the response says at `now` that the certificate is good: its identifier, its time, and the signature, by
/// the issuer or by a responder whose certificate the issuer has signed for that (RFC 6960 sections 3.2 and 4.2.2.2).
pub fn verify(response: &[u8], target: &Target, now: i64) -> Result<Staple, OcspError> {
    if response.len() > MAX_RESPONSE {
        return Err(OcspError::TooLong);
    }
    let basic = basic(response)?;
    let said = single(&basic, target)?;
    if !is_signed(&basic, target, now) {
        return Err(OcspError::Signature);
    }
    // What comes first in the content matters most: a certificate that was revoked is so at any time.
    match said.status {
        0x80 => {}
        0xa1 => return Err(OcspError::Revoked),
        _ => return Err(OcspError::Unknown),
    }
    let next_update = said.next_update.ok_or(OcspError::Endless)?;
    if said.this_update > now.saturating_add(SKEW) || next_update <= said.this_update {
        return Err(OcspError::NotYet);
    }
    if next_update <= now {
        return Err(OcspError::Expired);
    }
    Ok(Staple { response: response.to_vec(), this_update: said.this_update, next_update })
}

/// BasicOCSPResponse (RFC 6960 section 4.2.1).
struct Basic<'a> {
    /// ResponseData, with tag and length: what is signed.
    signed: &'a [u8],
    /// ResponderID.
    responder: Value<'a>,
    responses: Values<'a>,
    /// AlgorithmIdentifier's content.
    algorithm: &'a [u8],
    signature: &'a [u8],
    certificates: Values<'a>,
}

fn basic(response: &[u8]) -> Result<Basic<'_>, OcspError> {
    let mut outer = der::only(response, SEQUENCE).ok_or(OcspError::Malformed)?;
    match outer.take(ENUMERATED).ok_or(OcspError::Malformed)?.content {
        [0] => {}
        [code] => return Err(OcspError::Unanswered(*code)),
        _ => return Err(OcspError::Malformed),
    }
    parse(outer).ok_or(OcspError::Malformed)
}

fn parse(mut outer: Values<'_>) -> Option<Basic<'_>> {
    let mut bytes = outer.inside(context(0))?.inside(SEQUENCE)?;
    if bytes.take(OID)?.content != BASIC {
        return None;
    }
    let mut basic = der::only(bytes.take(OCTET_STRING)?.content, SEQUENCE)?;
    let data = basic.take(SEQUENCE)?;
    let algorithm = basic.take(SEQUENCE)?.content;
    let signature = bits(basic.take(BIT_STRING)?)?;
    let certificates = basic.inside(context(0)).map_or(Some(Values(&[])), |mut all| all.inside(SEQUENCE))?;
    let mut inside = Values(data.content);
    // The version: its default stands for the only one that there is.
    let _version = inside.take(context(0));
    let responder = inside.take(context(1)).or_else(|| inside.take(context(2)))?;
    inside.take(GENERALIZED_TIME)?;
    let responses = inside.inside(SEQUENCE)?;
    Some(Basic { signed: data.whole, responder, responses, algorithm, signature, certificates })
}

/// The content of a BIT STRING of whole bytes.
fn bits(value: Value<'_>) -> Option<&[u8]> {
    value.content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
}

/// What is said of one certificate.
struct Single {
    /// The tag of CertStatus.
    status: u8,
    this_update: i64,
    next_update: Option<i64>,
}

fn single(basic: &Basic<'_>, target: &Target) -> Result<Single, OcspError> {
    let mut responses = basic.responses;
    while let Some(mut one) = responses.inside(SEQUENCE) {
        let id = one.take(SEQUENCE).ok_or(OcspError::Malformed)?;
        if target.is(id.content) {
            return times(one).ok_or(OcspError::Malformed);
        }
    }
    if responses.is_empty() { Err(OcspError::Other) } else { Err(OcspError::Malformed) }
}

fn times(mut one: Values<'_>) -> Option<Single> {
    let status = one.any()?.tag;
    let this_update = seconds(one.take(GENERALIZED_TIME)?.content)?;
    let next_update = match one.inside(context(0)) {
        Some(mut next) => Some(seconds(next.take(GENERALIZED_TIME)?.content)?),
        None => None,
    };
    Some(Single { status, this_update, next_update })
}

/// `YYYYMMDDHHMMSSZ` (RFC 5280 section 4.1.2.5.2).
fn seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = Some(text).filter(|text| text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit()))?;
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let small = |from: usize| u8::try_from(number(from, from + 2)?).ok();
    let month = Month::try_from(small(4)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0, 4)?), month, small(6)?).ok()?;
    let time = Time::from_hms(small(8)?, small(10)?, small(12)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

/// True if the issuer has signed it, or somebody whom the issuer lets sign.
fn is_signed(basic: &Basic<'_>, target: &Target, now: i64) -> bool {
    let by = |certificate: &[u8]| {
        X509Certificate::from_der(certificate).is_ok_and(|(_, signer)| {
            names(basic.responder, &signer)
                && signed_by(basic.algorithm, basic.signed, basic.signature, &signer)
        })
    };
    if by(&target.issuer) {
        return true;
    }
    let mut certificates = basic.certificates;
    let all = std::iter::from_fn(|| certificates.take(SEQUENCE)).take(MOST_CERTIFICATES);
    all.into_iter().any(|certificate| is_delegate(certificate.whole, target, now) && by(certificate.whole))
}

/// True if this ResponderID means the owner of the certificate.
fn names(responder: Value<'_>, signer: &X509Certificate<'_>) -> bool {
    let key = || digest(&SHA1_FOR_LEGACY_USE_ONLY, &signer.public_key().subject_public_key.data);
    if responder.tag == context(1) {
        return responder.content == signer.subject().as_raw();
    }
    Values(responder.content).take(OCTET_STRING).is_some_and(|hash| hash.content == key().as_ref())
}

/// True if the issuer has signed this certificate for signing responses, and it is valid.
fn is_delegate(certificate: &[u8], target: &Target, now: i64) -> bool {
    let (Ok((_, delegate)), Ok((_, issuer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(&target.issuer))
    else {
        return false;
    };
    let may_sign = delegate.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.ocsp_signing);
    let validity = delegate.validity();
    let is_valid =
        validity.not_before.timestamp() <= now.saturating_add(SKEW) && now < validity.not_after.timestamp();
    if !may_sign || !is_valid || delegate.issuer().as_raw() != target.name {
        return false;
    }
    let parts = || {
        let mut parts = der::only(certificate, SEQUENCE)?;
        let signed = parts.take(SEQUENCE)?.whole;
        Some((signed, parts.take(SEQUENCE)?.content, bits(parts.take(BIT_STRING)?)?))
    };
    parts().is_some_and(|(signed, algorithm, signature)| signed_by(algorithm, signed, signature, &issuer))
}

/// Verifies a signature with any of the algorithms that TLS has here.
fn signed_by(algorithm: &[u8], signed: &[u8], signature: &[u8], signer: &X509Certificate<'_>) -> bool {
    let key = || {
        let mut key = der::only(signer.public_key().raw, SEQUENCE)?;
        Some((key.take(SEQUENCE)?.content, bits(key.take(BIT_STRING)?)?))
    };
    let Some((kind, key)) = key() else { return false };
    let known = provider().signature_verification_algorithms.all;
    let mut fitting = known.iter().filter(|candidate| {
        candidate.signature_alg_id().as_ref() == algorithm && candidate.public_key_alg_id().as_ref() == kind
    });
    fitting.any(|fits| fits.verify_signature(key, signed, signature).is_ok())
}
