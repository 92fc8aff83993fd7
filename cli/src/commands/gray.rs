//! `tombolo gray`: gray releases in force, and the steps that operators take with them.
//!
//! A step is a new generation of the configuration, like one of `tombolo apply`, and is over when every connected proxy
//! decides by it.

use std::time::Instant;

use serde_json::{Map, Value, json};
use tombolo_proto::v1::{ApplyRequest, GetRequest, apply_request::File};

use super::{
    OperatorClient,
    acknowledge::WaitArgs,
    apply::author,
    check::Output,
    operator::{ControllerSocket, refused},
    status::print_rows,
};
use crate::failure::Failure;

/// The subcommands of `tombolo gray`.
#[derive(clap::Subcommand, Debug)]
pub enum GrayCommand {
    /// Gray releases and the share of each arm
    List(ListArgs),
    /// One gray release: its arms, rules and key
    Show(ShowArgs),
    /// Give an arm this percentage; `stable` takes the rest
    Set(SetArgs),
    /// Send all users to an arm
    Promote(PromoteArgs),
    /// Send all users back to `stable`; rules that force an arm stay
    Abort(StepArgs),
}

/// Arguments of `tombolo gray list`.
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// Only in this namespace
    #[arg(short, long, default_value = "")]
    namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Which release.
