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

/// The object, if nothing is wrong with it; else every problem.
pub(super) fn read<T: DeserializeOwned>(tree: &Value) -> Result<T, Vec<FieldProblem>> {
    let mut tree = tree.clone();
    let mut problems = Vec::new();
    let mut cut: Vec<(Vec<Step>, usize)> = Vec::new();
    let mut cut_fields: Vec<String> = Vec::new();
    for _ in 0..2 * MAX_PROBLEMS {
        if problems.len() == MAX_PROBLEMS {
            if serde_path_to_error::deserialize::<_, T>(&tree).is_err() {
                problems.push(more_problems());
            }
            break;
        }
        let error = match serde_path_to_error::deserialize::<_, T>(&tree) {
            Ok(object) if problems.is_empty() => return Ok(object),
            Ok(_) => break,
            Err(error) => error,
        };
        let steps = steps(error.path());
        let shown = original(&steps, &cut);
        let problem = explain(render(&shown), &error.inner().to_string());
        // What is missing only because it was cut out has been told already.
        if !cut_fields.contains(&problem.field) {
            problems.push(problem);
        }
        cut_fields.push(render(&shown));
        if !cut_out(&mut tree, &steps) {
            break;
        }
        if let (Some(Step::Index(index)), Some(parent)) =
            (shown.last(), shown.get(..shown.len().saturating_sub(1)))
        {
            cut.push((parent.to_vec(), *index));
        }
    }
    Err(problems)
}

fn more_problems() -> FieldProblem {
    FieldProblem {
        field: String::new(),
        message: format!("has more than {MAX_PROBLEMS} problems; the others are not listed"),
        hint: Some("repair these first".into()),
    }
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
    let mut here = tree;
    for step in parents {
        let next = match (step, here) {
            (Step::Key(key), Value::Object(object)) => object.get_mut(key),
            (Step::Index(index), Value::Array(array)) => array.get_mut(*index),
            _ => None,
        };
        let Some(next) = next else { return false };
        here = next;
    }
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
pub(super) fn read_shaped<T: DeserializeOwned>(shape: Shape, body: &Value) -> Result<T, Vec<FieldProblem>> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Under<T> {
        spec: T,
    }
    match shape {
        Shape::Root => read(body),
        Shape::OptionalSpec if body.get("spec").is_none_or(Value::is_null) && body.as_object().is_some() => {
            let mut body = body.clone();
            if let Some(object) = body.as_object_mut() {
                object.insert("spec".into(), Value::Object(serde_json::Map::new()));
            }
            read::<Under<T>>(&body).map(|under| under.spec)
        }
        Shape::Spec | Shape::OptionalSpec => read::<Under<T>>(body).map(|under| under.spec),
    }
}
