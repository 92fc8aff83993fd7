//! What another configuration would do to requests that were seen: the decision itself, made twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{ExplainedResult, Sample, SnapshotAvailability, decide_edge};
use crate::model::Snapshot;

/// Different changes that are told of; requests beyond are counted alone.
const MOST_EXAMPLES: usize = 100;

/// What would become of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// Requests that were tried.
    pub requests: usize,
    /// When the first of them came, in seconds since the Unix epoch.
    pub since_unix: i64,
    /// Those that would go where they go.
    pub unchanged: usize,
    /// Those that change, by what changes.
    pub changed: BTreeMap<ChangeKind, usize>,
    /// Those of which it cannot be said, as something that decides was not kept.
    pub unsure: usize,
    /// What that was, e.g. `header x-user`.
    pub not_kept: BTreeSet<String>,
    /// The changes, those of the most requests first.
    pub examples: Vec<Example>,
}

/// What changes for a request; of several the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// It would be answered with an error.
    Fails,
    /// It would no longer be answered with an error.
    Mends,
    /// It would be answered here, e.g. by a redirect, or differently, or no longer.
    Answer,
    /// Another route or rule takes it.
    Route,
    /// Another arm or lane.
    Arm,
    /// Another backend.
    Backend,
}

/// One change, and a request that it happens to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// What changes.
    pub change: ChangeKind,
    /// Where requests go now.
    pub before: String,
    /// Where they would go.
    pub after: String,
    /// How many requests.
    pub requests: usize,
    /// One of them.
    pub example: String,
}

/// Tries both on all samples.
pub fn preview(old: &Snapshot, new: &Snapshot, samples: &[Sample]) -> Preview {
    let mut out = Preview::default();
    let mut changes: BTreeMap<(ChangeKind, String, String), (usize, String)> = BTreeMap::new();
    out.since_unix = samples.iter().map(|sample| sample.unix_seconds).min().unwrap_or_default();
    for sample in samples {
        let missing = [old, new].into_iter().find_map(|snapshot| sample.missing(&snapshot.config.deciding));
        let (Some(before), Some(after)) = (decided(old, sample), decided(new, sample)) else { continue };
        out.requests += 1;
        if let Some(missing) = missing {
            out.unsure += 1;
            out.not_kept.insert(missing);
            continue;
        }
        let Some(kind) = changed(&before, &after) else {
            out.unchanged += 1;
            continue;
        };
        *out.changed.entry(kind).or_default() += 1;
        let key = (kind, shown(&before), shown(&after));
        let room = changes.len() < MOST_EXAMPLES;
        match changes.get_mut(&key) {
            Some((count, _)) => *count += 1,
            None if room => drop(changes.insert(key, (1, sample.title()))),
            None => {}
        }
    }
    let example =
        |((change, before, after), (requests, example))| Example { change, before, after, requests, example };
    out.examples = changes.into_iter().map(example).collect();
    out.examples.sort_by_key(|example| std::cmp::Reverse(example.requests));
    out
}

fn decided(snapshot: &Snapshot, sample: &Sample) -> Option<ExplainedResult> {
    sample.replay(|bind, head, caller| {
        (&decide_edge(snapshot, bind, head, caller, &SnapshotAvailability(snapshot))).into()
    })
}

fn is_error(result: &ExplainedResult) -> bool {
    matches!(result, ExplainedResult::Answer { status, .. } if *status >= 400)
}

fn changed(before: &ExplainedResult, after: &ExplainedResult) -> Option<ChangeKind> {
    use ExplainedResult::{Answer, Forward};
    match (before, after) {
        (
            Forward { route: r1, rule: u1, release: e1, arm: a1, lane: l1, backend: b1, .. },
            Forward { route: r2, rule: u2, release: e2, arm: a2, lane: l2, backend: b2, .. },
        ) => {
            if (r1, u1) != (r2, u2) {
                Some(ChangeKind::Route)
            } else if (e1, a1, l1) != (e2, a2, l2) {
                Some(ChangeKind::Arm)
            } else {
                (b1 != b2).then_some(ChangeKind::Backend)
            }
        }
        (Answer { status: s1, headers: h1, .. }, Answer { status: s2, headers: h2, .. })
            if (s1, h1) == (s2, h2) =>
        {
            None
        }
        _ if is_error(after) => Some(ChangeKind::Fails),
        _ if is_error(before) => Some(ChangeKind::Mends),
        _ => Some(ChangeKind::Answer),
    }
}

/// e.g. `httproute/shop/checkout rule buy, arm v2, cluster/shop/checkout port 80 (Http1)`.
fn shown(result: &ExplainedResult) -> String {
    match result {
        ExplainedResult::Forward { route, rule, arm, lane, backend, .. } => {
            let arm = arm.as_ref().map(|arm| format!(", arm {arm}")).unwrap_or_default();
            let lane = lane.as_ref().map(|lane| format!(", lane {lane}")).unwrap_or_default();
            format!("{route} rule {rule}{arm}{lane}, {backend}")
        }
        ExplainedResult::Answer { status, reason, route, .. } => {
            let route = route.as_ref().map(|route| format!("{route}, ")).unwrap_or_default();
            format!("{route}{status} ({reason})")
        }
        ExplainedResult::Allow => "allow".into(),
        ExplainedResult::Deny { policy } => format!("deny ({policy})"),
    }
}

impl ChangeKind {
    fn says(self) -> &'static str {
        match self {
            Self::Fails => "would fail",
            Self::Mends => "would no longer fail",
            Self::Answer => "would be answered differently by the gateway itself",
            Self::Route => "would take another route or rule",
            Self::Arm => "would take another arm or lane",
            Self::Backend => "would go to another backend",
        }
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} recent requests tried", self.requests)?;
        writeln!(f, "{:>8} would go where they go now", self.unchanged)?;
        for (kind, count) in &self.changed {
            writeln!(f, "{count:>8} {}", kind.says())?;
        }
        if self.unsure > 0 {
            let names: Vec<&str> = self.not_kept.iter().map(String::as_str).collect();
            writeln!(f, "{:>8} cannot be told, as values were not kept: {}", self.unsure, names.join(", "))?;
        }
        for example in &self.examples {
            let Example { change, before, after, requests, example } = example;
            writeln!(f, "{requests} {}, e.g. {example}\n    now  {before}\n    then {after}", change.says())?;
        }
        Ok(())
    }
}
