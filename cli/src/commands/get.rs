//! `tombolo get`.

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
    let documents: Vec<serde_json::Value> = answer
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

fn print_yaml(document: &serde_json::Value) {
    println!("---");
    match serde_saphyr::to_string(document) {
        Ok(text) => print!("{text}"),
        Err(_) => println!("{document}"),
    }
}

fn print_table(documents: &[serde_json::Value]) {
    let text = |document: &serde_json::Value, path: &str| {
        document.pointer(path).and_then(|v| v.as_str()).unwrap_or("-").to_owned()
    };
    let rows: Vec<[String; 3]> = documents
        .iter()
        .map(|d| [text(d, "/metadata/namespace"), text(d, "/kind"), text(d, "/metadata/name")])
        .collect();
    super::status::print_rows(&["NAMESPACE", "KIND", "NAME"], rows.iter().map(|r| r.as_slice()));
}
