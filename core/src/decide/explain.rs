//! What is decided for a request, and why: the decision's own code, watched.

use std::fmt::{self, Display};

use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use serde::{Deserialize, Serialize};

use super::{
    ArmReason, Availability, Backend, BindKey, Caller, Decision, HeaderEdits, InboundWorkload, LocalAnswer,
    Outcome, PathRewrite, RequestHead, Verdict,
    authorize::Call,
    route::{edge, mesh},
    trace::Trace,
};
use crate::model::{ServiceKey, Snapshot, TrustDomain};

/// A decision with its reasons.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// e.g. `GET https://shop.example/cart`.
    pub request: String,
    /// `NAMESPACE/NAME/LISTENER` that took it.
    pub listener: Option<String>,
    /// The service and port that were called (mesh).
    pub service: Option<String>,
    /// The hostname under which the rule, or the last one that was tried, is attached.
    pub host: Option<String>,
    /// What came before in precedence, and why it lost. In the order tried.
    pub lost: Vec<Lost>,
    /// What is done.
    pub result: ExplainedResult,
    /// What would be done with an inbound call if policies with `dryRun` were enforced too, e.g. `deny (shop/no-admin)`; none
    /// where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<String>,
}

/// A candidate that did not win.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Lost {
    /// e.g. `httproute/shop/checkout rule buy match 0 (Exact /buy)`.
    pub candidate: String,
    /// e.g. `path is not Exact /buy`.
    pub reason: String,
}

/// What is done with the request.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ExplainedResult {
    /// It is sent on.
    Forward {
        /// e.g. `httproute/shop/checkout`.
        route: String,
        /// Name or position.
        rule: String,
        /// `NAMESPACE/NAME` of the gray release.
        release: Option<String>,
        /// The arm.
        arm: Option<String>,
        /// Why that arm, e.g. `gray rule 0`, `split, bucket 1234 of 10000`.
        arm_reason: Option<String>,
        /// The lane from here on.
        lane: Option<String>,
        /// e.g. `cluster/shop/checkout port 80 (http1) with labels version=v2`.
        backend: String,
        /// In the order in which they are carried out, e.g. `set request header x-env: gray`.
        filters: Vec<String>,
        /// Those of the rule and the proxy's own, e.g. `request 10s`, `connect 2s (default)`.
        timeouts: Vec<String>,
        /// Tries besides the first.
        retries: u8,
        /// `Set-Cookie`, if a key is issued.
        set_cookie: Option<String>,
        /// Where copies go.
        mirrors: Vec<String>,
    },
    /// It is answered here.
    Answer {
        /// HTTP status.
        status: u16,
        /// e.g. `no_route`.
        reason: String,
        /// The route that answered.
        route: Option<String>,
        /// e.g. `location: https://shop.example/`.
        headers: Vec<String>,
    },
    /// An inbound call is let through.
    Allow,
    /// An inbound call is refused.
    Deny {
        /// As of [`Judgement::why`](super::Judgement::why).
        policy: String,
    },
}

/// Collects what the decision tells.
#[derive(Default)]
struct Watch {
    places: Vec<(&'static str, String)>,
    lost: Vec<Lost>,
}

impl Trace for Watch {
    const ON: bool = true;

    fn place(&mut self, what: &'static str, name: impl FnOnce() -> String) {
        self.places.push((what, name()));
    }

