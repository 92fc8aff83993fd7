//! Results as tables in Markdown.

use std::fmt::Write;

use super::{
    case::{CASES, Case},
    contender::{Contender, Form, Who},
    results::{Figure, Key, Results, Spread},
};

const TOMBOLO: Contender = Contender(Who::Tombolo, Form::Plain);
const FEATURED: Contender = Contender(Who::Tombolo, Form::Featured);

/// All tables, and what went wrong.
pub fn all(results: &Results) -> String {
    let mut text = String::new();
    for (what, value) in &results.about {
        // Writing to a String does not fail.
        let _written = writeln!(text, "- {what}: {value}");
    }
    text.push('\n');
    text.push_str(&summary(results));
    for case in CASES.iter().filter(|case| !results.contenders(case.name).is_empty()) {
        let _written = writeln!(text, "\n**{}** (`{}`)\n", case.title, case.name);
        text.push_str(&saturated(case, results));
        for rate in case.rates {
            text.push_str(&steady(case, *rate as u32, results));
        }
    }
    if !results.contenders("memory").is_empty() {
        text.push_str(&memory(results));
    }
    for failure in &results.failures {
        let _written = writeln!(text, "\nFailed: {failure}");
    }
    text
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    cells.into_iter().fold("|".to_owned(), |row, cell| row + " " + &cell + " |") + "\n"
}

fn header(cells: &[&str]) -> String {
    let line = "|---".repeat(cells.len()) + "|\n";
    row(cells.iter().map(|cell| (*cell).to_owned())) + &line
}

