//! From a JSON tree to a typed object, with every problem and not just the first.
//!
//! serde stops at its first error. What it complains of is noted, cut out of the tree, and the rest is tried again,
//! until it fits, nothing can be cut out, or [`MAX_PROBLEMS`] are noted.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::{nearest::nearest, object::Shape};

/// Problems of one document that are told; one more says that there are others, which are left for the next try.
const MAX_PROBLEMS: usize = 64;

/// What is wrong with a field, before its place in files is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldProblem {
    pub(super) field: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// What became of a tree.
pub(super) struct Reading<T> {
    /// What is left once all that does not fit was cut out; none, if it is no object even then.
    pub(super) object: Option<T>,
    pub(super) problems: Vec<FieldProblem>,
    /// Where something was cut out.
    cut: Vec<String>,
}

impl<T> Reading<T> {
    /// True for a field that looks as it does only because something in it, around it, or beside it in the same list
    /// was cut out.
    pub(super) fn is_touched(&self, field: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.cut.iter().any(|cut| {
            // Positions after an item that was cut out are not those of the document.
            let list = cut.strip_suffix(']').and_then(|cut| cut.rsplit_once('[')).map(|(list, _)| list);
            within(cut, field) || within(field, list.unwrap_or(cut))
        })
    }

    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Reading<U> {
        Reading { object: self.object.map(make), problems: self.problems, cut: self.cut }
    }
}

/// The object, if nothing is wrong with it; else every problem.
pub(super) fn read<T: DeserializeOwned>(tree: &Value) -> Result<T, Vec<FieldProblem>> {
    match read_all(tree) {
        Reading { object: Some(object), problems, .. } if problems.is_empty() => Ok(object),
        reading => Err(reading.problems),
    }
}

/// Every problem, and what is left without them.
fn read_all<T: DeserializeOwned>(tree: &Value) -> Reading<T> {
    let mut repair = Repair { tree: tree.clone(), ..Repair::default() };
    // Each problem takes one try, one with a stand-in no more than one for each kind of it.
    for _ in 0..(2 + STAND_INS) * MAX_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, T>(&repair.tree) {
            Ok(left) => return repair.into_reading(Some(left)),
            Err(error) => error,
        };
        if repair.problems.len() == MAX_PROBLEMS {
            repair.problems.push(more_problems());
            break;
        }
        if !repair.of(steps(error.path()), &error.inner().to_string()) {
            break;
        }
    }
    repair.into_reading(None)
}

/// A tree that is being made to fit, and what was wrong with it.
#[derive(Default)]
struct Repair {
    tree: Value,
    problems: Vec<FieldProblem>,
    /// Items that were cut out of lists: the list, and the item's position in the document.
    cut: Vec<(Vec<Step>, usize)>,
    cut_fields: Vec<String>,
    /// Fields that were missing, with the number of the stand-in that is tried.
    standing_in: Vec<(Vec<Step>, usize)>,
}

impl Repair {
    /// Notes what serde complains of, and removes it. False where nothing can be done.
    fn of(&mut self, steps: Vec<Step>, message: &str) -> bool {
        if let Some((place, tried)) = self.standing_in.iter_mut().find(|(place, _)| steps.starts_with(place))
        {
            *tried += 1;
            if !stand_in(&mut self.tree, place, *tried) {
                // Nothing will do: the object that lacks it goes.
                let mut place = place.clone();
                place.pop();
                return self.cut_out(&place);
            }
            return true;
        }
        let shown = original(&steps, &self.cut);
        let problem = explain(render(&shown), message);
        // What is missing only because it was cut out has been told already.
        if !self.cut_fields.contains(&problem.field) {
            self.problems.push(problem);
        }
        if let Some(name) = missing(message) {
            let place = [steps.as_slice(), &[Step::Key(name.clone())]].concat();
            let is_new = self.standing_in.iter().all(|(known, _)| *known != place);
            if is_new && stand_in(&mut self.tree, &place, 0) {
                self.cut_fields.push(render(&[shown.as_slice(), &[Step::Key(name)]].concat()));
                self.standing_in.push((place, 0));
                return true;
            }
        }
        self.cut_out(&steps)
    }

    fn cut_out(&mut self, steps: &[Step]) -> bool {
        let shown = original(steps, &self.cut);
        self.cut_fields.push(render(&shown));
        if !cut_out(&mut self.tree, steps) {
            return false;
        }
        if let Some((Step::Index(index), parent)) = shown.split_last() {
            self.cut.push((parent.to_vec(), *index));
        }
        // Positions have changed: a place that is remembered may be another one now.
        self.standing_in.clear();
        true
    }

