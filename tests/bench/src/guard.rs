//! The counts of instructions that are committed, and whether they still hold.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    Failure,
    measure::{callgrind_control, dumped},
    rounds::{guarded, per_one},
};

/// Requests, and decisions, that are counted.
const REQUESTS: usize = 1_000;
const DECISIONS: usize = 2_000;
/// A count may grow by so much: counts of requests differ between runs by up to 2%, with how many come at once.
const TOLERANCE: f64 = 0.05;
/// By so much where another compiler made the baseline.
const OTHER_COMPILER: f64 = 0.15;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Guard {
    /// The committed counts
    #[arg(long, default_value = "tests/bench/instructions.json")]
    baseline: PathBuf,
    /// Writes the baseline instead of comparing
    #[arg(long)]
    write: bool,
}

impl Guard {
    /// Counts, and compares or writes. More instructions than the baseline allows are a failure.
    pub fn run(self) -> Result<(), Failure> {
        let compiler = compiler()?;
        let counts = counts()?;
        if self.write {
            let counts: BTreeMap<_, _> = counts.iter().map(|(name, count)| (name, count.round())).collect();
            let text = serde_json::to_string_pretty(&json!({ "compiler": compiler, "counts": counts }))?;
            return Ok(fs::write(&self.baseline, text + "\n")?);
        }
        let baseline: Value = serde_json::from_slice(&fs::read(&self.baseline)?)?;
        let same = baseline.get("compiler").and_then(Value::as_str) == Some(&compiler);
        let tolerance = if same { TOLERANCE } else { OTHER_COMPILER };
        println!("| what | instructions | baseline | ratio |");
        println!("|---|---|---|---|");
        let mut grown = Vec::new();
        for (name, count) in counts {
            let known = baseline.pointer("/counts").and_then(|counts| counts.get(&name)?.as_f64());
            let known =
                known.ok_or_else(|| format!("{}: no count of \"{name}\"", self.baseline.display()))?;
            println!("| {name} | {count:.0} | {known:.0} | {:.3} |", count / known);
            if count > known * (1.0 + tolerance) {
                grown.push(name);
            }
        }
        if grown.is_empty() {
            return Ok(());
        }
        Err(format!(
            "more instructions than {} allows (and {:.0}% more): {}. Find out where they are spent (tombolo-bench \
             instructions --keep DIR, callgrind_annotate); where they are worth it, write the baseline anew with --write",
            self.baseline.display(),
            tolerance * 100.0,
            grown.join(", ")
        )
        .into())
    }
}

/// All counts by name.
fn counts() -> Result<Vec<(String, f64)>, Failure> {
    let mut counts = Vec::new();
    for (name, routes, gray) in [
        ("decide: 1 route", 1, false),
        ("decide: 1 route with a gray split", 1, true),
        ("decide: 1,000 routes", 1_000, false),
    ] {
        let dir = tempfile::tempdir()?;
        let mut decider = Decider::start(routes, gray, dir.path())?;
        counts.push((name.to_owned(), per_one(DECISIONS, |number| decider.count(number))?));
    }
    counts.extend(guarded(REQUESTS)?);
    Ok(counts)
}

/// This program's other self, under callgrind.
struct Decider {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    dumps: PathBuf,
    dumped: usize,
}

impl Decider {
    fn start(routes: usize, gray: bool, dir: &Path) -> Result<Self, Failure> {
        let dumps = dir.join("callgrind.out");
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--instr-atstart=no", "--quiet"]);
        command.arg(format!("--callgrind-out-file={}", dumps.display()));
        command.arg(std::env::current_exe()?).arg("decisions").arg(routes.to_string());
        if gray {
            command.arg("--gray");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).ok_or("no pipes")?;
        let mut decider = Self { child, input, output: BufReader::new(output), dumps, dumped: 0 };
        decider.wait_for("ready")?;
        callgrind_control(decider.child.id(), &["-i", "on"])?;
        Ok(decider)
    }

    /// Instructions of so many decisions.
    fn count(&mut self, number: usize) -> Result<u64, Failure> {
        callgrind_control(self.child.id(), &["-z"])?;
        writeln!(self.input, "{number}")?;
        self.wait_for("made")?;
        callgrind_control(self.child.id(), &["-d"])?;
        self.dumped += 1;
        dumped(&PathBuf::from(format!("{}.{}", self.dumps.display(), self.dumped)))
    }

    fn wait_for(&mut self, word: &str) -> Result<(), Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() == word { Ok(()) } else { Err(format!("said {line:?} instead of {word}").into()) }
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The compiler that is installed, which made these programs.
fn compiler() -> Result<String, Failure> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
