//! Carrying out a rule: its answer, or a backend with everything that goes along.

use std::sync::{Arc, LazyLock};

use http::{HeaderValue, StatusCode};

use super::{
    ArmReason, Availability, Backend, Caller, Decision, Filters, Harm, LocalAnswer, Mirror, MissedArm,
    Outcome, Policies, RequestHead, Retry, Timeouts, UpstreamTls,
    gray::{Arm, Issuing, Release, STABLE, WhenUnavailable},
    rule::{Action, Invalid, NO_BACKEND, Rule, Target, Weighted},
    session::{Session, Sticky, Token},
    trace::Trace,
};
use crate::model::{AppProtocol, Labels, Lane, Scope, Snapshot};

/// What every decision may share, made once.
pub(crate) struct Shared {
    pub(crate) labels: Arc<Labels>,
    pub(crate) filters: Arc<Filters>,
    pub(crate) retry: Arc<Retry>,
    pub(crate) mirrors: Arc<[Mirror]>,
    /// The rule's name where no route applies.
    pub(crate) default_rule: Arc<str>,
}

pub(crate) static SHARED: LazyLock<Shared> = LazyLock::new(|| Shared {
    labels: Arc::default(),
    filters: Arc::default(),
    retry: Arc::default(),
    mirrors: Arc::from([]),
    default_rule: "default".into(),
});

/// A request on its way to a decision.
pub(crate) struct Request<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) head: &'a RequestHead<'a>,
    /// Normalized.
    pub(crate) host: &'a str,
    /// The port it came in on, for redirects.
    pub(crate) port: u16,
    pub(crate) caller: &'a Caller<'a>,
    pub(crate) avail: &'a dyn Availability,
    /// The lane it is in.
    pub(crate) lane: Option<Lane>,
    /// Whether users without a gray key get a cookie, and whose are believed.
    pub(crate) issuing: Issuing<'a>,
}

/// The parts of a decision that do not depend on the backend.
#[derive(Clone, Copy)]
pub(crate) struct Course<'a> {
    pub(crate) route: &'a Arc<str>,
    pub(crate) rule: &'a Arc<str>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: &'a Retry,
    pub(crate) mirrors: &'a Arc<[Mirror]>,
    /// See [`Rule::calls`].
    pub(crate) calls: bool,
    /// How clients are kept, and the token that this one brought.
    pub(crate) session: Option<(&'a Arc<Session>, Option<Token>)>,
}