    fn into_reading<T>(self, object: Option<T>) -> Reading<T> {
        Reading { object, problems: self.problems, cut: self.cut_fields }
    }
}

fn more_problems() -> FieldProblem {
    FieldProblem {
        field: String::new(),
        message: format!("has more than {MAX_PROBLEMS} problems; the others are not listed"),
        hint: Some("repair these first".into()),
    }
}

/// What may stand in for a field that is missing, so that the rest can be read.
const STAND_INS: usize = 4;

/// Puts the n-th stand-in at a place. False if there is none, or no such place.
fn stand_in(tree: &mut Value, place: &[Step], n: usize) -> bool {
    let value = match n {
        0 => Value::String(String::new()),
        1 => Value::from(0),
        2 => Value::Array(Vec::new()),
        3 => Value::Object(serde_json::Map::new()),
        _ => return false,
    };
    let Some((Step::Key(name), parents)) = place.split_last() else { return false };
    match walk(tree, parents) {
        Some(Value::Object(object)) => {
            object.insert(name.clone(), value);
            true
        }
        _ => false,
    }
}

fn walk<'a>(tree: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    let mut here = tree;
    for step in steps {
        here = match (step, here) {
            (Step::Key(key), Value::Object(object)) => object.get_mut(key)?,
            (Step::Index(index), Value::Array(array)) => array.get_mut(*index)?,
            _ => return None,
        };
    }
    Some(here)
}

/// The field that serde says is missing.
fn missing(message: &str) -> Option<String> {
    let name = message.strip_prefix("missing field `")?;
    name.split('`').next().map(str::to_owned)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { variant } => Some(Step::Key(variant.clone())),
        Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

/// Positions in lists as they were before anything was cut out.
fn original(steps: &[Step], cut: &[(Vec<Step>, usize)]) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps {
        let step = match step {
            Step::Key(key) => Step::Key(key.clone()),
            Step::Index(index) => {
                let mut gone: Vec<usize> =
                    cut.iter().filter(|(parent, _)| *parent == out).map(|(_, i)| *i).collect();
                gone.sort_unstable();
                Step::Index(gone.into_iter().fold(*index, |index, gone| index + usize::from(gone <= index)))
            }
        };
        out.push(step);
    }
    out
}

fn render(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Index(index) => out.push_str(&format!("[{index}]")),
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
        }
    }
    out
}

/// Removes what the path leads to. False where there is nothing to remove.
fn cut_out(tree: &mut Value, steps: &[Step]) -> bool {
    let Some((last, parents)) = steps.split_last() else { return false };
    let Some(here) = walk(tree, parents) else { return false };
    match (last, here) {
        (Step::Key(key), Value::Object(object)) => object.shift_remove(key).is_some(),
        (Step::Index(index), Value::Array(array)) if *index < array.len() => {
            array.remove(*index);
            true
        }
        _ => false,
    }
}

/// serde's message in our words, with the nearest of what it expected.
fn explain(field: String, message: &str) -> FieldProblem {
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<String>>();
    let names = quoted(message);
    if let Some((name, allowed)) = names.split_first()
        && (message.starts_with("unknown field") || message.starts_with("unknown variant"))
    {
        let what = if message.starts_with("unknown field") { "unknown field" } else { "unknown value" };
        let hint = match nearest(name, allowed) {
            Some(near) => format!("did you mean `{near}`?"),
            None if allowed.is_empty() => "remove it".into(),
            None => format!("use one of: {}", allowed.join(", ")),
        };
        return FieldProblem { field, message: format!("{what} `{name}`"), hint: Some(hint) };
    }
    if let (Some(name), true) = (names.first(), message.starts_with("missing field")) {
        let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        return FieldProblem { field, message: "is missing".into(), hint: Some("add it".into()) };
    }
    FieldProblem { field, message: message.to_owned(), hint: None }
}

/// As [`read`], with the typed part where its kind has it.
pub(super) fn read_shaped<T: DeserializeOwned>(shape: Shape, body: &Value) -> Reading<T> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Under<T> {
        spec: T,
    }
    match shape {
        Shape::Root => read_all(body),
        Shape::OptionalSpec if body.get("spec").is_none_or(Value::is_null) && body.as_object().is_some() => {
            let mut body = body.clone();
            if let Some(object) = body.as_object_mut() {
                object.insert("spec".into(), Value::Object(serde_json::Map::new()));
            }
            read_all::<Under<T>>(&body).map(|under| under.spec)
        }
        Shape::Spec | Shape::OptionalSpec => read_all::<Under<T>>(body).map(|under| under.spec),
    }
}
