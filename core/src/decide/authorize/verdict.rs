//! How a call was judged, and by what.

use std::{fmt, sync::Arc};

/// How a call was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is done.
    pub enforced: Judgement,
    /// What would be done if the policies with `dryRun` were enforced too; none where none of them selects the workload.
    pub dry_run: Option<Judgement>,
}

/// Whether a call goes through, and what decided that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// It does. Else: 403, or the connection is closed.
    pub allowed: bool,
    /// What decided.
    pub basis: Basis,
}

/// What a judgement is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// A policy.
    Policy {
        /// `NAMESPACE/NAME`. Where ALLOW policies select the workload and none lets the caller in, it is the first of them.
        name: Arc<str>,
        /// Its action is DENY.
        deny: bool,
    },
    /// No ALLOW policy selects the workload, and the caller is not of another trust domain.
    NoPolicy,
    /// No ALLOW policy selects the workload, and the caller is of another trust domain.
    ForeignTrustDomain,
}

impl Verdict {
    /// True if the call goes through.
    pub fn is_allow(&self) -> bool {
        self.enforced.allowed
    }
}

impl Judgement {
    /// `allow` or `deny`.
    pub fn result(&self) -> &'static str {
        if self.allowed { "allow" } else { "deny" }
    }

    /// The deciding policy, `NAMESPACE/NAME`; where none decided, `no-policy` or `foreign-trust-domain`.
    pub fn policy(&self) -> &str {
        match &self.basis {
            Basis::Policy { name, .. } => name,
            Basis::NoPolicy => "no-policy",
            Basis::ForeignTrustDomain => "foreign-trust-domain",
        }
    }

    /// The deciding policy's action, `ALLOW` or `DENY`; `none` where none decided.
    pub fn action(&self) -> &'static str {
        match &self.basis {
            Basis::Policy { deny: true, .. } => "DENY",
            Basis::Policy { deny: false, .. } => "ALLOW",
            Basis::NoPolicy | Basis::ForeignTrustDomain => "none",
        }
    }

    /// Why, in one word: the deciding policy; `no-policy-allows` where ALLOW policies let in others only.
    pub fn why(&self) -> &str {
        match &self.basis {
            Basis::Policy { deny: false, .. } if !self.allowed => "no-policy-allows",
            _ => self.policy(),
        }
    }
}

/// `allow (shop/storefront)`, `deny (no-policy-allows)`.
impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.result(), self.why())
    }
}
