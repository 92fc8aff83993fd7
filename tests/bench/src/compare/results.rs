//! Figures of all rounds, and what follows from them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::contender::{Contender, Form, Who};
use crate::load::percentile;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// CPU time of the proxy for a request at saturation, in microseconds.
    Cpu,
    /// Requests a second at saturation.
    Throughput,
    /// Share of its core that the proxy had then, in percent.
    Busy,
    /// CPU time for a request at so many requests a second, in microseconds.
    CpuAt(u32),
    /// Latency from a request's turn on, in microseconds.
    P50At(u32),
    P99At(u32),
    P999At(u32),
    /// Resident memory after the start, in MiB.
    Idle,
    /// The same of each proxy of a pair.
    IdlePair,
    /// More for each idle connection, in KiB.
    PerConnection,
    PerTlsConnection,
    /// More for 10,000 routes, in MiB.
    Routes,
}

impl Figure {
    /// Its name and unit in the JSON.
    fn label(self) -> (String, &'static str) {
        let text = |name: &str, unit| (name.to_owned(), unit);
        match self {
            Self::Cpu => text("cpu", "us/request"),
            Self::Throughput => text("throughput", "requests/s"),
            Self::Busy => text("busy", "%"),
            Self::CpuAt(rate) => (format!("cpu@{rate}"), "us/request"),
            Self::P50At(rate) => (format!("p50@{rate}"), "us"),
            Self::P99At(rate) => (format!("p99@{rate}"), "us"),
            Self::P999At(rate) => (format!("p99.9@{rate}"), "us"),
            Self::Idle => text("idle", "MiB"),
            Self::IdlePair => text("idle, each of a pair", "MiB"),
            Self::PerConnection => text("idle connection", "KiB"),
            Self::PerTlsConnection => text("idle TLS connection", "KiB"),
            Self::Routes => text("10,000 routes", "MiB"),
        }
    }
}

/// Of which case, what, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub case: &'static str,
    pub figure: Figure,
    pub who: Contender,
}

impl Key {
    pub fn new(case: &'static str, figure: Figure, who: Contender) -> Self {
        Self { case, figure, who }
    }
}

/// The middle and both ends of some rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Of nothing there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self { median: *percentile(&sorted, 0.5)?, least: *sorted.first()?, most: *sorted.last()? })
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct Results {
    series: Vec<(Key, Vec<f64>)>,
    /// What did not work, and was left out.
    pub failures: Vec<String>,
    /// Machine, versions, date.
    pub about: BTreeMap<&'static str, String>,
}

impl Results {
    /// Adds a round's figure.
    pub fn add(&mut self, key: Key, value: f64) {
        match self.series.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => self.series.push((key, vec![value])),
        }
    }

    /// Says and keeps what did not work.
    pub fn fail(&mut self, what: String) {
        eprintln!("failed: {what}");
        self.failures.push(what);
    }

    fn values(&self, key: Key) -> Option<&[f64]> {
        self.series.iter().find(|(known, _)| *known == key).map(|(_, values)| values.as_slice())
    }

    /// Its rounds.
    pub fn spread(&self, key: Key) -> Option<Spread> {
        Spread::of(self.values(key)?)
    }

    /// Who has any figure of a case, in the order in which they were measured.
    pub fn contenders(&self, case: &str) -> Vec<Contender> {
        let mut all = Vec::new();
        for (key, _) in self.series.iter().filter(|(key, _)| key.case == case) {
            if !all.contains(&key.who) {
                all.push(key.who);
            }
        }
        all
    }

    /// How many of `to`'s one of `of`'s is: the median of what it was in each round, as periods of a busy machine
    /// are the same for both then.
    pub fn ratio(&self, case: &'static str, figure: Figure, of: Contender, to: Contender) -> Option<f64> {
        let values = |who| self.values(Key::new(case, figure, who));
        let rounds: Vec<f64> = values(of)?.iter().zip(values(to)?).map(|(of, to)| of / to).collect();
        Some(Spread::of(&rounds)?.median)
    }

    /// What a proxy adds to the figure without any: the median of the rounds' differences.
    pub fn added(&self, case: &'static str, figure: Figure, by: Contender) -> Option<f64> {
        let values = |who| self.values(Key::new(case, figure, who));
        let without = values(Contender(Who::Nobody, Form::Plain))?;
        let rounds: Vec<f64> = values(by)?.iter().zip(without).map(|(with, none)| with - none).collect();
        Some(Spread::of(&rounds)?.median)
    }

    /// Everything, for other programs.
    pub fn json(&self) -> Value {
        let series = self.series.iter().map(|(key, values)| {
            let (figure, unit) = key.figure.label();
            let ratio = self.ratio(key.case, key.figure, Contender(Who::Tombolo, Form::Plain), key.who);
            let spread = Spread::of(values);
            json!({
                "case": key.case,
                "figure": figure,
                "unit": unit,
                "contender": key.who.name(),
                "rounds": values,
                "median": spread.map(|s| s.median),
                "min": spread.map(|s| s.least),
                "max": spread.map(|s| s.most),
                "tomboloToThis": ratio,
            })
        });
        let series: Vec<Value> = series.collect();
        json!({ "about": self.about, "failures": self.failures, "series": series })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let (one, two) = (Contender(Who::Tombolo, Form::Plain), Contender(Who::Envoy, Form::Plain));
        let mut results = Results::default();
        // The machine was slower by half in the second round, for both.
        for (of, to) in [(10.0, 20.0), (20.0, 40.0), (12.0, 20.0)] {
            results.add(Key::new("h1", Figure::Cpu, one), of);
            results.add(Key::new("h1", Figure::Cpu, two), to);
        }
        assert_eq!(results.ratio("h1", Figure::Cpu, one, two), Some(0.5));
        let spread = results.spread(Key::new("h1", Figure::Cpu, one)).unwrap();
        assert_eq!(spread, Spread { median: 12.0, least: 10.0, most: 20.0 });
        assert_eq!(results.contenders("h1"), [one, two]);
        assert_eq!(results.ratio("h1", Figure::Busy, one, two), None);
        assert_eq!(results.added("h1", Figure::Cpu, one), None);
        let nobody = Contender(Who::Nobody, Form::Plain);
        for none in [1.0, 2.0, 3.0] {
            results.add(Key::new("h1", Figure::Cpu, nobody), none);
        }
        assert_eq!(results.added("h1", Figure::Cpu, one), Some(9.0));
        assert_eq!(results.json()["series"][1]["tomboloToThis"], 0.5);
    }
}