    fn lost(&mut self, candidate: impl FnOnce() -> String, reason: impl Display) {
        self.lost.push(Lost { candidate: candidate(), reason: reason.to_string() });
    }
}

impl Watch {
    fn explain(self, head: Option<&RequestHead<'_>>, result: ExplainedResult) -> Explanation {
        let last = |what| self.places.iter().rev().find(|(w, _)| *w == what).map(|(_, name)| name.clone());
        let request = head.map_or_else(String::new, |head| {
            let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
            format!("{} {}://{}{}{query}", head.method, head.scheme, head.host, head.path)
        });
        Explanation {
            request,
            listener: last("listener"),
            service: last("service"),
            host: last("host"),
            result,
            dry_run: None,
            lost: self.lost,
        }
    }
}

/// [`decide_edge`](super::decide_edge) with its reasons.
pub fn explain_edge(
    snapshot: &Snapshot,
    bind: BindKey,
    head: &RequestHead<'_>,
    caller: &Caller<'_>,
    avail: &dyn Availability,
) -> Explanation {
    let mut watch = Watch::default();
    let outcome = edge(snapshot, bind, head, caller, avail, &mut watch);
    watch.explain(Some(head), (&outcome).into())
}

/// [`decide_mesh`](super::decide_mesh) with its reasons.
pub fn explain_mesh(
    snapshot: &Snapshot,
    service: &ServiceKey,
    port: u16,
    head: &RequestHead<'_>,
    caller: &Caller<'_>,
    avail: &dyn Availability,
) -> Explanation {
    let mut watch = Watch::default();
    let outcome = mesh(snapshot, service, port, head, caller, avail, &mut watch);
    watch.explain(Some(head), (&outcome).into())
}

/// [`authorize`](super::authorize) with its reasons.
pub fn explain_authorize(
    snapshot: &Snapshot,
    own: &TrustDomain,
    workload: &InboundWorkload,
    port: u16,
    head: Option<&RequestHead<'_>>,
    caller: &Caller<'_>,
) -> Explanation {
    let mut watch = Watch::default();
    let call = Call { own, port, head, caller };
    let Verdict { enforced, dry_run } = call.verdict(&snapshot.config.policies, workload, &mut watch);
    let result = match enforced.allowed {
        true => ExplainedResult::Allow,
        false => ExplainedResult::Deny { policy: enforced.why().into() },
    };
    Explanation { dry_run: dry_run.map(|judged| judged.to_string()), ..watch.explain(head, result) }
}

impl From<&Outcome> for ExplainedResult {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Forward(decision) => forward(decision),
            Outcome::Local(LocalAnswer {
                status,
                headers,
                reason,
                route,
                policies: _,
                verdict: _,
                missed: _,
            }) => Self::Answer {
                status: status.as_u16(),
                reason: (*reason).into(),
                route: route.as_ref().map(ToString::to_string),
                headers: headers.iter().map(|(name, value)| field(name, value)).collect(),
            },
        }
    }
}

fn forward(decision: &Decision) -> ExplainedResult {
    let mirror = |mirror: &super::Mirror| {
        format!("{:.2}% to {}", f64::from(mirror.per_ten_thousand) / 100.0, Shown(&mirror.backend))
    };
    ExplainedResult::Forward {
        route: decision.route.to_string(),
        rule: decision.rule.to_string(),
        release: decision.release.as_ref().map(ToString::to_string),
        arm: decision.arm.as_ref().map(ToString::to_string),
        arm_reason: arm_reason(decision.reason),
        lane: decision.lane.as_ref().map(ToString::to_string),
        backend: Shown(&decision.backend).to_string(),
        filters: filters(decision),
        timeouts: decision.timeouts.lines().into(),
        retries: decision.retry.attempts,
        set_cookie: decision
            .set_cookie
            .as_ref()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into()),
        mirrors: decision.mirrors.iter().map(mirror).collect(),
    }
}

fn arm_reason(reason: ArmReason) -> Option<String> {
    match reason {
        ArmReason::None => None,
        ArmReason::Rule(at) => Some(format!("gray rule {at}")),
        ArmReason::Lane => Some("the lane that the request is in".into()),
        ArmReason::Session => Some("the client's session".into()),
        ArmReason::Split(bucket) => Some(format!("split, bucket {bucket} of 10000")),
        ArmReason::Unavailable => Some("the arm chosen has no healthy endpoint".into()),
    }
}

fn field(name: &http::HeaderName, value: &http::HeaderValue) -> String {
    format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
}

