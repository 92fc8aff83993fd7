//! CPU time a request as bars, in SVG.

use std::fmt::Write;

use super::{
    case::CASES,
    contender::Who,
    results::{Figure, Key, Results},
};

const WIDTH: f64 = 860.0;
/// Where bars begin.
const LEFT: f64 = 210.0;
const ROW: f64 = 18.0;
const GAP: f64 = 44.0;

/// A panel for each case; a bar is the median, the line on it reaches from the least round to the most.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 50.0;
    for case in CASES {
        let bars = results
            .contenders(case.name)
            .into_iter()
            .filter_map(|who| Some((who, results.spread(Key::new(case.name, Figure::Cpu, who))?)));
        let bars: Vec<_> = bars.collect();
        let most = bars.iter().map(|(_, spread)| spread.most).fold(0.0, f64::max);
        if most <= 0.0 {
            continue;
        }
        let scale = (WIDTH - LEFT - 90.0) / most;
        // Writing to a String does not fail.
        let _written = writeln!(body, r#"<text x="10" y="{y}" font-weight="bold">{}</text>"#, case.title);
        for (who, spread) in bars {
            y += ROW;
            let color = if who.0 == Who::Tombolo { "#c2571a" } else { "#7d93a8" };
            let (end, low, high) =
                (LEFT + spread.median * scale, LEFT + spread.least * scale, LEFT + spread.most * scale);
            let middle = y - 4.0;
            let _written = writeln!(
                body,
                r##"<text x="{}" y="{y}" text-anchor="end">{}</text><rect x="{LEFT}" y="{}" width="{:.1}" height="12" fill="{color}"/><line x1="{low:.1}" y1="{middle}" x2="{high:.1}" y2="{middle}" stroke="#222"/><text x="{:.1}" y="{y}">{:.1}</text>"##,
                LEFT - 8.0,
                who.name(),
                y - 10.0,
                end - LEFT,
                high.max(end) + 6.0,
                spread.median,
            );
        }
        y += GAP;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="22" font-size="15">CPU microseconds of the proxy for a request: median, and from least to most round</text>
{body}</svg>
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::contender::{Contender, Form};

    #[test]
    fn each_contender_has_a_bar() {
        let mut results = Results::default();
        for (who, cpu) in [(Who::Envoy, 60.0), (Who::Tombolo, 30.0)] {
            results.add(Key::new("h1", Figure::Cpu, Contender(who, Form::Plain)), cpu);
        }
        let text = svg(&results);
        assert_eq!(text.matches("height=\"12\"").count(), 2);
        assert!(text.contains("width=\"560.0\"") && text.contains("width=\"280.0\""), "{text}");
    }
}
