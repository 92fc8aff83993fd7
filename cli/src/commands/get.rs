//! `tombolo get`.

use serde_json::Value;
use tombolo_proto::v1::GetRequest;

use super::operator::{ControllerSocket, refused};
use crate::failure::Failure;

/// Arguments of `tombolo get`.
#[derive(clap::Args, Debug)]
pub struct GetArgs {
    /// httproutes, gateways, services, endpoints, grayreleases, peers ...
    kind: String,
    /// Only the one of this name
    name: Option<String>,
    /// Only in this namespace
    #[arg(short, long, default_value = "")]
    namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    controller: ControllerSocket,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Output {
    /// One line for each
    Text,
    /// Whole documents
    Yaml,
    /// Whole documents, one JSON list
    Json,
}

/// Asks the controller and prints what it holds.
pub async fn run(args: GetArgs) -> Result<(), Failure> {
    let request = GetRequest {
        kind: args.kind,
        namespace: args.namespace,
        name: args.name.clone().unwrap_or_default(),
    };
    let answer = args.controller.connect().await?.get(request).await.map_err(refused)?.into_inner();
    let documents: Vec<Value> = answer
        .documents_json
        .iter()
        .map(|json| serde_json::from_str(json))
        .collect::<Result<_, _>>()
        .map_err(|e| Failure::new(format!("the controller's answer is not JSON: {e}")))?;
    if documents.is_empty()
        && let Some(name) = args.name
    {
        return Err(Failure::new(format!("there is no {name:?}")));
    }
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&documents).unwrap_or_default()),
        Output::Yaml => documents.iter().for_each(print_yaml),
        Output::Text => print_table(&documents),
    }
    Ok(())
}

fn print_yaml(document: &Value) {
    println!("---");
    match serde_saphyr::to_string(document) {
        Ok(text) => print!("{text}"),
        Err(_) => println!("{document}"),
    }
}

fn print_table(documents: &[Value]) {
    let text = |document: &Value, path: &str| {
        document.pointer(path).and_then(|v| v.as_str()).unwrap_or("-").to_owned()
    };
    let row = |d| [text(d, "/metadata/namespace"), text(d, "/kind"), text(d, "/metadata/name"), status(d)];
    let rows: Vec<[String; 4]> = documents.iter().map(row).collect();
    let is_told = rows.iter().any(|[.., status]| !status.is_empty());
    let columns = if is_told { 4 } else { 3 };
    let headings = ["NAMESPACE", "KIND", "NAME", "STATUS"];
    super::status::print_rows(
        headings.get(..columns).unwrap_or_default(),
        rows.iter().map(|row| row.get(..columns).unwrap_or_default()),
    );
}

/// Longest text of a condition, in characters; `-o yaml` shows all of it.
const MAX_STATUS: usize = 100;

/// The first condition that is not as it should be, with why; else the first one, or where it comes from. Empty: the
/// controller says nothing of how it is.
fn status(document: &Value) -> String {
    let list = |path: &str| document.pointer(path).and_then(Value::as_array).map(Vec::as_slice);
    let conditions = list("/status/conditions").unwrap_or_default();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    // Of all conditions this one is better not met.
    let is_bad = |condition: &&Value| (condition["type"] == "Conflict") == (condition["status"] == "True");
    if let Some(bad) = conditions.iter().find(is_bad) {
        let what = text(bad, if bad["type"] == "Conflict" { "type" } else { "reason" });
        let why: String = text(bad, "message").chars().take(MAX_STATUS).collect();
        return if why.is_empty() { what } else { format!("{what}: {why}") };
    }
    let clusters: Vec<String> =
        list("/status/clusters").into_iter().flatten().map(|from| text(from, "cluster")).collect();
    match conditions.first() {
        _ if !clusters.is_empty() => format!("from {}", clusters.join(", ")),
        Some(good) => text(good, "type"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(kind: &str, is: bool, reason: &str, message: &str) -> Value {
        let status = if is { "True" } else { "False" };
        json!({ "type": kind, "status": status, "reason": reason, "message": message })
    }

    #[test]
    fn the_status_is_short_and_says_first_what_is_wrong() {
        let valid = condition("Valid", true, "Valid", "");
        let conflict =
            |is| condition("Conflict", is, "PortConflict", "the oldest export counts; west: port 80 differs");
        let shown = |conditions: Vec<Value>| status(&json!({ "status": { "conditions": conditions } }));
        assert_eq!(shown(vec![valid.clone(), conflict(false)]), "Valid");
        let differs = "Conflict: the oldest export counts; west: port 80 differs";
        assert_eq!(shown(vec![valid, conflict(true)]), differs);
        let missing = condition("Valid", false, "NoService", "there is no Service shop/a");
        assert_eq!(shown(vec![missing, conflict(true)]), "NoService: there is no Service shop/a");
        let clusters = json!([{ "cluster": "east" }, { "cluster": "west" }]);
        let import = |is| json!({ "status": { "clusters": clusters, "conditions": [conflict(is)] } });
        assert_eq!(status(&import(false)), "from east, west");
        assert_eq!(status(&import(true)), differs);
        assert_eq!(status(&json!({ "kind": "Service" })), "");
        let long = condition("Ready", false, "Failed", &"x".repeat(1000));
        assert_eq!(shown(vec![long]).len(), "Failed: ".len() + MAX_STATUS);
    }
}