/// What is done to the request and then to its answer, in the order in which the proxy does it.
fn filters(decision: &Decision) -> Vec<String> {
    let filters = &*decision.filters;
    let mut out: Vec<String> = decision.policies.request_lines().collect();
    out.extend(filters.external_auth.iter().map(|auth| format!("ask {auth}")));
    edits("request", &filters.request, &mut out);
    out.extend(filters.rewrite.hostname.iter().map(|host| format!("rewrite host to {host}")));
    out.extend(filters.rewrite.path.iter().map(|path| match path {
        PathRewrite::Full(full) => format!("rewrite path to {full}"),
        PathRewrite::Prefix { matched, replacement } => {
            format!("rewrite path prefix {matched} to {replacement}")
        }
    }));
    edits("response", &filters.response, &mut out);
    if let Some(cors) = &decision.cors {
        out.push(match cors.fields.iter().find(|(name, _)| *name == ACCESS_CONTROL_ALLOW_ORIGIN) {
            Some((_, origin)) => {
                format!("CORS: {} may read the answer", String::from_utf8_lossy(origin.as_bytes()))
            }
            None => "CORS: no page of another origin may read the answer".into(),
        });
    }
    out.extend(decision.sticky.iter().map(|sticky| format!("session: {}", sticky.session)));
    out.extend(decision.policies.response_lines());
    out
}

fn edits(side: &str, edits: &HeaderEdits, out: &mut Vec<String>) {
    out.extend(edits.set.iter().map(|(n, v)| format!("set {side} header {}", field(n, v))));
    out.extend(edits.add.iter().map(|(n, v)| format!("add {side} header {}", field(n, v))));
    out.extend(edits.remove.iter().map(|n| format!("remove {side} header {n}")));
}

/// A backend for people.
struct Shown<'a>(&'a Backend);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Backend::Address { address, protocol } => write!(f, "{address} ({protocol:?})"),
            Backend::Service { service, port, labels, protocol } => {
                write!(f, "{service} port {port} ({protocol:?})")?;
                for (at, (key, value)) in labels.iter().enumerate() {
                    write!(f, "{}{key}={value}", if at == 0 { " with labels " } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, value: &Option<String>| match value {
            Some(value) => writeln!(f, "{what:<10}{value}"),
            None => Ok(()),
        };
        writeln!(f, "{}", self.request)?;
        line(f, "listener", &self.listener)?;
        line(f, "service", &self.service)?;
        line(f, "host", &self.host)?;
        line(f, "dry run", &self.dry_run)?;
        for lost in &self.lost {
            writeln!(f, "  not     {}: {}", lost.candidate, lost.reason)?;
        }
        match &self.result {
            ExplainedResult::Forward {
                route,
                rule,
                release,
                arm,
                arm_reason,
                lane,
                backend,
                filters,
                timeouts,
                retries,
                set_cookie,
                mirrors,
            } => {
                writeln!(f, "{:<10}{route} rule {rule}", "route")?;
                line(f, "release", release)?;
                let arm = arm.as_ref().map(|arm| match arm_reason {
                    Some(reason) => format!("{arm} ({reason})"),
                    None => arm.clone(),
                });
                line(f, "arm", &arm)?;
                line(f, "lane", lane)?;
                writeln!(f, "{:<10}{backend}", "backend")?;
                filters.iter().try_for_each(|filter| writeln!(f, "{:<10}{filter}", "filter"))?;
                timeouts.iter().try_for_each(|timeout| writeln!(f, "{:<10}{timeout}", "timeout"))?;
                writeln!(f, "{:<10}{retries}", "retries")?;
                line(f, "cookie", set_cookie)?;
                mirrors.iter().try_for_each(|mirror| writeln!(f, "{:<10}{mirror}", "mirror"))
            }
            ExplainedResult::Answer { status, reason, route, headers } => {
                line(f, "route", route)?;
                writeln!(f, "{:<10}{status} ({reason})", "answer")?;
                headers.iter().try_for_each(|header| writeln!(f, "{:<10}{header}", "header"))
            }
            ExplainedResult::Allow => writeln!(f, "{:<10}allow", "verdict"),
            ExplainedResult::Deny { policy } => writeln!(f, "{:<10}deny ({policy})", "verdict"),
        }
    }
}
