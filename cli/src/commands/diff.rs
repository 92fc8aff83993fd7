//! `tombolo diff`.

use std::path::PathBuf;

use serde_json::{Value, json};
use tombolo_proto::v1::{DiffRequest, DiffResponse, diff_response::Field};

use super::{
    apply::PruneArgs,
    check::Output,
    operator::{ControllerSocket, refused},
};
use crate::{failure::Failure, style};

/// Characters of a value in a line of text; JSON has all that the controller tells.
const SHOWN: usize = 120;

/// Arguments of `tombolo diff`.
#[derive(clap::Args, Debug)]
pub struct DiffArgs {
    /// The older generation; without it: the one before the newer. 0 is the empty one, before all others
    from: Option<u64>,
    /// The newer generation; without it: the one in force
    #[arg(conflicts_with = "files")]
    to: Option<u64>,
    /// What applying these files would change, instead of a newer generation
    #[arg(short, long = "filename", value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    prune: PruneArgs,
    /// Exit with 1 where something differs
    #[arg(long)]
    exit_code: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Asks the controller what differs. Values of Secrets are not shown.
pub async fn run(args: DiffArgs) -> Result<(), Failure> {
    let proposed = match args.files.as_slice() {
        [] => None,
        files => Some(args.prune.request(files, true)?),
    };
    let request = DiffRequest { from: args.from, to: args.to, proposed };
    let answer = args.controller.connect().await?.diff(request).await.map_err(refused)?.into_inner();
    if !answer.errors.is_empty() {
        return Err(Failure::new(answer.errors.join("\n")));
    }
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&as_json(&answer)).unwrap_or_default()),
        Output::Text => print!("{}", text(&answer)),
    }
    // What differs was the message.
    if args.exit_code && !answer.objects.is_empty() { Err(Failure::new("")) } else { Ok(()) }
}

fn text(answer: &DiffResponse) -> String {
    let to = if answer.to == 0 { "these files".to_owned() } else { format!("generation {}", answer.to) };
    let mut lines = vec![style::dim(&format!("from generation {} to {to}", answer.from))];
    for object in &answer.objects {
        lines.push(format!("{} {}", object.change, style::bold(&object.object)));
        lines.extend(object.fields.iter().map(line));
    }
    if answer.objects.is_empty() {
        lines.push("nothing differs".into());
    }
    if answer.cut {
        lines.push("more fields differ than are shown".into());
    }
    lines.push(String::new());
    lines.join("\n")
}

fn line(field: &Field) -> String {
    let path = if field.path.is_empty() { "(all of it)" } else { &field.path };
    match (&field.before, &field.after) {
        (Some(before), Some(after)) => format!("  ~ {path}: {} -> {}", short(before), short(after)),
        (None, Some(after)) => format!("  + {path}: {}", short(after)),
        (Some(before), None) => format!("  - {path}: {}", short(before)),
        (None, None) => format!("    {path}"),
    }
}

fn short(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

fn as_json(answer: &DiffResponse) -> Value {
    // What the controller cut is no JSON any more, and shown as text.
    let value = |text: &Option<String>| match text {
        Some(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str())),
        None => Value::Null,
    };
    let field = |f: &Field| json!({ "path": f.path, "before": value(&f.before), "after": value(&f.after) });
    let objects = answer.objects.iter().map(|object| {
        let fields: Vec<Value> = object.fields.iter().map(field).collect();
        json!({ "object": object.object, "change": object.change, "fields": fields })
    });
    json!({
        "from": answer.from,
        "to": if answer.to == 0 { Value::Null } else { answer.to.into() },
        "objects": objects.collect::<Vec<_>>(),
        "cut": answer.cut,
    })
}

#[cfg(test)]
mod tests {
    use tombolo_proto::v1::diff_response::Object;

    use super::*;

    fn answer() -> DiffResponse {
        let field = |path: &str, before: Option<&str>, after: Option<&str>| Field {
            path: path.into(),
            before: before.map(Into::into),
            after: after.map(Into::into),
        };
        let fields = vec![
            field("spec.a", Some("1"), Some("2")),
            field("spec.b", None, Some("\"x\"")),
            field("spec.c", Some("true"), None),
        ];
        let object = Object { object: "httproute shop/a".into(), change: "configured".into(), fields };
        DiffResponse { from: 3, to: 4, objects: vec![object], ..DiffResponse::default() }
    }

    #[test]
    fn each_field_is_a_line() {
        let text = text(&answer());
        for line in ["  ~ spec.a: 1 -> 2\n", "  + spec.b: \"x\"\n", "  - spec.c: true\n"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.contains("from generation 3 to generation 4"), "{text}");
        assert!(super::text(&DiffResponse::default()).contains("nothing differs"));
    }

    #[test]
    fn json_has_values_and_not_texts_of_values() {
        let json = as_json(&answer());
        let fields = &json["objects"][0]["fields"];
        assert_eq!(fields[0], json!({ "path": "spec.a", "before": 1, "after": 2 }));
        assert_eq!(fields[1], json!({ "path": "spec.b", "before": null, "after": "x" }));
        assert_eq!((&json["from"], &json["to"]), (&json!(3), &json!(4)));
    }
}
