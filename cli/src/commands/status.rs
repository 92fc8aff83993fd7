//! `tombolo status`.

use tombolo_proto::v1::StatusRequest;

use super::{
    check::Output,
    operator::{ControllerSocket, refused},
};
use crate::{failure::Failure, style};

/// Arguments of `tombolo status`.
#[derive(clap::Args, Debug)]
pub struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Only the peers: state, what they have confirmed, and how far they are behind
    #[arg(long)]
    federation: bool,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Asks the controller how the cluster is.
pub async fn run(args: StatusArgs) -> Result<(), Failure> {
    let answer =
        args.controller.connect().await?.status(StatusRequest {}).await.map_err(refused)?.into_inner();
    let status: serde_json::Value = serde_json::from_str(&answer.json)
        .map_err(|e| Failure::new(format!("the controller's answer is not JSON: {e}")))?;
    let status = match args.federation {
        true => status.get("peers").cloned().unwrap_or_default(),
        false => status,
    };
    match args.output {
        Output::Text if args.federation => super::peer::print_peers(&status),
        Output::Json => println!("{}", serde_json::to_string_pretty(&status).unwrap_or_default()),
        Output::Text => {
            // The peers have a table of their own, with the columns that people look for first.
            let mut rest = status;
            let peers = rest.as_object_mut().and_then(|all| all.shift_remove("peers"));
            print_value(&rest, 0);
            if let Some(peers) = peers.filter(|peers| peers.as_array().is_some_and(|all| !all.is_empty())) {
                println!("{}", style::bold("peers"));
                super::peer::print_peers(&peers);
            }
        }
    }
    Ok(())
}

/// Nested JSON as indented lines; a list of flat objects as a table.
pub fn print_value(value: &serde_json::Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let Some(object) = value.as_object() else {
        println!("{indent}{}", plain(value));
        return;
    };
    for (name, value) in object {
        match value {
            serde_json::Value::Object(inner) if !inner.is_empty() => {
                println!("{indent}{}", style::bold(name));
                print_value(value, depth + 1);
            }
            serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                println!("{indent}{} {}", style::bold(name), style::dim(&format!("({})", items.len())));
                print_table(items);
            }
            other => println!("{indent}{name:<16} {}", plain(other)),
        }
    }
}

fn print_table(items: &[serde_json::Value]) {
    let mut names: Vec<&str> = Vec::new();
    for name in items.iter().filter_map(|item| item.as_object()).flat_map(|o| o.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| names.iter().map(|name| item.get(*name).map_or("-".into(), plain)).collect())
        .collect();
    let headings: Vec<String> = names.iter().map(|n| n.to_uppercase()).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    print_rows(&headings, rows.iter().map(Vec::as_slice));
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".into(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Columns as wide as what stands in them.
pub fn print_rows<'a>(headings: &[&str], rows: impl Iterator<Item = &'a [String]> + Clone) {
    let width = |column: usize| {
        let longest = rows.clone().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        longest.unwrap_or(0).max(headings.get(column).map_or(0, |h| h.len()))
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    println!("  {}", style::dim(&line(headings.to_vec())));
    for row in rows {
        println!("  {}", line(row.iter().map(String::as_str).collect()));
    }
}
