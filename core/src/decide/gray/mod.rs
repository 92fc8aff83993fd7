//! Gray release: which arm takes a request.
//!
//! In order: forced rules; the lane that the request already is in (the arm of that lane, else `stable`: a request in
//! a lane is never split, so that one request sees one version of everything); the split by the user's key. A forced
//! rule beats stickiness and lane; a session (`sessionPersistence`) beats the split, while its arm has a share of it.

mod key;
mod seal;
mod split;

use std::sync::Arc;

use http::HeaderValue;

pub use seal::CookieKey;

pub(crate) use key::{DEFAULT_COOKIE, KeySource, cookie, cookies, cookies_named};
pub(crate) use seal::Issuing;
pub(crate) use split::{Split, WHOLE};

use super::{
    ArmReason, Caller, RequestHead,
    matcher::{HeaderMatch, TextMatch},
    rule::Weighted,
    session::Token,
    trace::Trace,
};
use crate::model::Lane;

/// The arm that every release has: the rule's own backendRefs, or the service itself.
pub(crate) const STABLE: &str = "stable";

/// A compiled GrayRelease.
#[derive(Debug)]
pub(crate) struct Release {
    /// `NAMESPACE/NAME`.
    pub(crate) name: Arc<str>,
    /// All arms but `stable`.
    pub(crate) arms: Box<[Arm]>,
    /// The name `stable`, to hand out.
    pub(crate) stable: Arc<str>,
    pub(crate) rules: Box<[ForcedRule]>,
    pub(crate) key: KeySource,
    pub(crate) split: Split,
    pub(crate) when_unavailable: WhenUnavailable,
}

/// One arm besides `stable`.
#[derive(Debug)]
pub(crate) struct Arm {
    pub(crate) name: Arc<str>,
    pub(crate) targets: Weighted,
    pub(crate) lane: Option<Lane>,
}

/// Requests that meet all these conditions go to an arm before any percentage.
#[derive(Debug)]
pub(crate) struct ForcedRule {
    /// Position of the arm; none: `stable`.
    pub(crate) arm: Option<usize>,
    pub(crate) headers: Box<[HeaderMatch]>,
    /// Name and condition; holds if one cookie of that name meets it.
    pub(crate) cookies: Box<[(Box<str>, TextMatch)]>,
}

/// What happens to requests for an arm without a healthy endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenUnavailable {
    Stable,
    Fail,
    OtherCluster,
}

/// The arm for a request, before its health is looked at.
pub(crate) struct Choice<'r> {
    /// None: `stable`.
    pub(crate) arm: Option<&'r Arm>,
    pub(crate) reason: ArmReason,
    /// The key that was issued.
    pub(crate) set_cookie: Option<HeaderValue>,
}

impl Release {
    /// Chooses. `issuing`: whether a user without a key gets a cookie (at the edge; a cookie set to a service would be
    /// shared by all users whose requests it makes).
    pub(crate) fn choose<T: Trace>(
        &self,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
        lane: Option<&Lane>,
        issuing: Issuing<'_>,
        trace: &mut T,
    ) -> Choice<'_> {
        trace.place("gray release", || self.name.to_string());
        for (at, rule) in self.rules.iter().enumerate() {
            match rule.check(head) {
                Ok(()) => {
                    let reason = ArmReason::Rule(u16::try_from(at).unwrap_or(u16::MAX));
                    return Choice { arm: self.arm(rule.arm), reason, set_cookie: None };
                }
                Err(why) => trace.lost(|| format!("gray rule {at} (arm {})", self.arm_name(rule.arm)), why),
            }
        }
        if let Some(lane) = lane {
            let arm = self.arms.iter().find(|arm| arm.lane.as_ref() == Some(lane));
            return Choice { arm, reason: ArmReason::Lane, set_cookie: None };
        }
        let key = self.key.key(head, caller, issuing);
        let place = key.with(|key| self.split.place(key));
        let set_cookie = self.key.set_cookie(&key, head.scheme == "https", issuing);
        Choice { arm: self.arm(place.arm), reason: ArmReason::Split(place.bucket), set_cookie }
    }

    /// The arm besides `stable` that a session's token names, while the split puts users on it: who was on an arm that has
    /// no share any more, or came to it by a rule alone, is chosen for anew.
    pub(crate) fn arm_of(&self, token: Token) -> Option<&Arm> {
        let mut arms = self.arms.iter().enumerate();
        let named = arms.find(|(at, arm)| {
            self.split.has_share(Some(*at)) && arm.targets.named(token, &arm.name).is_some()
        });
        named.map(|(_, arm)| arm)
    }

    /// An arm's name.
    pub(crate) fn arm_name(&self, arm: Option<usize>) -> &Arc<str> {
        self.arm(arm).map_or(&self.stable, |arm| &arm.name)
    }

    fn arm(&self, arm: Option<usize>) -> Option<&Arm> {
        arm.and_then(|arm| self.arms.get(arm))
    }
}

impl ForcedRule {
    /// All conditions, or the first that does not hold.
    fn check(&self, head: &RequestHead<'_>) -> Result<(), ForcedMismatch<'_>> {
        if let Some(header) = self.headers.iter().find(|header| !header.matches(head.headers)) {
            return Err(ForcedMismatch::Header(header));
        }
        let misses = |(name, value): &&(Box<str>, TextMatch)| {
            !cookies(head.headers).any(|(n, v)| n == name.as_bytes() && value.matches(v))
        };
        match self.cookies.iter().find(misses) {
            Some((name, value)) => Err(ForcedMismatch::Cookie(name, value)),
            None => Ok(()),
        }
    }
}

/// The condition of a forced rule that did not hold.
enum ForcedMismatch<'a> {
    Header(&'a HeaderMatch),
    Cookie(&'a str, &'a TextMatch),
}

impl std::fmt::Display for ForcedMismatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(h) => write!(f, "no header {} that {}", h.name, h.value),
            Self::Cookie(name, value) => write!(f, "no cookie {name} that {value}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