/// What takes the requests that no arm takes.
#[derive(Clone, Copy)]
pub(crate) enum Stable<'a> {
    /// The rule's backendRefs.
    Weighted(&'a Weighted),
    /// The service that is released.
    Target(&'a Target),
}

/// The arm's part of a decision.
#[derive(Default)]
struct Grayness {
    release: Option<Arc<str>>,
    arm: Option<Arc<str>>,
    reason: ArmReason,
    unavailable: Option<Arc<str>>,
    lane: Option<Lane>,
    set_cookie: Option<HeaderValue>,
}

impl Request<'_> {
    /// Does what a rule says.
    pub(crate) fn carry_out<T: Trace>(&self, rule: &Rule, trace: &mut T) -> Outcome {
        let course = Course {
            route: &rule.origin.route,
            rule: &rule.origin.name,
            timeouts: rule.timeouts,
            retry: &rule.retry,
            mirrors: &rule.mirrors,
            calls: rule.calls,
            session: self.session(rule),
        };
        let backends = match &rule.action {
            Action::Redirect(redirect) => {
                if let Some(answer) = self.preflight(course, &rule.filters) {
                    return answer;
                }
                return Outcome::Local(redirect.answer(self.head, self.host, self.port, course.route));
            }
            Action::Forward(backends) => backends,
        };
        match &rule.release {
            Some(release) => self.release(course, release, &rule.filters, Stable::Weighted(backends), trace),
            None => match self.pick(course, backends) {
                Ok(target) => self.to_target(course, target, trace),
                Err(_) => refuse(course, NO_BACKEND, "no_valid_backend"),
            },
        }
    }

    /// How the rule keeps its clients, and the token that this one brought. Where a token could not be signed there are no
    /// sessions.
    fn session<'r>(&self, rule: &'r Rule) -> Option<(&'r Arc<Session>, Option<Token>)> {
        let session = rule.session.as_ref().filter(|_| !matches!(self.issuing, Issuing::Never))?;
        Some((session, session.token(self.head, self.caller.now, self.issuing)))
    }

    /// The target of the client's session, else one by weight.
    fn pick<'b>(&self, course: Course<'_>, backends: &'b Weighted) -> Result<&'b Arc<Target>, Invalid> {
        let named = course.session.and_then(|(_, token)| backends.of_session(token?));
        named.map_or_else(|| backends.pick(self.caller.random), Ok)
    }

    /// To a service, or to an arm of its release.
    pub(crate) fn to_target<T: Trace>(&self, course: Course<'_>, target: &Target, trace: &mut T) -> Outcome {
        match &target.release {
            Some(release) => self.release(course, release, &target.filters, Stable::Target(target), trace),
            None => self.send(
                course,
                target,
                &target.filters,
                Grayness { lane: self.lane.clone(), ..Default::default() },
            ),
        }
    }

    fn release<T: Trace>(
        &self,
        course: Course<'_>,
        release: &Release,
        filters: &Arc<Filters>,
        stable: Stable<'_>,
        trace: &mut T,
    ) -> Outcome {
        let mut choice = release.choose(self.head, self.caller, self.lane.as_ref(), self.issuing, trace);
        let token = course.session.and_then(|(_, token)| token);
        let of_split = token.filter(|_| matches!(choice.reason, ArmReason::Split(_)));
        let named = of_split.and_then(|token| arm_of(token, release, stable));
        if let Some(arm) = named {
            let name = |arm: Option<&Arm>| arm.map_or(&release.stable, |arm| &arm.name).clone();
            trace.lost(
                || format!("arm {} by the split", name(choice.arm)),
                format_args!("the client's session is with {}", name(arm)),
            );
            (choice.arm, choice.reason) = (arm, ArmReason::Session);
        } else if token.is_some() {
            let why = match of_split {
                Some(_) => "it is with no arm that has a share of the users",
                None => "a gray rule or lane goes first",
            };
            trace.lost(|| "the client's session".into(), why);
        }
        let mut gray = Grayness {
            release: Some(release.name.clone()),
            arm: Some(choice.arm.map_or(&release.stable, |arm| &arm.name).clone()),
            reason: choice.reason,
            unavailable: None,
            lane: self.lane.clone(),
            set_cookie: choice.set_cookie,
        };
        let Some(arm) = choice.arm else { return self.to_stable(course, stable, gray) };
        let lane = arm.lane.as_ref().or(self.lane.as_ref());
        let of_session = token.and_then(|token| arm.targets.named(token, &arm.name));
        let target = of_session.map_or_else(|| arm.targets.pick(self.caller.random), Ok);
        if let Ok(target) = target
            && self.is_available(&target.backend, lane)
            && !self.is_lane_elsewhere(course, release, target, lane)
        {
            gray.lane = lane.cloned();
            return self.send(course, target, filters, gray);
        }
        trace.lost(|| format!("arm {}", arm.name), "no endpoint of it is healthy");
        gray.reason = ArmReason::Unavailable;
        gray.unavailable = Some(arm.name.clone());
        match (release.when_unavailable, target) {
            (WhenUnavailable::Stable, _) => {
                gray.arm = Some(release.stable.clone());
                self.to_stable(course, stable, gray)
            }
            (WhenUnavailable::OtherCluster, Ok(target)) => {
                let backend = self.elsewhere(course, target);
                if self.is_nowhere(&backend, lane) {
                    trace.lost(
                        || format!("arm {} in other clusters", arm.name),
                        "no endpoint of it is healthy",
                    );
                    gray.arm = Some(release.stable.clone());
                    return self.to_stable(course, stable, gray);
                }
                gray.lane = lane.cloned();
                self.decided(course, backend, filters, gray)
            }
            (WhenUnavailable::Fail, _) | (WhenUnavailable::OtherCluster, Err(_)) => {
                let mut outcome = refuse(course, StatusCode::SERVICE_UNAVAILABLE, "arm_unavailable");
                if let Outcome::Local(answer) = &mut outcome {
                    let (release, arm) = (release.name.clone(), arm.name.clone());
                    answer.missed = Some(Box::new(MissedArm { release, arm }));
                }
                outcome
            }
        }
    }

    fn to_stable(&self, course: Course<'_>, stable: Stable<'_>, gray: Grayness) -> Outcome {
        match stable {
            Stable::Target(target) => self.send(course, target, &target.filters, gray),
            Stable::Weighted(backends) => match self.pick(course, backends) {
                Ok(target) => self.send(course, target, &target.filters, gray),
                Err(_) => refuse(course, NO_BACKEND, "no_valid_backend"),
            },
        }
    }

    /// True if the arm can serve: its endpoints of this lane, or those of none.
    fn is_available(&self, backend: &Backend, lane: Option<&Lane>) -> bool {
        self.avail.is_available(backend, lane) || (lane.is_some() && self.avail.is_available(backend, None))
    }

    fn send(&self, course: Course<'_>, target: &Target, filters: &Arc<Filters>, gray: Grayness) -> Outcome {
        let sticky = self.sticky(course, target, gray.arm.as_deref().unwrap_or(STABLE));
        if let Some(redirect) = &target.redirect {
            let answer = || redirect.answer(self.head, self.host, self.port, course.route);
            return self.preflight(course, filters).unwrap_or_else(|| Outcome::Local(answer()));
        }
        let mirrors = target.mirrors.as_ref().unwrap_or(course.mirrors);
        let mut outcome =
            self.decided(Course { mirrors, ..course }, self.resolve(course, target), filters, gray);
        if let Outcome::Forward(decision) = &mut outcome {
            decision.sticky = sticky.map(Box::new);
        }
        outcome
    }

    /// The client's place in its session with this target.
    fn sticky(&self, course: Course<'_>, target: &Target, arm: &str) -> Option<Sticky> {
        let (session, token) = course.session?;
        let backend = target.key(arm)?;
        Some(Sticky {
            session: session.clone(),
            backend,
            token: token.filter(|token| token.backend == backend),
            secure: self.head.scheme == "https",
            key: self.issuing.key().cloned(),
        })
    }

    /// The same service in all clusters.
    fn elsewhere(&self, course: Course<'_>, target: &Target) -> Backend {
        let mut backend = self.resolve(course, target);
        if let Backend::Service { service, .. } = &mut backend {
            service.scope = Scope::Clusterset;
        }
        backend
    }

    /// True if it is known that no cluster can serve it. Of a service whose endpoints are not known yet that is not so: a
    /// proxy learns of them by using it.
    fn is_nowhere(&self, backend: &Backend, lane: Option<&Lane>) -> bool {
        let Backend::Service { service, port, .. } = backend else { return false };
        let entry = self.snapshot.services.get(service);
        let is_known = entry.is_none_or(|entry| entry.endpoints.contains_key(port));
        is_known && !self.is_available(backend, lane)
    }

    /// True if the lane has healthy endpoints in other clusters alone, and the release prefers those to the baseline here.
    fn is_lane_elsewhere(
        &self,
        course: Course<'_>,
        release: &Release,
        target: &Target,
        lane: Option<&Lane>,
    ) -> bool {
        release.when_unavailable == WhenUnavailable::OtherCluster
            && lane.is_some()
            && !self.avail.is_available(&target.backend, lane)
            && self.avail.is_available(&self.elsewhere(course, target), lane)
    }

    /// The answer to a preflight, if this is one and a CORS filter answers it.
    fn preflight(&self, course: Course<'_>, filters: &Filters) -> Option<Outcome> {
        filters.cors.as_ref()?.preflight(self.head, course.route).map(Outcome::Local)
    }

    fn decided(
        &self,
        course: Course<'_>,
        backend: Backend,
        filters: &Arc<Filters>,
        gray: Grayness,
    ) -> Outcome {
        if let Some(answer) = self.preflight(course, filters) {
            return answer;
        }
        let Course { mut timeouts, .. } = course;
        let (mut retry, mut hash, mut delay) = (course.retry.clone(), None, None);
        if let Backend::Service { service, .. } = &backend
            && let Some(policy) = self.snapshot.config.service_policy(service)
        {
            retry.budget = policy.retries;
            hash = policy.balancing.hash(self.head.headers, self.caller);
            timeouts = timeouts.or(policy.timeouts);
            let harm = policy.fault.as_ref().map(|fault| fault.harm(self.head.headers, self.caller.random));
            match harm {
                Some(Harm::Abort(status)) => return refuse(course, status, "fault_abort"),
                Some(Harm::Delay(time)) => delay = Some(time),
                Some(Harm::None) | None => {}
            }
        }
        Outcome::Forward(Box::new(Decision {
            route: course.route.clone(),
            rule: course.rule.clone(),
            release: gray.release,
            arm: gray.arm,
            reason: gray.reason,
            unavailable: gray.unavailable,
            lane: gray.lane,
            backend,
            filters: filters.clone(),
            timeouts,
            retry,
            hash,
            delay,
            set_cookie: gray.set_cookie,
            mirrors: course.mirrors.clone(),
            tls: UpstreamTls::default(),
            sticky: None,
            cors: filters.cors.as_ref().map(|cors| Box::new(cors.answer_for(self.head))),
            policies: Policies::default(),
            verdict: None,
        }))
    }

    /// The backend with its protocol.
    fn resolve(&self, course: Course<'_>, target: &Target) -> Backend {
        let mut backend = target.backend.clone();
        if course.calls {
            let (Backend::Service { protocol, .. } | Backend::Address { protocol, .. }) = &mut backend;
            *protocol = AppProtocol::Http2;
        } else if target.protocol.is_none()
            && let Backend::Service { service, port, protocol, .. } = &mut backend
            && let Some(known) = self.snapshot.services.get(service).and_then(|entry| entry.port(*port))
        {
            *protocol = known.protocol;
        }
        backend
    }
}

/// The arm that a token names, while users are on it: one of the release's, or `stable` (the inner none).
fn arm_of<'r>(token: Token, release: &'r Release, stable: Stable<'_>) -> Option<Option<&'r Arm>> {
    if let Some(arm) = release.arm_of(token) {
        return Some(Some(arm));
    }
    let in_stable = match stable {
        Stable::Weighted(backends) => backends.named(token, STABLE).is_some(),
        Stable::Target(target) => target.key(STABLE) == Some(token.backend),
    };
    (in_stable && release.split.has_share(None)).then_some(None)
}

/// An answer of a rule that cannot send the request anywhere.
fn refuse(course: Course<'_>, status: StatusCode, reason: &'static str) -> Outcome {
    Outcome::Local(LocalAnswer {
        status,
        headers: Vec::new(),
        reason,
        route: Some(course.route.clone()),
        policies: Default::default(),
        verdict: None,
        missed: None,
    })
}

/// An answer where no rule applies.
pub(crate) fn unrouted(status: StatusCode, reason: &'static str) -> Outcome {
    Outcome::Local(LocalAnswer {
        status,
        headers: Vec::new(),
        reason,
        route: None,
        policies: Default::default(),
        verdict: None,
        missed: None,
    })
}
