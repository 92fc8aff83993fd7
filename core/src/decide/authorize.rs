//! Who may call a workload (AuthorizationPolicy), decided at its inbound.

mod verdict;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use super::{
    Caller, RequestHead,
    hash::NameMap,
    matcher::{HeaderMatch, percent_decode},
    trace::{Trace, Untraced},
};
use crate::model::{Labels, Snapshot, SpiffeId, TrustDomain};

pub use verdict::{Basis, Judgement, Verdict};

/// The workload that is called.
#[derive(Debug, Clone, Default)]
pub struct InboundWorkload {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its labels, which policies select by.
    pub labels: Labels,
    /// Its ports with their names; a name may be empty.
    pub ports: BTreeMap<u16, Arc<str>>,
}

/// Decides whether a call to `port` of a workload goes through.
///
/// A DENY policy that matches wins. Where ALLOW policies select the workload, one of them has to match. Where none does,
/// callers of the `own` trust domain may call, those of others may not. Only an ALLOW rule that names a foreign caller's
/// identity or trust domain lets it in: a rule that names a namespace alone means the own trust domain's.
///
/// A caller without an identity came in plaintext, which the inbound listener has to have admitted (permissive): it is
/// then held to the policies alone, and no rule that asks for an identity matches it.
///
/// Policies with `dryRun` decide nothing: the verdict tells beside what is done what they would change.
///
/// `head` is none for raw TCP: an ALLOW rule with conditions on HTTP does not match then, and a DENY rule is taken
/// without them, as what it wants to keep out cannot be told apart.
pub fn authorize(
    snapshot: &Snapshot,
    own: &TrustDomain,
    workload: &InboundWorkload,
    port: u16,
    head: Option<&RequestHead<'_>>,
    caller: &Caller<'_>,
) -> Verdict {
    let call = Call { own, port, head, caller };
    call.verdict(&snapshot.config.policies, workload, &mut Untraced)
}

/// All policies, by namespace.
#[derive(Debug, Default)]
pub(crate) struct Policies(pub(crate) NameMap<Arc<str>, Vec<Policy>>);

/// One AuthorizationPolicy.
#[derive(Debug)]
pub(crate) struct Policy {
    /// `NAMESPACE/NAME`.
    pub(crate) name: Arc<str>,
    pub(crate) deny: bool,
    /// It is not enforced, only told of.
    pub(crate) dry_run: bool,
    /// Labels that the workload must have; none: all of the namespace.
    pub(crate) selector: Labels,
    /// Any of these matches. None: nothing does, so that an ALLOW policy without rules closes the workload.
    pub(crate) rules: Box<[PolicyRule]>,
}

/// Both have to match; what is absent always does.
#[derive(Debug, Default)]
pub(crate) struct PolicyRule {
    pub(crate) from: Option<Source>,
    pub(crate) to: Option<Operation>,
}

/// A caller: one of each list that is not empty has to match.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Whole SPIFFE IDs.
    pub(crate) identities: Box<[Pattern]>,
    pub(crate) namespaces: Box<[Pattern]>,
    /// Service accounts.
    pub(crate) accounts: Box<[Pattern]>,
    pub(crate) trust_domains: Box<[Pattern]>,
}

/// What is asked for: one of each list that is not empty has to match, and every header.
#[derive(Debug, Default)]
pub(crate) struct Operation {
    /// In capitals.
    pub(crate) methods: Box<[Box<str>]>,
    pub(crate) paths: Box<[Pattern]>,
    pub(crate) ports: Box<[u16]>,
    pub(crate) headers: Box<[HeaderMatch]>,
}

impl Policy {
    fn selects(&self, workload: &InboundWorkload) -> bool {
        self.selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    }
}

/// `prefix*` (so that `*` is everything), or an exact text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Prefix(Box<str>),
    Exact(Box<str>),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Exact(exact) => **exact == *text,
        }
    }
}

/// A call that is being judged.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) own: &'a TrustDomain,
    pub(crate) port: u16,
    pub(crate) head: Option<&'a RequestHead<'a>>,
    pub(crate) caller: &'a Caller<'a>,
}

