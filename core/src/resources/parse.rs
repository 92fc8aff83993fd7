//! From text to objects: YAML or JSON, any number of documents, every problem at once.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    nearest::nearest,
    object::{AnyObject, ApiVersion, Document, KINDS, KindInfo, ObjectMeta, RawMeta, ResourceSet, read_body},
    problem::Problem,
    typed::{self, FieldProblem},
    validate,
};
use crate::model::{check_dns_label, check_object_name};

/// A text is refused beyond this many bytes.
pub const MAX_SOURCE_BYTES: usize = 16 << 20;
/// Documents beyond this many in one call are refused.
pub const MAX_DOCUMENTS: usize = 100_000;

/// A text and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Shown in problems; a path, mostly.
    pub name: String,
    /// YAML or JSON.
    pub text: String,
}

/// Everything valid, and everything that is not.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// Valid objects.
    pub resources: ResourceSet,
    /// Problems in the order of the texts. The objects that have them are not in `resources`.
    pub problems: Vec<Problem>,
}

/// Where a document stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    document: usize,
    line: Option<usize>,
}

/// Reads all texts. An object with a problem is left out; the others stay.
pub fn parse(sources: &[Source]) -> Parsed {
    let mut all = Vec::new();
    let mut count = 0;
    for source in sources {
        let found = find(source);
        count += found.len();
        all.push((source, found));
        // One more than is allowed, so that this is told.
        if count > MAX_DOCUMENTS {
            break;
        }
    }
    let mut gathering = Gathering::default();
    for (source, found) in &all {
        if !gathering.add(&source.name, found) {
            break;
        }
    }
    gathering.parsed
}

/// What stands in a text, in its order.
#[derive(Debug)]
pub(super) enum Found {
    /// A valid object.
    Document {
        /// Of the text, from 1.
        number: usize,
        line: Option<usize>,
        document: Arc<Document>,
    },
    /// What is wrong. In a box, since most documents have nothing.
    Problem(Box<Problem>),
}

/// Everything in one text.
pub(super) fn find(source: &Source) -> Vec<Found> {
    let mut found = Vec::new();
    if source.text.len() > MAX_SOURCE_BYTES {
        let message = format!("is larger than {} MiB", MAX_SOURCE_BYTES >> 20);
        return vec![Found::Problem(Problem::of_file(&source.name, message).into())];
    }
    for (document, (line, text)) in (1..).zip(split(&source.text)) {
        // One more than is allowed, so that this is told.
        if found.len() > MAX_DOCUMENTS {
            break;
        }
        let place = Place { file: &source.name, document, line: Some(line) };
        match tree_of(place, text) {
            Ok(tree) => read_tree(place, tree, &mut found),
            Err(problem) => found.push(Found::Problem(problem)),
        }
    }
    found
}

/// Puts together what was found in several texts.
#[derive(Default)]
pub(super) struct Gathering<'a> {
    pub(super) parsed: Parsed,
    /// File and number of each object's document.
    seen: HashMap<&'a str, (&'a str, usize)>,
}

impl<'a> Gathering<'a> {
    /// Adds what was found in a file. False: that were too many.
    pub(super) fn add(&mut self, file: &'a str, found: &'a [Found]) -> bool {
        for one in found {
            let parsed = &mut self.parsed;
            if parsed.resources.len() + parsed.problems.len() >= MAX_DOCUMENTS {
                let message = format!("more than {MAX_DOCUMENTS} documents");
                parsed.problems.push(Problem::of_file(file, message));
                return false;
            }
            match one {
                Found::Document { number, line, document } => match self.seen.get(&**document.key()) {
                    Some(first) => {
                        let place = Place { file, document: *number, line: *line };
                        parsed.problems.push(twice(place, &document.object, *first));
                    }
                    None => {
                        self.seen.insert(document.key(), (file, *number));
                        parsed.resources.insert(document.clone());
                    }
                },
                Found::Problem(problem) => parsed.problems.push(Problem::clone(problem)),
            }
        }
        true
    }
}

fn twice(place: Place<'_>, object: &AnyObject, (file, number): (&str, usize)) -> Problem {
    let field = FieldProblem {
        field: "metadata.name".into(),
        message: format!("the same object stands in {file}, document {number}"),
        hint: Some("remove one of them; the first counts".into()),
    };
    problem(place, Some(name_of(object)), field)
}

/// Reads one document, e.g. from discovery. `name` is shown in problems.
pub fn parse_json(name: &str, json: &str) -> Result<Document, Vec<Problem>> {
    let place = Place { file: name, document: 1, line: None };
    if json.len() > MAX_SOURCE_BYTES {
        return Err(vec![Problem::of_file(name, format!("is larger than {} MiB", MAX_SOURCE_BYTES >> 20))]);
    }
    let tree =
        serde_json::from_str(json).map_err(|e| vec![Problem::of_file(name, format!("is not JSON: {e}"))])?;
    read_object(place, tree)
}

