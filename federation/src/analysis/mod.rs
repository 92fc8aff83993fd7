//! Automatic releases (`analysis` of a GrayRelease): each step is a generation of the configuration.
//!
//! What was decided for good stands in the document itself, as the annotation [`ANALYSIS`]: a release that has it is left
//! alone, also after a restart of the controller. Who applies the document without it begins anew. After a restart, the
//! step that a release is in begins again.

mod collect;
mod course;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::interval};
use tombolo_core::resources::{Document, Object, ObjectKey, Source, kinds::GrayRelease};
use tombolo_proto::v1::TrafficQuestion;

use crate::{
    config::{By, Documents, Prune},
    running::stopped,
    state::State,
    traffic::Traffic,
};
use collect::Collector;
use course::{Course, Next, Plan};

/// The annotation that says how an analysis ended. There is none while it runs.
pub const ANALYSIS: &str = "tombolo.dev/analysis";

/// How often proxies are asked.
const PAUSE: Duration = Duration::from_secs(1);
/// So long they have to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Carries out analyses until `stop`.
pub(crate) async fn run(state: Arc<State>, traffic: Traffic, mut stop: watch::Receiver<bool>) {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut analyses = Analyses {
        state,
        traffic,
        began: Instant::now(),
        collector: Collector::default(),
        courses: BTreeMap::new(),
    };
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stop) => return,
        }
        analyses.tick().await;
    }
}

struct Analyses {
    state: Arc<State>,
    traffic: Traffic,
    began: Instant,
    collector: Collector,
    courses: BTreeMap<ObjectKey, Course>,
}

/// A release on its way, as its document has it.
struct Running {
    key: ObjectKey,
    arm: String,
    plan: Plan,
    /// Hundredths of a percent.
    weight: u16,
}

impl Running {
    fn of(key: &ObjectKey, release: &Object<GrayRelease>) -> Option<Self> {
        let analysis =
            release.spec.analysis.as_ref().filter(|_| !release.meta.annotations.contains_key(ANALYSIS))?;
        let first = || release.spec.arms.first().map(|arm| arm.name.clone());
        let arm = analysis.arm.clone().or_else(first)?;
        let weight =
            release.spec.split.as_ref().and_then(|split| split.weights.get(&arm)).copied().unwrap_or(0.0);
        // The cast saturates.
        let weight = (weight * 100.0).round() as u16;
        Some(Self { key: key.clone(), arm, plan: Plan::of(analysis), weight })
    }
}

impl Analyses {
    async fn tick(&mut self) {
        let documents = self.state.documents();
        let releases = documents.resources().gray_releases.iter();
        let running: Vec<Running> = releases.filter_map(|(key, release)| Running::of(key, release)).collect();
        self.courses.retain(|key, _| running.iter().any(|release| release.key == *key));
        if running.is_empty() {
            // Whoever is asked the next time begins anew.
            self.collector = Collector::default();
            return;
        }
        // A Service's arms are chosen by sidecars.
        let question = TrafficQuestion { arms: true, ..Default::default() };
        let told = self.traffic.ask(question, false, PATIENCE).await;
        self.collector.retain(|stream| self.traffic.is_open(stream));
        let arrived = self.collector.take(told.reports);
        let now = self.began.elapsed();
        for release in running {
            let counts =
                arrived.get(&(release.key.to_string(), release.arm.clone())).cloned().unwrap_or_default();
            let known = self.courses.get_mut(&release.key);
            let known =
                known.filter(|course| *course.plan() == release.plan && course.weight() == release.weight);
            let next = match known {
                Some(course) => course.observe(&counts, now),
                // What came until now was under another weight.
                None => {
                    let mut course = Course::begin(release.plan.clone(), release.weight, now);
                    let next = course.observe(&Default::default(), now);
                    self.courses.insert(release.key.clone(), course);
                    next
                }
            };
            if next != Next::Wait {
                self.carry_out(&release, next).await;
            }
        }
    }

    /// Makes a generation of it.
    async fn carry_out(&mut self, release: &Running, next: Next) {
        let key = release.key.clone();
        let (weight, ended) = match &next {
            Next::Wait => return,
            Next::Step(weight) => (*weight, None),
            Next::Pass => (release.weight, Some(format!("passed at {}%", percent(release.weight)))),
            Next::RollBack(why) => (0, Some(format!("rolled back from {}%: {why}", percent(release.weight)))),
            Next::Stop(why) => {
                (release.weight, Some(format!("stopped at {}%: {why}", percent(release.weight))))
            }
        };
        let did = match &ended {
            None => format!("{} to {}%", release.arm, percent(weight)),
            Some(ended) => format!("{} {ended}", release.arm),
        };
        let by = By {
            author: "analysis".into(),
            action: format!("gray release {key}: {did}").chars().take(200).collect(),
            when_unix: self.state.now().unix_seconds(),
        };
        let (arm, was) = (release.arm.clone(), (release.weight, release.plan.clone()));
        let propose = move |documents: &Documents| {
            let object = documents.resources().gray_releases.get(&key);
            // Somebody has done something meanwhile: the next look sees it.
            let same = object.and_then(|object| Running::of(&key, object));
            if same.is_none_or(|now| (now.weight, now.plan) != was) {
                return Ok(None);
            }
            let Some(text) = changed(documents, &key, &arm, weight, ended.as_deref()) else {
                return Ok(None);
            };
            let source = [Source { name: "analysis".into(), text }];
            documents.apply(&source, &Prune::Nothing, &by).map(Some)
        };
        match self.state.change_documents(propose, false).await {
            Ok(Ok(())) => tracing::info!(release = %release.key, "analysis: {did}"),
            Ok(Err(problems)) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                tracing::error!(release = %release.key, problems = problems.join("; "), "the analysis cannot go on");
            }
            Err(error) => tracing::error!(release = %release.key, %error, "the analysis cannot go on"),
        }
    }
}

/// The release's document with another weight of an arm, and with how the analysis ended.
fn changed(
    documents: &Documents,
    key: &ObjectKey,
    arm: &str,
    weight: u16,
    ended: Option<&str>,
) -> Option<String> {
    let is_it = |document: &&Arc<Document>| {
        let meta = document.object.meta();
        document.object.kind() == "GrayRelease"
            && (&meta.namespace, &meta.name) == (&key.namespace, &key.name)
    };
    let mut all = documents.resources().documents().map(|(_, document)| document);
    let mut tree = all.find(is_it)?.tree();
    let number =
        if weight.is_multiple_of(100) { json!(weight / 100) } else { json!(f64::from(weight) / 100.0) };
    set(&mut tree, &["spec", "split", "weights", arm], number);
    if let Some(ended) = ended {
        set(&mut tree, &["metadata", "annotations", ANALYSIS], json!(ended));
    }
    Some(tree.to_string())
}

/// Sets a field, and makes the objects around it where they are not there.
fn set(tree: &mut Value, path: &[&str], value: Value) {
    match path {
        [] => *tree = value,
        [field, rest @ ..] => {
            if !tree.is_object() {
                *tree = json!({});
            }
            if let Some(object) = tree.as_object_mut() {
                set(object.entry(*field).or_insert(Value::Null), rest, value);
            }
        }
    }
}

fn percent(weight: u16) -> f64 {
    f64::from(weight) / 100.0
}
