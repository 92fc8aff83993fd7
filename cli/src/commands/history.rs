//! `tombolo history`.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tombolo_proto::v1::{HistoryRequest, history_response::Generation};

use super::{
    check::Output,
    operator::{ControllerSocket, refused},
    status::print_rows,
};
use crate::failure::Failure;

/// Changes that a line of text names; of more it tells the number.
const NAMED: usize = 3;

/// Arguments of `tombolo history`.
#[derive(clap::Args, Debug)]
pub struct HistoryArgs {
    /// At most so many generations
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    controller: ControllerSocket,
}

/// Lists the generations that the controller keeps, the one in force first.
pub async fn run(args: HistoryArgs) -> Result<(), Failure> {
    let request = HistoryRequest { limit: args.limit };
    let answer = args.controller.connect().await?.history(request).await.map_err(refused)?.into_inner();
    match args.output {
        Output::Json => {
            let list: Vec<Value> = answer.generations.iter().map(as_json).collect();
            println!("{}", serde_json::to_string_pretty(&list).unwrap_or_default());
        }
        Output::Text if answer.generations.is_empty() => println!("nothing was applied yet"),
        Output::Text => {
            let rows: Vec<[String; 5]> = answer.generations.iter().map(row).collect();
            let headings = ["GENERATION", "WHEN", "WHO", "BY", "WHAT"];
            print_rows(&headings, rows.iter().map(|row| row.as_slice()));
        }
    }
    Ok(())
}

fn as_json(generation: &Generation) -> Value {
    json!({
        "generation": generation.number,
        "when": when(generation),
        "author": generation.author,
        "action": generation.action,
        "changes": generation.changes,
    })
}

fn row(generation: &Generation) -> [String; 5] {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let number = generation.number.to_string();
    let (who, by) = (or_dash(&generation.author), or_dash(&generation.action));
    [number, when(generation), who, by, or_dash(&summary(&generation.changes))]
}

/// The first changes, and how many there are besides.
fn summary(changes: &[String]) -> String {
    let named: Vec<&str> = changes.iter().take(NAMED).map(String::as_str).collect();
    match changes.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}

fn when(generation: &Generation) -> String {
    let time = OffsetDateTime::from_unix_timestamp(generation.when_unix).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| generation.when_unix.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_first_changes_and_counts_the_others() {
        let changes: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(summary(&changes[..2]), "a, b");
        assert_eq!(summary(&changes), "a, b, c, and 2 more");
        let generation = Generation { number: 7, when_unix: 1_700_000_000, changes, ..Generation::default() };
        assert_eq!(row(&generation), ["7", "2023-11-14T22:13:20Z", "-", "-", "a, b, c, and 2 more"]);
        assert_eq!(as_json(&generation)["when"], "2023-11-14T22:13:20Z");
    }
}