fn number(value: f64) -> String {
    if value < 0.0 {
        return format!("-{}", number(-value));
    }
    if value >= 1_000.0 {
        let whole = value.round();
        return format!(
            "{},{:03}",
            number((whole / 1_000.0).floor()).trim_end_matches(".0"),
            whole % 1_000.0
        );
    }
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn spread(spread: Option<Spread>) -> String {
    match spread {
        Some(s) if s.least == s.most => number(s.median),
        Some(s) => format!("{} ({} to {})", number(s.median), number(s.least), number(s.most)),
        None => String::new(),
    }
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
}

/// Medians of all cases side by side.
fn summary(results: &Results) -> String {
    let who = [Who::Pingora, Who::Nginx, Who::Haproxy, Who::Envoy, Who::Tombolo];
    let mut columns: Vec<Contender> = who.map(|who| Contender(who, Form::Plain)).to_vec();
    columns.extend([Contender(Who::Envoy, Form::Featured), FEATURED]);
    let mut text = "CPU microseconds of the proxy for a request at saturation, medians:\n\n".to_owned();
    let names: Vec<String> = columns.iter().map(|column| column.name()).collect();
    let mut cells = vec!["case"];
    cells.extend(names.iter().map(String::as_str));
    cells.extend(["of Envoy", "of Envoy, features on both", "features on, of bare pingora"]);
    text.push_str(&header(&cells));
    for case in CASES.iter().filter(|case| !results.contenders(case.name).is_empty()) {
        let median = |who: &Contender| {
            let spread = results.spread(Key::new(case.name, Figure::Cpu, *who));
            spread.map(|spread| number(spread.median)).unwrap_or_default()
        };
        let of = |of, to| ratio(results.ratio(case.name, Figure::Cpu, of, to));
        let envoy = Contender(Who::Envoy, Form::Plain);
        let ratios = [
            of(TOMBOLO, envoy),
            of(FEATURED, Contender(Who::Envoy, Form::Featured)),
            of(FEATURED, Contender(Who::Pingora, Form::Plain)),
        ];
        let cells = [case.name.to_owned()].into_iter().chain(columns.iter().map(median)).chain(ratios);
        text.push_str(&row(cells));
    }
    text
}

fn saturated(case: &Case, results: &Results) -> String {
    let featured = results.contenders(case.name).contains(&FEATURED);
    let mut columns = vec![
        "at saturation",
        "CPU us/request: median (min to max)",
        "requests/s",
        "its core busy %",
        "tombolo is",
    ];
    if featured {
        columns.push("tombolo, features on, is");
    }
    let mut text = header(&columns);
    for who in results.contenders(case.name) {
        let get = |figure| spread(results.spread(Key::new(case.name, figure, who)));
        let of = |of| ratio(results.ratio(case.name, Figure::Cpu, of, who));
        let mut cells =
            vec![who.name(), get(Figure::Cpu), get(Figure::Throughput), get(Figure::Busy), of(TOMBOLO)];
        if featured {
            cells.push(of(FEATURED));
        }
        text.push_str(&row(cells));
    }
    text
}

fn steady(case: &Case, rate: u32, results: &Results) -> String {
    let at = format!("at {rate} requests/s");
    let columns = [
        at.as_str(),
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us/request",
        "added p50 us",
        "added p99 us",
        "tombolo is: CPU",
        "added p50",
        "added p99",
    ];
    let mut text = "\n".to_owned() + &header(&columns);
    let (p50, p99, cpu) = (Figure::P50At(rate), Figure::P99At(rate), Figure::CpuAt(rate));
    for who in results.contenders(case.name) {
        let get = |figure| spread(results.spread(Key::new(case.name, figure, who)));
        let added = |figure, who| results.added(case.name, figure, who).filter(|_| who.0 != Who::Nobody);
        // What is added may be less than the noise is: then it is no base of a ratio.
        let base = |figure, who| added(figure, who).filter(|us| *us > 1.0);
        let of_added = |figure| Some(base(figure, TOMBOLO)? / base(figure, who)?);
        let figures = [p50, p99, Figure::P999At(rate), cpu].map(get);
        let differences = [p50, p99].map(|figure| added(figure, who).map(number).unwrap_or_default());
        let of_cpu = results.ratio(case.name, cpu, TOMBOLO, who);
        let ratios = [of_cpu, of_added(p50), of_added(p99)].map(ratio);
        text.push_str(&row([who.name()].into_iter().chain(figures).chain(differences).chain(ratios)));
    }
    text
}

fn memory(results: &Results) -> String {
    let figures =
        [Figure::Idle, Figure::IdlePair, Figure::PerConnection, Figure::PerTlsConnection, Figure::Routes];
    let columns = [
        "resident memory",
        "idle gateway, MiB",
        "each of an idle pair, MiB",
        "idle connection, KiB",
        "idle TLS connection, KiB",
        "10,000 routes, MiB more",
    ];
    let mut text = "\n**Memory** (`memory`)\n\n".to_owned() + &header(&columns);
    for who in results.contenders("memory") {
        let get = |figure| spread(results.spread(Key::new("memory", figure, who)));
        text.push_str(&row([who.name()].into_iter().chain(figures.map(get))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_exact_as_they_are_read() {
        let written = [0.0, 22.44, 99.96, 123.4, -1_000.4, 41_234.0, 1_043_784.0].map(number);
        assert_eq!(written, ["0.0", "22.4", "100.0", "123", "-1,000", "41,234", "1,043,784"]);
    }

    #[test]
    fn a_table_has_a_row_for_each_contender() {
        let mut results = Results::default();
        let envoy = Contender(Who::Envoy, Form::Plain);
        for (who, cpu) in [(envoy, 60.0), (TOMBOLO, 30.0), (envoy, 62.0), (TOMBOLO, 31.0)] {
            results.add(Key::new("h1", Figure::Cpu, who), cpu);
            results.add(Key::new("h1", Figure::Throughput, who), 1e6 / cpu);
        }
        let text = all(&results);
        assert!(
            text.contains("| Envoy | 60.0 (60.0 to 62.0) | 16,129 (16,129 to 16,667) |  | 0.50 |"),
            "{text}"
        );
        assert!(text.contains("| h1 |  |  |  | 60.0 | 30.0 |  |  | 0.50 |  |  |"), "{text}");
    }
}