/// Documents with the line they begin on. A marker is `---` at the beginning of a line, which nothing inside a
/// document may have (YAML 1.2.2, section 9.1.2).
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut first_line, mut start, mut offset) = (1, 0, 0);
    let mut keep = |line: usize, start: usize, end: usize| {
        let part = text.get(start..end).unwrap_or_default();
        if part.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
            parts.push((line, part));
        }
    };
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if let Some(rest) = line.strip_prefix("---").map(str::trim_end) {
            if rest.is_empty() || rest.starts_with(" #") {
                keep(first_line, start, offset);
                (first_line, start) = (number + 1, offset + line.len());
            } else if rest.starts_with([' ', '\t']) {
                // What follows on the marker's own line belongs to the next document: `--- { kind: ... }`.
                keep(first_line, start, offset);
                (first_line, start) = (number, offset + "---".len());
            }
        }
        offset += line.len();
    }
    keep(first_line, start, offset);
    parts
}

fn tree_of(place: Place<'_>, text: &str) -> Result<Value, Box<Problem>> {
    // JSON is YAML, but JSON's own parser is faster and its errors are clearer.
    let outcome = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|e| (Some(e.line()), e.to_string()))
    } else {
        yaml(text).map_err(|e| {
            let line = e.location().map(|l| usize::try_from(l.line()).unwrap_or(1));
            (line, e.without_snippet().to_string())
        })
    };
    outcome.or_else(|(line, message)| {
        // YAML in braces is not always JSON.
        if text.trim_start().starts_with('{')
            && let Ok(tree) = yaml(text)
        {
            return Ok(tree);
        }
        let line = line.map(|inner| place.line.unwrap_or(1) + inner.saturating_sub(1));
        let problem = problem(
            place,
            None,
            FieldProblem { field: String::new(), message: format!("does not parse: {message}"), hint: None },
        );
        Err(Box::new(Problem { line: line.or(place.line), ..problem }))
    })
}

/// YAML 1.2: `true` and `false` are booleans; `y`, `no` and `on` are texts.
fn yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

fn read_tree(place: Place<'_>, tree: Value, found: &mut Vec<Found>) {
    if let Some(items) = list_items(&tree) {
        for item in items {
            read_tree(place, item.clone(), found);
        }
        return;
    }
    match read_object(place, tree) {
        Ok(document) => {
            let (number, line) = (place.document, place.line);
            found.push(Found::Document { number, line, document: Arc::new(document) });
        }
        Err(problems) => found.extend(problems.into_iter().map(|problem| Found::Problem(problem.into()))),
    }
}

/// The items of a `List`, or of `HTTPRouteList` and the like.
fn list_items(tree: &Value) -> Option<&Vec<Value>> {
    let kind = tree.get("kind")?.as_str()?;
    if !kind.ends_with("List") {
        return None;
    }
    tree.get("items")?.as_array()
}

fn read_object(place: Place<'_>, mut tree: Value) -> Result<Document, Vec<Problem>> {
    let whole = |field: &str, message: &str, hint: Option<String>| {
        let field = FieldProblem { field: field.into(), message: message.into(), hint };
        vec![problem(place, None, field)]
    };
    let status =
        tree.as_object_mut().and_then(|object| object.shift_remove("status")).filter(Value::is_object);
    let json = tree.to_string().into();
    let Value::Object(mut body) = tree else {
        return Err(whole("", "is not an object", Some("begin with apiVersion and kind".into())));
    };
    let (Some(Value::String(api_version)), Some(Value::String(kind))) =
        (body.shift_remove("apiVersion"), body.shift_remove("kind"))
    else {
        return Err(whole("", "has no apiVersion or no kind", Some("give both, as texts".into())));
    };
    let (info, api_version) = find_kind(&api_version, &kind)
        .map_err(|(field, message, hint)| whole(field, &message, Some(hint)))?;
    let (mut meta, mut problems) = read_meta(info, body.shift_remove("metadata"));
    meta.status = status.map(Arc::new);
    let name = format!("{kind} {}", meta.key());
    if let Some(reading) = read_body(info, api_version, meta, &Value::Object(body)) {
        if let Some(object) = &reading.object {
            let rules = validate::validate(object).into_iter();
            problems.extend(rules.filter(|problem| !reading.is_touched(&problem.field)));
        }
        problems.extend(reading.problems.into_iter().map(|p| without_secrets(info.kind, p)));
        if let (true, Some(object)) = (problems.is_empty(), reading.object) {
            return Ok(Document::new(object, json));
        }
    }
    Err(problems.into_iter().map(|field| problem(place, Some(name.clone()), field)).collect())
}

