//! A rule as it is carried out: what it does to a request, and where it sends it.

use std::sync::Arc;

use http::StatusCode;

use super::{
    Backend, Filters, Mirror, Retry, Timeouts,
    forward::SHARED,
    gray::{Release, STABLE},
    redirect::Redirect,
    session::{Session, Token, backend_key, in_arm},
};
use crate::model::AppProtocol;

/// Where a rule comes from; ties between matches are broken by it.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// e.g. `httproute/shop/checkout`.
    pub(crate) route: Arc<str>,
    /// When the route was created, in nanoseconds since the epoch: the oldest goes first.
    pub(crate) created: i128,
    /// Position of the rule in its route.
    pub(crate) position: u16,
    /// The rule's name, else its position.
    pub(crate) name: Arc<str>,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) origin: Origin,
    pub(crate) action: Action,
    /// The rule's own filters, without those of its backendRefs: what goes with the arms of its release.
    pub(crate) filters: Arc<Filters>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Arc<Retry>,
    pub(crate) mirrors: Arc<[Mirror]>,
    /// How clients are kept on their endpoints.
    pub(crate) session: Option<Arc<Session>>,
    /// The gray release of this rule. It then decides alone: releases of the services behind it do not apply.
    pub(crate) release: Option<Arc<Release>>,
    /// What a client from outside says of its lane is believed.
    pub(crate) trusts_lane: bool,
    /// What it takes are calls of gRPC: sent over HTTP/2 wherever they go, also where the service does not say so, as gRPC
    /// has no other transport.
    pub(crate) calls: bool,
}

/// What a rule does.
#[derive(Debug)]
pub(crate) enum Action {
    /// Answers.
    Redirect(Box<Redirect>),
    /// Sends on.
    Forward(Weighted),
}

/// One of several targets, or a backendRef that is none.
type Choice = Result<Arc<Target>, Invalid>;

/// Something to choose by weight.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weighted {
    /// Each with the sum of the weights up to and with its own. Those of weight 0 are left out.
    targets: Box<[(u64, Choice)]>,
    total: u64,
}

/// A backendRef that leads nowhere: its share of the requests gets a 500 (Gateway API HTTPBackendRef).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalid;

/// Where a request can go.
#[derive(Debug)]
pub(crate) struct Target {
    /// Always [`Backend::Service`].
    pub(crate) backend: Backend,
    /// Known from the service's document; none: looked up in the snapshot.
    pub(crate) protocol: Option<AppProtocol>,
    /// The rule's and the backendRef's together.
    pub(crate) filters: Arc<Filters>,
    /// The backendRef's own: such requests are answered instead of being sent.
    pub(crate) redirect: Option<Box<Redirect>>,
    /// The rule's and the backendRef's together; none: the rule's alone.
    pub(crate) mirrors: Option<Arc<[Mirror]>>,
    /// The gray release of this service.
    pub(crate) release: Option<Arc<Release>>,
}

impl Target {
    /// Nothing but the backend.
    pub(crate) fn plain(backend: Backend, protocol: Option<AppProtocol>) -> Self {
        let filters = SHARED.filters.clone();
        Self { backend, protocol, filters, redirect: None, mirrors: None, release: None }
    }

    /// True if a session is with it, or with an arm of its service's release.
    fn is_of(&self, token: Token) -> bool {
        self.key(STABLE) == Some(token.backend)
            || self.release.as_ref().is_some_and(|release| release.arm_of(token).is_some())
    }

    /// What names it in tokens, as a target of this arm (of the rule itself: `stable`).
    pub(crate) fn key(&self, arm: &str) -> Option<u64> {
        match &self.backend {
            Backend::Service { service, port, labels, .. } => {
                Some(in_arm(backend_key(service, *port, labels), arm))
            }
            Backend::Address { .. } => None,
        }
    }
}

impl Weighted {
    /// From weights and targets.
    pub(crate) fn new(targets: impl IntoIterator<Item = (u32, Choice)>) -> Self {
        let mut total = 0;
        let targets = targets
            .into_iter()
            .filter(|(weight, _)| *weight > 0)
            .map(|(weight, target)| {
                total += u64::from(weight);
                (total, target)
            })
            .collect();
        Self { targets, total }
    }

    /// The target for these random bits; an error where there is none, or an invalid one.
    pub(crate) fn pick(&self, random: u64) -> Result<&Arc<Target>, Invalid> {
        // Maps 64 bits onto [0, total) without the bias of a remainder.
        let point = u64::try_from((u128::from(random) * u128::from(self.total)) >> 64).unwrap_or(0);
        let at = self.targets.partition_point(|(upto, _)| *upto <= point);
        match self.targets.get(at) {
            Some((_, target)) => target.as_ref().map_err(|invalid| *invalid),
            None => Err(Invalid),
        }
    }

    /// The target that a session is with, also where an arm of its service's release has taken it.
    pub(crate) fn of_session(&self, token: Token) -> Option<&Arc<Target>> {
        self.targets().find(|target| target.is_of(token))
    }

    /// The target of this arm that a token names.
    pub(crate) fn named(&self, token: Token, arm: &str) -> Option<&Arc<Target>> {
        self.targets().find(|target| target.key(arm) == Some(token.backend))
    }

    /// All valid targets.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter().filter_map(|(_, target)| target.as_ref().ok())
    }
}

/// The status of an answer where a rule has nowhere to send a request.
pub(crate) const NO_BACKEND: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Scope, ServiceKey};

    pub(crate) fn target(name: &str) -> Arc<Target> {
        let service = ServiceKey::new(Scope::Cluster, "shop", name).unwrap();
        let backend =
            Backend::Service { service, port: 80, labels: Default::default(), protocol: AppProtocol::Http1 };
        Arc::new(Target::plain(backend, None))
    }

    #[test]
    fn shares_follow_the_weights_and_invalid_backends_keep_theirs() {
        let (a, b) = (target("a"), target("b"));
        let all =
            Weighted::new([(1, Ok(a.clone())), (0, Ok(target("z"))), (2, Err(Invalid)), (1, Ok(b.clone()))]);
        let step = 1u64 << 61;
        let picked: Vec<_> = (0..8).map(|i| all.pick(i * step + 1)).collect();
        assert!(picked[..2].iter().all(|p| p.is_ok_and(|t| Arc::ptr_eq(t, &a))));
        assert!(picked[2..6].iter().all(|p| p.is_err()));
        assert!(picked[6..].iter().all(|p| p.is_ok_and(|t| Arc::ptr_eq(t, &b))));
        assert!(all.pick(u64::MAX).is_ok() && all.pick(0).is_ok());
        assert_eq!(all.targets().count(), 2);
    }

    #[test]
    fn without_any_weight_there_is_no_target() {
        assert!(Weighted::new([(0, Ok(target("a")))]).pick(5).is_err());
        assert!(Weighted::default().pick(0).is_err());
    }
}