#[derive(clap::Args, Debug)]
struct Which {
    /// Its name, or NAMESPACE/NAME
    name: String,
    /// Its namespace, where several have one of this name
    #[arg(short, long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Arguments of `tombolo gray show`.
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    which: Which,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Arguments of a step.
#[derive(clap::Args, Debug)]
pub struct StepArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `tombolo gray set`.
#[derive(clap::Args, Debug)]
pub struct SetArgs {
    #[command(flatten)]
    step: StepArgs,
    /// The arm
    arm: String,
    /// 0 to 100, with at most two decimals
    #[arg(value_parser = percent)]
    percent: f64,
}

/// Arguments of `tombolo gray promote`.
#[derive(clap::Args, Debug)]
pub struct PromoteArgs {
    #[command(flatten)]
    step: StepArgs,
    /// The arm, where the release has several with users on them
    #[arg(long)]
    arm: Option<String>,
}

/// Runs one.
pub async fn run(command: GrayCommand) -> Result<(), Failure> {
    match command {
        GrayCommand::List(args) => list(args).await,
        GrayCommand::Show(args) => show(args).await,
        GrayCommand::Set(SetArgs { step, arm, percent }) => {
            take(step, |release| {
                release.require(&arm)?;
                release.weights.insert(arm.clone(), percent);
                Ok(())
            })
            .await
        }
        GrayCommand::Promote(PromoteArgs { step, arm }) => {
            take(step, |release| {
                let arm = release.to_promote(arm.as_deref())?;
                release.weights = [(arm, 100.0)].into();
                Ok(())
            })
            .await
        }
        GrayCommand::Abort(step) => {
            take(step, |release| {
                release.weights.values_mut().for_each(|weight| *weight = 0.0);
                Ok(())
            })
            .await
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.strip_suffix('%').unwrap_or(text).parse().map_err(|_| "is no number")?;
    let hundredths = percent * 100.0;
    let fits = (0.0..=10_000.0).contains(&hundredths) && (hundredths - hundredths.round()).abs() < 1e-6;
    fits.then_some(percent).ok_or_else(|| "use 0 to 100 with at most two decimals".into())
}

/// The annotation that says how an analysis ended.
const ANALYSIS: &str = "tombolo.dev/analysis";

/// A GrayRelease's document, and its weights as they are changed.
struct Release {
    document: Value,
    weights: std::collections::BTreeMap<String, f64>,
}

impl Release {
    fn new(document: Value) -> Self {
        let weights = document.pointer("/spec/split/weights").and_then(Value::as_object);
        let weight = |(arm, value): (&String, &Value)| Some((arm.clone(), value.as_f64()?));
        let weights = weights.into_iter().flatten().filter_map(weight).collect();
        Self { document, weights }
    }

    fn text(&self, path: &str) -> &str {
        self.document.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// `NAMESPACE/NAME`.
    fn key(&self) -> String {
        format!("{}/{}", self.text("/metadata/namespace"), self.text("/metadata/name"))
    }

    fn list(&self, path: &str) -> impl Iterator<Item = &Value> {
        self.document.pointer(path).and_then(Value::as_array).into_iter().flatten()
    }

    fn arms(&self) -> impl Iterator<Item = &str> {
        self.list("/spec/arms").filter_map(|arm| arm["name"].as_str())
    }

    fn require(&self, arm: &str) -> Result<(), Failure> {
        if self.arms().any(|known| known == arm) {
            return Ok(());
        }
        let known: Vec<&str> = self.arms().collect();
        let hint = if arm == "stable" { "; it takes the rest, so set the others" } else { "" };
        Err(Failure::usage(format!(
            "{} has no arm {arm:?} that can be set; its arms: {}{hint}",
            self.key(),
            known.join(", ")
        )))
    }

    /// The one that is named, else the only one, else the only one with users.
    fn to_promote(&self, named: Option<&str>) -> Result<String, Failure> {
        if let Some(arm) = named {
            self.require(arm)?;
            return Ok(arm.to_owned());
        }
        let all: Vec<&str> = self.arms().collect();
        let in_use = |arm: &&&str| self.weights.get(**arm).is_some_and(|weight| *weight > 0.0);
        let used: Vec<&str> = all.iter().filter(in_use).copied().collect();
        match (all.as_slice(), used.as_slice()) {
            ([only], _) | (_, [only]) => Ok((*only).to_owned()),
            _ => Err(Failure::usage(format!("say which with --arm: {}", all.join(", ")))),
        }
    }

    /// e.g. `stable 95%, v2 5%`.
    fn shares(&self) -> String {
        let sum: f64 = self.arms().filter_map(|arm| self.weights.get(arm)).sum();
        let mut out = format!("stable {}", shown((100.0 - sum).max(0.0)));
        for arm in self.arms() {
            out += &format!(", {arm} {}", shown(self.weights.get(arm).copied().unwrap_or(0.0)));
        }
        out
    }

    fn split_key(&self) -> String {
        for (field, shown) in [("cookie", "cookie"), ("header", "header")] {
            if let Some(name) =
                self.document.pointer(&format!("/spec/split/key/{field}")).and_then(Value::as_str)
            {
                return format!("{shown} {name}");
            }
        }
        match self.document.pointer("/spec/split/key/sourceIP").and_then(Value::as_bool) {
            Some(true) => "source address".into(),
            _ => "issued cookie".into(),
        }
    }

    /// The document with the weights as they are now.
    fn changed(mut self) -> Value {
        // Whole numbers as such, as people write them.
        let number = |weight: f64| if weight.fract() == 0.0 { json!(weight as u64) } else { json!(weight) };
        let weights: Map<String, Value> =
            self.weights.into_iter().map(|(arm, weight)| (arm, number(weight))).collect();
        let spec = &mut self.document["spec"];
        if !spec["split"].is_object() {
            spec["split"] = json!({});
        }
        spec["split"]["weights"] = weights.into();
        // What somebody does by hand, no analysis undoes.
        if spec["analysis"].is_object() {
            let metadata = &mut self.document["metadata"];
            if !metadata["annotations"].is_object() {
                metadata["annotations"] = json!({});
            }
            metadata["annotations"][ANALYSIS] = json!(format!("ended by hand, by {}", author()));
        }
        self.document
    }
}

/// At most two decimals.
fn shown(percent: f64) -> String {
    let text = format!("{percent:.2}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Releases, and the generation that they are of.
async fn fetch(
    client: &mut OperatorClient,
    namespace: &str,
    name: &str,
) -> Result<(Vec<Release>, u64), Failure> {
    let request = GetRequest { kind: "grayrelease".into(), namespace: namespace.into(), name: name.into() };
    let answer = client.get(request).await.map_err(refused)?.into_inner();
    let parse = |json: &String| serde_json::from_str(json).map(Release::new);
    let all: Result<_, _> = answer.documents_json.iter().map(parse).collect();
    all.map(|all| (all, answer.generation))
        .map_err(|e| Failure::new(format!("the controller's answer is not JSON: {e}")))
}

async fn find(which: &Which, client: &mut OperatorClient) -> Result<(Release, u64), Failure> {
    let (namespace, name) = which.name.split_once('/').unwrap_or((&which.namespace, &which.name));
    let (mut found, generation) = fetch(client, namespace, name).await?;
    let keys: Vec<String> = found.iter().map(Release::key).collect();
    match (found.pop(), found.is_empty()) {
        (Some(release), true) => Ok((release, generation)),
        (Some(_), false) => Err(Failure::usage(format!("say which: {}", keys.join(", ")))),
        (None, _) => Err(Failure::new(format!(
            "there is no gray release {:?}; `tombolo gray list` shows all",
            which.name
        ))),
    }
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let mut client = args.controller.connect().await?;
    let (all, _) = fetch(&mut client, &args.namespace, "").await?;
    if args.output == Output::Json {
        let documents: Vec<&Value> = all.iter().map(|release| &release.document).collect();
        println!("{}", serde_json::to_string_pretty(&documents).unwrap_or_default());
        return Ok(());
    }
    let row = |release: &Release| {
        let (namespace, name) = (release.text("/metadata/namespace"), release.text("/metadata/name"));
        let targets: Vec<String> = release.list("/spec/targetRefs").map(target).collect();
        [namespace.into(), name.into(), targets.join(", "), release.shares(), release.split_key()]
    };
    let rows: Vec<[String; 5]> = all.iter().map(row).collect();
    print_rows(&["NAMESPACE", "NAME", "OF", "USERS", "BY"], rows.iter().map(|row| row.as_slice()));
    Ok(())
}

fn target(target: &Value) -> String {
    let text = |field: &str| target[field].as_str().unwrap_or_default();
    let rule = target["sectionName"].as_str().map(|rule| format!(" rule {rule}")).unwrap_or_default();
    format!("{} {}{rule}", text("kind"), text("name"))
}

async fn show(args: ShowArgs) -> Result<(), Failure> {
    let mut client = args.which.controller.connect().await?;
    let (release, _) = find(&args.which, &mut client).await?;
    if args.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&release.document).unwrap_or_default());
        return Ok(());
    }
    println!("{:<12}{}", "release", release.key());
    release.list("/spec/targetRefs").for_each(|of| println!("{:<12}{}", "of", target(of)));
    for (at, rule) in release.list("/spec/rules").enumerate() {
        let condition = json!({ "headers": rule["headers"], "cookies": rule["cookies"] });
        println!("{:<12}{at}: arm {} if {condition}", "rule", rule["arm"].as_str().unwrap_or_default());
    }
    println!("{:<12}{} by {}", "users", release.shares(), release.split_key());
    for arm in release.list("/spec/arms") {
        let lane = arm["lane"].as_str().map(|lane| format!(" in lane {lane}")).unwrap_or_default();
        let name = arm["name"].as_str().unwrap_or_default();
        println!("{:<12}{name}{lane}: {}", "arm", arm["backendRefs"]);
    }
    if release.document.pointer("/spec/analysis").is_some() {
        let ended = release.document["metadata"]["annotations"][ANALYSIS].as_str().unwrap_or("running");
        println!("{:<12}{ended}", "analysis");
    }
    let fallback = release.text("/spec/whenUnavailable");
    println!("{:<12}{}", "unhealthy", if fallback.is_empty() { "stable" } else { fallback });
    Ok(())
}

/// So often a step is tried again where something else was changed meanwhile.
const TRIES: usize = 10;

/// Changes a release, and waits for the proxies. What somebody else does meanwhile to the same release is not overwritten.
async fn take(step: StepArgs, change: impl Fn(&mut Release) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut client = step.which.controller.connect().await?;
    let began = Instant::now();
    let mut seen: Option<Value> = None;
    for _ in 0..TRIES {
        let (mut release, generation) = find(&step.which, &mut client).await?;
        let (key, before) = (release.key(), release.shares());
        if seen.as_ref().is_some_and(|seen| *seen != release.document) {
            return Err(Failure::new(format!(
                "nothing was changed: somebody else has changed gray release {key} meanwhile, it now has {before}"
            )));
        }
        seen = Some(release.document.clone());
        change(&mut release)?;
        let after = release.shares();
        let name = format!("gray release {key}");
        let files = vec![File { name: name.clone(), text: release.changed().to_string() }];
        let request =
            ApplyRequest { files, author: author(), if_generation: Some(generation), ..Default::default() };
        let applied = client.apply(request).await.map_err(refused)?.into_inner();
        if applied.outdated {
            continue;
        }
        if !applied.errors.is_empty() {
            return Err(Failure::new(format!("nothing was changed:\n{}", applied.errors.join("\n"))));
        }
        println!("{name}: {before} -> {after}");
        return step.wait.wait(&mut client, applied.generation, began).await;
    }
    Err(Failure::new("nothing was changed: the configuration changes all the time; try again"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn release(weights: Value) -> Release {
        let arms = json!([{ "name": "v2", "backendRefs": [] }, { "name": "v3", "backendRefs": [] }]);
        let spec = json!({ "arms": arms, "split": { "key": { "cookie": "uid" }, "weights": weights } });
        Release::new(json!({ "metadata": { "namespace": "shop", "name": "checkout" }, "spec": spec }))
    }

    #[test]
    fn shares_are_shown_with_the_rest_for_stable() {
        assert_eq!(release(json!({ "v2": 5, "v3": 0.25 })).shares(), "stable 94.75%, v2 5%, v3 0.25%");
        assert_eq!(release(json!({})).shares(), "stable 100%, v2 0%, v3 0%");
        assert_eq!(release(json!({})).split_key(), "cookie uid");
    }

    #[test]
    fn what_is_promoted_must_be_clear() {
        assert_eq!(release(json!({ "v2": 5 })).to_promote(None).unwrap(), "v2");
        assert_eq!(release(json!({ "v2": 5 })).to_promote(Some("v3")).unwrap(), "v3");
        assert!(release(json!({ "v2": 5, "v3": 5 })).to_promote(None).is_err());
        assert!(release(json!({})).to_promote(None).is_err());
        assert!(release(json!({})).to_promote(Some("stable")).is_err());
    }

    #[test]
    fn only_the_weights_change() {
        let mut release = release(json!({ "v2": 5 }));
        let mut expected = release.document.clone();
        expected["spec"]["split"]["weights"] = json!({ "v2": 12.5, "v3": 10 });
        release.weights = [("v2".into(), 12.5), ("v3".into(), 10.0)].into();
        assert_eq!(release.changed(), expected);
    }

    #[test]
    fn percentages_have_two_decimals() {
        assert_eq!(percent("12.34%"), Ok(12.34));
        assert_eq!(percent("100"), Ok(100.0));
        for wrong in ["-1", "100.01", "1.234", "many", "NaN"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