fn find_kind(
    api_version: &str,
    kind: &str,
) -> Result<(&'static KindInfo, ApiVersion), (&'static str, String, String)> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let of_kind = KINDS.iter().find(|info| info.kind == kind && info.group == group);
    if let Some(info) = of_kind {
        if let Some(version) = info.versions.iter().find(|known| **known == version) {
            return Ok((info, ApiVersion { group: info.group, version }));
        }
        let hint = format!("use one of: {}", info.versions.join(", "));
        return Err(("apiVersion", format!("version {version:?} of {kind} is not known"), hint));
    }
    if let Some(info) = KINDS.iter().find(|info| info.kind == kind) {
        let group = if info.group.is_empty() { String::new() } else { format!("{}/", info.group) };
        let hint = format!("{kind} is {group}{}", info.versions.first().unwrap_or(&"v1"));
        return Err(("apiVersion", format!("there is no {kind} in {api_version:?}"), hint));
    }
    let known: Vec<String> = KINDS.iter().map(|info| info.kind.to_owned()).collect();
    let hint = match nearest(kind, &known) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are {}", known.join(", ")),
    };
    Err(("kind", format!("kind {kind:?} is not known"), hint))
}

fn read_meta(info: &KindInfo, tree: Option<Value>) -> (ObjectMeta, Vec<FieldProblem>) {
    let missing = |field: &str| FieldProblem {
        field: field.into(),
        message: "is missing".into(),
        hint: Some("add it".into()),
    };
    let Some(tree) = tree else { return (ObjectMeta::default(), vec![missing("metadata")]) };
    let raw = match typed::read::<RawMeta>(&tree) {
        Ok(raw) => raw,
        Err(problems) => {
            let text = |key: &str| tree.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let meta = ObjectMeta { name: text("name"), namespace: text("namespace"), ..Default::default() };
            return (meta, problems.into_iter().map(|p| prefixed("metadata", p)).collect());
        }
    };
    let namespace = match (info.namespaced, raw.namespace) {
        (false, _) => String::new(),
        (true, namespace) => namespace.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()),
    };
    let meta = ObjectMeta {
        name: raw.name,
        namespace,
        labels: raw.labels,
        annotations: raw.annotations,
        generation: raw.generation.unwrap_or(1),
        creation_timestamp: raw.creation_timestamp,
        status: None,
    };
    let mut problems = check_meta(info, &meta);
    problems.extend(validate::validate_meta(&meta));
    (meta, problems)
}

fn check_meta(info: &KindInfo, meta: &ObjectMeta) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let mut note = |field: &str, message: String| {
        problems.push(FieldProblem { field: field.into(), message, hint: None });
    };
    // Names that become DNS labels are labels; the others may have dots.
    let is_label =
        matches!(info.kind, "Namespace" | "Service" | "ServiceExport" | "ServiceImport" | "Workload");
    let name = if is_label { check_dns_label(&meta.name) } else { check_object_name(&meta.name) };
    if let Err(error) = name {
        note("metadata.name", error.to_string());
    }
    if info.namespaced
        && let Err(error) = check_dns_label(&meta.namespace)
    {
        note("metadata.namespace", error.to_string());
    }
    if let Some(time) = &meta.creation_timestamp
        && time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).is_err()
    {
        note("metadata.creationTimestamp", format!("{time:?} is not a time as in RFC 3339"));
    }
    problems
}

/// serde quotes what it did not expect; what stands where a Secret keeps its values is never shown.
fn without_secrets(kind: &str, problem: FieldProblem) -> FieldProblem {
    let top = problem.field.split('.').next().unwrap_or_default();
    if kind != "Secret" || !matches!(top, "data" | "stringData") {
        return problem;
    }
    let (message, hint) = if problem.field == top {
        ("is not a map of texts", "write `name: value` below it")
    } else {
        ("is not a text", "put the value in quotes")
    };
    FieldProblem { message: message.into(), hint: Some(hint.into()), ..problem }
}

fn prefixed(prefix: &str, problem: FieldProblem) -> FieldProblem {
    let field =
        if problem.field.is_empty() { prefix.to_owned() } else { format!("{prefix}.{}", problem.field) };
    FieldProblem { field, ..problem }
}

fn problem(place: Place<'_>, object: Option<String>, field: FieldProblem) -> Problem {
    Problem {
        file: place.file.to_owned(),
        document: place.document,
        line: place.line,
        object,
        field: field.field,
        message: field.message,
        hint: field.hint,
    }
}

fn name_of(object: &AnyObject) -> String {
    format!("{} {}", object.kind(), object.meta().key())
}