impl Call<'_> {
    pub(crate) fn verdict<T: Trace>(
        &self,
        policies: &Policies,
        of: &InboundWorkload,
        trace: &mut T,
    ) -> Verdict {
        let policies = policies.0.get(&of.namespace).map(Vec::as_slice).unwrap_or_default();
        let selected = |dry_run: bool| {
            policies.iter().filter(move |policy| policy.dry_run == dry_run && policy.selects(of))
        };
        let enforced = self.judge(selected(false), trace);
        let on_trial = selected(true).next().is_some();
        // Those in force come first: where they decide the same, it is theirs.
        let dry_run = on_trial.then(|| self.judge(selected(false).chain(selected(true)), &mut Untraced));
        Verdict { enforced, dry_run }
    }

    fn judge<'p, T: Trace>(
        &self,
        policies: impl Iterator<Item = &'p Policy> + Clone,
        trace: &mut T,
    ) -> Judgement {
        let by = |policy: &Policy| Basis::Policy { name: policy.name.clone(), deny: policy.deny };
        for policy in policies.clone().filter(|policy| policy.deny) {
            if self.meets(policy) {
                return Judgement { allowed: false, basis: by(policy) };
            }
            trace.lost(|| format!("DENY policy {}", policy.name), "no rule matches");
        }
        let mut closed_by = None;
        for policy in policies.filter(|policy| !policy.deny) {
            if self.meets(policy) {
                return Judgement { allowed: true, basis: by(policy) };
            }
            closed_by = closed_by.or(Some(policy));
            trace.lost(|| format!("ALLOW policy {}", policy.name), "no rule matches");
        }
        match closed_by {
            Some(policy) => Judgement { allowed: false, basis: by(policy) },
            None if self.is_foreign() => Judgement { allowed: false, basis: Basis::ForeignTrustDomain },
            None => Judgement { allowed: true, basis: Basis::NoPolicy },
        }
    }

    fn meets(&self, policy: &Policy) -> bool {
        policy.rules.iter().any(|rule| self.is_from(rule, policy.deny) && self.is_to(rule, policy.deny))
    }

    fn is_from(&self, rule: &PolicyRule, deny: bool) -> bool {
        let Some(source) = &rule.from else { return deny || !self.is_foreign() };
        let Some(identity) = self.caller.identity else { return false };
        let names_domain = !source.identities.is_empty() || !source.trust_domains.is_empty();
        (deny || names_domain || !self.is_foreign()) && source.matches(identity)
    }

    fn is_foreign(&self) -> bool {
        self.caller.identity.is_some_and(|identity| identity.trust_domain() != self.own)
    }

    fn is_to(&self, rule: &PolicyRule, deny: bool) -> bool {
        rule.to.as_ref().is_none_or(|to| to.matches(self.port, self.head, deny))
    }
}

impl Source {
    fn matches(&self, identity: &SpiffeId) -> bool {
        let any = |patterns: &[Pattern], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
        };
        any(&self.namespaces, identity.namespace())
            && any(&self.accounts, identity.account())
            && any(&self.trust_domains, identity.trust_domain().as_str())
            && (self.identities.is_empty() || any(&self.identities, &identity.to_string()))
    }
}

impl Operation {
    fn matches(&self, port: u16, head: Option<&RequestHead<'_>>, deny: bool) -> bool {
        if !self.ports.is_empty() && !self.ports.contains(&port) {
            return false;
        }
        let Some(head) = head else {
            let only_tcp = self.methods.is_empty() && self.paths.is_empty() && self.headers.is_empty();
            return deny || only_tcp;
        };
        (self.methods.is_empty() || self.methods.iter().any(|method| **method == *head.method.as_str()))
            && self.has_path(head.path, deny)
            && self.headers.iter().all(|header| header.matches(head.headers))
    }

    /// An encoded or detouring path must neither slip past a DENY nor into an ALLOW: one form that matches is enough to
    /// deny, all forms have to match to allow.
    fn has_path(&self, path: &str, deny: bool) -> bool {
        let matches = |path: &str| self.paths.iter().any(|pattern| pattern.matches(path));
        let plain = plain_path(path);
        match (self.paths.is_empty(), deny) {
            (true, _) => true,
            (false, true) => matches(path) || matches(&plain),
            (false, false) => matches(path) && matches(&plain),
        }
    }
}

/// The path as a server may read it: decoded, `//` merged, dot segments resolved (RFC 3986 section 5.2.4).
fn plain_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') && !path.contains("//") && !path.contains("/.") && !path.contains('\\') {
        return Cow::Borrowed(path);
    }
    let decoded = String::from_utf8_lossy(&percent_decode(path.as_bytes())).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
        if segment == ".." {
            segments.pop();
        } else {
            segments.push(segment);
        }
    }
    let slash = if decoded.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    Cow::Owned(format!("/{}{slash}", segments.join("/")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
